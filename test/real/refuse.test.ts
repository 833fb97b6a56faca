// What is refused: from the head, with the target untouched; later, with how far it came and nothing that boots.
import { execFileSync } from 'node:child_process';
import { mkdir, open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { EXIT_CODES } from '../../src/cli/exitcode.ts';
import type { Cli, Refused } from '../support/cli.ts';
import type { CountingServer } from '../support/counting-server.ts';
import { loopDevice, recognised } from '../support/devices.ts';
import { difference, MiB, qcow2, qemuImgWithKey, rawDisk, run, sha256, shell } from '../support/images.ts';
import { nginx } from '../support/nginx.ts';
import { rawAndQcow2, site } from '../support/site.ts';
import { authority } from '../support/tls.ts';
import { tool } from '../support/tools.ts';

const SIZE = 24 * MiB;
let program: Cli;
let server: CountingServer;

/** Fields of the header (QEMU, docs/interop/qcow2.rst, "Header"). */
const FIELD = {
  version: 4,
  backing: 8,
  backingLength: 16,
  clusterBits: 20,
  size: 24,
  crypt: 32,
  l1Size: 36,
  l1: 40,
  incompatible: 72,
};

/** A copy of the qcow2 with some bytes of its header changed. */
async function altered(name: string, change: (header: Buffer) => void, from = 'www/qcow2'): Promise<string> {
  const image = await readFile(at(from));
  change(image);
  await writeFile(at(`www/${name}`), image);
  return `${server.url}/${name}`;
}

const at = site(async (opened) => {
  ({ program, server } = opened);
  await rawAndQcow2(at('www'), SIZE);
  await qcow2(at('www/raw'), at('www/packed'), { compressed: true });
});

afterEach(() => server.behave());

/** Refused for `code` from at most 1 MiB of traffic, to a file that is not made and a device that keeps every byte. */
async function refusedAtOnce(
  source: string,
  code: string | readonly string[],
  says: RegExp,
  ...more: string[]
): Promise<void> {
  const check = (refusal: Refused): void => {
    const said = `${refusal.code} (${refusal.stage}): ${refusal.message}`;
    expect([code].flat(), said).toContain(refusal.code);
    expect(refusal.exit).toBe(EXIT_CODES[refusal.code as keyof typeof EXIT_CODES]);
    expect(refusal.message, said).toMatch(says);
    expect(refusal.message).not.toContain('\n');
    expect(server.nextRun().bytes).toBeLessThanOrEqual(MiB);
  };
  server.nextRun();
  check(await program.refused([source, at('never.img'), ...more]));
  await expect(stat(at('never.img'))).rejects.toThrow(/ENOENT/);
  await rawDisk(at('device'), SIZE + MiB, { run: MiB, zeros: 0.5 });
  const before = await sha256(at('device'));
  await using device = await loopDevice(at('device'), SIZE + MiB);
  check(await program.refused([source, device.path, '--force', ...more]));
  expect(await sha256(device.path)).toBe(before);
}

describe('what the server shows', () => {
  test('nothing there', () => refusedAtOnce(`${server.url}/absent`, 'NOT_FOUND', /404/));

  test('credentials wanted', async () => {
    server.manners.answer = (_request, response) => {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end('no');
      return true;
    };
    await refusedAtOnce(`${server.url}/raw`, 'DENIED', /401|credential/);
  });

  test('a login page', async () => {
    server.manners.answer = (_request, response) => {
      response
        .writeHead(200, { 'content-type': 'text/html; charset=utf-8' })
        .end('<!doctype html><title>Log in</title>');
      return true;
    };
    await refusedAtOnce(`${server.url}/raw`, 'UNSUPPORTED', /page/);
  });

  test('redirects in a loop', async () => {
    server.manners.answer = (_request, response) => {
      response.writeHead(302, { location: '/raw' }).end();
      return true;
    };
    await refusedAtOnce(`${server.url}/raw`, 'UNSUPPORTED', /redirect/i);
  });

  test('a certificate that is not trusted', async () => {
    const pair = await (await authority(at(''))).issue('server', ['127.0.0.1']);
    await using secure = await nginx({ root: at('www'), tls: pair });
    await refusedAtOnce(`${secure.url}/raw`, 'DENIED', /certificate/i);
    await program.imported([`${secure.url}/raw`, at('trusted.img'), '--ca', at('ca.pem')]);
    await rm(at('trusted.img'));
  });
});

describe('what the head of the image shows', () => {
  test('a format that is not read: an extent of ESX', async () => {
    await writeFile(at('www/esx'), Buffer.concat([Buffer.from('COWD'), Buffer.alloc(MiB)]));
    await refusedAtOnce(`${server.url}/esx`, 'UNSUPPORTED', /COWD/);
  });

  test('a VHDX that was not closed properly', async () => {
    await run('qemu-img', 'qemu-utils', ['create', '-q', '-f', 'vhdx', at('vhdx'), '16M']);
    const image = await readFile(at('vhdx'));
    for (const header of [64 * 1024, 128 * 1024]) {
      image.fill(1, header + 48, header + 64);
      image.writeUInt32LE(0, header + 4);
      image.writeUInt32LE(crc32c(image.subarray(header, header + 4096)), header + 4);
    }
    await writeFile(at('www/vhdx'), image);
    await refusedAtOnce(`${server.url}/vhdx`, 'UNSUPPORTED', /not closed properly.*qemu-img check -r all/);
  });

  test.each([
    ['monolithicFlat', 'UNSAFE', /names other files/],
    ['twoGbMaxExtentSparse', 'UNSAFE', /names other files/],
  ])('a VMDK of several files: %s', async (subformat, code, says) => {
    const options = ['create', '-q', '-f', 'vmdk', '-o', `subformat=${subformat}`, at('www/several.vmdk'), '16M'];
    await run('qemu-img', 'qemu-utils', options);
    await refusedAtOnce(`${server.url}/several.vmdk`, code, says);
  });

  test('one of the files of a VMDK', async () => {
    const options = [
      'create',
      '-q',
      '-f',
      'vmdk',
      '-o',
      'subformat=twoGbMaxExtentSparse',
      at('www/several.vmdk'),
      '16M',
    ];
    await run('qemu-img', 'qemu-utils', options);
    await refusedAtOnce(`${server.url}/several-s001.vmdk`, 'UNSUPPORTED', /one of several files/);
  });

  test.each([
    ['vmdk', 'vmdk'],
    ['vdi', 'vdi'],
    ['vpc', 'vhd'],
    ['qed', 'qed'],
  ])('the difference to a parent: %s', async (format, name) => {
    await run('qemu-img', 'qemu-utils', ['create', '-q', '-f', format, at(`www/${name}`), '16M']);
    const image = await readFile(at(`www/${name}`));
    if (format === 'vmdk') image.write('0badcafe', image.indexOf('parentCID=') + 'parentCID='.length);
    if (format === 'vdi') image.fill(1, 0x1b8, 0x1c8);
    if (format === 'qed') image.writeUInt8(1, 16);
    if (format === 'vpc') {
      image.writeUInt32BE(4, 60);
      image.writeUInt32BE(0, 64);
      const sum = image.subarray(0, 512).reduce((total, byte) => total + byte, 0);
      image.writeUInt32BE(~sum >>> 0, 64);
    }
    await writeFile(at(`www/${name}`), image);
    await refusedAtOnce(`${server.url}/${name}`, 'UNSAFE', /parent/);
  });

  test.each([['legacy lz4', 'lz4', 'lz4 -q -l -c']])('a codec that is not read: %s', async (codec, from, command) => {
    tool(from, from);
    await shell(`${command} ${at('www/raw')} > ${at('www')}/codec`);
    await refusedAtOnce(`${server.url}/codec`, 'UNSUPPORTED', new RegExp(codec, 'i'));
  });

  test('a backing file', async () => {
    const arguments_ = ['create', '-q', '-f', 'qcow2', '-b', at('www/raw'), '-F', 'raw', at('www/backed')];
    await run('qemu-img', 'qemu-utils', arguments_);
    await refusedAtOnce(`${server.url}/backed`, 'UNSAFE', /backing/);
  });

  test('an external data file', async () => {
    const options = `data_file=${at('external')}`;
    await run('qemu-img', 'qemu-utils', ['create', '-q', '-f', 'qcow2', '-o', options, at('www/outside'), '16M']);
    await refusedAtOnce(`${server.url}/outside`, 'UNSAFE', /external/);
  });

  test('encryption', async () => {
    await writeFile(at('secret'), 'secret');
    const secret = ['--object', `secret,id=s,file=${at('secret')}`];
    const how = ['-o', 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10'];
    await qemuImgWithKey(['create', '-q', '-f', 'qcow2', ...secret, ...how, at('www/luks'), '16M']);
    await refusedAtOnce(`${server.url}/luks`, 'ENCRYPTED', /encrypt/);
    await refusedAtOnce(await altered('aes', (header) => header.writeUInt32BE(1, FIELD.crypt)), 'ENCRYPTED', /encrypt/);
  });

  const headers: [string, string | string[], RegExp, (header: Buffer) => void][] = [
    // Bit 1 of the incompatible features: the image is corrupt.
    ['the mark of corruption', 'CORRUPT', /corrupt/, (h) => h.writeBigUInt64BE(2n, FIELD.incompatible)],
    [
      'an unknown incompatible feature',
      'UNSUPPORTED',
      /feature/,
      (h) => h.writeBigUInt64BE(1n << 40n, FIELD.incompatible),
    ],
    ['an unknown version', 'UNSUPPORTED', /version/, (h) => h.writeUInt32BE(4, FIELD.version)],
    ['clusters of 1 GiB', ['CORRUPT', 'UNSUPPORTED'], /cluster/, (h) => h.writeUInt32BE(30, FIELD.clusterBits)],
    ['clusters of 1 byte', ['CORRUPT', 'UNSUPPORTED'], /cluster/, (h) => h.writeUInt32BE(0, FIELD.clusterBits)],
    [
      'an L1 table of 32 GiB',
      ['CORRUPT', 'TOO_LARGE', 'UNSUPPORTED'],
      /L1|table/,
      (h) => h.writeUInt32BE(0xffffffff, FIELD.l1Size),
    ],
    ['an L1 table that is too small', 'CORRUPT', /L1|table/, (h) => h.writeUInt32BE(0, FIELD.l1Size)],
    ['an L1 table outside the file', 'TRUNCATED', /L1|table/, (h) => h.writeBigUInt64BE(1n << 50n, FIELD.l1)],
    ['an L1 table at an odd place', 'CORRUPT', /L1|table/, (h) => h.writeBigUInt64BE(12345n, FIELD.l1)],
    ['a disk of 8 EiB', ['TOO_LARGE', 'CORRUPT'], /\d/, (h) => h.writeBigUInt64BE((1n << 63n) - 512n, FIELD.size)],
    ['a disk larger than the target', ['TOO_LARGE', 'CORRUPT'], /\d/, (h) => h.writeBigUInt64BE(1n << 56n, FIELD.size)],
  ];
  test.each(headers)('qcow2 with %s', async (name, code, says, change) => {
    await refusedAtOnce(await altered(name.replaceAll(' ', '-'), change), code, says);
  });

  test('a window larger than the memory that is allowed', async () => {
    tool('zstd', 'zstd');
    await shell(`zstd -q --ultra --long=30 --no-content-size -c < ${at('www/raw')} > ${at('www/window')}`);
    await refusedAtOnce(`${server.url}/window`, 'TOO_LARGE', /--memory/);
  });

  test('a disk larger than --size', () =>
    refusedAtOnce(`${server.url}/qcow2`, 'TOO_LARGE', new RegExp(`${SIZE}`), '--size', String(SIZE - 512)));

  test('another format than the one that is told', () =>
    refusedAtOnce(`${server.url}/qcow2`, 'BAD_SPEC', /is to be vmdk and looks like qcow2/, '--source-format', 'vmdk'));

  test('two options that contradict each other', () =>
    refusedAtOnce(
      `${server.url}/qcow2`,
      'BAD_SPEC',
      /--digest/,
      '--digest',
      `sha256:${'0'.repeat(64)}`,
      '--digests',
      at('x'),
    ));
});

describe('what the target shows', () => {
  test('a device that is too small keeps every byte', async () => {
    await rawDisk(at('small'), 16 * MiB, { run: MiB, zeros: 0 });
    const before = await sha256(at('small'));
    await using device = await loopDevice(at('small'), 16 * MiB);
    for (const name of ['raw', 'qcow2', 'packed']) {
      server.nextRun();
      const refusal = await program.refused([`${server.url}/${name}`, device.path, '--force']);
      expect(refusal).toMatchObject({ code: 'TOO_LARGE', exit: 18 });
      expect(refusal.message).toMatch(new RegExp(`${SIZE}`));
      expect(refusal.message).toMatch(new RegExp(`${16 * MiB}`));
      expect(server.nextRun().bytes).toBeLessThanOrEqual(MiB);
    }
    expect(await sha256(device.path)).toBe(before);
  });

  test.each([
    ['a directory', '.', 'BAD_SPEC'],
    ['a directory that does not exist', 'nowhere/img', 'NOT_FOUND'],
    ['a character device', '/dev/zero', 'BAD_SPEC'],
  ])('%s', async (_name, path, code) => {
    server.nextRun();
    const refusal = await program.refused([`${server.url}/raw`, path.startsWith('/') ? path : at(path)]);
    expect(refusal.code).toBe(code);
    expect(server.nextRun().bytes).toBeLessThanOrEqual(MiB);
  });
});

describe('found on the way', () => {
  /** Stopped for `code`; says a number of how far it came; nobody recognises anything on the target. */
  async function stopped(
    source: string,
    code: string | readonly string[],
    target: string,
    ...more: string[]
  ): Promise<Refused> {
    const refusal = await program.refused([source, target, ...more]);
    const said = `${refusal.code} (${refusal.stage}): ${refusal.message}`;
    expect([code].flat(), said).toContain(refusal.code);
    expect(refusal.message, said).toMatch(/\d{3,}/);
    expect(await recognised(target)).toEqual([]);
    return refusal;
  }

  afterEach(() => rm(at('late.img'), { force: true }));

  test.each(['qcow2', 'packed'])('a %s whose end is missing', async (name) => {
    await shell(`head -c ${8 * MiB} ${at(`www/${name}`)} > ${at('www/cut')}`);
    await stopped(`${server.url}/cut`, ['TRUNCATED', 'CORRUPT'], at('late.img'));
  });

  test.each(['with', 'without'])('an L2 table that points outside the file, %s ranges', async (ranges) => {
    server.manners.ranges = ranges === 'with';
    const source = await altered('bad-table', (image) => {
      const l1 = Number(image.readBigUInt64BE(FIELD.l1));
      const l2 = Number(image.readBigUInt64BE(l1) & 0x00fffffffffffe00n);
      image.writeBigUInt64BE((1n << 63n) | (1n << 45n), l2 + 8 * 100);
    });
    await stopped(source, 'TRUNCATED', at('late.img'));
  });

  test('a compressed cluster that does not inflate', async () => {
    const source = await altered('bad-cluster', (image) => image.fill(0xff, 9 * MiB, 9 * MiB + 4096), 'www/packed');
    await stopped(source, 'CORRUPT', at('late.img'));
  });

  test('another digest than the one that was given; the next run begins anew', async () => {
    for (const name of ['raw', 'qcow2', 'packed']) {
      await stopped(
        `${server.url}/${name}`,
        'DIGEST_MISMATCH',
        at('late.img'),
        '--digest',
        `sha256:${'ab'.repeat(32)}`,
        '--fresh',
      );
      await stopped(
        `${server.url}/${name}`,
        'DIGEST_MISMATCH',
        at('late.img'),
        '--disk-digest',
        `dd1:${'ab'.repeat(32)}`,
        '--fresh',
      );
    }
    const report = await program.imported([`${server.url}/packed`, at('late.img')]);
    expect(report.resumes).toBe(0);
    expect(await difference(at('www/raw'), at('late.img'))).toBeUndefined();
  });

  test('a compressed disk that turns out larger than the device or --size', async () => {
    await shell(`gzip -1 -c ${at('www/raw')} > ${at('www/raw.gz')}`);
    await using device = await loopDevice(at('narrow'), 16 * MiB);
    await stopped(`${server.url}/raw.gz`, 'TOO_LARGE', device.path);
    await stopped(`${server.url}/raw.gz`, 'TOO_LARGE', at('late.img'), '--size', String(20 * MiB));
  });

  test('a file system that runs full, and has room again', async () => {
    await shell(`gzip -1 -c ${at('www/raw')} > ${at('www/raw.gz')}`);
    await mkdir(at('tmpfs'));
    execFileSync(tool('mount', 'mount'), ['-t', 'tmpfs', '-o', 'size=14M', 'tmpfs', at('tmpfs')]);
    try {
      for (const name of ['raw.gz', 'packed', 'qcow2']) {
        execFileSync(tool('mount', 'mount'), ['-o', 'remount,size=14M', at('tmpfs')]);
        const target = at(`tmpfs/${name}.img`);
        const refusal = await program.refused([`${server.url}/${name}`, target]);
        expect(refusal, refusal.message).toMatchObject({ code: 'NO_SPACE', exit: 19 });
        expect(refusal.message).toMatch(/\d{3,}/);
        if (await stat(target).catch(() => undefined)) expect(await recognised(target)).toEqual([]);
        execFileSync(tool('mount', 'mount'), ['-o', 'remount,size=80M', at('tmpfs')]);
        await program.imported([`${server.url}/${name}`, target]);
        expect(await difference(at('www/raw'), target)).toBeUndefined();
        await rm(target);
      }
    } finally {
      execFileSync(tool('umount', 'mount'), [at('tmpfs')]);
    }
  });

  test('more data without a place than may wait', async () => {
    // The L1 table moves behind 90 MiB of data when the disk grows.
    const image = at('www/unordered');
    await run('qemu-img', 'qemu-utils', ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=64k', image, '100M']);
    await run('qemu-io', 'qemu-utils', ['-f', 'qcow2', '-c', 'write -P 1 0 90M', image]);
    await run('qemu-img', 'qemu-utils', ['resize', '-q', '-f', 'qcow2', image, '6T']);
    const handle = await open(image, 'r');
    const head = Buffer.alloc(48);
    await handle.read(head, 0, 48, 0);
    await handle.close();
    expect(Number(head.readBigUInt64BE(FIELD.l1))).toBeGreaterThan(90 * MiB);
    server.manners.ranges = false;
    const refusal = await program.refused([`${server.url}/unordered`, at('late.img')]);
    expect(refusal, refusal.message).toMatchObject({ code: 'NEEDS_SCRATCH', exit: 22 });
    expect(refusal.message).toMatch(/--spill/);
    const report = await program.imported([`${server.url}/unordered`, at('late.img'), '--spill', at(''), '--fresh']);
    expect(report.way).toBe('spill');
    expect(report.virtualSize).toBe(6 * 2 ** 40);
  });
});

/** Castagnoli's CRC, bit by bit (RFC 3720, appendix B.4). */
function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}

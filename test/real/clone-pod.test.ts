// Bodies of CDI's clone source pod in the upload pod: snappy around a device, or around a tar of a file system's files.
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { serverPath } from '../../scripts/toolchain.mjs';
import { issue, authority as issuing } from '../../src/pki/authority.ts';
import { cloneOf } from '../../src/uploader/pod/clone.ts';
import { loopDevice } from '../support/devices.ts';
import { bootableDisk, difference, MiB, qcow2, rawDisk, run, shell } from '../support/images.ts';
import { type Answer, curl } from '../support/served.ts';
import { site } from '../support/site.ts';
import { authority, type Pair } from '../support/tls.ts';
import { type Pod, uploadPod } from '../support/upload-pod.ts';

const S2C = `${serverPath('s2c')} -q -c -snappy -index=false`;
/** As CDI's controller names the client of a clone: source and target. */
const NAME = 'there/source-here/target';
const SIZE = 24 * MiB;
const CLAIM = 96 * MiB;
let server: Pair;
const at = site(async () => {
  await bootableDisk(at('www/raw'), SIZE);
  await shell(`${S2C} ${at('www/raw')} > ${at('www/raw.sz')}`);
});
const root = (path: string): string => at(`root/${path}`);

beforeAll(async () => {
  server = await (await authority(at(''))).issue('server', ['localhost', '127.0.0.1']);
  const signer = await issuing('clients', 60_000_000);
  const leaf = await issue(signer, { commonName: NAME, use: 'client', duration: 60_000_000 });
  await Promise.all([
    writeFile(at('clients.pem'), signer.certificate),
    writeFile(at('client.crt'), leaf.certificate),
    writeFile(at('client.key'), leaf.key),
  ]);
});
beforeEach(async () => {
  await rm(root(''), { recursive: true, force: true });
  for (const place of ['data', 'dev']) await mkdir(root(place), { recursive: true });
});

const pod = (more: Record<string, string> = {}): Promise<Pod> =>
  uploadPod({ root: root(''), server, clients: at('clients.pem'), ca: at('ca.pem'), client: NAME, claim: CLAIM }, more);

/** Sends a file as CDI's source pod does: in chunks, its length untold. */
function send(running: Pod, type: string, file: string, path = '/v1beta1/upload'): Promise<Answer> {
  const as = ['--cacert', at('ca.pem'), '--cert', at('client.crt'), '--key', at('client.key')];
  const headers = ['-H', `x-cdi-content-type: ${type}`, '-H', 'Transfer-Encoding: chunked', '-H', 'Expect:'];
  return curl([...as, '-X', 'POST', ...headers, '-T', file, running.url + path]);
}

async function cloned(running: Pod, type: string, file: string): Promise<void> {
  const answer = await send(running, type, file);
  expect(answer.status, answer.body).toBe(200);
  const { exit, message, log } = await running.ended;
  expect(exit, log).toBe(0);
  expect(JSON.parse(message ?? '')).toMatchObject({ message: 'Clone Complete' });
}

describe('a device', () => {
  test('into a file system: as long as it was, with its holes', async () => {
    await using running = await pod();
    await cloned(running, 'blockdevice-clone', at('www/raw.sz'));
    const found = await stat(root('data/disk.img'));
    expect([found.size, found.mode & 0o777]).toEqual([SIZE, 0o660]);
    expect(found.blocks * 512).toBeLessThan(SIZE - MiB);
    expect(await difference(at('www/raw'), root('data/disk.img'))).toBeUndefined();
    expect(await readdir(root('data'))).toEqual(['disk.img']);
  });

  test('into a file system, all of it reserved', async () => {
    await using running = await pod({ PREALLOCATION: 'true' });
    await cloned(running, 'blockdevice-clone', at('www/raw.sz'));
    expect(JSON.parse((await running.ended).message ?? '')).toHaveProperty('preallocationApplied', true);
    expect((await stat(root('data/disk.img'))).blocks * 512).toBeGreaterThanOrEqual(SIZE);
    expect(await difference(at('www/raw'), root('data/disk.img'))).toBeUndefined();
  });

  test('onto a device', async () => {
    await using device = await loopDevice(at('device'), SIZE + MiB);
    await run('ln', 'coreutils', ['-s', device.path, root('dev/cdi-block-volume')]);
    await using running = await pod({ DESTINATION: '/dev/cdi-block-volume' });
    await cloned(running, 'blockdevice-clone', at('www/raw.sz'));
    expect(await difference(at('www/raw'), device.path, SIZE)).toBeUndefined();
  });

  test('larger than the one it goes onto is told in the words of the contract', async () => {
    await using device = await loopDevice(at('small-device'), SIZE - MiB);
    await run('ln', 'coreutils', ['-s', device.path, root('dev/cdi-block-volume')]);
    await using running = await pod({ DESTINATION: '/dev/cdi-block-volume' });
    const { status, body } = await send(running, 'blockdevice-clone', at('www/raw.sz'));
    const words = /^Saving stream failed: effective image size is larger than the reported available storage: /;
    expect([status, body]).toEqual([400, expect.stringMatching(words)]);
  });

  // The guest chose these bytes: who decodes them gives its neighbours what they say.
  test.each<[string, string]>([
    ['a qcow2', 'cp $dir/small.qcow2 $out'],
    ['a qcow2 with a backing file', 'qemu-img create -q -f qcow2 -F raw -b /etc/passwd $out 1M'],
    ['gzip', 'gzip -c $dir/www/raw > $out'],
    ['snappy', 'cp $dir/www/raw.sz $out'],
    ['a tar', 'tar -C $dir/www -cf $out raw'],
    ['a LUKS volume', "printf 'LUKS\\272\\276\\000\\002' > $out"],
    ['a page', "printf '<!doctype html>' > $out"],
    ['a descriptor of a VMDK', "printf '# Disk DescriptorFile\\nversion=1\\n' > $out"],
  ])('that begins like %s is written as it is', async (_what, script) => {
    await rawDisk(at('small'), 2 * MiB);
    await qcow2(at('small'), at('small.qcow2'), { compressed: true });
    await shell(`dir=${at('')} out=${at('odd')}; ${script}; truncate -s %4096 $out; ${S2C} $out > $out.sz`);
    await using running = await pod();
    await cloned(running, 'blockdevice-clone', at('odd.sz'));
    expect((await stat(root('data/disk.img'))).size).toBe((await stat(at('odd'))).size);
    expect(await difference(at('odd'), root('data/disk.img'))).toBeUndefined();
  });
});

describe('the files of a file system', () => {
  beforeEach(async () => {
    await shell(`rm -rf ${at('tree')}; mkdir -p ${at('tree/sub')}; cd ${at('tree')}
      cp --sparse=always ${at('www/raw')} disk.img && truncate -s 40M disk.img && chmod 0640 disk.img
      echo content > sub/file && ln -s sub/file link`);
  });

  test.each(['gnu', 'posix'])('with holes, in a tar of format %s', async (format) => {
    // The first bytes of a tar are a name, which may look like bzip2.
    await writeFile(at('tree/BZh91AY&SY'), 'a name');
    await shell(
      `cd ${at('tree')} && tar --format=${format} -cS 'BZh91AY&SY' disk.img link sub | ${S2C} - > ${at('tree.sz')}`,
    );
    await writeFile(root('data/earlier'), 'left by a source that went');
    await using running = await pod();
    await cloned(running, 'filesystem-clone', at('tree.sz'));
    expect((await readdir(root('data'))).sort()).toEqual(['BZh91AY&SY', 'disk.img', 'link', 'sub']);
    await run('diff', 'diffutils', ['-r', '--no-dereference', at('tree'), root('data')]);
    const found = await stat(root('data/disk.img'));
    expect([found.size, found.mode & 0o777]).toEqual([40 * MiB, 0o640]);
    expect(found.blocks * 512).toBeLessThan(SIZE - MiB);
  });

  test('without holes, as they are sent where space is reserved', async () => {
    await shell(`cd ${at('tree')} && tar -c disk.img link sub | ${S2C} - > ${at('tree.sz')}`);
    await using running = await pod({ PREALLOCATION: 'true' });
    await cloned(running, 'filesystem-clone', at('tree.sz'));
    await run('diff', 'diffutils', ['-r', '--no-dereference', at('tree'), root('data')]);
    expect((await stat(root('data/disk.img'))).blocks * 512).toBeGreaterThanOrEqual(40 * MiB);
  });

  test.each([
    ['first', 'disk.img sub'],
    ['behind more than is looked at', 'large disk.img'],
  ])('onto a device: the disk, where it comes %s', async (_where, names) => {
    await using device = await loopDevice(at('device'), 41 * MiB);
    await run('ln', 'coreutils', ['-s', device.path, root('dev/cdi-block-volume')]);
    await shell(
      `cd ${at('tree')} && head -c 3M /dev/urandom > large && tar -cS ${names} | ${S2C} - > ${at('tree.sz')}`,
    );
    await using running = await pod({ DESTINATION: '/dev/cdi-block-volume' });
    await cloned(running, 'filesystem-clone', at('tree.sz'));
    expect(await difference(at('tree/disk.img'), device.path, 40 * MiB)).toBeUndefined();
  });

  test('without a disk are nothing for a device', async () => {
    await using device = await loopDevice(at('device'), 2 * MiB);
    await run('ln', 'coreutils', ['-s', device.path, root('dev/cdi-block-volume')]);
    await shell(`cd ${at('tree')} && tar -cS sub link | ${S2C} - > ${at('tree.sz')}`);
    await using running = await pod({ DESTINATION: '/dev/cdi-block-volume' });
    const { status, body } = await send(running, 'filesystem-clone', at('tree.sz'));
    expect([status, body]).toEqual([500, expect.stringMatching(/^Saving stream failed: .*no file disk\.img/)]);
  });
});

test('what is wrong is told, and the next one is taken', async () => {
  await using running = await pod();
  for (const path of ['/v1beta1/upload-async', '/v1beta1/upload-form-async']) {
    const { status, body } = await send(running, 'blockdevice-clone', at('www/raw.sz'), path);
    expect([status, body]).toEqual([500, 'Saving stream failed: async clone not supported\n']);
  }
  await shell(`cd ${at('www')} && head -c 5000000 raw.sz > cut.sz`);
  const wrong: [type: string, file: string, status: number, says: RegExp][] = [
    ['blockdevice-clone', 'raw', 500, /does not begin with a stream identifier/],
    ['blockdevice-clone', 'cut.sz', 500, /ends at byte 5000000 inside a chunk/],
    ['filesystem-clone', 'raw', 500, /does not begin with a stream identifier/],
    ['filesystem-clone', 'raw.sz', 400, /no tar archive/],
  ];
  for (const [type, file, expected, says] of wrong) {
    const { status, body } = await send(running, type, at(`www/${file}`));
    expect([file, status, body]).toEqual([file, expected, expect.stringMatching(says)]);
  }
  await cloned(running, 'blockdevice-clone', at('www/raw.sz'));
  expect(await difference(at('www/raw'), root('data/disk.img'))).toBeUndefined();
});

test('another value of the header is an upload like any', async () => {
  await using running = await pod();
  expect((await send(running, 'kubevirt', at('www/raw.sz'))).status).toBe(200);
  expect(JSON.parse((await running.ended).message ?? '')).toMatchObject({ message: 'Upload Complete' });
  expect((await stat(root('data/disk.img'))).size).toBe(90 * MiB);
  for (const value of [undefined, '', 'kubevirt', 'Blockdevice-Clone']) expect(cloneOf(value, true)).toBeUndefined();
});

test('a source that goes between two chunks leaves nothing that looks like a disk', async () => {
  await using running = await pod({ TLS_KEY_FILE: '', TLS_CERT_FILE: '', CLIENT_CERT_FILE: '' });
  const body = await readFile(at('www/raw.sz'));
  const socket = connect(Number(new URL(running.url).port), '127.0.0.1');
  socket.write(
    'POST /v1beta1/upload HTTP/1.1\r\nHost: x\r\nx-cdi-content-type: blockdevice-clone\r\nTransfer-Encoding: chunked\r\n\r\n',
  );
  // Up to where a chunk of snappy ends: nothing but the connection says that there is more.
  let end = 0;
  while (end < 4 * MiB) end += 4 + body.readUIntLE(end + 1, 3);
  socket.write(`${end.toString(16)}\r\n`);
  socket.write(body.subarray(0, end));
  await sleep(500);
  socket.destroy();
  await sleep(500);
  const head = (await readFile(root('data/disk.img'))).subarray(0, 512);
  expect(head.readUInt16LE(510)).not.toBe(0xaa55);
  const again = ['-X', 'POST', '-H', 'x-cdi-content-type: blockdevice-clone', '-T', at('www/raw.sz')];
  expect((await curl([...again, `${running.url}/v1beta1/upload`])).status).toBe(200);
});

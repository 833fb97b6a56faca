// `diskferry upload`: to our server over bad lines and through nginx, and to servers that know nothing of it.

import { once } from 'node:events';
import { mkdir, open, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { FileStore } from '@tus/file-store';
import { Server as TusServer } from '@tus/server';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { packed } from '../../src/uploader/client/packed.ts';
import { FaultProxy } from '../faults/proxy.ts';
import { loopDevice } from '../support/devices.ts';
import { pattern } from '../support/extents.ts';
import { bootableDisk, difference, KiB, MiB, qcow2, run, sha256 } from '../support/images.ts';
import { nginx } from '../support/nginx.ts';
import { uploadSite } from '../support/upload-site.ts';

const SIZE = 96 * MiB;
const here = uploadSite(async (at) => {
  await bootableDisk(at('www/raw'), SIZE);
  await qcow2(at('www/raw'), at('www/qcow2'));
});
const { at, file } = here;

interface Report {
  readonly sent: number;
  readonly spared: number;
  readonly resumedAt: number;
  readonly retries: number;
}

async function upload(args: readonly string[]): Promise<Report> {
  const { code, stdout, stderr } = await here.program.run(['upload', ...args, '--json', '--progress', 'none']);
  expect(code, stderr).toBe(0);
  return JSON.parse(stdout) as Report;
}

test('an image as it is, a disk without its holes', async () => {
  await upload([at('www/qcow2'), `${here.server.url}/volumes/image`]);
  expect(await difference(at('www/raw'), file('image'))).toBeUndefined();
  // 100 GiB with 9 MiB of data, one of them at its end.
  const size = 100 * 1024 * MiB;
  await pattern(at('sparse'), size, [
    [0, 4 * MiB],
    [50_000 * MiB + 4096, 4 * MiB],
    [size - MiB, MiB],
  ]);
  const report = await upload([at('sparse'), `${here.proxy.url}/volumes/sparse`]);
  expect(report.spared).toBeGreaterThan(size - 16 * MiB);
  expect(here.proxy.sent).toBeLessThan(16 * MiB);
  const { allocated } = await here.server.volume('sparse');
  expect(allocated).toBeLessThan(12 * MiB);
  await run('qemu-img', 'qemu-utils', ['compare', '-f', 'raw', '-F', 'raw', at('sparse'), file('sparse')]);
}, 60_000);

test('zeros that are written out are not sent, and a second run finds the same', async () => {
  // 100 GiB: 24 MiB of data, and 200 MiB of zeros between and behind it that the file system holds as data.
  const size = 100 * 1024 * MiB;
  await pattern(at('filled'), size, [
    [30 * MiB + 4096, 12 * MiB],
    [size - 12 * MiB, 12 * MiB],
  ]);
  const disk = await open(at('filled'), 'r+');
  for (const [from, length] of [
    [0, 30 * MiB],
    [42 * MiB + 4096, MiB],
    [50_000 * MiB, 170 * MiB],
  ] as const) {
    await disk.write(Buffer.alloc(length), 0, length, from);
  }
  await disk.close();
  await utimes(at('filled'), 1e9, 1e9);
  expect((await stat(at('filled'))).blocks * 512).toBeGreaterThan(220 * MiB);
  const args = [at('filled'), `${here.proxy.url}/volumes/filled`];
  const first = here.program.start(['upload', ...args, '--rate', '8MB/s', '--progress', 'json']);
  for (let tries = 0; here.proxy.sent < 15 * MiB && tries < 600; tries += 1) await sleep(20);
  first.child.kill('SIGKILL');
  await first.ended;
  expect(first.said()).toContain('"phase":"scanning"');
  // The same disk, of which the file system knows more holes.
  await run('fallocate', 'util-linux', ['--dig-holes', '--offset', '0', '--length', String(64 * MiB), at('filled')]);
  await utimes(at('filled'), 1e9, 1e9);
  const report = await upload(args);
  expect(report.resumedAt).toBeGreaterThan(8 * MiB);
  expect(report.spared).toBeGreaterThan(size - 25 * MiB);
  expect(here.proxy.sent).toBeLessThan(32 * MiB);
  expect((await here.server.volume('filled')).allocated).toBeLessThan(28 * MiB);
  await run('qemu-img', 'qemu-utils', ['compare', '-f', 'raw', '-F', 'raw', at('filled'), file('filled')]);
}, 60_000);

test('a device of which no holes are known', async () => {
  await pattern(at('backing'), 64 * MiB, [[40 * MiB, 5 * MiB]]);
  await using device = await loopDevice(at('backing'), 64 * MiB);
  const report = await upload([device.path, `${here.proxy.url}/volumes/device`]);
  expect(report.spared).toBeGreaterThan(58 * MiB);
  expect(await difference(at('backing'), file('device'))).toBeUndefined();
});

test('a disk that is written to between the look for zeros and the sending', async () => {
  await pattern(at('written'), 64 * MiB, [[0, 40 * MiB]]);
  const running = here.program.start([
    'upload',
    at('written'),
    `${here.proxy.url}/volumes/written`,
    '--rate',
    '10MB/s',
  ]);
  for (let tries = 0; here.proxy.sent < 5 * MiB && tries < 600; tries += 1) await sleep(20);
  // Into what was zeros when it was looked at, and will not be read again.
  const disk = await open(at('written'), 'r+');
  await disk.write(Buffer.alloc(MiB, 1), 0, MiB, 50 * MiB);
  await disk.close();
  const { code, stderr } = await running.ended;
  expect([code, stderr]).toEqual([12, expect.stringContaining('CHANGED')]);
  expect(await here.server.volume('written')).toMatchObject({ state: 'receiving' });
  // Of a file that has changed nothing can be gone on with: it is given up, and does not keep the volume.
  expect((await upload([at('written'), `${here.proxy.url}/volumes/written`])).resumedAt).toBe(0);
  expect(await difference(at('written'), file('written'))).toBeUndefined();
}, 60_000);

test('over a line that is cut, to a server that is killed', async () => {
  here.proxy.faults = { cutSent: 15 * MiB };
  const uploading = upload([at('www/raw'), `${here.proxy.url}/volumes/line`]);
  for (let tries = 0; here.proxy.sent < 50 * MiB && tries < 600; tries += 1) await sleep(20);
  await here.restart();
  expect((await uploading).retries).toBeGreaterThan(3);
  expect(await difference(at('www/raw'), file('line'))).toBeUndefined();
}, 60_000);

test('a client that is killed goes on when it is run again', async () => {
  const args = [at('www/qcow2'), `${here.proxy.url}/volumes/client`];
  const first = here.program.start(['upload', ...args, '--rate', '15MB/s', '--progress', 'none']);
  for (let tries = 0; here.proxy.sent < 30 * MiB && tries < 600; tries += 1) await sleep(20);
  first.child.kill('SIGKILL');
  await first.ended;
  const report = await upload(args);
  expect(report.resumedAt).toBeGreaterThan(20 * MiB);
  expect(await difference(at('www/raw'), file('client'))).toBeUndefined();
  const again = await here.program.run(['upload', ...args]);
  expect([again.code, again.stderr]).toEqual([12, expect.stringContaining('holds a disk already')]);
}, 60_000);

test('through nginx with a body of 1 MiB, in parts that fit', async () => {
  const location = `location / { proxy_pass ${here.server.url}; proxy_read_timeout 60s; client_max_body_size 1m; }`;
  await using front = await nginx({ root: at('www'), server: location });
  const small = at('www/small');
  await bootableDisk(small, 24 * MiB);
  const { stderr, code } = await here.program.run([
    'upload',
    small,
    `${front.url}/volumes/parts`,
    '-v',
    '--progress',
    'none',
  ]);
  expect(code, stderr).toBe(0);
  expect(stderr).toContain('sending smaller parts');
  expect(await difference(small, file('parts'))).toBeUndefined();
});

test('to a tus server of somebody else, over a line that is cut and by a second run', async () => {
  await mkdir(at('tus'));
  const tus = new TusServer({ path: '/files', datastore: new FileStore({ directory: at('tus') }) });
  const http = tus.listen({ host: '127.0.0.1', port: 0 });
  await once(http, 'listening');
  const line = await FaultProxy.start({ port: (http.address() as AddressInfo).port }, { cutSent: 12 * MiB });
  try {
    const { retries } = await upload([at('www/qcow2'), `${line.url}/files`]);
    expect(retries).toBeGreaterThan(3);
    const args = [at('www/raw'), `${line.url}/files`];
    line.faults = {};
    const before = line.sent;
    const first = here.program.start(['upload', ...args, '--rate', '15MB/s', '--progress', 'none']);
    for (let tries = 0; line.sent - before < 30 * MiB && tries < 600; tries += 1) await sleep(20);
    first.child.kill('SIGKILL');
    await first.ended;
    expect((await upload(args)).resumedAt).toBeGreaterThan(20 * MiB);
    // Both files as they are, whatever zeros are in them, under the names that the store gave them.
    const names = (await readdir(at('tus'))).filter((name) => !name.endsWith('.json'));
    const digests = await Promise.all(names.map((name) => sha256(at(`tus/${name}`))));
    expect(digests.sort()).toEqual([await sha256(at('www/raw')), await sha256(at('www/qcow2'))].sort());
    const said = await Promise.all(names.map((name) => readFile(at(`tus/${name}.json`), 'utf8')));
    expect(said.some((text) => text.includes('"filename":"qcow2"'))).toBe(true);
  } finally {
    await line[Symbol.asyncDispose]();
    http.closeAllConnections();
    http.close();
  }
}, 60_000);

test('a tus server that takes no file as long as this', async () => {
  const tus = new TusServer({ path: '/files', datastore: new FileStore({ directory: at('tus') }), maxSize: MiB });
  const http = tus.listen({ host: '127.0.0.1', port: 0 });
  await once(http, 'listening');
  const place = `http://127.0.0.1:${(http.address() as AddressInfo).port}/files`;
  const { code, stderr } = await here.program.run(['upload', at('www/qcow2'), place]);
  http.closeAllConnections();
  http.close();
  expect([code, stderr]).toEqual([expect.any(Number), expect.stringContaining('at most 1048576 bytes')]);
  expect(code).not.toBe(0);
});

test('by tus to our own', async () => {
  await upload([at('www/qcow2'), `${here.server.url}/tus?volume=tus`]);
  expect(await difference(at('www/raw'), file('tus'))).toBeUndefined();
});

test('to a server that only takes a PUT', async () => {
  await mkdir(at('www/dav'));
  await using plain = await nginx({
    root: at('www'),
    server: 'location /dav { dav_methods PUT; client_max_body_size 0; }',
  });
  await upload([at('www/qcow2'), `${plain.url}/dav/disk.qcow2`]);
  expect(await difference(at('www/qcow2'), at('www/dav/disk.qcow2'))).toBeUndefined();
  // A disk is kept as the file that it is: nobody there would make a disk of a qcow2.
  const { spared } = await upload([at('www/raw'), `${plain.url}/dav/disk.raw`]);
  expect(spared).toBe(0);
  expect(await difference(at('www/raw'), at('www/dav/disk.raw'))).toBeUndefined();
  const refused = await here.program.run(['upload', at('www/qcow2'), `${plain.url}/elsewhere`]);
  expect([refused.code, refused.stderr]).toEqual([expect.any(Number), expect.stringContaining('answered 413')]);
});

test.each([
  ['409', '0', 'is at 0 after it'],
  ['503', '99999999999', 'which is no byte'],
])('a server that never comes on, or where nobody can: %s, at %s', async (status, offset, message) => {
  const headers = { 'upload-limit': 'max-age=1', location: '/uploads/x', 'upload-offset': '0' };
  const liar = createServer((request, response) => {
    request.resume();
    request.on('end', () => {
      const codes: Record<string, number> = { PUT: 201, PATCH: Number(status) };
      const at = request.method === 'HEAD' && status === '409' ? '0' : offset;
      response.writeHead(codes[request.method ?? ''] ?? 204, { ...headers, 'upload-offset': at }).end('the offset');
    });
  });
  await new Promise<void>((resolve) => liar.listen(0, '127.0.0.1', resolve));
  const place = `http://127.0.0.1:${(liar.address() as AddressInfo).port}/volumes/x`;
  await writeFile(at('some'), Buffer.alloc(KiB, 1));
  const { code, stderr } = await here.program.run(['upload', at('some'), place, '--patience', '1', '--fresh']);
  liar.closeAllConnections();
  liar.close();
  expect([code, stderr]).toEqual([expect.any(Number), expect.stringContaining(message)]);
  expect(code).not.toBe(0);
});

test('a source that changes meanwhile, and what is no place for it', async () => {
  const changing = at('changing');
  await bootableDisk(changing, 24 * MiB);
  const running = here.program.start(['upload', changing, `${here.server.url}/volumes/changing`, '--rate', '6MB/s']);
  // Of 24 MiB at this rate there is more to come then.
  const state = async () => (await here.server.volume('changing')).state;
  await expect.poll(state, { timeout: 20_000, interval: 100 }).toBe('receiving');
  await rename(changing, at('away'));
  await writeFile(changing, 'another file');
  const { code: changed, stderr: why } = await running.ended;
  expect([changed, why]).toEqual([12, expect.stringContaining('CHANGED')]);
  expect(await here.server.volume('changing')).toMatchObject({ state: 'receiving' });
  for (const [url, message] of [
    ['ftp://host/x', /no http:/],
    ['http://user:password@host/x', /--secret-file/],
  ] as const) {
    const { code, stderr } = await here.program.run(['upload', at('www/qcow2'), url]);
    expect([code, stderr]).toEqual([2, expect.stringMatching(message)]);
  }
});

test('a disk without its holes is the disk, to QEMU', async () => {
  const sector = 512;
  const extent = fc.record({ from: fc.nat(40 * MiB), length: fc.integer({ min: 1, max: 3 * MiB }) });
  const disk = fc.record({
    extents: fc.array(extent, { maxLength: 6 }),
    sectors: fc.integer({ min: 90_000, max: 1_200_000 }),
  });
  await fc.assert(
    fc.asyncProperty(disk, async ({ extents, sectors }) => {
      const size = sectors * sector;
      const data = extents
        .map(({ from, length }) => [from, Math.min(length, size - from)] as const)
        .filter(([, length]) => length > 0)
        .sort(([one], [other]) => one - other);
      await pattern(at('property.raw'), size, data);
      let end = 0;
      const ascending = data.flatMap(([from, length]) => {
        const part = { from: Math.max(from, end), to: from + length };
        end = Math.max(end, part.to);
        return part.from < part.to ? [part] : [];
      });
      const layout = packed(size, ascending);
      if (!layout) return;
      const raw = await readFile(at('property.raw'));
      const image = Buffer.alloc(layout.length);
      for (const { from, to, bytes, disk: origin } of layout.parts) {
        image.set(bytes ?? raw.subarray(origin, (origin ?? 0) + to - from), from);
      }
      await writeFile(at('property.qcow2'), image);
      expect(layout.parts.reduce((sum, { from, to }) => sum + to - from, 0)).toBe(layout.length);
      await run('qemu-img', 'qemu-utils', [
        'compare',
        '-f',
        'raw',
        '-F',
        'qcow2',
        at('property.raw'),
        at('property.qcow2'),
      ]);
    }),
    { numRuns: 25 },
  );
  await rm(at('property.raw'));
  expect((await stat(at('property.qcow2'))).size).toBeGreaterThan(64 * KiB);
}, 60_000);

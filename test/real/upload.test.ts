// `diskferry upload`: to our server over bad lines and through nginx, and to servers that know nothing of it.
import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { packed } from '../../src/uploader/client/packed.ts';
import { FaultProxy } from '../faults/proxy.ts';
import type { Cli } from '../support/cli.ts';
import { pattern } from '../support/extents.ts';
import { bootableDisk, difference, KiB, MiB, qcow2, run } from '../support/images.ts';
import { freePort, nginx } from '../support/nginx.ts';
import { Served } from '../support/served.ts';
import { site } from '../support/site.ts';

const SIZE = 96 * MiB;
let program: Cli;
let server: Served;
let proxy: FaultProxy;
let port: number;
const at = site(async (opened) => {
  ({ program } = opened);
  await bootableDisk(at('www/raw'), SIZE);
  await qcow2(at('www/raw'), at('www/qcow2'));
});
const file = (name: string): string => at(`data/${name}.img`);

beforeAll(async () => {
  port = await freePort();
  server = await Served.start(program, at('data'), ['--open'], port);
  proxy = await FaultProxy.start({ port });
}, 60_000);
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await server?.[Symbol.asyncDispose]();
});
beforeEach(() => {
  proxy.faults = {};
  proxy.sent = 0;
});

interface Report {
  readonly sent: number;
  readonly spared: number;
  readonly resumedAt: number;
  readonly retries: number;
}

async function upload(args: readonly string[]): Promise<Report> {
  const { code, stdout, stderr } = await program.run(['upload', ...args, '--json', '--progress', 'none']);
  expect(code, stderr).toBe(0);
  return JSON.parse(stdout) as Report;
}

test('an image as it is, a disk without its holes', async () => {
  await upload([at('www/qcow2'), `${server.url}/volumes/image`]);
  expect(await difference(at('www/raw'), file('image'))).toBeUndefined();
  // 100 GiB with 9 MiB of data, one of them at its end.
  const size = 100 * 1024 * MiB;
  await pattern(at('sparse'), size, [
    [0, 4 * MiB],
    [50_000 * MiB + 4096, 4 * MiB],
    [size - MiB, MiB],
  ]);
  const report = await upload([at('sparse'), `${proxy.url}/volumes/sparse`]);
  expect(report.spared).toBeGreaterThan(size - 16 * MiB);
  expect(proxy.sent).toBeLessThan(16 * MiB);
  const { allocated } = await server.volume('sparse');
  expect(allocated).toBeLessThan(12 * MiB);
  await run('qemu-img', 'qemu-utils', ['compare', '-f', 'raw', '-F', 'raw', at('sparse'), file('sparse')]);
}, 60_000);

test('over a line that is cut, to a server that is killed', async () => {
  proxy.faults = { cutSent: 15 * MiB };
  const uploading = upload([at('www/raw'), `${proxy.url}/volumes/line`]);
  for (let tries = 0; proxy.sent < 50 * MiB && tries < 600; tries += 1) await sleep(20);
  await server.kill();
  server = await Served.start(program, at('data'), ['--open'], port);
  expect((await uploading).retries).toBeGreaterThan(3);
  expect(await difference(at('www/raw'), file('line'))).toBeUndefined();
}, 60_000);

test('a client that is killed goes on when it is run again', async () => {
  const args = [at('www/qcow2'), `${proxy.url}/volumes/client`];
  const first = program.start(['upload', ...args, '--rate', '15MB/s', '--progress', 'none']);
  for (let tries = 0; proxy.sent < 30 * MiB && tries < 600; tries += 1) await sleep(20);
  first.child.kill('SIGKILL');
  await first.ended;
  const report = await upload(args);
  expect(report.resumedAt).toBeGreaterThan(20 * MiB);
  expect(await difference(at('www/raw'), file('client'))).toBeUndefined();
  const again = await program.run(['upload', ...args]);
  expect([again.code, again.stderr]).toEqual([12, expect.stringContaining('holds a disk already')]);
}, 60_000);

test('through nginx with a body of 1 MiB, in parts that fit', async () => {
  const location = `location / { proxy_pass http://127.0.0.1:${port}; proxy_read_timeout 60s; client_max_body_size 1m; }`;
  await using front = await nginx({ root: at('www'), server: location });
  const small = at('www/small');
  await bootableDisk(small, 24 * MiB);
  const { stderr, code } = await program.run([
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

test('to a server that only takes a PUT', async () => {
  await mkdir(at('www/dav'));
  await using plain = await nginx({
    root: at('www'),
    server: 'location /dav { dav_methods PUT; client_max_body_size 0; }',
  });
  await upload([at('www/qcow2'), `${plain.url}/dav/disk.qcow2`]);
  expect(await difference(at('www/qcow2'), at('www/dav/disk.qcow2'))).toBeUndefined();
  const refused = await program.run(['upload', at('www/qcow2'), `${plain.url}/elsewhere`]);
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
  const { code, stderr } = await program.run(['upload', at('some'), place, '--patience', '1', '--fresh']);
  liar.closeAllConnections();
  liar.close();
  expect([code, stderr]).toEqual([expect.any(Number), expect.stringContaining(message)]);
  expect(code).not.toBe(0);
});

test('a source that changes meanwhile, and what is no place for it', async () => {
  const changing = at('changing');
  await bootableDisk(changing, 24 * MiB);
  const running = program.start(['upload', changing, `${server.url}/volumes/changing`, '--rate', '6MB/s']);
  // Of 24 MiB at this rate there is more to come then.
  const state = async () => (await server.volume('changing')).state;
  await expect.poll(state, { timeout: 20_000, interval: 100 }).toBe('receiving');
  await rename(changing, at('away'));
  await writeFile(changing, 'another file');
  const { code: changed, stderr: why } = await running.ended;
  expect([changed, why]).toEqual([12, expect.stringContaining('CHANGED')]);
  expect(await server.volume('changing')).toMatchObject({ state: 'receiving' });
  for (const [url, message] of [
    ['ftp://host/x', /no http:/],
    ['http://user:password@host/x', /--secret-file/],
  ] as const) {
    const { code, stderr } = await program.run(['upload', at('www/qcow2'), url]);
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

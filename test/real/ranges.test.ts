// `diskferry upload --connections N`: ranges of a raw disk, in parallel, to our server and to those that do not take them.
import { once } from 'node:events';
import { mkdir, open } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { Run } from '../support/cli.ts';
import { pattern } from '../support/extents.ts';
import { difference, MiB, qcow2, rawDisk, run } from '../support/images.ts';
import { nginx } from '../support/nginx.ts';
import { curl } from '../support/served.ts';
import { uploadSite } from '../support/upload-site.ts';

const SIZE = 128 * MiB;
const here = uploadSite(async (at) => {
  await rawDisk(at('www/raw'), SIZE, { run: MiB, zeros: 0.3 });
  await qcow2(at('www/raw'), at('www/qcow2'));
});
const { at, file } = here;

interface Report {
  readonly sent: number;
  readonly resumedAt: number;
  readonly retries: number;
  readonly diskDigest: string;
}

const words = (args: readonly string[]): string[] => ['upload', ...args, '--json', '--progress', 'none'];

async function upload(args: readonly string[]): Promise<Report & { said: string }> {
  const { code, stdout, stderr } = await here.program.run(words(args));
  expect(code, stderr).toBe(0);
  return { ...(JSON.parse(stdout) as Report), said: stderr };
}

/** An upload that is killed when so many bytes have passed the here.proxy. */
async function killed(args: readonly string[], bytes: number): Promise<void> {
  const running: Run = here.program.start(words(args));
  for (let tries = 0; here.proxy.sent < bytes && tries < 1000; tries += 1) await sleep(20);
  running.child.kill('SIGKILL');
  await running.ended;
}

test('a sparse disk over four connections that are all cut', async () => {
  const size = 100 * 1024 * MiB + 512;
  await pattern(at('sparse'), size, [
    [4096, 30 * MiB],
    [70_000 * MiB, 20 * MiB],
    [size - 512, 512],
  ]);
  here.proxy.faults = { cutSent: 5 * MiB };
  const accepted = here.proxy.accepted;
  const report = await upload([at('sparse'), `${here.proxy.url}/volumes/sparse`, '--connections', '4', '-v']);
  expect(report.retries).toBeGreaterThan(4);
  expect(here.proxy.accepted - accepted).toBeGreaterThan(8);
  expect(report.sent).toBeLessThan(51 * MiB);
  expect((await here.server.volume('sparse')).allocated).toBeLessThan(52 * MiB);
  expect(await here.server.volume('sparse')).toMatchObject({ state: 'ready', size, diskDigest: report.diskDigest });
  await run('qemu-img', 'qemu-utils', ['compare', '-f', 'raw', '-F', 'raw', at('sparse'), file('sparse')]);
}, 60_000);

test('a byte that is changed on its way is sent again', async () => {
  await pattern(at('changed'), 64 * MiB, [[0, 40 * MiB]]);
  here.proxy.faults = { corruptSent: 21 * MiB };
  const report = await upload([at('changed'), `${here.proxy.url}/volumes/changed`, '--connections', '4', '-v']);
  expect([report.said, report.retries]).toEqual([expect.stringContaining('not what their digest says'), 1]);
  expect(await difference(at('changed'), file('changed'))).toBeUndefined();
});

test('a disk of zeros alone', async () => {
  await pattern(at('nothing'), 64 * MiB, []);
  const report = await upload([at('nothing'), `${here.proxy.url}/volumes/nothing`, '--connections', '8']);
  expect(report.sent).toBe(0);
  expect(await difference(at('nothing'), file('nothing'))).toBeUndefined();
});

test('a second run sends the rest, over other connections', async () => {
  const args = [at('www/raw'), `${here.proxy.url}/volumes/again`];
  await killed([...args, '--rate', '15MB/s', '--connections', '2'], 60 * MiB);
  const report = await upload([...args, '--connections', '3']);
  expect(report.resumedAt).toBeGreaterThan(20 * MiB);
  expect(here.proxy.sent).toBeLessThan(SIZE);
  expect(await difference(at('www/raw'), file('again'))).toBeUndefined();
}, 60_000);

test('in order after it was begun in ranges, and anew with --fresh', async () => {
  const args = [at('www/raw'), `${here.proxy.url}/volumes/other`];
  const slow = [...args, '--rate', '15MB/s'];
  await killed([...slow, '--connections', '2'], 20 * MiB);
  await killed(slow, 40 * MiB);
  await killed([...slow, '--connections', '2', '--fresh'], 60 * MiB);
  const report = await upload([...args, '--connections', '2', '--fresh']);
  expect(report.resumedAt).toBe(0);
  expect(await difference(at('www/raw'), file('other'))).toBeUndefined();
}, 60_000);

test('a server that is killed has forgotten it', async () => {
  const running = here.program.start(
    words([at('www/raw'), `${here.proxy.url}/volumes/killed`, '--rate', '30MB/s', '--connections', '4', '-v']),
  );
  for (let tries = 0; here.proxy.sent < 40 * MiB && tries < 600; tries += 1) await sleep(20);
  await here.restart();
  const { code, stderr } = await running.ended;
  expect(code, stderr).toBe(0);
  expect(stderr).toContain('beginning anew');
  expect(await difference(at('www/raw'), file('killed'))).toBeUndefined();
}, 60_000);

test('a disk that is written to where it was zeros is no volume, and the next run begins anew', async () => {
  await pattern(at('written'), 64 * MiB, [[0, 40 * MiB]]);
  const args = [at('written'), `${here.proxy.url}/volumes/written`, '--connections', '2'];
  const running = here.program.start(words([...args, '--rate', '10MB/s']));
  for (let tries = 0; here.proxy.sent < 5 * MiB && tries < 600; tries += 1) await sleep(20);
  const disk = await open(at('written'), 'r+');
  await disk.write(Buffer.alloc(MiB, 1), 0, MiB, 50 * MiB);
  await disk.close();
  const { code, stderr } = await running.ended;
  expect([code, stderr]).toEqual([12, expect.stringContaining('CHANGED')]);
  expect(await here.server.volume('written')).toMatchObject({ state: 'receiving' });
  expect((await upload(args)).resumedAt).toBe(0);
  expect(await difference(at('written'), file('written'))).toBeUndefined();
}, 60_000);

test('an answer that is lost when the disk is whole', async () => {
  let lost = 0;
  const relay = createServer((wanted, answer) => {
    const { method, headers, url } = wanted;
    const passed = request(here.server.url + url, { method, headers }, (from) => {
      if (url?.includes('/finalize') && lost === 0) {
        lost += 1;
        from.resume().on('end', () => wanted.socket.destroy());
        return;
      }
      answer.writeHead(from.statusCode ?? 500, from.headers);
      from.pipe(answer);
    });
    wanted.pipe(passed);
  });
  relay.listen(0, '127.0.0.1');
  await once(relay, 'listening');
  const { port: relayed } = relay.address() as AddressInfo;
  const report = await upload([at('www/raw'), `http://127.0.0.1:${relayed}/volumes/lost`, '--connections', '2']);
  relay.closeAllConnections();
  relay.close();
  expect([lost, report.retries]).toEqual([1, 1]);
  expect(await here.server.volume('lost')).toMatchObject({ state: 'ready', diskDigest: report.diskDigest });
});

test('one connection, and why, where ranges are of no use', async () => {
  await mkdir(at('www/dav'));
  await using plain = await nginx({
    root: at('www'),
    server: 'location /dav { dav_methods PUT; client_max_body_size 0; }',
  });
  const many = ['--connections', '4'];
  const dav = await upload([at('www/raw'), `${plain.url}/dav/raw`, ...many]);
  expect(dav.said).toContain('the server does not offer to take ranges: one connection');
  expect(await difference(at('www/raw'), at('www/dav/raw'))).toBeUndefined();
  const image = await upload([at('www/qcow2'), `${here.server.url}/volumes/image`, ...many]);
  expect(image.said).toContain('is no raw disk');
  const longer = await upload([at('www/raw'), `${here.server.url}/volumes/longer`, ...many, '--size', '200Mi']);
  expect(longer.said).toContain('is to have 209715200 bytes');
  expect(await difference(at('www/raw'), file('longer'), SIZE)).toBeUndefined();
});

test('what a server offers stands in its answer to OPTIONS', async () => {
  const { body } = await curl(['-i', '-X', 'OPTIONS', `${here.server.url}/volumes/any`]);
  expect(body).toContain('link: <./any/images>; rel="https://ovirt.github.io/ovirt-imageio/images.html"');
  expect(body).toContain('accept: application/x-qemu-disk');
});

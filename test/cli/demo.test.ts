import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { writeQcow2 } from '../../src/cli/demo/qcow2.ts';
import { serveFile } from '../../src/cli/demo/server.ts';

const CLUSTER = 65_536;
const never = new AbortController().signal;
let directory = '';
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'diskferry-demo-test-'));
});
afterAll(() => rm(directory, { recursive: true }));

test('the qcow2 that the demo writes by itself is the disk, says qemu-img', async (context) => {
  if (spawnSync('qemu-img', ['--version']).error) return context.skip('qemu-img is not installed');
  const raw = join(directory, 'disk.raw');
  const image = join(directory, 'disk.qcow2');
  const disk = await open(raw, 'w');
  // Text deflates, random bytes do not, the rest is holes; the last cluster is a part of one.
  await disk.write(Buffer.alloc(5 * CLUSTER, 'a line of text\n'), 0, 5 * CLUSTER, 3 * CLUSTER);
  await disk.write(randomBytes(7 * CLUSTER + 100), 0, 7 * CLUSTER + 100, 9 * CLUSTER + 512);
  await disk.write(Buffer.from('near the end'), 0, 12, 600 * 1024 * 1024);
  await disk.truncate(600 * 1024 * 1024 + 3 * 512);
  await disk.close();
  await writeQcow2(raw, image, never);
  expect(spawnSync('qemu-img', ['check', image], { encoding: 'utf8' }).stdout).toContain('No errors');
  expect(spawnSync('qemu-img', ['compare', raw, image], { encoding: 'utf8' }).stdout).toContain('identical');
});

test('the server gives the whole, ranges, and what was asked with the right validator', async () => {
  const path = join(directory, 'served');
  const content = randomBytes(300_000);
  await writeFile(path, content);
  await using server = await serveFile(path, 1e9);
  const get = (headers: Record<string, string>) =>
    fetch(server.url, { headers: { 'accept-encoding': 'identity', ...headers } });

  const whole = await get({});
  const etag = whole.headers.get('etag') ?? '';
  expect(etag).toMatch(/^"/);
  expect(Buffer.from(await whole.arrayBuffer()).equals(await readFile(path))).toBe(true);

  const part = await get({ range: 'bytes=1000-1999', 'if-range': etag });
  expect(part.status).toBe(206);
  expect(part.headers.get('content-range')).toBe('bytes 1000-1999/300000');
  expect(Buffer.from(await part.arrayBuffer()).equals(content.subarray(1000, 2000))).toBe(true);

  const changed = await get({ range: 'bytes=1000-', 'if-range': '"other"' });
  expect(changed.status).toBe(200);
  expect(
    createHash('sha256')
      .update(Buffer.from(await changed.arrayBuffer()))
      .digest('hex'),
  ).toBe(createHash('sha256').update(content).digest('hex'));
  for (const [headers, status] of [
    [{ range: 'bytes=300000-' }, 416],
    [{ 'if-match': '"other"' }, 412],
  ] as const) {
    const answer = await get(headers);
    expect(answer.status).toBe(status);
    await answer.arrayBuffer();
  }
  expect(server.sent).toBe(601_000);
  await server.reached(600_000);
});

test('the server keeps its rate and can cut its connections', async () => {
  const path = join(directory, 'slow');
  await writeFile(path, randomBytes(1024 * 1024));
  await using server = await serveFile(path, 2 * 1024 * 1024);
  const began = performance.now();
  await (await fetch(server.url)).arrayBuffer();
  expect(performance.now() - began).toBeGreaterThan(400);
  const cut = (await fetch(server.url)).arrayBuffer();
  cut.catch(() => undefined);
  await server.reached(1.25 * 1024 * 1024);
  expect(server.cut()).toBeGreaterThan(0);
  await expect(cut).rejects.toThrow();
});

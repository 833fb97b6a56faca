// Reading a disk back takes long, and stops within a second: `verify`, and what `--disk-digest` asks of a device.
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { readDiskDigest } from '../../src/dataplane/disk-digest.ts';
import { native } from '../../src/dataplane/native.ts';
import { type Cli, describe as told } from '../support/cli.ts';
import type { CountingServer } from '../support/counting-server.ts';
import { loopDevice } from '../support/devices.ts';
import { MiB, rawDisk, run } from '../support/images.ts';
import { site } from '../support/site.ts';

/** Takes tens of seconds to read, and no room: a device does not tell its holes. */
const LONG = 128 * 1024 * MiB;
const DIGEST = `dd1:${'0'.repeat(64)}`;
let program: Cli;
let server: CountingServer;
const at = site(async (opened) => {
  ({ program, server } = opened);
  await rawDisk(at('www/raw'), 4 * MiB);
});

test.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)('verify is stopped by %s', async (signal, code) => {
  await using device = await loopDevice(at('long'), LONG);
  const running = program.start(['verify', device.path, '--json']);
  await sleep(1500);
  const began = performance.now();
  running.child.kill(signal);
  const ended = await running.ended;
  expect(performance.now() - began, told(ended)).toBeLessThan(1000);
  expect(ended.code, told(ended)).toBe(code);
  expect(JSON.parse(ended.stdout)).toMatchObject({ error: { code: 'ABORTED' } });
});

test('import is stopped while it reads a device for --disk-digest', async () => {
  await using device = await loopDevice(at('held'), LONG);
  await run('sgdisk', 'gdisk', ['-n', '1:0:0', device.path]);
  const aim = ['import', `${server.url}/raw`, device.path, '--size', String(LONG), '--disk-digest', DIGEST];
  const running = program.start([...aim, '--json', '--progress', 'none']);
  await sleep(1500);
  const began = performance.now();
  running.child.kill('SIGINT');
  const ended = await running.ended;
  expect(performance.now() - began, told(ended)).toBeLessThan(1000);
  expect(ended.code, told(ended)).toBe(130);
});

test('the engine itself ends, and says how far it is until then', async () => {
  await using device = await loopDevice(at('engine'), LONG);
  const stop = new (native().Stop)();
  const seen: number[] = [];
  const reading = native().diskDigest(device.path, undefined, (done) => seen.push(done), stop);
  await sleep(800);
  const began = performance.now();
  stop.stop();
  await expect(reading).rejects.toThrow(/"code":"ABORTED"/);
  expect(performance.now() - began).toBeLessThan(1000);
  expect(seen.length).toBeGreaterThan(1);
  expect(seen).toEqual([...seen].sort((a, b) => a - b));
  expect(seen.at(-1)).toBeGreaterThan(32 * MiB);
});

test('a signal that came before stops it at once, with its reason', async () => {
  const reason = new Error('enough');
  const reading = readDiskDigest(at('www/raw'), undefined, () => undefined, AbortSignal.abort(reason));
  await expect(reading).rejects.toBe(reason);
});

// `kill -9` at random moments of one import, and at every named step of its end. KILLS sets how many; default few.
import { mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { serverPath } from '../../scripts/toolchain.mjs';
import { type Cli, cli, describe as told } from '../support/cli.ts';
import { CountingServer } from '../support/counting-server.ts';
import { type LoopDevice, loopDevice, recognised } from '../support/devices.ts';
import { bootableDisk, difference, MiB, qcow2, randomly, run, shell } from '../support/images.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { tool } from '../support/tools.ts';

const KILLS = Number(process.env.KILLS ?? 3);
/** What a kill may cost at most, in bytes of the source: one checkpoint's worth. */
const COST = 128 * MiB;
/** With --rate 20MB/s a checkpoint comes every 2 s and takes a moment. */
const RATE = 20_000_000;
const SECONDS = 3;
/** Bytes that the kernel holds of connections that die: sent, never read. Not the program's to answer for. */
const IN_FLIGHT = 16 * MiB;
/** Each image is this long; more kills need a longer way. */
const LARGE = Math.max(384, KILLS * 28) * MiB;
const SMALL = Math.max(96, KILLS * 8) * MiB;
const TINY = 24 * MiB;

/** What each step of finishing is called, in order (docs/journal.md). */
const STEPS = ['finish-data', 'finish-tail', 'finish-record', 'finish-head', 'finish-front', 'finish-sector'];

let home: TempDir;
let program: Cli;
let server: CountingServer;
const at = (name: string): string => join(home.path, name);

/** Images of one disk: size → name → how. `unit` is the largest restart unit, in bytes of the source. */
const KINDS = ['raw', 'qcow2', 'vmdk', 'gz', 'xz', 'sz'] as const;
type Kind = (typeof KINDS)[number];

async function make(size: number, label: string): Promise<void> {
  const raw = await bootableDisk(at(`www/${label}.raw`), size);
  await qcow2(raw, at(`www/${label}.qcow2`), { compressed: true });
  const stream = ['-O', 'vmdk', '-o', 'subformat=streamOptimized'];
  await run('qemu-img', 'qemu-utils', ['convert', '-f', 'raw', ...stream, raw, at(`www/${label}.vmdk`)]);
  await shell(`pigz -1 -c ${raw} > ${at('www')}/${label}.gz`);
  await shell(`xz -0 -T2 --block-size=4MiB -c ${raw} > ${at('www')}/${label}.xz`);
  await shell(`${serverPath('s2c')} -q -c -snappy ${raw} > ${at('www')}/${label}.sz`);
}

beforeAll(async () => {
  tool('pigz', 'pigz');
  tool('xz', 'xz-utils');
  home = await tempdir();
  program = await cli(home.path);
  await mkdir(at('www'));
  server = await CountingServer.start(at('www'));
  await make(SMALL, 'small');
  await make(TINY, 'tiny');
  await bootableDisk(at('www/large.raw'), LARGE);
  await qcow2(at('www/large.raw'), at('www/large.qcow2'));
}, 300_000);

afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

/** A new file, or a device larger than the disk. */
async function target(kind: 'file' | 'device', size: number): Promise<{ path: string } & AsyncDisposable> {
  const file = at('target');
  await rm(file, { force: true });
  if (kind === 'file') return { path: file, [Symbol.asyncDispose]: () => rm(file, { force: true }) };
  const device: LoopDevice = await loopDevice(file, size + 3 * MiB);
  return {
    path: device.path,
    async [Symbol.asyncDispose]() {
      await device[Symbol.asyncDispose]();
      await rm(file, { force: true });
    },
  };
}

interface Killing {
  readonly image: string;
  readonly raw: string;
  readonly to: 'file' | 'device';
  readonly rate?: number;
  readonly seed: number;
}

/** Kills one import `KILLS` times; answers what each kill cost in bytes of the source that were sent again. */
async function killAndGoOn({ image, raw, to, rate, seed }: Killing): Promise<number[]> {
  const random = randomly(seed);
  const size = (await stat(raw)).size;
  await using aim = await target(to, size);
  const args = ['import', `${server.url}/${image}`, aim.path, '--json', '--progress', 'none'];
  if (rate !== undefined) args.push('--rate', `${rate}B/s`);
  server.forget();
  const costs: number[] = [];
  let [previous, killed] = [0, 0];
  for (;;) {
    const run = program.start(args);
    let over = false;
    void run.ended.then(() => {
      over = true;
    });
    const last = killed >= KILLS;
    if (!last) {
      // Some die before their first checkpoint, some while the second is written.
      const reach = random() * (rate === undefined ? 1.3 * COST : 3.5 * rate);
      const longest = performance.now() + 20_000;
      while (!over && server.bytes < reach && performance.now() < longest) await sleep(5);
      await sleep(random() * 60);
      run.child.kill('SIGKILL');
    }
    const ended = await run.ended;
    const counted = server.nextRun();
    if (previous > 0 || killed > 0) costs.push(counted.again);
    previous = counted.bytes;
    if (ended.code === 0) break;
    if (last) throw new Error(told(ended));
    expect(ended.signal, told(ended)).toBe('SIGKILL');
    killed += 1;
    if (to === 'device' || (await stat(aim.path).catch(() => undefined)))
      expect(await recognised(aim.path)).toEqual([]);
  }
  expect(await difference(raw, aim.path, to === 'device' ? size : undefined)).toBeUndefined();
  expect(await recognised(aim.path)).not.toEqual([]);
  return costs;
}

describe.each(['file', 'device'] as const)('killed at random on a %s', (to) => {
  test.each(['raw', 'qcow2'] as const)(
    '%s at full speed',
    async (kind) => {
      const costs = await killAndGoOn({ image: `large.${kind}`, raw: at('www/large.raw'), to, seed: 5 });
      expect(Math.max(...costs), costs.join(' ')).toBeLessThanOrEqual(COST + IN_FLIGHT);
    },
    900_000,
  );

  test.each(KINDS)(
    '%s at 20 MB/s',
    async (kind) => {
      const costs = await killAndGoOn({ image: `small.${kind}`, raw: at('www/small.raw'), to, rate: RATE, seed: 6 });
      expect(Math.max(...costs), costs.join(' ')).toBeLessThanOrEqual(SECONDS * RATE + IN_FLIGHT);
    },
    900_000,
  );
});

describe.each(['file', 'device'] as const)('killed between the steps of finishing on a %s', (to) => {
  test.each(KINDS)('%s', async (kind: Kind) => {
    const raw = at('www/tiny.raw');
    const size = (await stat(raw)).size;
    await using aim = await target(to, size);
    const args = ['import', `${server.url}/tiny.${kind}`, aim.path, '--json', '--progress', 'none'];
    for (const step of STEPS) {
      const ended = await program.run(args, { env: { DISKFERRY_FAILPOINT: step } });
      expect(ended.signal, `${step}: ${told(ended)}`).toBe('SIGKILL');
      if (step !== 'finish-sector') expect(await recognised(aim.path), step).toEqual([]);
    }
    // All is written after the last step: the disk is right before anybody goes on.
    expect(await difference(raw, aim.path, to === 'device' ? size : undefined)).toBeUndefined();
    const again = await program.run(args);
    if (to === 'file') expect(again.code, told(again)).toBe(0);
    else expect([0, 11], told(again)).toContain(again.code);
    expect(await difference(raw, aim.path, to === 'device' ? size : undefined)).toBeUndefined();
  });

  test.each(KINDS)('%s, each step by itself', async (kind: Kind) => {
    const raw = at('www/tiny.raw');
    const size = (await stat(raw)).size;
    for (const step of STEPS.slice(0, -1)) {
      await using aim = await target(to, size);
      const args = ['import', `${server.url}/tiny.${kind}`, aim.path, '--json', '--progress', 'none'];
      const cut = await program.run(args, { env: { DISKFERRY_FAILPOINT: step } });
      expect(cut.signal, `${step}: ${told(cut)}`).toBe('SIGKILL');
      expect(await recognised(aim.path), step).toEqual([]);
      const ended = await program.run(args);
      expect(ended.code, `${step}: ${told(ended)}`).toBe(0);
      expect(await difference(raw, aim.path, to === 'device' ? size : undefined), step).toBeUndefined();
    }
  });
});

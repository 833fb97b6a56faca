// Disks of which only the data is read: sparse files, by lseek(2).
import { execFile } from 'node:child_process';
import { open, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Cli, cli } from '../support/cli.ts';
import { pattern } from '../support/extents.ts';
import { difference, GiB, KiB, MiB } from '../support/images.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';

const run = promisify(execFile);
let home: TempDir;
let program: Cli;
const at = (name: string): string => join(home.path, name);

beforeAll(async () => {
  home = await tempdir();
  program = await cli(home.path);
});
afterAll(() => home?.[Symbol.asyncDispose]());

/** Size of the disk, and the pieces of data on it: [offset, length] in bytes. */
const DISKS: readonly (readonly [name: string, size: number, data: readonly (readonly [number, number])[]])[] = [
  [
    'both ends',
    64 * MiB,
    [
      [0, 4 * KiB],
      [64 * MiB - 512, 512],
    ],
  ],
  [
    'no end',
    64 * MiB,
    [
      [20 * MiB, 3 * MiB],
      [40 * MiB + 4 * KiB, 4 * KiB],
    ],
  ],
  ['nothing', 64 * MiB, []],
  [
    'a size of no whole leaf',
    40 * MiB + 1536,
    [
      [8 * MiB, MiB],
      [40 * MiB, 1024],
    ],
  ],
  ['small', 1 * MiB + 512, [[0, 512]]],
  ['many holes', 256 * MiB, Array.from({ length: 400 }, (_, i) => [i * 600 * KiB + 8 * KiB, 4 * KiB] as const)],
];

describe.each(DISKS)('%s', (name, size, data) => {
  const disk = name.replaceAll(' ', '-');
  test('to a file', async () => {
    await pattern(at(disk), size, data);
    const report = await program.imported([at(disk), at(`${disk}.out`)]);
    expect(report).toMatchObject({ way: 'seek', virtualSize: size });
    expect(report.receivedBytes).toBeLessThan(size);
    expect(report.sourceDigest).toBeUndefined();
    expect(await difference(at(disk), at(`${disk}.out`))).toBeUndefined();
    const whole = await program.imported([at(disk), at(`${disk}.all`), '--way', 'stream']);
    expect(whole.diskDigest).toBe(report.diskDigest);
  });

  test('to a device that holds something else, longer than the disk', async () => {
    const length = Math.ceil(size / MiB) * MiB + MiB;
    await writeFile(at('backing'), Buffer.alloc(length, 0x5a));
    const device = (await run('losetup', ['--find', '--show', at('backing')])).stdout.trim();
    try {
      await program.imported([at(disk), device, '--force']);
    } finally {
      await run('losetup', ['--detach', device]);
    }
    await truncate(at('backing'), size);
    expect(await difference(at(disk), at('backing'))).toBeUndefined();
  });
});

test('100 GiB of holes cost nothing', async () => {
  await pattern(
    at('large'),
    100 * GiB,
    Array.from({ length: 10 }, (_, i) => [i * 10 * GiB, 10 * MiB] as const),
  );
  const report = await program.imported([at('large'), at('large.out')]);
  expect(report.receivedBytes).toBeLessThan(102 * MiB);
  expect(report.skipped).toBeGreaterThan(99 * GiB);
  expect(report.seconds).toBeLessThan(10);
  expect((await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', at('large'), at('large.out')])).stdout).toContain(
    'identical',
  );
});

test('a digest demands all bytes', async () => {
  await pattern(at('digested'), 32 * MiB, [[0, MiB]]);
  const sum = (await run('sha256sum', [at('digested')])).stdout.slice(0, 64);
  const report = await program.imported([at('digested'), at('digested.out'), '--digest', `sha256:${sum}`]);
  expect(report).toMatchObject({ way: 'stream', sourceDigest: `sha256:${sum}`, sourceBytes: 32 * MiB });
});

test('killed and gone on with', async () => {
  const pieces = Array.from({ length: 96 }, (_, i) => [i * 8 * MiB + MiB, 2 * MiB] as const);
  await pattern(at('killed'), 1 * GiB, pieces);
  const first = program.start(['import', at('killed'), at('killed.out'), '--rate', '40MiB/s']);
  await sleep(3500);
  first.child.kill('SIGKILL');
  await first.ended;
  const report = await program.imported([at('killed'), at('killed.out')]);
  expect(report.resumes).toBe(1);
  expect(report.resumedAt).toBeGreaterThan(8 * MiB);
  expect(report.receivedBytes).toBeLessThan(192 * MiB);
  expect(await difference(at('killed'), at('killed.out'))).toBeUndefined();
  const changed = await open(at('killed'), 'r+');
  await changed.write(Buffer.from('x'), 0, 1, 5 * MiB);
  await changed.close();
  expect((await program.refused([at('killed'), at('killed.out')])).code).toBe('DENIED');
});

// NBD from end to end: holes cost nothing, and a killed import goes on where a person vouches for the source.
import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FaultProxy } from '../faults/proxy.ts';
import { type Cli, cli, describe as told } from '../support/cli.ts';
import { loopDevice, recognised } from '../support/devices.ts';
import { pattern } from '../support/extents.ts';
import { bootableDisk, difference, MiB, qcow2 } from '../support/images.ts';
import { type NbdServer, qemuNbd } from '../support/nbd.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';

const SIZE = 192 * MiB;
const KILLS = Number(process.env.KILLS ?? 3);
let home: TempDir;
let program: Cli;
let server: NbdServer;
const at = (name: string): string => join(home.path, name);

beforeAll(async () => {
  home = await tempdir();
  program = await cli(home.path);
  await bootableDisk(at('disk.raw'), SIZE);
  server = await qemuNbd(at('disk.raw'));
}, 60_000);
afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

test('holes are not fetched', async () => {
  await pattern(at('holes'), 1024 * MiB, [
    [0, MiB],
    [700 * MiB, MiB],
  ]);
  await using sparse = await qemuNbd(at('holes'));
  const report = await program.imported([`nbd://127.0.0.1:${sparse.port}/disk`, at('holes.out')]);
  expect(report).toMatchObject({ way: 'seek', virtualSize: 1024 * MiB });
  expect(report.receivedBytes).toBeLessThan(5 * MiB);
  expect(await difference(at('holes'), at('holes.out'))).toBeUndefined();
  expect((await stat(at('holes.out'))).blocks * 512).toBeLessThan(3 * MiB);
});

test('an image in an export is decoded', async () => {
  await qcow2(at('disk.raw'), at('disk.qcow2'), { compressed: true });
  await using image = await qemuNbd(at('disk.qcow2'));
  await program.imported([`nbd://127.0.0.1:${image.port}/disk`, at('decoded'), '--source-unchanged']);
  expect(await difference(at('disk.raw'), at('decoded'))).toBeUndefined();
});

test('a digest is demanded of all bytes', async () => {
  const args = [`nbd://127.0.0.1:${server.port}/disk`, at('digest'), '--digest', `sha256:${'0'.repeat(64)}`];
  expect(await program.refused(args)).toMatchObject({ code: 'DIGEST_MISMATCH' });
});

describe.each(['file', 'device'] as const)('killed on a %s', (to) => {
  test('it goes on with --source-unchanged', async () => {
    await rm(at('target'), { force: true });
    await using device = to === 'device' ? await loopDevice(at('target'), SIZE + 3 * MiB) : undefined;
    const target = device?.path ?? at('target');
    await using proxy = await FaultProxy.start(server);
    const source = `nbd://127.0.0.1:${proxy.port}/disk`;
    const args = [source, target, '--source-unchanged', '--rate', '40MB/s'];
    for (let kill = 0; kill < KILLS; kill += 1) {
      // A checkpoint comes every 2 s.
      const ended = await program.killedAfter(1500 + 400 * kill, args);
      expect(ended.signal, told(ended)).toBe('SIGKILL');
      expect(await recognised(target)).toEqual([]);
    }
    const report = await program.imported([source, target, '--source-unchanged']);
    expect(report.resumes).toBeGreaterThan(0);
    expect(report.resumedAt).toBeGreaterThan(0);
    expect(report.receivedBytes).toBeLessThan(SIZE);
    expect(await difference(at('disk.raw'), target, to === 'device' ? SIZE : undefined)).toBeUndefined();
  }, 120_000);
});

test('without --source-unchanged a second run starts over, and says why', async () => {
  await rm(at('again'), { force: true });
  const source = `nbd://127.0.0.1:${server.port}/disk`;
  await program.killedAfter(3000, [source, at('again'), '--rate', '20MB/s']);
  const ended = await program.run(['inspect', source]);
  expect(ended.stdout).toContain('--source-unchanged');
  await program.imported([source, at('again')]);
  expect(await difference(at('disk.raw'), at('again'))).toBeUndefined();
});

// Sources that are no files and no servers: empty disks, and programs.
import { execFile } from 'node:child_process';
import { open, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { type Cli, cli } from '../support/cli.ts';
import { collect, testContext, thrown } from '../support/context.ts';
import { difference, KiB, MiB, rawDisk } from '../support/images.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';

const run = promisify(execFile);
const SIZE = 24 * MiB + 512;
let home: TempDir;
let program: Cli;
const at = (name: string): string => join(home.path, name);

beforeAll(async () => {
  home = await tempdir();
  program = await cli(home.path);
  await rawDisk(at('raw'), SIZE, { run: 64 * KiB, zeros: 0.2, seed: 5 });
  await writeFile(at('zeros'), '');
  await truncate(at('zeros'), SIZE);
});

afterAll(() => home?.[Symbol.asyncDispose]());

describe('blank', () => {
  test('a sparse file, known again afterwards', async () => {
    const report = await program.imported([`blank:${SIZE}`, at('sparse')]);
    expect(report).toMatchObject({ outcome: 'done', virtualSize: SIZE });
    // Only the ends, which are held back.
    expect(report.written).toBeLessThanOrEqual(2 * MiB + 512);
    expect(await difference(at('zeros'), at('sparse'))).toBeUndefined();
    expect((await stat(at('sparse'))).blocks * 512).toBeLessThan(SIZE / 4);
    expect((await program.imported([`blank:${SIZE}`, at('sparse')])).outcome).toBe('already-done');
    expect((await program.refused([`blank:${SIZE + 512}`, at('sparse')])).code).toBe('DENIED');
  });

  test('a file whose room is reserved', async () => {
    await program.imported(['blank:24Mi', at('reserved'), '--preallocate']);
    expect((await stat(at('reserved'))).blocks * 512).toBeGreaterThanOrEqual(24 * MiB);
  });

  test('a terabyte takes no time', async () => {
    const report = await program.imported(['blank:5Ti', at('large')]);
    expect(report).toMatchObject({ virtualSize: 5 * 2 ** 40, written: 2 * MiB });
    expect(report.receivedBytes).toBeLessThan(MiB);
  });

  test('a device that held something', async () => {
    await run('cp', [at('raw'), at('backing')]);
    const device = (await run('losetup', ['--find', '--show', at('backing')])).stdout.trim();
    try {
      expect((await program.refused(['blank:16Mi', device])).code).toBe('DENIED');
      await program.imported(['blank:16Mi', device, '--force']);
    } finally {
      await run('losetup', ['--detach', device]);
    }
    const file = await open(at('backing'));
    try {
      const { buffer } = await file.read(Buffer.alloc(16 * MiB), 0, 16 * MiB, 0);
      expect(buffer.every((byte) => byte === 0)).toBe(true);
    } finally {
      await file.close();
    }
  });

  test('qemu-img takes what the engine is given for an empty image', async () => {
    const context = testContext();
    await using source = await openSource('blank:24Mi', {}, context);
    await writeFile(at('blank.qcow2'), await collect(source.read({ from: 0 }, context.signal)));
    await run('qemu-img', ['check', at('blank.qcow2')]);
    const { stdout } = await run('qemu-img', ['info', '--output=json', at('blank.qcow2')]);
    expect(JSON.parse(stdout)).toMatchObject({ format: 'qcow2', 'virtual-size': 24 * MiB });
  });

  test.each(['blank:', 'blank:0', 'blank:1000', 'blank:65Ti', 'blank:many'])('%s is no disk', async (text) => {
    expect((await thrown(openSource(text, {}, testContext()))).code).toBe('BAD_SPEC');
  });
});

describe('exec', () => {
  test('what a program writes', async () => {
    const report = await program.imported([`exec:gzip -1 -c '${at('raw')}'`, at('exec.img')]);
    expect(report).toMatchObject({ codecs: ['gzip'], source: expect.stringMatching(/^exec:gzip-/) });
    expect(await difference(at('raw'), at('exec.img'))).toBeUndefined();
  });

  test('a program that fails at its end leaves no bootable disk', async () => {
    const command = `exec:cat '${at('raw')}'; echo no more >&2; exit 7`;
    const refusal = await program.refused([command, at('failed.img')]);
    expect(refusal).toMatchObject({ code: 'IO', message: expect.stringMatching(/status 7.*no more/) });
    const recovered = await program.run(['inspect', at('failed.img')]);
    expect(recovered.stdout).not.toMatch(/finished disk/);
  });

  test('the same command goes on after a failure, and another is refused', async () => {
    const command = `exec:if [ -e '${at('again')}' ]; then cat '${at('raw')}'; else head -c 20000000 '${at('raw')}'; sleep 2.5; exit 1; fi`;
    await program.refused([command, at('resumed.img')]);
    await writeFile(at('again'), '');
    expect((await program.refused([`exec:cat '${at('raw')}'`, at('resumed.img')])).code).toBe('CHANGED');
    const report = await program.imported([command, at('resumed.img')]);
    expect(report.resumes).toBe(1);
    expect(report.resumedAt).toBeGreaterThan(0);
    expect(await difference(at('raw'), at('resumed.img'))).toBeUndefined();
  });
});

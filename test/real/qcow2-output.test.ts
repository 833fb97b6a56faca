// A qcow2 file as the target, from the command line: of every kind, over what was there, and stopped.
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Cli, cli, describe as told } from '../support/cli.ts';
import { loopDevice } from '../support/devices.ts';
import { bootableDisk, difference, MiB, qcow2, run, shell } from '../support/images.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { tool } from '../support/tools.ts';

const SIZE = 96 * MiB;
/** What the file may be longer than qemu-img's. */
const LONGER = 1.02;
let home: TempDir;
let program: Cli;
let server: Nginx;
const at = (name: string): string => join(home.path, name);
const out = (): string => at('out/disk.qcow2');

beforeAll(async () => {
  tool('gzip', 'gzip');
  home = await tempdir();
  program = await cli(home.path);
  await mkdir(at('www'));
  await mkdir(at('out'));
  server = await nginx({ root: at('www') });
  await bootableDisk(at('www/raw'), SIZE);
  await qcow2(at('www/raw'), at('www/qcow2'));
  await shell(
    `gzip -1 -c ${at('www/raw')} > ${at('www/raw.gz')}; gzip -1 -c ${at('www/qcow2')} > ${at('www/qcow2.gz')}`,
  );
});

afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

async function sound(path: string): Promise<void> {
  expect(await run('qemu-img', 'qemu-utils', ['check', '-f', 'qcow2', path])).toContain('No errors were found');
  const compared = await run('qemu-img', 'qemu-utils', ['compare', '-F', 'qcow2', at('www/raw'), path]);
  expect(compared).toContain('identical');
}

describe.each([
  ['plain', []],
  ['plain, clusters of 2 MiB', ['--cluster-size', '2Mi']],
  ['zlib', ['--compress', 'zlib']],
  ['zstd', ['--compress', 'zstd']],
  ['zstd, clusters of 16 KiB', ['--compress', 'zstd', '--cluster-size', '16Ki']],
])('%s', (_, options) => {
  test.each(['raw', 'qcow2', 'raw.gz', 'qcow2.gz'])('from %s', async (name) => {
    const report = await program.imported([`${server.url}/${name}`, out(), '--target-format', 'qcow2', ...options]);
    expect(report).toMatchObject({ outcome: 'done', virtualSize: SIZE });
    await sound(out());
    const reference = at('reference.qcow2');
    const compression = options.includes('--compress') ? `compression_type=${options[1]}` : 'compat=1.1';
    const [, cluster = '64k'] = /(\d+[KM])i$/.exec(options.at(-1) ?? '') ?? [];
    await qcow2(at('www/raw'), reference, {
      compressed: options.includes('--compress'),
      options: [`cluster_size=${cluster}`, compression],
    });
    const allocated = async (path: string): Promise<number> => (await stat(path)).blocks;
    expect((await stat(out())).size).toBeLessThanOrEqual((await stat(reference)).size * LONGER);
    expect(await allocated(out())).toBeLessThanOrEqual((await allocated(reference)) * LONGER);
    // What was written is a source like any other, read as it comes.
    const back = await program.imported([out(), at('back.img')]);
    expect(back).toMatchObject({ diskDigest: report.diskDigest });
    expect(await difference(at('www/raw'), at('back.img'))).toBeUndefined();
    expect(await readdir(at('out'))).toEqual(['disk.qcow2']);
    await Promise.all([out(), at('back.img'), reference].map((path) => rm(path)));
  });
});

test('it can be read as a stream where the size was known', async () => {
  await program.imported([`${server.url}/raw`, at('www/made'), '--target-format', 'qcow2']);
  const said = await program.run(['inspect', `${server.url}/made`, '--json']);
  expect(JSON.parse(said.stdout)).toMatchObject({ image: { format: 'qcow2', order: 'stream' } });
});

test('a finished file is recognised, and only as what it is', async () => {
  const args = [`${server.url}/raw`, out()];
  const first = await program.imported([...args, '--target-format', 'qcow2']);
  const again = await program.imported([...args, '--target-format', 'qcow2']);
  expect(again).toMatchObject({ outcome: 'already-done', virtualSize: SIZE, diskDigest: first.diskDigest });
  expect(await program.refused([...args, '--target-format', 'qcow2', '--compress', 'zstd'])).toMatchObject({
    code: 'DENIED',
  });
  expect(await program.refused(args)).toMatchObject({ code: 'DENIED', exit: 11 });
  await program.imported([...args, '--target-format', 'qcow2', '--compress', 'zstd', '--force']);
  await sound(out());
  await rm(out());
});

test('what was there stays, and nothing else does, when it is stopped; killed, the next run clears up', async () => {
  await writeFile(out(), 'what was there', { mode: 0o604 });
  const slow = [`${server.url}/raw`, out(), '--target-format', 'qcow2', '--force', '--rate', '10MB/s'];
  const running = program.start(['import', ...slow, '--progress', 'none']);
  for (let tries = 0; (await readdir(at('out'))).length < 2 && tries < 200; tries += 1) await sleep(20);
  expect(await readdir(at('out'))).toEqual(['.disk.qcow2.diskferry', 'disk.qcow2']);
  const second = await program.refused([...slow]);
  expect(second).toMatchObject({ code: 'BUSY' });
  running.child.kill('SIGINT');
  const stopped = await running.ended;
  expect(stopped.code, told(stopped)).toBe(130);
  expect(stopped.stderr).toContain('begins anew');
  expect(await readdir(at('out'))).toEqual(['disk.qcow2']);
  await program.killedAfter(2000, slow);
  expect(await readdir(at('out'))).toEqual(['.disk.qcow2.diskferry', 'disk.qcow2']);
  expect(await readFile(out(), 'utf8')).toBe('what was there');
  await program.imported([`${server.url}/raw`, out(), '--target-format', 'qcow2', '--force']);
  await sound(out());
  expect((await stat(out())).mode & 0o777).toBe(0o604);
  expect(await readdir(at('out'))).toEqual(['disk.qcow2']);
  await rm(out());
}, 60_000);

test('a wrong digest, a cut image and a full file system leave nothing', async () => {
  const qcow = ['--target-format', 'qcow2'];
  const wrong = await program.refused([`${server.url}/raw`, out(), ...qcow, '--digest', `sha256:${'0'.repeat(64)}`]);
  expect(wrong).toMatchObject({ code: 'DIGEST_MISMATCH' });
  await shell(`head -c 30000000 ${at('www/raw.gz')} > ${at('www/cut.gz')}`);
  expect(await program.refused([`${server.url}/cut.gz`, out(), ...qcow])).toMatchObject({ code: 'TRUNCATED' });
  expect(await readdir(at('out'))).toEqual([]);
  await mkdir(at('small'));
  await run('mount', 'mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', at('small')]);
  try {
    const full = await program.refused([`${server.url}/raw`, at('small/disk.qcow2'), ...qcow]);
    expect(full).toMatchObject({ code: 'NO_SPACE', stage: 'target' });
    expect(await readdir(at('small'))).toEqual([]);
  } finally {
    await run('umount', 'mount', [at('small')]);
  }
});

test('options that do not go together are refused with what to do', async () => {
  const refused = async (...options: string[]) => program.refused([`${server.url}/raw`, out(), ...options]);
  expect(await refused('--compress', 'zstd')).toMatchObject({
    code: 'BAD_SPEC',
    message: expect.stringMatching(/--target-format qcow2/),
  });
  expect(await refused('--target-format', 'qcow2', '--preallocate')).toMatchObject({ code: 'BAD_SPEC' });
  const large = await refused('--target-format', 'qcow2', '--compress', 'zstd', '--cluster-size', '2Mi');
  expect(large).toMatchObject({ code: 'BAD_SPEC', message: expect.stringMatching(/65536 or less/) });
  expect(await refused('--target-format', 'qcow2', '--cluster-size', '100000')).toMatchObject({ code: 'BAD_SPEC' });
  await using device = await loopDevice(at('device'), SIZE);
  const block = await program.refused([`${server.url}/raw`, device.path, '--target-format', 'qcow2']);
  expect(block).toMatchObject({ code: 'BAD_SPEC', message: expect.stringMatching(/only a file can be a qcow2/) });
  expect(await readdir(at('out'))).toEqual([]);
});

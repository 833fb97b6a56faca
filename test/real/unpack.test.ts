// `import --archive` from the command line: from every kind of server, stopped, and what it tells.
import { createReadStream } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { FaultProxy } from '../faults/proxy.ts';
import { type Cli, cli, describe as told } from '../support/cli.ts';
import { MiB, run, sha256, shell, somewhatRandom } from '../support/images.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';

let home: TempDir;
let program: Cli;
let server: Nginx;
const at = (name: string): string => join(home.path, name);

beforeAll(async () => {
  home = await tempdir();
  program = await cli(home.path);
  for (const name of ['www', 'from/a', 'out']) await mkdir(at(name), { recursive: true });
  server = await nginx({ root: at('www') });
  for (let n = 0; n < 40; n += 1) await writeFile(at(`from/a/file-${n}`), somewhatRandom(MiB + n));
  await run('tar', 'tar', ['-C', at('from'), '-cf', at('www/files.tar'), '.']);
  await shell(`gzip -1 -c ${at('www/files.tar')} > ${at('www/files.tar.gz')}`);
});

afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

const same = (directory: string): Promise<void> => shell(`diff -r ${at('from')} ${directory}`);

test.each(['files.tar', 'files.tar.gz'])('%s, over HTTP, from a file and by standard input', async (name) => {
  const source = at(`www/${name}`);
  for (const [from, script] of [
    [`${server.url}/${name}`, ''],
    [source, ''],
    ['-', source],
  ] as const) {
    const stdin = script === '' ? {} : { stdin: createReadStream(script) };
    const ended = await program.run(['import', from, at('out/files'), '--archive', '--json'], stdin);
    expect(ended.code, told(ended)).toBe(0);
    expect(JSON.parse(ended.stdout)).toMatchObject({
      outcome: 'done',
      entries: 42,
      codecs: name.endsWith('.gz') ? ['gzip'] : [],
      sourceDigest: await sha256(source),
    });
    await same(at('out/files'));
    await rm(at('out'), { recursive: true });
    await mkdir(at('out'));
  }
});

test('people are told what came, and what is in the way', async () => {
  const args = ['import', `${server.url}/files.tar.gz`, at('out/files'), '--archive', '--progress', 'none'];
  const ended = await program.run(args);
  expect(ended.stdout).toMatch(/^done +\S+ holds all of the archive\nsource +.*tar in gzip\n[\s\S]*entries +42\n/);
  const again = await program.run(args);
  expect([again.code, again.stderr]).toEqual([11, expect.stringMatching(/is not empty: give --force/)]);
  expect((await program.run([...args, '--force'])).code).toBe(0);
  await same(at('out/files'));
  const wrong = await program.run([...args, '--size', '5Gi', '--force']);
  expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringMatching(/--size is for disks/)]);
  const format = await program.run([...args, '--target-format', 'qcow2']);
  expect(format.stderr).toMatch(/--target-format is for disks/);
  await rm(at('out/files'), { recursive: true });
});

test('cut connections are gone on from; a stop leaves nothing; a second run begins anew', async () => {
  await using proxy = await FaultProxy.start({ port: server.port }, { cut: 5 * MiB, connections: 3 });
  const report = await program.imported([`${proxy.url}/files.tar.gz`, at('out/files'), '--archive']);
  expect(report.retries).toBeGreaterThan(0);
  await same(at('out/files'));
  await rm(at('out/files'), { recursive: true });
  const slow = ['import', `${server.url}/files.tar`, at('out/files'), '--archive', '--rate', '5MB/s'];
  const running = program.start([...slow, '--progress', 'none']);
  for (let tries = 0; (await readdir(at('out'))).length === 0 && tries < 200; tries += 1) await sleep(20);
  await sleep(500);
  running.child.kill('SIGTERM');
  const stopped = await running.ended;
  expect(stopped.code, told(stopped)).toBe(143);
  expect(stopped.stderr).toMatch(/begins anew/);
  expect(await readdir(at('out'))).toEqual([]);
  await program.killedAfter(1500, slow.slice(1));
  expect(await readdir(at('out'))).toEqual(['.files.diskferry']);
  await program.imported([`${server.url}/files.tar`, at('out/files'), '--archive']);
  await same(at('out/files'));
  expect(await readdir(at('out'))).toEqual(['files']);
  await rm(at('out/files'), { recursive: true });
});

test('a wrong digest leaves nothing', async () => {
  const wrong = ['--archive', '--digest', `sha256:${'0'.repeat(64)}`];
  const refused = await program.refused([`${server.url}/files.tar`, at('out/files'), ...wrong]);
  expect(refused).toMatchObject({ code: 'DIGEST_MISMATCH', stage: 'verify' });
  expect(await readdir(at('out'))).toEqual([]);
  expect(await readFile(at('from/a/file-0'))).toHaveLength(MiB);
});

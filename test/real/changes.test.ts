// What has changed of a disk, onto the disk as it was: `--changed-since`.
import { copyFile, open, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Cli, cli } from '../support/cli.ts';
import { loopDevice } from '../support/devices.ts';
import { FakeEngine } from '../support/engine.ts';
import { type ImageService, imageService } from '../support/imageio.ts';
import { difference, MiB, run } from '../support/images.ts';
import { type NbdServer, qemuNbd } from '../support/nbd.ts';
import { dirtied, FIRST, SECOND, SIZE, STATES, type States, shownBy, states, THIRD } from '../support/states.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';

const DISK = '7d2c9f6e-5a0b-4c8f-9a41-2f1f6f2d8e10';
/** What changed, and both ends, which are always read. */
const MOST = 12 * MiB;
let home: TempDir;
let program: Cli;
let disk: States;
let service: ImageService;
let engine: FakeEngine;
let server: NbdServer;
const at = (name: string): string => join(home.path, name);

beforeAll(async () => {
  home = await tempdir();
  program = await cli(home.path);
  disk = await states(home.path);
  service = await imageService();
  await writeFile(at('login'), 'admin@internal:password');
  engine = await FakeEngine.start({
    user: 'admin@internal',
    password: 'password',
    images: () => `127.0.0.1:${service.port}`,
    snapshots: STATES,
    show: (_, snapshot = THIRD, alone) => {
      const { file, options } = shownBy(disk.image(snapshot), alone);
      return service.show(file, SIZE, options);
    },
  });
  server = await qemuNbd(await dirtied(at('dirty.qcow2')), ['--format=qcow2', '--bitmap=since']);
}, 60_000);
afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  await engine?.[Symbol.asyncDispose]();
  await service?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});
beforeEach(async () => {
  await rm(at('out'), { force: true });
});

const ovirt = (snapshot: string): string[] => [
  `ovirt+${engine.api}/disks/${DISK}?snapshot=${snapshot}`,
  '--credentials-file',
  at('login'),
];

const SOURCES: readonly (readonly [name: string, args: () => Promise<string[]>])[] = [
  ['NBD, by a dirty bitmap', async () => [`nbd://127.0.0.1:${server.port}/disk`, '--changed-since', 'since']],
  [
    'imageio, in an incremental backup',
    async () => {
      const options = ['--format=qcow2', '--bitmap=since'];
      const ticket = await service.show(at('dirty.qcow2'), SIZE, options, { dirty: true });
      return [`imageio+http://127.0.0.1:${service.port}/images/${ticket}`, '--changed-since', 'since'];
    },
  ],
  ['oVirt, from snapshot to snapshot', async () => [...ovirt(SECOND), '--changed-since', FIRST]],
];

describe.each(SOURCES)('%s', (_, args) => {
  test('into a file and onto a device: what changed is read, the rest stays', async () => {
    await copyFile(disk.raw(FIRST), at('out'));
    const report = await program.imported([...(await args()), at('out')]);
    expect(report).toMatchObject({ way: 'seek', virtualSize: SIZE });
    expect(report.receivedBytes).toBeLessThan(MOST);
    expect(await difference(disk.raw(SECOND), at('out'))).toBeUndefined();

    await using device = await loopDevice(at('device'), SIZE + MiB);
    await run('dd', 'coreutils', [`if=${disk.raw(FIRST)}`, `of=${device.path}`, 'bs=1M', 'status=none']);
    await program.imported([...(await args()), device.path]);
    expect(await difference(disk.raw(SECOND), device.path, SIZE)).toBeUndefined();
    await rm(at('device'));
  });

  test('not onto a disk that is shorter, or is not there', async () => {
    const absent = await program.run(['import', ...(await args()), at('out')]);
    expect(absent.stderr).toMatch(/does not exist: the changes belong onto the disk as it was at/);
    await copyFile(disk.raw(FIRST), at('out'));
    await truncate(at('out'), SIZE - MiB);
    const shorter = await program.run(['import', ...(await args()), at('out')]);
    expect(shorter.stderr).toMatch(/has 66060288 bytes and the disk 67108864/);
    expect((await stat(at('out'))).size).toBe(SIZE - MiB);
  });
});

test('from snapshot to snapshot, each onto the one before it and no other', async () => {
  await program.imported([...ovirt(FIRST), at('out')]);
  expect(await difference(disk.raw(FIRST), at('out'))).toBeUndefined();
  const skipped = await program.run(['import', ...ovirt(THIRD), '--changed-since', FIRST, at('out')]);
  expect(skipped.stderr).toContain(
    `before the snapshot ${THIRD} is the snapshot ${SECOND} at the engine, not ${FIRST}`,
  );
  const early = await program.run(['import', ...ovirt(THIRD), '--changed-since', SECOND, at('out')]);
  expect(early.stderr).toContain(`holds the disk as it was at ${FIRST}: the changes belong onto`);
  await program.imported([...ovirt(SECOND), '--changed-since', FIRST, at('out')]);
  expect(await difference(disk.raw(SECOND), at('out'))).toBeUndefined();
  const again = await program.imported([...ovirt(SECOND), '--changed-since', FIRST, at('out')]);
  expect(again).toMatchObject({ outcome: 'already-done' });
  await program.imported([...ovirt(THIRD), '--changed-since', SECOND, at('out')]);
  expect(await difference(disk.raw(THIRD), at('out'))).toBeUndefined();
  expect(engine.open.size).toBe(0);
}, 60_000);

test('a kill leaves nothing that boots, and the next run goes on', async () => {
  await program.imported([...ovirt(FIRST), at('out')]);
  const args = [...ovirt(SECOND), '--changed-since', FIRST, at('out')];
  await program.killedAfter(6000, [...args, '--rate', '1MiB/s']);
  // As the engine does when nobody reads for a while.
  engine.open.clear();
  await using file = await open(at('out'));
  const { buffer } = await file.read(Buffer.alloc(512), 0, 512, 0);
  expect(buffer.every((byte) => byte === 1)).toBe(false);
  const other = await program.run(['import', ...ovirt(THIRD), '--changed-since', SECOND, at('out')]);
  expect(other.stderr).toMatch(/holds an unfinished transfer of .*: the changes belong onto/);
  const report = await program.imported(args);
  expect(report).toMatchObject({ resumes: 1 });
  expect(await difference(disk.raw(SECOND), at('out'))).toBeUndefined();
}, 60_000);

test('not onto a disk of another source, or an unfinished one', async () => {
  await program.imported([disk.raw(THIRD), at('out')]);
  const [, source = SOURCES[0]?.[1]] = SOURCES[0] ?? [];
  const args = (await source?.()) ?? [];
  const other = await program.run(['import', ...args, at('out')]);
  expect(other.stderr).toMatch(/holds a disk of .*raw: the changes belong onto the disk as it was at since/);
  expect(await difference(disk.raw(THIRD), at('out'))).toBeUndefined();
  const bitmap = await program.run(['import', args[0] ?? '', '--changed-since', 'nothing', at('out')]);
  expect(bitmap.stderr).toMatch(/no dirty bitmap 'nothing'.*qemu-nbd --bitmap=nothing/);
  const web = await program.run(['import', disk.raw(THIRD), '--changed-since', 'since', at('out')]);
  expect(web.stderr).toMatch(/does not tell what has changed since/);
});

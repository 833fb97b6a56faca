import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { appendFile, rename, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { collect, testContext, thrown } from '../support/context.ts';
import { loopDevice } from '../support/devices.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { sourceContract } from './source.ts';

sourceContract('a file', { ranges: true, length: true, validator: true, remote: false }, async () => {
  const home = await tempdir();
  const path = join(home.path, 'disk with spaces.img');
  const content = randomBytes(4_000_001);
  await writeFile(path, content);
  return {
    content,
    open: (context) => openSource(path, {}, context),
    async replace() {
      await writeFile(`${path}.new`, randomBytes(content.length));
      await rename(`${path}.new`, path);
    },
    [Symbol.asyncDispose]: () => home[Symbol.asyncDispose](),
  };
});

let home: TempDir;
beforeEach(async () => {
  home = await tempdir();
});
afterEach(() => home[Symbol.asyncDispose]());

test('a file URL is a file', async () => {
  const path = join(home.path, 'a b.img');
  await writeFile(path, 'x');
  const context = testContext();
  await using source = await openSource(`file://${path.replace(' ', '%20')}`, {}, context);
  expect(source.name).toBe(path);
  expect((await collect(source.read({ from: 0 }, context.signal))).toString()).toBe('x');
});

test('what cannot be read says why', async () => {
  expect(await thrown(openSource(join(home.path, 'missing'), {}, testContext()))).toMatchObject({ code: 'NOT_FOUND' });
  expect(await thrown(openSource(home.path, {}, testContext()))).toMatchObject({ code: 'UNSUPPORTED' });
  expect(await thrown(openSource('/dev/null', {}, testContext()))).toMatchObject({ code: 'UNSUPPORTED' });
  expect(await thrown(openSource('file://host/x', {}, testContext()))).toMatchObject({ code: 'BAD_SPEC' });
});

test('a device is resumed only where a person says that nobody writes to it', async () => {
  await writeFile(join(home.path, 'backing'), randomBytes(1 << 20));
  await using device = await loopDevice(join(home.path, 'backing'), 1 << 20);
  await using source = await openSource(device.path, {}, testContext());
  expect(source.facts.validator).toBeUndefined();
  expect(source.facts.unidentified).toContain('--source-unchanged');
  await using vouched = await openSource(device.path, { unchanged: true }, testContext());
  expect(vouched.facts.validator).toBe('unchanged');
});

test('an unknown scheme is told with those that there are', async () => {
  const error = await thrown(openSource('gopher://host/x', {}, testContext()));
  expect(error.code).toBe('BAD_SPEC');
  expect(error.message).toBe(
    "there is no source 'gopher://'; there are http://, https://, s3://, gs://, az://, docker://, oci:, oci-archive:, docker-archive:, nbd://, nbds://, nbd+unix://, nbds+unix://, imageio+https://, imageio+http://, ovirt+https://, ovirt+http://, file://, -, blank:, exec: and paths of files",
  );
});

test.each([
  ['grown', (path: string) => appendFile(path, 'more')],
  ['shortened', (path: string) => truncate(path, 2_000_000)],
  ['written to', (path: string) => utimes(path, 1, 1)],
])('a file that is %s while it is read is CHANGED', async (_what, change) => {
  const path = join(home.path, 'disk.img');
  await writeFile(path, randomBytes(3_000_000));
  const context = testContext();
  await using source = await openSource(path, {}, context);
  const reading = (async () => {
    let changed = false;
    for await (const _ of source.read({ from: 0 }, context.signal)) {
      if (!changed) await change(path);
      changed = true;
    }
  })();
  expect((await thrown(reading)).code).toBe('CHANGED');
});

test('which grains of a file are not zeros, though all are written', async () => {
  const grain = 64 * 1024;
  const path = join(home.path, 'disk.img');
  const content = Buffer.alloc(20 * grain + 100);
  for (const at of [0, 3 * grain - 1, 3 * grain, 8 * grain + 5, content.length - 1]) content[at] = 1;
  await writeFile(path, content);
  const context = testContext();
  await using source = await openSource(path, {}, context);
  const found = (from: number, to: number) => source.nonzero?.({ from, to }, grain, context.signal);
  expect(await found(0, content.length)).toEqual([
    { from: 0, to: grain },
    { from: 2 * grain, to: 4 * grain },
    { from: 8 * grain, to: 9 * grain },
    { from: 20 * grain, to: content.length },
  ]);
  expect(await found(4 * grain, 8 * grain)).toEqual([]);
  expect(await thrown(Promise.resolve(found(0, content.length + 1)))).toMatchObject({ code: 'TRUNCATED' });
  await utimes(path, 1, 1);
  expect(await thrown(Promise.resolve(found(0, grain)))).toMatchObject({ code: 'CHANGED' });
  await source[Symbol.asyncDispose]();
  expect(await thrown(Promise.resolve(found(0, grain)))).toMatchObject({ code: 'ABORTED' });
});

test('an empty file has no bytes', async () => {
  const path = join(home.path, 'empty');
  await writeFile(path, '');
  const context = testContext();
  await using source = await openSource(path, {}, context);
  expect(source.facts.length).toBe(0);
  expect(await collect(source.read({ from: 0 }, context.signal))).toHaveLength(0);
});

test('a named pipe is a stream', async () => {
  const path = join(home.path, 'pipe');
  execFileSync('mkfifo', [path]);
  const context = testContext();
  const writer = spawn('sh', ['-c', 'head -c 3000000 /dev/zero > "$0"', path]);
  await using source = await openSource(path, {}, context);
  expect(source.facts).toEqual({ ranges: false });
  expect(await collect(source.read({ from: 0 }, context.signal))).toHaveLength(3_000_000);
  writer.kill();
});

test('a block device has the length of the device', async () => {
  const path = join(home.path, 'disk.img');
  const content = randomBytes(2 * 1024 * 1024 + 512);
  await writeFile(path, content);
  const device = execFileSync('losetup', ['--find', '--show', '--read-only', path]).toString().trim();
  try {
    const context = testContext();
    await using source = await openSource(device, {}, context);
    expect(source.facts).toMatchObject({ length: content.length, ranges: true });
    expect(source.facts.validator).toBeUndefined();
    expect((await collect(source.read({ from: 0 }, context.signal))).equals(content)).toBe(true);
  } finally {
    execFileSync('losetup', ['--detach', device]);
  }
});

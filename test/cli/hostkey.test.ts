import { chmod, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { hostKey } from '../../src/dataplane/hostkey.ts';

let directory = '';
beforeEach(async () => {
  directory = join(await mkdtemp(join(tmpdir(), 'diskferry-key-')), 'state', 'diskferry');
});
afterEach(() => rm(join(directory, '..', '..'), { recursive: true }));

test('the key is made once, for its owner alone, also when many want it at once', async () => {
  const keys = await Promise.all(Array.from({ length: 20 }, () => hostKey(directory)));
  expect(keys[0]).toHaveLength(32);
  for (const key of keys) expect(key).toEqual(keys[0]);
  expect(await hostKey(directory)).toEqual(keys[0]);
  expect(await readdir(directory)).toEqual(['key']);
  expect((await stat(join(directory, 'key'))).mode & 0o777).toBe(0o600);
  expect((await stat(directory)).mode & 0o777).toBe(0o700);
});

test('a key that others can read is refused with the remedy', async () => {
  await hostKey(directory);
  await chmod(join(directory, 'key'), 0o640);
  await expect(hostKey(directory)).rejects.toMatchObject({
    code: 'DENIED',
    message: expect.stringContaining('chmod 600'),
  });
});

test('a file that is no key is refused', async () => {
  await hostKey(directory);
  await writeFile(join(directory, 'key'), 'short');
  await expect(hostKey(directory)).rejects.toMatchObject({ code: 'CORRUPT' });
});

test('a directory that cannot be made is DENIED', async () => {
  const blocked = join(directory, '..', '..', 'a-file');
  await writeFile(blocked, '');
  await expect(hostKey(join(blocked, 'below'))).rejects.toMatchObject({ code: 'DENIED' });
});

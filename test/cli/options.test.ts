import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parseHeaders, refuseSecretsInArguments, sourceOptions } from '../../src/cli/credentials.ts';
import { digestFromOptions, fileName, optionsFor } from '../../src/cli/demand.ts';
import { stateDirectory } from '../../src/cli/state.ts';
import { count, diskDigest, rate, seconds, size } from '../../src/cli/values.ts';
import type { Log } from '../../src/dataplane/context.ts';
import { formatSize } from '../../src/dataplane/sizes.ts';

let directory = '';
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'diskferry-options-'));
});
afterAll(() => rm(directory, { recursive: true }));

async function file(name: string, text: string): Promise<string> {
  const path = join(directory, name);
  await writeFile(path, text);
  return path;
}

const quiet: Log = { info: () => undefined, warn: () => undefined };
const never = new AbortController().signal;

test('sizes are read as they are printed', () => {
  for (const bytes of [1, 512, 1024, 3 * 1024 ** 2, 20 * 1024 ** 3, 1.5 * 1024 ** 4]) {
    expect(size(formatSize(bytes))).toBe(bytes);
  }
  expect(size('20Gi')).toBe(20 * 1024 ** 3);
  expect(rate('50MB/s')).toBe(50_000_000);
});

test('what is no value is refused with a sentence', () => {
  expect(() => size('large')).toThrow(/large/);
  expect(() => count(64)('0')).toThrow(/1 to 64/);
  expect(() => count(64)('65')).toThrow(/1 to 64/);
  expect(() => count(64)('2.5')).toThrow();
  expect(count(64)('64')).toBe(64);
  expect(() => seconds('0')).toThrow();
  expect(() => seconds('1e9')).toThrow();
  expect(seconds('0.5')).toBe(500);
  expect(() => diskDigest('sha256:00')).toThrow(/dd1:/);
  expect(diskDigest(`dd1:${'A'.repeat(64)}`)).toBe(`dd1:${'a'.repeat(64)}`);
});

test('headers come from lines, a file wins over the environment', async () => {
  const headersFile = await file('headers', '# for the mirror\nX-One: from file\r\n\nauthorization:  Bearer a:b \n');
  const options = await sourceOptions({ headersFile }, { DISKFERRY_HEADERS: 'x-one: from env\nX-Two: 2' });
  expect(options.headers).toEqual({ 'x-one': 'from file', 'x-two': '2', authorization: 'Bearer a:b' });
});

test('a wrong header is named by its line and never quoted', () => {
  expect(() => parseHeaders('a: 1\nsecret without colon', 'f')).toThrow(/line 2 of f/);
  expect(() => parseHeaders('a: 1\nsecret without colon', 'f')).not.toThrow(/secret/);
  expect(() => parseHeaders('bad name: 1', 'f')).toThrow(/line 1/);
  expect(() => parseHeaders('a: \u0000', 'f')).toThrow(/line 1/);
});

test('credentials come from a file, else from the environment', async () => {
  const credentialsFile = await file('credentials', 'me:pass:word\nignored\n');
  const env = { DISKFERRY_USERNAME: 'other', DISKFERRY_PASSWORD: 'secret' };
  expect((await sourceOptions({ credentialsFile }, env)).credentials).toEqual({
    username: 'me',
    password: 'pass:word',
  });
  expect((await sourceOptions({}, env)).credentials).toEqual({ username: 'other', password: 'secret' });
  expect((await sourceOptions({}, {})).credentials).toBeUndefined();
  await expect(sourceOptions({}, { DISKFERRY_PASSWORD: 'x' })).rejects.toMatchObject({ code: 'BAD_SPEC' });
  const wrong = await file('wrong', 'no colon');
  await expect(sourceOptions({ credentialsFile: wrong }, {})).rejects.toMatchObject({ code: 'BAD_SPEC' });
});

test('files that are missing, or no certificates, are refused', async () => {
  const missing = join(directory, 'missing');
  await expect(sourceOptions({ headersFile: missing }, {})).rejects.toThrow(/missing cannot be read/);
  await expect(sourceOptions({ ca: await file('ca', 'hello') }, {})).rejects.toThrow(/no PEM certificate/);
});

test('a URL with a user in it is refused with the remedy', () => {
  expect(() => refuseSecretsInArguments('https://me:secret@h/x')).toThrow(/--credentials-file/);
  expect(() => refuseSecretsInArguments('https://me:secret@h/x')).not.toThrow(/:secret/);
  for (const fine of ['https://h/x', 'disk@home.img', '-', '/a/b']) refuseSecretsInArguments(fine);
});

test('the digest is looked up by the name of the source', async () => {
  const hex = 'ab'.repeat(32);
  const list = await file('SHA256SUMS', `${'00'.repeat(32)}  other.img\n${hex} *disk one.img\n`);
  const flags = { source: 'https://h/a/disk%20one.img?token=x', digests: list };
  expect(await digestFromOptions(flags, {}, never, quiet)).toEqual({ algorithm: 'sha256', hex });
  await expect(digestFromOptions({ ...flags, digest: `sha256:${hex}` }, {}, never, quiet)).rejects.toThrow(/both/);
  await expect(digestFromOptions({ source: '-', digests: list }, {}, never, quiet)).rejects.toThrow(/standard input/);
  expect(await digestFromOptions({ source: 'x' }, {}, never, quiet)).toBeUndefined();
  expect(() => fileName('https://h/')).toThrow(/names no file/);
  expect(fileName('dir/100%.img')).toBe('100%.img');
});

test('a list on another server is not sent the secrets of the source', () => {
  const options = { headers: { authorization: 'x' }, credentials: { username: 'u', password: 'p' }, ca: 'pem' };
  expect(optionsFor('https://h/SUMS', 'https://h/x', options)).toEqual(options);
  expect(optionsFor('https://other/SUMS', 'https://h/x', options)).toEqual({ ca: 'pem' });
  expect(optionsFor('http://h/SUMS', 'https://h/x', options)).toEqual({ ca: 'pem' });
});

test('the state directory follows the environment', () => {
  expect(stateDirectory({ DISKFERRY_STATE: '/s', XDG_STATE_HOME: '/x' })).toBe('/s');
  expect(stateDirectory({ XDG_STATE_HOME: '/x' })).toBe('/x/diskferry');
  expect(stateDirectory({ XDG_STATE_HOME: 'relative' })).toMatch(/\/\.local\/state\/diskferry$/);
  expect(stateDirectory({})).toMatch(/\/\.local\/state\/diskferry$/);
});

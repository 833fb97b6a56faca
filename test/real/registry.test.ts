// Disks in container images: from a real registry, and from the directories that skopeo writes.
import { createHash } from 'node:crypto';
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cli, cli } from '../support/cli.ts';
import { loopDevice, recognised } from '../support/devices.ts';
import { bootableDisk, difference, MiB, qcow2, run, shell } from '../support/images.ts';
import { type Layer, LOGIN, type Registry, startRegistry } from '../support/registry.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';

let home: TempDir;
let program: Cli;
let registry: Registry;
const at = (name: string): string => join(home.path, name);
const SIZE = 48 * MiB;
const GZIP = 'application/vnd.oci.image.layer.v1.tar+gzip';

/** A layer of a tree of files, packed by `how`. */
async function layer(
  tree: string,
  files: Record<string, string | Buffer>,
  how = 'gzip -1',
  mediaType = GZIP,
): Promise<Layer> {
  for (const [name, content] of Object.entries(files)) {
    await mkdir(join(at(tree), name, '..'), { recursive: true });
    await writeFile(join(at(tree), name), content);
  }
  await shell(`tar -C ${at(tree)} -c . | ${how} > ${at(`${tree}.layer`)}`);
  return { content: await readFile(at(`${tree}.layer`)), mediaType };
}

const digest = ({ content }: Layer): string => `sha256:${createHash('sha256').update(content).digest('hex')}`;
let disk: Layer;

beforeAll(async () => {
  home = await tempdir();
  program = await cli(home.path);
  registry = await startRegistry({ access: 'token' });
  await bootableDisk(at('disk.raw'), SIZE);
  await qcow2(at('disk.raw'), at('disk.qcow2'));
  const image = await readFile(at('disk.qcow2'));
  disk = await layer('disk-tree', { 'disk/disk.qcow2': image });
  await registry.push('vm/disk', 'latest', [disk]);
  const zstd = await layer(
    'zstd-tree',
    { 'disk/disk.img': await readFile(at('disk.raw')) },
    'zstd -q',
    'application/vnd.oci.image.layer.v1.tar+zstd',
  );
  await registry.push('vm/zstd', 'latest', [zstd]);
  await registry.push('vm/artifact', 'latest', [{ content: image, mediaType: 'application/vnd.test.qcow2' }]);
}, 120_000);
afterAll(async () => {
  await registry?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

const ENV = { DISKFERRY_USERNAME: LOGIN.username, DISKFERRY_PASSWORD: LOGIN.password };
const source = (name: string): string => `docker://${registry.host}/${name}`;
const INSECURE = ['--registry-insecure'];

async function arrives(name: string, ...options: string[]): Promise<Awaited<ReturnType<Cli['imported']>>> {
  const target = at('target.img');
  const report = await program.imported([source(name), target, ...INSECURE, ...options], { env: ENV });
  expect(await difference(at('disk.raw'), target)).toBeUndefined();
  await rm(target);
  return report;
}

test.each([
  ['vm/disk', 'qcow2', ['gzip', 'tar']],
  ['vm/zstd', 'raw', ['zstd', 'tar']],
  ['vm/artifact', 'qcow2', []],
] as const)('%s', async (name, format, codecs) => {
  expect(await arrives(name)).toMatchObject({ format, codecs });
});

test('onto a device, within 160 MiB, without scratch', async () => {
  await using device = await loopDevice(at('device'), SIZE + MiB);
  await program.imported([source('vm/disk'), device.path, ...INSECURE], { env: ENV });
  expect(await difference(at('disk.raw'), device.path, SIZE)).toBeUndefined();
});

test('only the layers from the top down to the disk are fetched', async () => {
  const small = (n: number): Promise<Layer> =>
    layer(
      `small-${n}`,
      { [`etc/file-${n}`]: Buffer.alloc(2 * MiB, n) },
      'cat',
      'application/vnd.oci.image.layer.v1.tar',
    );
  const below = await Promise.all([1, 2, 3, 4, 5, 6].map(small));
  const above = await Promise.all([7, 8, 9, 10, 11].map(small));
  await registry.push('vm/deep', 'latest', [...below, disk, ...above]);
  const before = registry.fetched.length;
  await arrives('vm/deep');
  const bytes = new Map<string, number>();
  for (const one of registry.fetched.slice(before)) bytes.set(one.digest, (bytes.get(one.digest) ?? 0) + one.bytes);
  for (const one of below) expect(bytes.has(digest(one))).toBe(false);
  for (const one of above) expect(bytes.get(digest(one))).toBe(one.content.length);
  // The head of the layer is read once more than the rest.
  expect(bytes.get(digest(disk))).toBeLessThanOrEqual(disk.content.length + 2 * MiB);
});

test('upper layers win, hide and are never skipped', async () => {
  const image = await readFile(at('disk.qcow2'));
  const older = await layer('older', { 'disk/disk.img': Buffer.alloc(4 * MiB, 7), 'other/disk.raw': image });
  await registry.push('vm/over', 'latest', [older, disk]);
  await arrives('vm/over');
  await arrives('vm/over', '--path', '/other/disk.raw');
  const refused = async (name: string, ...options: string[]): Promise<Awaited<ReturnType<Cli['refused']>>> =>
    program.refused([source(name), at('target.img'), ...INSECURE, ...options], { env: ENV });
  const hides = await layer('hides', { 'other/.wh.disk.raw': '' });
  await registry.push('vm/hidden', 'latest', [older, hides]);
  expect(await refused('vm/hidden', '--path', 'other/disk.raw')).toMatchObject({ code: 'NOT_FOUND' });
  const opaque = await layer('opaque', { 'disk/.wh..wh..opq': '' });
  await registry.push('vm/opaque', 'latest', [disk, opaque]);
  expect(await refused('vm/opaque')).toMatchObject({
    code: 'NOT_FOUND',
    message: expect.stringMatching(/no file in \/disk/),
  });
  const broken: Layer = { content: Buffer.from('this is no layer at all'), mediaType: GZIP };
  await registry.push('vm/broken', 'latest', [disk, broken]);
  expect(await refused('vm/broken')).toMatchObject({
    code: 'CORRUPT',
    message: expect.stringMatching(/^layer 2 \(sha256:/),
  });
  expect(await refused('vm/none')).toMatchObject({ code: 'NOT_FOUND' });
});

test('two disks in the layer are found at its end, and nothing boots', async () => {
  const image = await readFile(at('disk.qcow2'));
  const two = await layer('two', { 'disk/a.qcow2': image, 'disk/b.qcow2': image });
  await registry.push('vm/two', 'latest', [two]);
  await using device = await loopDevice(at('other-device'), SIZE + MiB);
  const refused = await program.refused([source('vm/two'), device.path, ...INSECURE], { env: ENV });
  expect(refused).toMatchObject({
    code: 'UNSUPPORTED',
    message: expect.stringMatching(/disk\/[ab]\.qcow2 and disk\/[ab]\.qcow2/),
  });
  expect(await recognised(device.path)).toEqual([]);
});

test('killed, and gone on with from another mirror', async () => {
  const other = await startRegistry({ access: 'anyone' });
  try {
    await other.push('vm/artifact', 'latest', [
      { content: await readFile(at('disk.qcow2')), mediaType: 'application/vnd.test.qcow2' },
    ]);
    const target = at('target.img');
    const killed = await program.killedAfter(4500, [source('vm/artifact'), target, ...INSECURE, '--rate', '5MB/s'], {
      env: ENV,
    });
    expect(killed.signal).toBe('SIGKILL');
    const report = await program.imported([`docker://${other.host}/vm/artifact`, target, ...INSECURE, '--anonymous']);
    expect(report.resumes).toBe(1);
    expect(report.resumedAt).toBeGreaterThan(MiB);
    expect(await difference(at('disk.raw'), target)).toBeUndefined();
    await rm(target);
  } finally {
    await other[Symbol.asyncDispose]();
  }
}, 60_000);

test('a directory that skopeo copied the image to', async () => {
  const creds = `${LOGIN.username}:${LOGIN.password}`;
  const copy = ['copy', '--src-tls-verify=false', '--src-creds', creds, source('vm/disk'), `oci:${at('layout')}:disk`];
  await run('skopeo', 'skopeo', ['--insecure-policy', ...copy]);
  const target = at('target.img');
  for (const written of [`oci:${at('layout')}`, `oci:${at('layout')}:disk`]) {
    await program.imported([written, target, '--force']);
    expect(await difference(at('disk.raw'), target)).toBeUndefined();
  }
  await rm(target);
  const none = await program.refused([`oci:${at('layout')}:other`, target]);
  expect(none).toMatchObject({ code: 'NOT_FOUND', message: expect.stringMatching(/has disk: write oci:/) });
});

test.each([
  ['oci-archive', 'disk', 'other'],
  ['docker-archive', 'example.org/vm/disk:1', 'other:1'],
])(
  'an archive that skopeo copied the image to: %s',
  async (scheme, name, other) => {
    const creds = `${LOGIN.username}:${LOGIN.password}`;
    const archive = at(`${scheme}.tar`);
    const copy = [
      'copy',
      '--src-tls-verify=false',
      '--src-creds',
      creds,
      source('vm/disk'),
      `${scheme}:${archive}:${name}`,
    ];
    await run('skopeo', 'skopeo', ['--insecure-policy', ...copy]);
    const target = at('target.img');
    for (const written of [`${scheme}:${archive}`, `${scheme}:${archive}:${name}`]) {
      await program.imported([written, target, '--force']);
      expect(await difference(at('disk.raw'), target)).toBeUndefined();
    }
    await rm(target);
    const killed = await program.killedAfter(4500, [`${scheme}:${archive}`, target, '--rate', '5MB/s']);
    expect(killed.signal).toBe('SIGKILL');
    const report = await program.imported([`${scheme}:${archive}`, target]);
    expect([report.resumes, await difference(at('disk.raw'), target)]).toEqual([1, undefined]);
    await rm(target);
    const refused = async (path: string): Promise<unknown> => program.refused([`${scheme}:${path}`, target]);
    expect(await refused(`${archive}:${other}`)).toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining(`has ${name}: write ${scheme}:${archive}:NAME`),
    });
    await shell(
      `gzip -1 -c ${archive} > ${archive}.gz; head -c 2000000 ${archive} > ${archive}.cut; cp ${archive} ${archive}.bad`,
    );
    expect(await refused(`${archive}.gz`)).toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(/is compressed: unpack it once/),
    });
    expect(await refused(`${archive}.cut`)).toMatchObject({ code: 'TRUNCATED' });
    expect(await refused(at('disk.raw'))).toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(/is no tar archive/),
    });
    await shell(`tar -C ${home.path} -cf ${archive}.other disk.qcow2`);
    expect(await refused(`${archive}.other`)).toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringMatching(/is no archive of images/),
    });
    // A byte in the middle of the layer, which is nearly all of the archive.
    const bad = await open(`${archive}.bad`, 'r+');
    const middle = Math.floor((await bad.stat()).size / 2);
    await bad.write(Buffer.from('never the same bytes'), 0, 20, middle);
    await bad.close();
    expect((await refused(`${archive}.bad`)) as { code: string }).toMatchObject({
      code: expect.stringMatching(/^(DIGEST_MISMATCH|CORRUPT)$/),
    });
    await rm(target, { force: true });
  },
  120_000,
);

test('is inspected', async () => {
  const ended = await program.run(['inspect', source('vm/disk'), ...INSECURE], { env: ENV });
  expect(ended.code, ended.stderr).toBe(0);
  expect(ended.stdout).toMatch(/member +disk\/disk\.qcow2/);
  expect(ended.stdout).not.toContain(LOGIN.password);
});

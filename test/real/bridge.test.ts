// Images that only QEMU reads: put into the scratch directory, shown by a confined qemu-nbd, carried from there.
import { copyFile, mkdir, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, expect, test } from 'vitest';
import { bochs, cloop, dmg } from '../support/bridged.ts';
import type { Cli } from '../support/cli.ts';
import type { CountingServer } from '../support/counting-server.ts';
import { loopDevice } from '../support/devices.ts';
import { pattern } from '../support/extents.ts';
import { bootableDisk, difference, GiB, MiB, qemuImgWithKey, run, shell } from '../support/images.ts';
import { site } from '../support/site.ts';

const SIZE = 16 * MiB;
let program: Cli;
let server: CountingServer;
const at = site(async (opened) => {
  ({ program, server } = opened);
  await bootableDisk(at('www/raw'), SIZE);
});

beforeAll(async () => {
  const disk = await readFile(at('www/raw'));
  for (const [name, image] of Object.entries({ cloop, bochs, dmg })) await writeFile(at(`www/${name}`), image(disk));
  await writeFile(at('key'), 'a secret');
  await writeFile(at('wrong'), 'another');
  const secret = ['--object', `secret,id=s,file=${at('key')}`];
  const convert = (format: string, ...options: string[]): Promise<void> =>
    qemuImgWithKey(['convert', '-f', 'raw', '-O', format, ...options, at('www/raw'), at(`www/${format}`)]);
  await convert('qcow');
  await convert('luks', ...secret, '-o', 'key-secret=s,iter-time=10');
  await convert('qcow2', ...secret, '-o', 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10');
  await run('gzip', 'gzip', ['-k', '-1', at('www/cloop')]);
  for (const name of ['scratch', 'other']) await mkdir(at(name));
}, 60_000);

/** A VMDK beside a raw disk; the names of its extents. */
async function vmdk(disk: string, kind: string, name = kind): Promise<string[]> {
  const file = at(`www/${name}.vmdk`);
  await run('qemu-img', 'qemu-utils', ['convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=${kind}`, disk, file]);
  return [...(await readFile(file, 'utf8')).matchAll(/^RW .* "([^"]+)"/gm)].map(([, extent = '']) => extent);
}

const scratch = (name = 'scratch'): string[] => ['--scratch', at(name)];
const key = (name = 'key'): string[] => ['--key-file', at(name)];

/** Whether a qemu-nbd runs over what lies in this test's directory. */
async function isLeft(): Promise<boolean> {
  const processes = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  // One that ends meanwhile has none.
  const commands = await Promise.all(processes.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')));
  return commands.some((command) => command.startsWith('qemu-nbd') && command.includes(at('')));
}

test.each([
  ['cloop'],
  ['cloop.gz'],
  ['bochs'],
  ['qcow'],
  ['dmg', '--source-format', 'dmg'],
  ['luks', 'KEY'],
  ['qcow2', 'KEY'],
])('%s, to a file and to a device', async (name, ...more) => {
  const options = more.flatMap((one) => (one === 'KEY' ? key() : [one]));
  const source = `${server.url}/${name}`;
  const file = at(`out-${name}`);
  const report = await program.imported([source, file, ...scratch(), ...options]);
  expect(report).toMatchObject({ way: 'bridge', virtualSize: SIZE, source });
  expect(await difference(at('www/raw'), file)).toBeUndefined();
  expect(await program.imported([source, file, ...scratch(), ...options])).toMatchObject({ outcome: 'already-done' });
  await using device = await loopDevice(at(`device-${name}`), SIZE);
  await program.imported([source, device.path, ...scratch(), ...options]);
  expect(await difference(at('www/raw'), device.path, SIZE)).toBeUndefined();
  expect(await readdir(at('scratch'))).toEqual([]);
  expect(await isLeft()).toBe(false);
});

test.each(['monolithicFlat', 'twoGbMaxExtentFlat', 'twoGbMaxExtentSparse'])(
  'a VMDK of several files (%s), from a server and from here',
  async (kind) => {
    const names = await vmdk(at('www/raw'), kind);
    const extents = (base: string): string[] => names.flatMap((name) => ['--extent', `${base}/${name}`]);
    for (const [where, base] of [
      ['server', server.url],
      ['here', at('www')],
    ]) {
      const source = `${base}/${kind}.vmdk`;
      const missing = await program.refused([source, at(`${kind}-${where}`), ...scratch(), '--extent', at('key')]);
      expect([missing.code, missing.message]).toEqual(['NOT_FOUND', expect.stringContaining(names[0] ?? '')]);
      await program.imported([source, at(`${kind}-${where}`), ...scratch(), ...extents(base ?? '')]);
      expect(await difference(at('www/raw'), at(`${kind}-${where}`))).toBeUndefined();
    }
    expect((await readdir(at('scratch'))).filter((name) => name.includes('vmdk'))).toEqual([]);
    for (const name of names) await expect(stat(at(`www/${name}`))).resolves.toBeTruthy();
  },
);

test.each(['tar', 'tar.gz', 'zip'])('a VMDK of several files in one %s, from a server', async (kind) => {
  const [extent = ''] = await vmdk(at('www/raw'), 'monolithicFlat', 'appliance');
  await mkdir(at('tree/vm'), { recursive: true });
  for (const name of ['appliance.vmdk', extent]) await copyFile(at(`www/${name}`), at(`tree/vm/${name}`));
  await writeFile(at('tree/readme'), 'a virtual machine');
  const archive = at(`www/appliance.${kind}`);
  const files = ['readme', 'vm/appliance.vmdk', `vm/${extent}`];
  if (kind === 'zip') await shell(`cd ${at('tree')} && zip -q ${archive} ${files.join(' ')}`);
  else await run('tar', 'tar', ['-C', at('tree'), '-caf', archive, ...files]);
  const source = [`${server.url}/appliance.${kind}`, '--path', 'vm/appliance.vmdk', ...scratch()];
  await program.imported([...source, at(`appliance-${kind}`)]);
  expect(await difference(at('www/raw'), at(`appliance-${kind}`))).toBeUndefined();
  expect(await program.imported([...source, at(`appliance-${kind}`)])).toMatchObject({ outcome: 'already-done' });
  expect(await readdir(at('scratch'))).toEqual([]);
  await rm(at('tree'), { recursive: true });
});

test('a VMDK of two files, in order', async () => {
  const size = 2 * GiB + 16 * MiB;
  await pattern(at('www/large'), size, [
    [MiB, MiB],
    [GiB, MiB],
    [size - MiB, MiB],
  ]);
  const names = await vmdk(at('www/large'), 'twoGbMaxExtentSparse', 'large-split');
  expect(names.length).toBeGreaterThan(1);
  const extents = names.toReversed().flatMap((name) => ['--extent', at(`www/${name}`)]);
  const aim = [at('www/large-split.vmdk'), at('large'), ...scratch(), ...extents];
  await program.imported(aim);
  expect(await difference(at('www/large'), at('large'))).toBeUndefined();
  expect(await program.imported(aim)).toMatchObject({ outcome: 'already-done' });
  // Another version of one file is another disk.
  await utimes(at(`www/${names[1]}`), new Date(), new Date());
  expect(await program.refused(aim)).toMatchObject({ code: 'DENIED', message: expect.stringContaining('--force') });
});

test('without --scratch, or without the key, it says what is missing, and nothing is made', async () => {
  for (const name of ['cloop', 'bochs', 'qcow']) {
    const { code, message } = await program.refused([`${server.url}/${name}`, at('none')]);
    expect([code, message]).toEqual(['NEEDS_SCRATCH', expect.stringContaining('--scratch')]);
  }
  for (const name of ['luks', 'qcow2']) {
    const { code, message } = await program.refused([`${server.url}/${name}`, at('none'), ...scratch()]);
    expect([code, message]).toEqual(['ENCRYPTED', expect.stringContaining('--key-file')]);
  }
  const wrong = await program.refused([`${server.url}/luks`, at('none'), ...scratch(), ...key('wrong')]);
  expect([wrong.code, wrong.message]).toEqual(['ENCRYPTED', expect.stringContaining('passphrase')]);
  expect(await readdir(at(''))).not.toContain('none');
});

test('a damaged image is CORRUPT soon, a target that is not ours is refused before anything is fetched', async () => {
  const image = await readFile(at('www/cloop'));
  image.fill(0, MiB, MiB + 1000);
  await writeFile(at('www/damaged'), image);
  const damaged = await program.refused([`${server.url}/damaged`, at('damaged'), ...scratch()]);
  expect(damaged).toMatchObject({ code: 'CORRUPT', stage: 'format' });
  expect(damaged.seconds).toBeLessThan(20);
  await writeFile(at('full'), 'what somebody needs');
  const files = await readdir(at('scratch'));
  expect(await program.refused([`${server.url}/cloop`, at('full'), ...scratch()])).toMatchObject({ code: 'DENIED' });
  expect(await readdir(at('scratch'))).toEqual(files);
});

test('killed while it is put there and while it is decoded, it goes on, and no program stays behind', async () => {
  const aim = [`${server.url}/luks`, at('killed'), ...scratch('other'), ...key()];
  const slowly = [...aim, '--rate', '3MB/s'];
  await program.killedAfter(2000, slowly);
  expect(await readdir(at('other'))).toHaveLength(1);
  const running = program.start(['import', ...slowly, '--progress', 'none']);
  for (let turn = 0; turn < 400 && !(await isLeft()); turn++) await sleep(50);
  await sleep(2500);
  running.child.kill('SIGKILL');
  await running.ended;
  for (let turn = 0; turn < 40 && (await isLeft()); turn++) await sleep(50);
  expect(await isLeft()).toBe(false);
  const report = await program.imported(aim);
  expect(report.receivedBytes).toBe(0);
  expect(report.resumes).toBeGreaterThan(0);
  expect(await difference(at('www/raw'), at('killed'))).toBeUndefined();
});

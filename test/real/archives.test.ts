// Disks in archives: whatever is around them, wherever they stand in them.

import { createReadStream } from 'node:fs';
import { copyFile, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cli, cli } from '../support/cli.ts';
import { loopDevice, recognised } from '../support/devices.ts';
import { bootableDisk, difference, MiB, qcow2, run, shell } from '../support/images.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';

let home: TempDir;
let program: Cli;
let server: Nginx;
const at = (name: string): string => join(home.path, name);
const SIZE = 48 * MiB;

beforeAll(async () => {
  home = await tempdir();
  program = await cli(home.path);
  for (const name of ['in/disk', 'www']) await mkdir(at(name), { recursive: true });
  await bootableDisk(at('in/disk.raw'), SIZE);
  await qcow2(at('in/disk.raw'), at('in/disk/disk.qcow2'), { compressed: true });
  const stream = ['-O', 'vmdk', '-o', 'subformat=streamOptimized'];
  await run('qemu-img', 'qemu-utils', ['convert', '-f', 'raw', ...stream, at('in/disk.raw'), at('in/disk.vmdk')]);
  await shell(`cd ${at('in')} && echo '<Envelope/>' > a.ovf && head -c 3M /dev/urandom > noise.bin && xz -0 -k disk.raw &&
    tar -cSf ../www/sparse.tar disk.raw && tar -cf ../www/plain.tar disk.raw &&
    tar -c a.ovf disk.vmdk > ../www/appliance.ova && tar -cz a.ovf disk/disk.qcow2 > ../www/disk.tar.gz &&
    tar -c --zstd disk.raw.xz > ../www/packed.tar.zst && tar -c noise.bin disk.raw > ../www/deep.tar &&
    tar -cz noise.bin disk/disk.qcow2 > ../www/deep.tar.gz && tar -c disk.raw noise.bin disk/disk.qcow2 > ../www/two.tar &&
    tar -c noise.bin a.ovf > ../www/none.tar`);
  server = await nginx({ root: at('www') });
}, 120_000);
afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

const arrives = async (source: string, ...options: string[]): Promise<Awaited<ReturnType<Cli['imported']>>> => {
  const target = at('target.img');
  const report = await program.imported([source, target, ...options]);
  expect(await difference(at('in/disk.raw'), target)).toBeUndefined();
  await rm(target);
  return report;
};

test.each([
  ['sparse.tar', 'raw', ['tar']],
  ['plain.tar', 'raw', ['tar']],
  ['appliance.ova', 'vmdk', ['tar']],
  ['disk.tar.gz', 'qcow2', ['gzip', 'tar']],
  ['packed.tar.zst', 'raw', ['zstd', 'tar', 'xz']],
  ['deep.tar', 'raw', ['tar']],
  ['deep.tar.gz', 'qcow2', ['gzip', 'tar']],
] as const)('%s', async (name, format, codecs) => {
  expect(await arrives(`${server.url}/${name}`)).toMatchObject({ format, codecs });
});

test('of several disks one is named', async () => {
  await arrives(`${server.url}/two.tar`, '--path', './disk.raw');
  await arrives(`${server.url}/two.tar`, '--path', 'disk/disk.qcow2');
  const missing = await program.refused([`${server.url}/two.tar`, at('target.img'), '--path', 'other.img']);
  expect(missing).toMatchObject({ code: 'NOT_FOUND', message: expect.stringContaining('no file other.img') });
});

test('from standard input, where the disk stands at its beginning', async () => {
  const target = at('target.img');
  const ended = await program.run(['import', '-', target], { stdin: createReadStream(at('www/disk.tar.gz')) });
  expect(ended.code, ended.stderr).toBe(0);
  expect(await difference(at('in/disk.raw'), target)).toBeUndefined();
  await rm(target);
  const deep = await program.run(['import', '-', target], { stdin: createReadStream(at('www/deep.tar')) });
  expect(deep.stderr).toMatch(
    /behind the first 1048576 bytes, and this source can be read once only: save the archive/,
  );
});

test('a second disk is an error by name, and nothing on the target looks like one', async () => {
  await using device = await loopDevice(at('device'), SIZE + MiB);
  const refused = await program.refused([`${server.url}/two.tar`, device.path]);
  expect(refused).toMatchObject({
    code: 'UNSUPPORTED',
    message: expect.stringMatching(/disk\.raw and disk\/disk\.qcow2/),
  });
  expect(await recognised(device.path)).toEqual([]);
  const none = await program.refused([`${server.url}/none.tar`, at('target.img')]);
  expect(none).toMatchObject({ code: 'NOT_FOUND', message: expect.stringMatching(/it has noise\.bin, a\.ovf; name/) });
});

test('an OVA: its descriptor says which disks there are, its manifest what they hash to', async () => {
  const [first, second] = ['system.vmdk', 'data.vmdk'];
  await shell(`mkdir ${at('ova')} && cd ${at('ova')} && cp ../in/disk.vmdk ${first} && gzip -c ../in/disk.raw > ${second} &&
    echo '<Envelope xmlns:ovf="o"><References><File ovf:id="f1" ovf:href="${first}"/>
      <File ovf:id="f2" ovf:href="${second}" ovf:compression="gzip"/></References><DiskSection>
      <Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="48" ovf:capacityAllocationUnits="byte * 2^20"/>
      <Disk ovf:diskId="d2" ovf:fileRef="f2" ovf:capacity="${SIZE}"/></DiskSection></Envelope>' > vm.ovf &&
    openssl sha256 vm.ovf ${first} ${second} | sed 's/^SHA2-/SHA/' > vm.mf &&
    tar -cf ../www/two.ova vm.ovf vm.mf ${first} ${second} && tar -cf ../www/late.ova vm.ovf ${first} ${second} vm.mf &&
    printf x | dd of=${second} bs=1 seek=5 conv=notrunc status=none &&
    tar -cf ../www/changed.ova vm.ovf ${first} ${second} vm.mf && tar -cf ../www/changed-early.ova vm.ovf vm.mf ${first} ${second}`);
  for (const name of ['two.ova', 'late.ova']) {
    expect(await arrives(`${server.url}/${name}`, '--disk', '1')).toMatchObject({ format: 'vmdk', codecs: ['tar'] });
    const packed = await arrives(`${server.url}/${name}`, '--disk', second);
    expect(packed).toMatchObject({ format: 'raw', codecs: ['tar', 'gzip'] });
    const message = expect.stringContaining(
      '2 disks: 1 system.vmdk (48 MiB), 2 data.vmdk (48 MiB); name one with --disk',
    );
    const refused = await program.refused([`${server.url}/${name}`, at('target.img')]);
    expect(refused).toMatchObject({ code: 'UNSUPPORTED', stage: 'plan', message });
  }
  for (const name of ['changed.ova', 'changed-early.ova']) {
    await using device = await loopDevice(at(`${name}.device`), SIZE + MiB);
    // Only a byte of gzip's header that nobody reads is another: the manifest alone tells.
    const refused = await program.refused([`${server.url}/${name}`, device.path, '--disk', '2']);
    expect(refused).toMatchObject({
      code: 'DIGEST_MISMATCH',
      message: expect.stringContaining('SHA256 of data.vmdk is'),
    });
    expect(await recognised(device.path)).toEqual([]);
  }
  const both = await program.refused([`${server.url}/two.ova`, at('target.img'), '--disk', '1', '--path', first]);
  expect(both).toMatchObject({ code: 'BAD_SPEC', message: expect.stringContaining('give one of them') });
  const none = await program.refused([at('in/disk.vmdk'), at('target.img'), '--disk', '1']);
  expect(none).toMatchObject({ code: 'BAD_SPEC', message: expect.stringContaining('the source is none') });
});

test('a zip: packed and not, from a pipe, damaged, encrypted', async () => {
  const zips = ['plain', 'stored', 'piped', 'two', 'secret', 'changed'].map((name) => `${name}.zip`);
  const [plain, stored, piped, two, secret, changed] = zips.map((name) => `../www/${name}`);
  await shell(`cd ${at('in')} && zip -q ${plain} a.ovf disk.raw && zip -q -0 ${stored} disk/disk.qcow2 a.ovf &&
    zip -q - a.ovf disk.raw | cat > ${piped} && zip -q ${two} disk.raw disk/disk.qcow2 && zip -q -P x ${secret} disk.raw &&
    cp ${plain} ${changed} && printf x | dd of=${changed} bs=1 seek=2000000 conv=notrunc status=none`);
  await arrives(`${server.url}/two.zip`, '--disk', '2');
  expect(await arrives(`${server.url}/plain.zip`)).toMatchObject({ format: 'raw', codecs: ['zip'] });
  expect(await arrives(`${server.url}/stored.zip`)).toMatchObject({ format: 'qcow2', codecs: ['zip'] });
  expect(await arrives(`${server.url}/piped.zip`)).toMatchObject({ format: 'raw', codecs: ['zip'] });
  const ended = await program.run(['import', '-', at('target.img')], { stdin: createReadStream(at('www/piped.zip')) });
  expect(ended.code, ended.stderr).toBe(0);
  await rm(at('target.img'));
  for (const [name, code, says] of [
    ['two.zip', 'UNSUPPORTED', 'disk.raw and disk/disk.qcow2: name one with --path or --disk'],
    ['secret.zip', 'ENCRYPTED', 'unpack it with its password'],
    ['changed.zip', 'CORRUPT', 'the zip archive is damaged'],
  ] as const) {
    await using device = await loopDevice(at(`${name}.device`), SIZE + MiB);
    const refused = await program.refused([`${server.url}/${name}`, device.path]);
    expect(refused).toMatchObject({ code, message: expect.stringContaining(says) });
    expect(await recognised(device.path)).toEqual([]);
  }
}, 120_000);

test('a raw disk in an archive is gone on with where it stopped', async () => {
  const [source, target] = [at('www/again.tar'), at('target.img')];
  await copyFile(at('www/plain.tar'), source);
  const args = [`${server.url}/again.tar`, target];
  expect((await program.killedAfter(4500, [...args, '--rate', '8MB/s'])).signal).toBe('SIGKILL');
  const report = await program.imported(args);
  expect(report.resumes).toBe(1);
  expect(report.resumedAt).toBeGreaterThan(MiB);
  expect(report.receivedBytes).toBeLessThan(report.sourceBytes - MiB);
  expect(await difference(at('in/disk.raw'), target)).toBeUndefined();
  await rm(target);
}, 60_000);

test('a fixed VHD, plain and in an archive, where it is said to be one', async () => {
  await shell(`cd ${at('in')} && qemu-img convert -f raw -O vpc -o subformat=fixed,force_size=on disk.raw fixed.vhd &&
    cp fixed.vhd ../www && tar -cz fixed.vhd > ../www/fixed.tar.gz`);
  await arrives(`${server.url}/fixed.vhd`, '--source-format', 'vhd');
  await arrives(`${server.url}/fixed.tar.gz`, '--source-format', 'vpc');
  const args = [`${server.url}/fixed.vhd`, at('target.img'), '--source-format', 'vhd'];
  expect((await program.killedAfter(4500, [...args, '--rate', '8MB/s'])).signal).toBe('SIGKILL');
  const report = await program.imported(args);
  expect(report).toMatchObject({ resumes: 1, format: 'vhd' });
  expect(await difference(at('in/disk.raw'), at('target.img'))).toBeUndefined();
}, 60_000);

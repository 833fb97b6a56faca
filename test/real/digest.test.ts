// The disk digest, against an implementation of its own written from docs/disk-digest.md.
import { createReadStream } from 'node:fs';
import { open, rm, stat } from 'node:fs/promises';
import { blake3 } from '@noble/hashes/blake3.js';
import { expect, test } from 'vitest';
import { type Cli, describe as told } from '../support/cli.ts';
import type { CountingServer } from '../support/counting-server.ts';
import { loopDevice } from '../support/devices.ts';
import { difference, KiB, MiB, qcow2, rawDisk, shell } from '../support/images.ts';
import { site } from '../support/site.ts';

const LEAF = 65536;
const ZERO = new Uint8Array(32);

const derive = (kind: string, ...parts: Uint8Array[]): Uint8Array =>
  blake3(Buffer.concat(parts), { context: Buffer.from(`diskferry 2026 disk digest ${kind} v1`) });
const isZero = (bytes: Uint8Array): boolean => bytes.every((byte) => byte === 0);
const nodeOf = (left: Uint8Array, right: Uint8Array): Uint8Array =>
  isZero(left) && isZero(right) ? ZERO : derive('node', left, right);

/** The disk digest of the first `length` bytes of a file. */
async function diskDigest(path: string, length?: number): Promise<string> {
  const file = await open(path, 'r');
  const bytes = length ?? (await file.stat()).size;
  let level: Uint8Array[] = [];
  const buffer = Buffer.alloc(LEAF);
  for (let at = 0; at < bytes; at += LEAF) {
    const leaf = buffer.subarray(0, (await file.read(buffer, 0, Math.min(LEAF, bytes - at), at)).bytesRead);
    level.push(isZero(leaf) ? ZERO : derive('leaf', leaf));
  }
  await file.close();
  if (level.length === 0) level.push(ZERO);
  while ((level.length & (level.length - 1)) !== 0) level.push(ZERO);
  while (level.length > 1)
    level = Array.from({ length: level.length / 2 }, (_, n) => nodeOf(level[2 * n] ?? ZERO, level[2 * n + 1] ?? ZERO));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(bytes));
  return `dd1:${Buffer.from(derive('root', size, level[0] ?? ZERO)).toString('hex')}`;
}

let program: Cli;
let server: CountingServer;

const at = site(async (opened) => {
  ({ program, server } = opened);
});

async function verified(path: string, ...args: string[]): Promise<string> {
  const ended = await program.run(['verify', path, '--json', ...args]);
  if (ended.code !== 0) throw new Error(told(ended));
  return (JSON.parse(ended.stdout) as { diskDigest: string }).diskDigest;
}

test('the reference agrees with the test vectors of the document', async () => {
  await shell(`: > ${at('empty')}; head -c 1048576 /dev/zero > ${at('zeros')}; printf '\\001' > ${at('one')}`);
  expect(await diskDigest(at('zeros'))).toBe('dd1:a23acc9ed1b49b44bd91478ed814ddcc3498733753f33bb56795220add7b1231');
  expect(await diskDigest(at('one'))).toBe('dd1:0b2611856076481bb4035e68ae47512cb12f8c119fd4914cd671f34998204304');
});

test.each([1, 4096, LEAF, LEAF + 1, 2 * MiB, 2 * MiB + 1, 5 * MiB + 12345, 40 * MiB])(
  'a raw disk of %i bytes',
  async (length) => {
    await rawDisk(at('www/raw'), length, { run: 32 * KiB, zeros: 0.5 });
    const expected = await diskDigest(at('www/raw'));
    const report = await program.imported([`${server.url}/raw`, at(`raw-${length}.img`)]);
    expect(report.diskDigest).toBe(expected);
    expect(report.written + report.zeroed + report.skipped).toBe(length);
    expect(await verified(at(`raw-${length}.img`))).toBe(expected);
    await rm(at(`raw-${length}.img`));
  },
);

test('the digest is the same whatever the image was, with --size too, and is demanded with --disk-digest', async () => {
  const length = 9 * MiB + 512;
  await rawDisk(at('disk'), length, { run: 128 * KiB, zeros: 0.6 });
  const expected = await diskDigest(at('disk'));
  await qcow2(at('disk'), at('www/plain.qcow2'));
  await qcow2(at('disk'), at('www/packed.qcow2'), { compressed: true });
  await shell(
    `gzip -1 -c ${at('disk')} > ${at('www/disk.gz')}; xz -0 -c ${at('www/packed.qcow2')} > ${at('www/packed.xz')}`,
  );
  for (const name of ['plain.qcow2', 'packed.qcow2', 'disk.gz', 'packed.xz']) {
    const report = await program.imported([`${server.url}/${name}`, at('img'), '--disk-digest', expected]);
    expect(report.diskDigest, name).toBe(expected);
    expect(report.written + report.zeroed + report.skipped, name).toBe(length);
    await rm(at('img'));
  }
  const larger = await program.imported([
    `${server.url}/plain.qcow2`,
    at('larger.img'),
    '--size',
    String(30 * MiB + 1),
  ]);
  expect((await stat(at('larger.img'))).size).toBe(30 * MiB + 1);
  expect(larger.diskDigest).toBe(await diskDigest(at('larger.img')));
  expect(larger.written + larger.zeroed + larger.skipped).toBe(30 * MiB + 1);
  const refusal = await program.refused([
    `${server.url}/plain.qcow2`,
    at('other.img'),
    '--disk-digest',
    larger.diskDigest,
  ]);
  expect(refusal).toMatchObject({ code: 'DIGEST_MISMATCH', exit: 23 });
});

test('of a device: the disk alone, however long the device is', async () => {
  const length = 6 * MiB + 512;
  await rawDisk(at('www/short'), length);
  await rawDisk(at('below'), 12 * MiB, { run: MiB, zeros: 0 });
  await using device = await loopDevice(at('below'), 12 * MiB);
  const report = await program.imported([`${server.url}/short`, device.path, '--force']);
  expect(report.diskDigest).toBe(await diskDigest(at('www/short')));
  expect(await verified(device.path, '--size', String(length))).toBe(report.diskDigest);
  expect(await verified(device.path)).toBe(await diskDigest(device.path, 12 * MiB));
});

test.each(['raw', 'qcow2', 'packed', 'gz', 'xz', 'stdin'])(
  'after resumes: %s',
  async (kind) => {
    const length = 96 * MiB;
    const raw = at('www/resumed.raw');
    if (!(await stat(raw).catch(() => undefined))) await rawDisk(raw, length, { run: MiB, zeros: 0.3 });
    if (kind === 'qcow2' || kind === 'packed')
      await qcow2(raw, at(`www/resumed.${kind}`), { compressed: kind === 'packed' });
    if (kind === 'gz') await shell(`pigz -1 -c ${raw} > ${at('www/resumed.gz')}`);
    if (kind === 'xz') await shell(`xz -0 -T2 --block-size=4MiB -c ${raw} > ${at('www/resumed.xz')}`);
    const name = kind === 'stdin' ? 'raw' : kind;
    const target = at(`resumed-${kind}.img`);
    const args = [kind === 'stdin' ? '-' : `${server.url}/resumed.${name}`, target, '--rate', '8MB/s'];
    const input = () => (kind === 'stdin' ? { stdin: createReadStream(raw) } : {});
    for (const wait of [2400, 2200]) {
      await program.killedAfter(wait, args, input());
    }
    const report = await program.imported(args.slice(0, 2), input());
    expect(report.resumes).toBeGreaterThan(0);
    expect(await difference(raw, target)).toBeUndefined();
    expect(report.diskDigest).toBe(await diskDigest(raw));
    expect(await verified(target)).toBe(report.diskDigest);
    expect(report.written + report.zeroed + report.skipped).toBe(length);
    await rm(target);
  },
  60_000,
);

import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { tool } from './tools.ts';

const execute = promisify(execFile);
export const KiB = 1024;
export const MiB = 1024 * KiB;
export const GiB = 1024 * MiB;

/** Runs a program that must succeed; its standard output. */
export async function run(program: string, debianPackage: string, args: readonly string[]): Promise<string> {
  const { stdout } = await execute(tool(program, debianPackage), [...args], { maxBuffer: 64 * MiB });
  return stdout;
}

/**
 * qemu-img over a passphrase. QEMU measures the key derivation by the processor's time and gives up when a busy machine
 * gives it none.
 */
export async function qemuImgWithKey(args: readonly string[]): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      await run('qemu-img', 'qemu-utils', args);
      return;
    } catch (error) {
      if (tries === 50) throw error;
    }
  }
}

/** Numbers that look random and are the same for the same seed (mulberry32): in [0, 1). */
export function randomly(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Bytes that compress to about three quarters: random with two bits of each byte clear. */
export function somewhatRandom(length: number): Buffer {
  const bytes = randomBytes(length);
  for (let at = 0; at < length; at += 1) bytes[at] = (bytes[at] ?? 0) & 0x3f;
  return bytes;
}

/** Fills [from, to) of a file: blocks of new data, of data seen before, and zeros, in runs of `run` bytes. */
async function fill(path: string, from: number, to: number, mix: Mix): Promise<void> {
  const random = randomly(mix.seed ?? 1);
  const file = await open(path, 'r+');
  try {
    for (let at = from; at < to; at += mix.run) {
      const length = Math.min(mix.run, to - at);
      const dice = random();
      if (dice < mix.zeros) continue;
      await file.write(mix.plain ? randomBytes(length) : somewhatRandom(length), 0, length, at);
    }
  } finally {
    await file.close();
  }
}

export interface Mix {
  readonly seed?: number;
  /** Bytes that belong together. */
  readonly run: number;
  /** Share of the runs that stay zero, 0 to 1. */
  readonly zeros: number;
  /** Data that does not compress at all. */
  readonly plain?: boolean;
}

/** A raw disk of `size` bytes (any length) with runs of data and zeros. */
export async function rawDisk(path: string, size: number, mix: Mix = { run: 64 * KiB, zeros: 0.4 }): Promise<string> {
  await writeFile(path, '');
  const file = await open(path, 'r+');
  await file.truncate(size);
  await file.close();
  await fill(path, 0, size, mix);
  return path;
}

/**
 * A raw disk that every probe recognises: a GPT with one partition from 1 MiB on, which holds an ext4 file system of real
 * files. `size` in bytes, at least 16 MiB, a multiple of 1 MiB.
 */
export async function bootableDisk(
  path: string,
  size: number,
  mix: Mix = { run: 256 * KiB, zeros: 0.2 },
): Promise<string> {
  const contents = `${path}.tree`;
  await mkdir(contents, { recursive: true });
  // A quarter of the disk as files; the rest is put into blocks that the file system has free, as deleted files leave them.
  const piece = Math.max(MiB, Math.floor(size / 32));
  for (let index = 0; index < 8; index += 1) await writeFile(join(contents, `file-${index}`), somewhatRandom(piece));
  await writeFile(path, '');
  const file = await open(path, 'r+');
  await file.truncate(size);
  await file.close();
  await fill(path, MiB, size - MiB, mix);
  const blocks = (size - 2 * MiB) / (4 * KiB);
  const extended = 'offset=1048576,nodiscard,lazy_itable_init=0,lazy_journal_init=0';
  await run('mkfs.ext4', 'e2fsprogs', ['-q', '-F', '-b', '4096', '-E', extended, '-d', contents, path, String(blocks)]);
  const sectors = `2048:${(size - MiB) / 512 - 1}`;
  await run('sgdisk', 'gdisk', ['-n', `1:${sectors}`, '-t', '1:8300', path]);
  await rm(contents, { recursive: true });
  return path;
}

export interface Qcow2Options {
  /** Options of `-o`: cluster_size=64k, compat=1.1, … */
  readonly options?: readonly string[];
  readonly compressed?: boolean;
}

/** `qemu-img convert` of a raw disk to qcow2. */
export async function qcow2(
  raw: string,
  to: string,
  { options = [], compressed = false }: Qcow2Options = {},
): Promise<string> {
  const how = options.length > 0 ? ['-o', options.join(',')] : [];
  await run('qemu-img', 'qemu-utils', [
    'convert',
    '-f',
    'raw',
    '-O',
    'qcow2',
    ...(compressed ? ['-c'] : []),
    ...how,
    raw,
    to,
  ]);
  return to;
}

/** What qemu makes of an image: the oracle. */
export async function decodedByQemu(image: string, to: string): Promise<string> {
  await run('qemu-img', 'qemu-utils', ['convert', '-O', 'raw', image, to]);
  return to;
}

/** Runs commands of qemu-io on an image. */
export async function qemuIo(image: string, commands: readonly string[]): Promise<void> {
  await run('qemu-io', 'qemu-utils', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), image]);
}

/** Where two disks differ, or undefined. `length` compares that much of a longer device, and the rest must be zero. */
export async function difference(expected: string, found: string, length?: number): Promise<string | undefined> {
  const bytes = length ?? (await stat(expected)).size;
  if (length === undefined && (await stat(found)).size !== bytes) {
    return `${found} has ${(await stat(found)).size} bytes, ${bytes} were expected`;
  }
  const said = await execute(tool('cmp', 'diffutils'), ['-n', String(bytes), expected, found]).then(
    () => undefined,
    (thrown: { stdout?: string; stderr?: string }) => `${thrown.stdout}${thrown.stderr}`,
  );
  if (said !== undefined || length === undefined) return said;
  const file = await open(found, 'r');
  try {
    const buffer = Buffer.alloc(MiB);
    for (let at = bytes; ; ) {
      const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
      if (bytesRead === 0) return undefined;
      const dirty = buffer.subarray(0, bytesRead).findIndex((byte) => byte !== 0);
      if (dirty >= 0) return `byte ${at + dirty} of ${found}, beyond the disk, is not zero`;
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
}

/** SHA-256 of a file as `sha256:<hex>`. */
export async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return `sha256:${hash.digest('hex')}`;
}

/** Runs a shell pipeline; every program in it must have been looked up with `tool` by the caller. */
export async function shell(script: string): Promise<void> {
  await execute('/bin/bash', ['-euo', 'pipefail', '-c', script], { maxBuffer: 64 * MiB });
}

import { execFile } from 'node:child_process';
import { open } from 'node:fs/promises';
import { promisify } from 'node:util';
import { tool } from './tools.ts';

const run = promisify(execFile);

/** A block device over a file; detached when disposed. */
export interface LoopDevice extends AsyncDisposable {
  /** `/dev/loopN`. */
  readonly path: string;
  /** The file below it. */
  readonly file: string;
}

/** Attaches a loop device of `size` bytes over a file that is made where it does not exist. Wants root. */
export async function loopDevice(file: string, size: number): Promise<LoopDevice> {
  const handle = await open(file, 'a');
  if ((await handle.stat()).size < size) await handle.truncate(size);
  await handle.close();
  const losetup = tool('losetup', 'mount');
  const { stdout } = await run(losetup, ['--find', '--show', file]);
  const path = stdout.trim();
  return { path, file, [Symbol.asyncDispose]: () => detach(path) };
}

/** A device that is still held for a moment by udev or a dying process is let go when they do: losetup -d is lazy. */
async function detach(path: string): Promise<void> {
  await run(tool('losetup', 'mount'), ['-d', path]);
}

interface Probe {
  readonly code: number;
  readonly out: string;
}

/** A program that looks for partitions and file systems, and when it has found something. */
interface Prober {
  readonly name: string;
  readonly package: string;
  readonly args: readonly string[];
  found(probe: Probe): boolean;
}

const PROBERS: readonly Prober[] = [
  // 2 = nothing was recognised (blkid(8), "exit status"); 8 = several things were.
  { name: 'blkid', package: 'util-linux', args: ['-p'], found: ({ code }) => code !== 2 },
  // Says that it begins an empty table where it saw none, and complains of one that it saw damaged.
  {
    name: 'sgdisk',
    package: 'gdisk',
    args: ['-p'],
    found: ({ out }) =>
      !out.includes('Creating new GPT entries in memory') ||
      /caution|warning|problem|corrupt|invalid|damage/i.test(out),
  },
  { name: 'sfdisk', package: 'fdisk', args: ['-d'], found: ({ code }) => code === 0 },
  {
    name: 'partx',
    package: 'util-linux',
    args: ['-s', '-g'],
    found: ({ code, out }) => code === 0 && out.trim() !== '',
  },
];

/** What anybody recognises on a file or device, one sentence a program; empty when it looks like nothing. */
export async function recognised(path: string): Promise<string[]> {
  const found = await Promise.all(
    PROBERS.map(async (prober) => {
      const probe = await run(tool(prober.name, prober.package), [...prober.args, path]).then(
        ({ stdout, stderr }): Probe => ({ code: 0, out: stdout + stderr }),
        (thrown: { code?: number; stdout?: string; stderr?: string }): Probe => ({
          code: thrown.code ?? -1,
          out: `${thrown.stdout ?? ''}${thrown.stderr ?? ''}`,
        }),
      );
      return prober.found(probe) ? [`${prober.name} (${probe.code}): ${probe.out.trim()}`] : [];
    }),
  );
  return found.flat();
}

/** Writes back and forgets what the kernel holds of a device, so that a look at its file sees all. */
export async function settle(path: string): Promise<void> {
  await run(tool('blockdev', 'util-linux'), ['--flushbufs', path]);
}

import { execFile } from 'node:child_process';
import { open, readdir } from 'node:fs/promises';
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
  const { stdout } = await run(losetup, ['--find', '--show', '--partscan', file]);
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
  // Lists a partition a line. Beside the guard that stands in sector 0 for a moment it complains of a table without any.
  { name: 'sgdisk', package: 'gdisk', args: ['-p'], found: ({ out }) => /^ +\d+ +\d+ +\d+ /m.test(out) },
  { name: 'sfdisk', package: 'fdisk', args: ['-d'], found: ({ out }) => /size= *[1-9]/.test(out) },
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
  return [...found.flat(), ...(await foundByKernel(path))];
}

/** Partitions that the kernel makes of a loop device when it is told to look. */
async function foundByKernel(path: string): Promise<string[]> {
  if (!path.startsWith('/dev/loop')) return [];
  await run(tool('blockdev', 'util-linux'), ['--rereadpt', path]);
  const name = path.slice('/dev/'.length);
  const entries = await readdir(`/sys/class/block/${name}`);
  return entries.filter((entry) => entry.startsWith(`${name}p`)).map((entry) => `the kernel: ${entry}`);
}

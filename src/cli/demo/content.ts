import { execFile } from 'node:child_process';
import { copyFile, mkdir, open, opendir, stat, statfs, truncate } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { FerryError } from '../../dataplane/errors.ts';
import { packageRoot } from '../root.ts';

const run = promisify(execFile);

/** The disk of the demo: large enough that most of it is empty, as disks are. */
export const DISK_BYTES = 512 * 1024 * 1024;
/** The image, its source and the target exist at once; each holds the content, and file systems want room to breathe. */
const COPIES = 4;
/** Less than this makes an import that is over before one can cut it. */
const LEAST_CONTENT = 16 * 1024 * 1024;

export interface Content {
  readonly files: number;
  readonly bytes: number;
  /** What the disk holds, for people. */
  readonly kind: string;
}

/** Where a Debian user without sbin in PATH still finds mkfs. */
export const TOOL_PATH = `${process.env.PATH ?? ''}:/usr/sbin:/sbin`;

/** Runs a program that may not be there: undefined where it is not. */
export async function tool(name: string, args: readonly string[], signal: AbortSignal): Promise<string | undefined> {
  try {
    const { stdout } = await run(name, args, { env: { ...process.env, PATH: TOOL_PATH, LC_ALL: 'C' }, signal });
    return stdout;
  } catch (thrown) {
    if (signal.aborted) throw signal.reason;
    if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw thrown;
  }
}

/**
 * Makes a raw disk at `path` whose content is real: copies of this program's own files and of Node itself, in an ext4
 * file system where mkfs.ext4 is installed, one after the other where it is not.
 */
export async function makeDisk(path: string, wanted: number, signal: AbortSignal): Promise<Content> {
  const directory = dirname(path);
  const { bavail, bsize } = await statfs(directory);
  const most = Math.min(wanted, Math.floor((bavail * bsize) / COPIES), Math.floor(DISK_BYTES * 0.75));
  if (most < LEAST_CONTENT) {
    throw new FerryError(
      `${directory} has ${bavail * bsize} bytes free and the demo wants ${LEAST_CONTENT * COPIES} or more: set TMPDIR to a directory with more room`,
      { code: 'NO_SPACE', stage: 'plan' },
    );
  }
  const tree = join(directory, 'content');
  const gathered = await gather(tree, most, signal);
  const made = await tool(
    'mkfs.ext4',
    ['-q', '-F', '-L', 'diskferry-demo', '-d', tree, path, `${DISK_BYTES / 1024}k`],
    signal,
  );
  if (made !== undefined) return { ...gathered, kind: 'an ext4 file system' };
  await concatenate(tree, path, signal);
  return { ...gathered, kind: 'files one after the other (mkfs.ext4 is not installed)' };
}

/** Copies files of the program, its libraries and Node into `tree` until `most` bytes are there. */
async function gather(tree: string, most: number, signal: AbortSignal): Promise<{ files: number; bytes: number }> {
  const root = packageRoot();
  let files = 0;
  let bytes = 0;
  const take = async (from: string, to: string) => {
    const { size } = await stat(from);
    if (bytes + size > most) return;
    await mkdir(dirname(to), { recursive: true });
    await copyFile(from, to);
    files += 1;
    bytes += size;
  };
  for (const part of [
    'src',
    'docs',
    'dist',
    'node_modules/undici',
    'node_modules/commander',
    'node_modules/typescript',
  ]) {
    for await (const file of walk(join(root, part))) {
      signal.throwIfAborted();
      await take(file, join(tree, file.slice(root.length)));
    }
  }
  await take(process.execPath, join(tree, 'node'));
  for await (const file of walk(join(root, 'node_modules'))) {
    signal.throwIfAborted();
    if (bytes > most * 0.95) break;
    await take(file, join(tree, file.slice(root.length)));
  }
  return { files, bytes };
}

/** Ordinary files below a directory; nothing where it does not exist. */
async function* walk(directory: string): AsyncGenerator<string> {
  const entries = await opendir(directory).catch(() => undefined);
  if (!entries) return;
  for await (const entry of entries) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) yield* walk(path);
    else if (entry.isFile()) yield path;
  }
}

async function concatenate(tree: string, path: string, signal: AbortSignal): Promise<void> {
  const disk = await open(path, 'w');
  try {
    let at = 0;
    for await (const file of walk(tree)) {
      signal.throwIfAborted();
      const source = await open(file);
      const bytes = await source.readFile().finally(() => source.close());
      await disk.write(bytes, 0, bytes.length, at);
      at += Math.ceil(bytes.length / 4096) * 4096;
    }
  } finally {
    await disk.close();
  }
  await truncate(path, DISK_BYTES);
}

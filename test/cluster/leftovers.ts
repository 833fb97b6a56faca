// What a cluster has put on the machine, found without anything that it has written down, and taken away: whoever started
// it may have been killed.
import { existsSync } from 'node:fs';
import { readdir, readFile, rmdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../support/images.ts';
import { type Layout, places } from './layout.ts';
import { processesIn } from './processes.ts';

export interface Leftovers {
  readonly processes: readonly number[];
  /** Network namespaces, by name. */
  readonly namespaces: readonly string[];
  readonly links: readonly string[];
  /** Devices, those that must be detached first first. */
  readonly loops: readonly string[];
  /** Directories, the deepest first. */
  readonly groups: readonly string[];
}

/** Seconds after which what was killed or detached must be gone. */
const PATIENCE = 15;

export async function leftovers(layout: Layout): Promise<Leftovers> {
  const mine = new RegExp(`^${layout.name}(-\\d+)?$`);
  const namespaces = (await readdir('/run/netns').catch(() => [])).filter((name) => mine.test(name));
  const inodes = await Promise.all(namespaces.map((name) => stat(join('/run/netns', name))));
  const groups = await groupsOf(layout.name);
  const roots = [...new Set(groups.map((path) => basename(path)).filter((name) => mine.test(name)))];
  return {
    processes: await processesIn(new Set(inodes.map(({ ino }) => `net:[${ino}]`)), roots),
    namespaces,
    links: [layout.link].filter((name) => existsSync(`/sys/class/net/${name}`)),
    loops: await loopsOf(layout),
    groups,
  };
}

export const isClean = (found: Leftovers): boolean => Object.values(found).every((list) => list.length === 0);

/** Takes away everything but the state. Throws a sentence with what could not be taken away. */
export async function clean(layout: Layout): Promise<void> {
  const latest = performance.now() + PATIENCE * 1000;
  let found = await leftovers(layout);
  while (!isClean(found)) {
    if (performance.now() > latest)
      throw new Error(`after ${PATIENCE} s there is still something of the cluster: ${JSON.stringify(found)}`);
    // Loop devices only when nobody is left who would attach another.
    if (found.processes.length > 0) for (const pid of found.processes) kill(pid);
    else {
      for (const device of found.loops) await attempt('losetup', 'mount', ['-d', device]);
      for (const link of found.links) await attempt('ip', 'iproute2', ['link', 'delete', link]);
      for (const name of found.namespaces) await attempt('ip', 'iproute2', ['netns', 'delete', name]);
      for (const path of found.groups) await rmdir(path).catch(() => undefined);
    }
    await sleep(50);
    found = await leftovers(layout);
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // Gone.
  }
}

/** What fails is seen, and tried again, in the next round. */
async function attempt(program: string, debianPackage: string, args: readonly string[]): Promise<void> {
  await run(program, debianPackage, args).catch(() => undefined);
}

/** Control groups of every hierarchy, of version 1 or 2. */
export async function hierarchies(): Promise<string[]> {
  const mounts = (await readFile('/proc/self/mounts', 'utf8')).split('\n').map((line) => line.split(' '));
  return mounts.filter(([, , kind]) => kind === 'cgroup' || kind === 'cgroup2').map(([, path = '']) => path);
}

async function groupsOf(name: string): Promise<string[]> {
  const found: string[] = [];
  for (const hierarchy of await hierarchies()) {
    const tops = (await readdir(hierarchy)).filter((entry) => new RegExp(`^${name}-\\d+$`).test(entry));
    for (const top of tops) {
      const inside = await readdir(join(hierarchy, top), { recursive: true, withFileTypes: true }).catch(() => []);
      const directories = inside
        .filter((entry) => entry.isDirectory())
        .map((entry) => join(entry.parentPath, entry.name));
      found.push(...directories.sort((a, b) => b.length - a.length), join(hierarchy, top));
    }
  }
  return found;
}

interface Loop {
  readonly name: string;
  readonly 'back-ino': number;
  readonly 'back-maj:min': string;
}

/**
 * Loop devices over files of the cluster, and over such loop devices: the kubelet attaches one as a lock. By inode: a device
 * outlives the namespace in which its file had the path that it tells.
 */
async function loopsOf(layout: Layout): Promise<string[]> {
  const listed = await run('losetup', 'mount', ['--json', '-O', 'NAME,BACK-INO,BACK-MAJ:MIN']);
  const all: Loop[] = listed.trim() === '' ? [] : JSON.parse(listed).loopdevices;
  const identity = async (path: string): Promise<string> => {
    const { dev, ino } = await stat(path);
    // The kernel's new encoding of device numbers (glibc's gnu_dev_major).
    return `${(dev >> 8) & 0xfff}:${(dev & 0xff) | ((dev >> 12) & 0xfff00)} ${ino}`;
  };
  const on = (files: ReadonlySet<string>): string[] =>
    all.filter((loop) => files.has(`${loop['back-maj:min'].trim()} ${loop['back-ino']}`)).map(({ name }) => name);
  const { volumes, nodes } = places(layout);
  const locals = (await readdir(nodes).catch(() => [])).map((name) => join(nodes, name, 'lib', 'local'));
  const files = (await Promise.all([volumes, ...locals].map(filesIn))).flat();
  const direct = on(new Set(await Promise.all(files.map(identity))));
  const locks = on(new Set(await Promise.all(direct.map(identity))));
  return [...locks, ...direct];
}

async function filesIn(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

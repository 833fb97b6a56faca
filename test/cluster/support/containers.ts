// The process of a container, seen from the machine.
import { readdir, readFile, stat, statfs } from 'node:fs/promises';
import type { Cluster } from './cluster.ts';
import type { Namespace } from './namespace.ts';
import { until } from './until.ts';

export interface ContainerProcess {
  /** On this machine. */
  readonly pid: number;
  /** Bytes: proc(5), /proc/PID/io. */
  io(): Promise<Counters>;
  /** Bytes in every place that it may write to, other than the directory `volume`. Throws with a place that is a directory. */
  besides(volume: string): Promise<number>;
  /** SIGKILL, SIGSTOP, SIGCONT: the only ones that the first process of a container cannot miss. */
  signal(signal: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): void;
}

export interface Counters {
  /** Through system calls, whatever they were on. */
  readonly rchar: number;
  readonly wchar: number;
  /** From and to storage. */
  readonly read_bytes: number;
  readonly write_bytes: number;
}

type Statuses = readonly { readonly name: string; readonly containerID?: string }[];

interface Status {
  readonly status: { readonly containerStatuses?: Statuses; readonly initContainerStatuses?: Statuses };
}

/** The first process of a container that runs, or will within `seconds`. */
export async function processOfContainer(
  cluster: Cluster,
  namespace: Pick<Namespace, 'path'>,
  pod: string,
  container?: string,
  seconds = 30,
): Promise<ContainerProcess> {
  const pid = await until(`a process of pod ${pod}`, seconds, async () => {
    const { status } = await cluster.ask<Status>('GET', namespace.path(`pods/${pod}`));
    const all = [...(status.containerStatuses ?? []), ...(status.initContainerStatuses ?? [])];
    const found = all.find(({ name }) => container === undefined || name === container);
    const id = found?.containerID?.split('//')[1];
    return id === undefined ? undefined : firstIn(id);
  });
  return {
    pid,
    async io() {
      const lines = (await readFile(`/proc/${pid}/io`, 'utf8')).trim().split('\n');
      return Object.fromEntries(
        lines.map((line) => line.split(': ')).map(([key, value]) => [key, Number(value)]),
      ) as never;
    },
    besides: (volume) => besides(pid, volume),
    signal: (signal) => void process.kill(pid, signal),
  };
}

/** File systems that are no place for bytes. */
const OF_THE_KERNEL = ['proc', 'sysfs', 'cgroup', 'cgroup2', 'devpts', 'mqueue'];

/** By proc_pid_mountinfo(5): what is mounted to be written to. */
async function besides(pid: number, volume: string): Promise<number> {
  let bytes = 0;
  for (const line of (await readFile(`/proc/${pid}/mountinfo`, 'utf8')).trim().split('\n')) {
    const [mount = '', system = ''] = line.split(' - ');
    const [, , , , point = '', options = ''] = mount.split(' ');
    const [type = '', , ofAll = ''] = system.split(' ');
    const writable = [options, ofAll].every((some) => some.split(',').includes('rw'));
    if (!writable || point === volume || OF_THE_KERNEL.includes(type)) continue;
    const place = `/proc/${pid}/root${point}`;
    const found = await stat(place);
    // The device of a volume is neither: what is written there is on the volume.
    if (found.isFile()) bytes += found.size;
    if (!found.isDirectory()) continue;
    if (type !== 'tmpfs') throw new Error(`${point} (${type}) can be written to`);
    const { blocks, bfree, bsize } = await statfs(place);
    bytes += (blocks - bfree) * bsize;
  }
  return bytes;
}

/** Of the processes in a container's control group, the one that is 1 in there. */
async function firstIn(id: string): Promise<number | undefined> {
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const group = await readFile(`/proc/${entry}/cgroup`, 'utf8').catch(() => '');
    if (!group.includes(id)) continue;
    const status = await readFile(`/proc/${entry}/status`, 'utf8').catch(() => '');
    if (/^NSpid:.*\t1$/m.test(status)) return Number(entry);
  }
  return undefined;
}

import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Memory and processor time of one run: every process it starts, and the page cache it fills. */
export interface Cgroup {
  /** Files that a process writes its number into to join. */
  readonly entrances: readonly string[];
  processes(): number[];
  /** Seconds of user and system time. */
  cpuSeconds(): number;
  /** Bytes at the worst moment, page cache counted. */
  memoryPeak(): number;
  remove(): void;
}

const ROOT = '/sys/fs/cgroup';
let count = 0;

/** Why there are no control groups here, or undefined. */
export function cgroupsImpossible(): string | undefined {
  if (process.getuid?.() !== 0) return 'not root';
  if (existsSync(join(ROOT, 'memory/memory.limit_in_bytes')) && existsSync(join(ROOT, 'cpuacct'))) return undefined;
  const controllers = join(ROOT, 'cgroup.controllers');
  if (existsSync(controllers) && readFileSync(controllers, 'utf8').includes('memory')) return undefined;
  return `no memory controller below ${ROOT}`;
}

/** A new, empty group; `limit` bounds its memory in bytes, page cache counted (the kernel reclaims, then kills). */
export function makeCgroup(limit?: number): Cgroup {
  const name = `diskferry-bench-${process.pid}-${count++}`;
  return existsSync(join(ROOT, 'memory/memory.limit_in_bytes')) ? makeV1(name, limit) : makeV2(name, limit);
}

/** Version 1 (kernel's admin-guide/cgroup-v1/memory.rst and cpuacct.rst): a hierarchy for each controller. */
function makeV1(name: string, limit?: number): Cgroup {
  const memory = join(ROOT, 'memory', name);
  const cpu = join(ROOT, 'cpuacct', name);
  mkdirSync(memory);
  mkdirSync(cpu);
  if (limit !== undefined) writeFileSync(join(memory, 'memory.limit_in_bytes'), String(limit));
  return {
    entrances: [join(memory, 'cgroup.procs'), join(cpu, 'cgroup.procs')],
    processes: () => readNumbers(join(memory, 'cgroup.procs')),
    cpuSeconds: () => (readNumbers(join(cpu, 'cpuacct.usage'))[0] ?? Number.NaN) / 1e9,
    memoryPeak: () => readNumbers(join(memory, 'memory.max_usage_in_bytes'))[0] ?? Number.NaN,
    remove: () => {
      rmdirSync(memory);
      rmdirSync(cpu);
    },
  };
}

/** Version 2 (kernel's admin-guide/cgroup-v2.rst); memory.peak needs Linux 5.19. */
function makeV2(name: string, limit?: number): Cgroup {
  const group = join(ROOT, name);
  mkdirSync(group);
  if (limit !== undefined) writeFileSync(join(group, 'memory.max'), String(limit));
  const cpu = () => /^usage_usec (\d+)$/m.exec(readFileSync(join(group, 'cpu.stat'), 'utf8'))?.[1];
  const peak = join(group, 'memory.peak');
  return {
    entrances: [join(group, 'cgroup.procs')],
    processes: () => readNumbers(join(group, 'cgroup.procs')),
    cpuSeconds: () => Number(cpu()) / 1e6,
    memoryPeak: () => (existsSync(peak) ? (readNumbers(peak)[0] ?? Number.NaN) : Number.NaN),
    remove: () => rmdirSync(group),
  };
}

function readNumbers(path: string): number[] {
  return readFileSync(path, 'utf8').split('\n').filter(Boolean).map(Number);
}

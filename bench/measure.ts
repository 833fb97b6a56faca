import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { cgroupsImpossible, makeCgroup } from './cgroup.ts';

/** What one run took. Bytes and seconds; NaN where this machine cannot tell. */
export interface Measurement {
  readonly wall: number;
  readonly cpu: number;
  /** Resident memory of all processes together, sampled; pages that two of them share count twice. */
  readonly resident: number;
  /** Peak of the memory control group: page cache counted, shared pages once. */
  readonly charged: number;
  /** What the processes caused to be written to storage, wherever. */
  readonly written: number;
  /** Blocks of the target afterwards. */
  readonly allocated: number;
  /** Most that lay in the scratch directory. */
  readonly scratch: number;
  readonly status: number;
  /** The end of what it said on standard error. */
  readonly said: string;
}

export interface Workplace {
  readonly target: string;
  readonly scratch: string;
  readonly state: string;
}

const SAMPLE_MS = 20;
/** A scratch directory needs looking at less often than memory. */
const SCRATCH_EVERY = 10;
const TIMEOUT_MS = 10 * 60_000;
/** Bytes of a page; the same on every machine that Node's /proc readers know (x86-64, and arm64 as Debian builds it). */
const PAGE = 4096;
/** Lets the file system finish forgetting what the run before left. */
const SETTLE_MS = 500;

/**
 * Runs the command outside the group that is measured, joins the group in a child, and tells times and what the reaped
 * tree wrote (/proc/<pid>/io of a parent has that of the children it waited for) on descriptor 3.
 */
const WRAPPER = `started=$EPOCHREALTIME
( for entrance in $ENTRANCES; do echo "$BASHPID" >"$entrance" || exit 125; done; unset ENTRANCES; exec "$@" 3>&- )
status=$?
ended=$EPOCHREALTIME
{ echo "run $started $ended $status"; times; grep write_bytes /proc/$$/io; } >&3`;

/** Where a benchmark works: each process has its own, so that two may run at once. */
export function workplaceOf(cache: string): string {
  return join(cache, `work-${process.pid}`);
}

/** Removes what benchmarks that were killed have left. */
export function dropAbandonedWorkplaces(cache: string): void {
  if (!existsSync(cache)) return;
  for (const name of readdirSync(cache)) {
    const pid = /^work-(\d+)$/.exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) rmSync(join(cache, name), { recursive: true, force: true });
  }
}

/** Makes the places that a run writes to, empty. */
export function clearWorkplace(directory: string): Workplace {
  const place = {
    target: join(directory, 'target.img'),
    scratch: join(directory, 'scratch'),
    state: join(directory, 'state'),
  };
  rmSync(place.target, { force: true });
  rmSync(place.scratch, { recursive: true, force: true });
  rmSync(place.state, { recursive: true, force: true });
  for (const path of [directory, place.scratch, place.state]) mkdirSync(path, { recursive: true });
  return place;
}

/**
 * Runs a command from start to exit and measures it. `limit` puts it into a memory control group of that many bytes.
 * A command that fails, takes longer than 10 minutes or is stopped by the signal has a status other than 0.
 */
export async function measure(
  command: readonly string[],
  place: Workplace,
  signal: AbortSignal,
  limit?: number,
): Promise<Measurement> {
  await sleep(SETTLE_MS, undefined, { signal });
  const group = cgroupsImpossible() === undefined ? makeCgroup(limit) : undefined;
  const child = spawn('bash', ['-c', WRAPPER, 'bench', ...command], {
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
    env: environment(place, group?.entrances ?? []),
  });
  const said = collect(child.stderr as Readable);
  const told = collect(child.stdio[3] as Readable);
  let resident = 0;
  let scratch = 0;
  let samples = 0;
  const sampler = setInterval(() => {
    const pids = group ? group.processes() : descendants(child.pid);
    resident = Math.max(
      resident,
      pids.reduce((sum, pid) => sum + residentBytes(pid), 0),
    );
    if (samples++ % SCRATCH_EVERY === 0) scratch = Math.max(scratch, allocatedBelow(place.scratch));
  }, SAMPLE_MS);
  const kill = () => {
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  };
  const timer = setTimeout(kill, TIMEOUT_MS);
  signal.addEventListener('abort', kill, { once: true });
  await new Promise((resolve, reject) => {
    child.once('close', resolve);
    child.once('error', reject);
  });
  clearInterval(sampler);
  clearTimeout(timer);
  signal.removeEventListener('abort', kill);
  const times = readTimes(told());
  const result = {
    ...times,
    cpu: group?.cpuSeconds() ?? times.cpu,
    resident: resident || Number.NaN,
    charged: group?.memoryPeak() ?? Number.NaN,
    allocated: existsSync(place.target) ? statSync(place.target).blocks * 512 : 0,
    scratch: Math.max(scratch, allocatedBelow(place.scratch)),
    said: said().slice(-600).trim(),
  };
  await removeWhenEmpty(group?.remove);
  return result;
}

/** Proxies of this machine are not for loopback; messages and decimal points are the same everywhere. */
function environment(place: Workplace, entrances: readonly string[]): NodeJS.ProcessEnv {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/_proxy$/i.test(name)));
  return { ...env, LC_ALL: 'C', TMPDIR: place.scratch, XDG_STATE_HOME: place.state, ENTRANCES: entrances.join(' ') };
}

function readTimes(told: string): Pick<Measurement, 'wall' | 'cpu' | 'written' | 'status'> {
  const [, started, ended, status] = /^run (\S+) (\S+) (\d+)$/m.exec(told) ?? [];
  // `times` prints user and system time of the shell, then of the children it waited for.
  const children = told.match(/\d+m[\d.]+s/g)?.slice(2) ?? [];
  const cpu = children.reduce(
    (sum, text) => sum + Number(text.split('m')[0]) * 60 + Number.parseFloat(text.split('m')[1] ?? ''),
    0,
  );
  const written = Number(/^write_bytes: (\d+)$/m.exec(told)?.[1]);
  return {
    wall: Number(ended) - Number(started),
    cpu: children.length ? cpu : Number.NaN,
    written,
    status: Number(status ?? -1),
  };
}

function collect(stream: Readable): () => string {
  let text = '';
  stream.setEncoding('utf8').on('data', (piece: string) => {
    text = (text + piece).slice(-8192);
  });
  return () => text;
}

function residentBytes(pid: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]) * PAGE;
  } catch {
    return 0;
  }
}

/** The children, and their children, of a process; without the process. */
function descendants(pid: number | undefined): number[] {
  if (pid === undefined) return [];
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
    return children.flatMap((child) => [child, ...descendants(child)]);
  } catch {
    return [];
  }
}

function allocatedBelow(directory: string): number {
  let sum = 0;
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    try {
      sum += statSync(join(entry.parentPath, entry.name)).blocks * 512;
    } catch {
      // It went between the listing and the look.
    }
  }
  return sum;
}

/** A group can be removed only when its last process is gone, which may be a moment after the parent saw it end. */
async function removeWhenEmpty(remove: (() => void) | undefined): Promise<void> {
  for (let tries = 0; remove; tries++) {
    try {
      return remove();
    } catch (error) {
      if (tries === 100) throw error;
      await sleep(50);
    }
  }
}

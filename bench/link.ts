import { spawn, spawnSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from './data.ts';
import { stopChild } from './nginx.ts';

/** 198.18.0.0/15, addresses for benchmarks of networks (RFC 2544, appendix C.2.2): nothing else uses them. */
const NETWORK = (198 << 24) | (18 << 16);
/** Networks of four addresses that it has room for. */
const NETWORKS = 2 ** 17 / 4;
let count = 0;

/**
 * The first address of a network of four that no interface here has an address in. Benchmarks that run at once begin to
 * look at different places, so that they need not agree.
 */
export function freeNetwork(index: number, pid: number, taken: readonly string[]): number {
  const used = new Set(taken.map((address) => bits(address) >>> 2));
  // Two links a benchmark.
  for (let tries = 0; tries < NETWORKS; tries++) {
    const network = (NETWORK + ((pid * 2 + index + tries) % NETWORKS) * 4) >>> 0;
    if (!used.has(network >>> 2)) return network;
  }
  throw new Error('every network of 198.18.0.0/15 is in use');
}

/** Addresses of all interfaces that are up. */
function addressesHere(): string[] {
  return Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address));
}

/** `198.18.0.1` as a number; 0 for what is no IPv4 address. */
function bits(address: string): number {
  const parts = address.split('.').map(Number);
  return parts.length === 4 ? parts.reduce((sum, part) => sum * 256 + part, 0) : 0;
}

function dotted(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.');
}

export interface Link {
  /** Where a server in the namespace listens. */
  readonly host: string;
  /** What is put before a command to run it at the far end. */
  readonly inside: readonly string[];
  stop(): Promise<void>;
}

/** Why a link cannot be made here, or undefined. */
export function linkImpossible(): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root for a network namespace';
  if (!existsSync('/dev/net/tun')) return '/dev/net/tun is missing';
  for (const tool of ['ip', 'rustc']) {
    if (spawnSync('bash', ['-c', `command -v ${tool}`]).status !== 0) return `${tool} is not installed`;
  }
  return undefined;
}

/** A link to an own network namespace, `roundTrip` milliseconds there and back. Throws when it cannot be made. */
export async function makeLink(cache: string, roundTrip: number): Promise<Link> {
  const program = compile(cache);
  const index = count++;
  const namespace = `diskferry-bench-${process.pid}-${index}`;
  const near = `dfn${index}x${process.pid}`;
  const far = `dff${index}x${process.pid}`;
  const network = freeNetwork(index, process.pid, addressesHere());
  const address = (end: number) => dotted(network + end);
  run('ip', ['netns', 'add', namespace]);
  const delay = String(Math.round((roundTrip / 2) * 1000));
  const child = spawn(program, [`/var/run/netns/${namespace}`, near, far, delay], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const stop = async () => {
    await stopChild(child);
    run('ip', ['netns', 'del', namespace]);
  };
  try {
    await new Promise<void>((resolve, reject) => {
      child.stdout.once('data', () => resolve());
      child.once('exit', (code) => reject(new Error(`the link ended with ${code}`)));
      child.once('error', reject);
    });
    const inside = ['ip', 'netns', 'exec', namespace];
    // Room for a burst: a queue that overflows at the sender would measure that queue, not the round trip.
    const up = (name: string) => ['link', 'set', name, 'up', 'mtu', '1500', 'txqueuelen', '10000'];
    run('ip', ['addr', 'add', `${address(1)}/30`, 'dev', near]);
    run('ip', up(near));
    run('ip', ['-n', namespace, 'addr', 'add', `${address(2)}/30`, 'dev', far]);
    run('ip', ['-n', namespace, ...up(far)]);
    run('ip', ['-n', namespace, 'link', 'set', 'lo', 'up']);
    return { host: address(2), inside, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Compiled once; the program has no dependencies. */
function compile(cache: string): string {
  const source = fileURLToPath(new URL('link.rs', import.meta.url));
  const program = join(cache, 'link');
  if (!existsSync(program) || statSync(program).mtimeMs < statSync(source).mtimeMs) {
    run('rustc', ['-O', '--edition', '2021', '-o', program, source]);
  }
  return program;
}

/** Milliseconds that a TCP handshake takes, which is one round trip: the median of 21. */
export async function roundTrip(host: string, port: number): Promise<number> {
  const times: number[] = [];
  for (let n = 0; n < 21; n++) {
    const started = performance.now();
    await new Promise<void>((resolve, reject) => {
      const socket = connect(port, host, () => {
        times.push(performance.now() - started);
        socket.destroy();
        resolve();
      });
      socket.once('error', reject);
    });
  }
  return times.sort((a, b) => a - b)[10] ?? Number.NaN;
}

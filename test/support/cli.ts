import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { TransferReport } from '../../src/dataplane/transfer.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const PROGRAM = join(root, 'bin/diskferry.js');
/** A run that hangs is a failure of its test, not of the whole suite. */
const LONGEST = 120_000;

/** How a run of the program ended. */
export interface Ended {
  /** Exit code; null when a signal ended it. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly seconds: number;
}

export interface RunOptions {
  /** What the run reads on standard input. Default: nothing. */
  readonly stdin?: Readable;
  /** Added to the environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** Milliseconds after which the run is killed. Default: two minutes. */
  readonly longest?: number;
}

/** A run under way. */
export interface Run {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly ended: Promise<Ended>;
  /** What it said on standard error so far. */
  said(): string;
}

/** The real program, as one user of one host: the key of this host lies in `state`. */
export class Cli {
  readonly state: string;

  constructor(state: string) {
    this.state = state;
  }

  /** Starts `diskferry args…`. */
  start(args: readonly string[], options: RunOptions = {}): Run {
    if (!existsSync(join(root, 'dist/cli/main.js')))
      throw new Error('these tests run the built program: npm run build');
    const begun = performance.now();
    const child = spawn(process.execPath, [PROGRAM, ...args], {
      env: { ...withoutProxies(process.env), DISKFERRY_STATE: this.state, ...options.env },
      stdio: [options.stdin ? 'pipe' : 'ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    if (options.stdin && child.stdin) {
      const { stdin } = options;
      // A program that refuses closes its end early.
      child.stdin.on('error', () => stdin.destroy());
      stdin.on('error', () => child.stdin?.end());
      stdin.pipe(child.stdin);
    }
    const late = setTimeout(() => child.kill('SIGKILL'), options.longest ?? LONGEST);
    const ended = new Promise<Ended>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, signal) => {
        clearTimeout(late);
        resolve({ code, signal, stdout, stderr, seconds: (performance.now() - begun) / 1000 });
      });
    });
    return { child, pid: child.pid ?? 0, ended, said: () => stderr };
  }

  run(args: readonly string[], options: RunOptions = {}): Promise<Ended> {
    return this.start(args, options).ended;
  }

  /** Starts `diskferry import` and kills it with SIGKILL after so many milliseconds. */
  async killedAfter(milliseconds: number, args: readonly string[], options: RunOptions = {}): Promise<Ended> {
    const running = this.start(['import', ...args, '--progress', 'none'], options);
    await sleep(milliseconds);
    running.child.kill('SIGKILL');
    return running.ended;
  }

  /** `diskferry import` that must succeed; its report. */
  async imported(args: readonly string[], options: RunOptions = {}): Promise<TransferReport> {
    const ended = await this.run(['import', ...args, '--json', '--progress', 'none'], options);
    if (ended.code !== 0) throw new Error(`import ${args.join(' ')} ended with ${describe(ended)}`);
    return JSON.parse(ended.stdout) as TransferReport;
  }

  /** `diskferry import` that must fail; the error that `--json` prints, and the exit code. */
  async refused(args: readonly string[], options: RunOptions = {}): Promise<Refused> {
    const ended = await this.run(['import', ...args, '--json', '--progress', 'none'], options);
    if (ended.code === 0 || ended.code === null || !ended.stdout.startsWith('{"error"')) {
      throw new Error(`import ${args.join(' ')} should fail in order and ended with ${describe(ended)}`);
    }
    const { error } = JSON.parse(ended.stdout) as { error: Omit<Refused, 'exit' | 'seconds' | 'stderr'> };
    return { ...error, exit: ended.code, seconds: ended.seconds, stderr: ended.stderr };
  }
}

export interface Refused {
  readonly code: string;
  readonly stage: string;
  readonly message: string;
  readonly retryable: boolean;
  readonly exit: number;
  readonly seconds: number;
  readonly stderr: string;
}

/** A user of a host of its own, whose key lies below `directory`. */
export async function cli(directory: string, name = 'state'): Promise<Cli> {
  const state = join(directory, name);
  await mkdir(state, { recursive: true, mode: 0o700 });
  return new Cli(state);
}

export function describe(ended: Ended): string {
  return `${ended.signal ?? `exit code ${ended.code}`} after ${ended.seconds.toFixed(2)} s\nstderr: ${ended.stderr}\nstdout: ${ended.stdout}`;
}

/** The environment without proxies and what else would change how the program behaves. */
function withoutProxies(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(env).filter(
      ([name]) => !/^(https?_proxy|no_proxy|all_proxy|DISKFERRY_.*|NODE_OPTIONS|VITEST.*)$/i.test(name),
    ),
  );
}

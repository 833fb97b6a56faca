import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import type { ByteStream, Source, SourceDriver, SourceOptions } from '../source.ts';
import { StreamSource } from './stdin.ts';

export interface ExecSpec {
  /** For /bin/sh -c. */
  readonly command: string;
}

/** Of standard error the last bytes are told, and more kept, so that no half of a secret is at their beginning. */
const TOLD = 2048;
const KEPT = 4 * TOLD;
/** Milliseconds that a program has to end by itself once it was told to. */
const GRACE = 500;
/** Variables whose values may be secrets, by what people call them. */
const SECRET = /pass|secret|token|key|credential|auth|cookie|headers/i;

/** A program's standard output. */
export const exec: SourceDriver<ExecSpec> = {
  schemes: ['exec'],
  opaque: true,

  parse(text: string, options: SourceOptions): ExecSpec {
    const command = text.slice(text.indexOf(':') + 1);
    if (options.programs !== true) {
      throw new FerryError('exec: runs a program, which only the command line may ask for', {
        code: 'BAD_SPEC',
        stage: 'plan',
      });
    }
    if (command.trim() === '') {
      throw new FerryError('exec: wants a command, such as exec:"zcat disk.gz"', { code: 'BAD_SPEC', stage: 'plan' });
    }
    return { command };
  },

  async open({ command }: ExecSpec, context: Context): Promise<Source> {
    return new ExecSource(command, context);
  },
};

/**
 * The program's name and a hash of the command: commands may hold secrets, so no more of them is kept. Words before it
 * that set variables are passed over.
 */
export function nameOf(command: string): string {
  const word = command
    .trim()
    .split(/\s+/)
    .find((one) => !one.includes('='));
  const program = /^(?:[\w./+-]*\/)?([\w.+-]{1,40})$/.exec(word ?? '')?.[1] ?? 'sh';
  return `exec:${program}-${createHash('sha256').update(command).digest('hex').slice(0, 16)}`;
}

type Child = ChildProcessByStdio<null, Readable, Readable>;

/** Started when it is first read, so that nothing runs for a target that is finished. */
class ExecSource implements Source {
  readonly facts = { ranges: false };
  readonly details = { resumable: "no: a program's output can be read once" };
  readonly name: string;
  readonly #command: string;
  readonly #context: Context;
  readonly #closed = new AbortController();
  #running: Running | undefined;

  constructor(command: string, context: Context) {
    this.name = nameOf(command);
    this.#command = command;
    this.#context = context;
  }

  async *read({ from, to }: { from: number; to?: number }, signal: AbortSignal): ByteStream {
    if (from > 0 || this.#running) {
      throw new FerryError("a program's output can be read once and from its beginning only", {
        code: 'UNSUPPORTED',
        stage: 'source',
      });
    }
    const stop = AbortSignal.any([signal, this.#closed.signal]);
    if (stop.aborted) throw stopped();
    const running = new Running(this.#command);
    this.#running = running;
    const output = new StreamSource(this.name, running.output, this.#context);
    try {
      try {
        yield* output.read(to === undefined ? { from } : { from, to }, stop);
      } catch (error) {
        // Why it ended early is told by its status, where that says anything.
        if (error instanceof FerryError && error.code === 'TRUNCATED') await running.succeeded(stop);
        throw error;
      }
      if (to === undefined) await running.succeeded(stop);
    } finally {
      await output[Symbol.asyncDispose]();
      await running.end();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort();
    await this.#running?.end();
  }
}

function stopped(): FerryError {
  return new FerryError('the transfer was stopped', { code: 'ABORTED', stage: 'source' });
}

/** A shell and all that it starts: a process group of its own. */
class Running {
  readonly output: Readable;
  readonly #child: Child;
  /** How it ended; never rejects. */
  readonly #ended: Promise<{ code: number | null; signal: string | null; error?: Error }>;
  #over = false;
  #tail = Buffer.alloc(0);

  constructor(command: string) {
    // Detached: the shell leads a new group (setsid(2)), so that what it starts ends with it.
    this.#child = spawn('/bin/sh', ['-c', command], { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    this.output = this.#child.stdout;
    this.#child.stderr.on('data', (chunk: Buffer) => {
      this.#tail = Buffer.concat([this.#tail, chunk]).subarray(-KEPT);
    });
    this.#child.stderr.on('error', () => {});
    this.#ended = new Promise((resolve) => {
      this.#child.on('error', (error) => resolve({ code: null, signal: null, error }));
      this.#child.on('exit', (code, signal) => {
        this.#over = true;
        resolve({ code, signal });
      });
    });
  }

  /** Waits for the end. Throws IO when it was not with status 0, ABORTED when `stop` comes first. */
  async succeeded(stop: AbortSignal): Promise<void> {
    const aborted = new Promise<undefined>((resolve) => {
      if (stop.aborted) resolve(undefined);
      stop.addEventListener('abort', () => resolve(undefined), { once: true });
    });
    const ended = await Promise.race([this.#ended, aborted]);
    if (ended === undefined) throw stopped();
    const { code, signal, error } = ended;
    if (code === 0) return;
    // What it said last may still be in the pipe.
    if (!this.#child.stderr.closed) {
      await Promise.race([new Promise((resolve) => this.#child.stderr.once('close', resolve)), sleep(GRACE)]);
    }
    const how = error
      ? `cannot be started: ${error.message}`
      : signal
        ? `was ended by ${signal}`
        : `ended with status ${code}`;
    const said = withoutSecrets(this.#tail.toString('utf8').trim(), process.env).slice(-TOLD);
    const message = said === '' ? 'it said nothing on standard error' : `its last words: ${said}`;
    throw new FerryError(`the program of exec: ${how}; ${message}`, { code: 'IO', stage: 'source' });
  }

  /** Ends the group if it has not ended: asked first, killed after a moment. */
  async end(): Promise<void> {
    // A shell that is gone may have left others behind that hold its output.
    if (!this.#child.pid || (this.#over && this.output.readableEnded)) return;
    this.#kill('SIGTERM');
    await Promise.race([this.#ended, sleep(GRACE)]);
    this.#kill('SIGKILL');
    await this.#ended;
  }

  #kill(signal: NodeJS.Signals): void {
    try {
      process.kill(-(this.#child.pid as number), signal);
    } catch {
      // None of the group is left.
    }
  }
}

/** `text` without the values of variables that look like secrets, and without control characters. */
export function withoutSecrets(text: string, env: NodeJS.ProcessEnv): string {
  const secrets = Object.entries(env)
    .filter(([name, value]) => SECRET.test(name) && value !== undefined && value.length >= 4)
    .map(([, value]) => value as string)
    .sort((one, other) => other.length - one.length);
  const clean = secrets.reduce((rest, secret) => rest.replaceAll(secret, '***'), text);
  return clean.replaceAll(/[^\P{Cc}\n]/gu, ' ');
}

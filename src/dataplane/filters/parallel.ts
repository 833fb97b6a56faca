import { type EventLoopUtilization, performance } from 'node:perf_hooks';
import type { Context } from '../context.ts';
import type { ByteStream, Source } from '../source.ts';
import { filtered, sizeOf } from './filtered.ts';
import { INTERVAL, Tuner } from './tuner.ts';

/** Bytes of a window when all connections are in use: long enough that a round trip between two does not show. */
export const WINDOW = 2 * 1024 * 1024;

/**
 * Fetches windows over several connections and yields them in order. It begins with one connection that streams the
 * whole range, and takes more only where they are seen to bring more. Memory: at most `limits.connections` x WINDOW.
 * Chunks of a range longer than WINDOW may lie in memory that is used again: they are valid until the next batch is
 * asked for.
 */
export function parallel(next: Source, context: Context): Source {
  const most = context.limits.connections;
  if (!next.facts.ranges || next.facts.remote !== true || most < 2) return next;
  // One tuner and one meter for all reads: a pass of many short ranges is measured as one.
  const limit = context.limits.rate;
  const tuner = new Tuner(most, limit && limit.perMillisecond * 0.9, next.facts.latency);
  const meter = new Meter(tuner, context);
  const buffers = new Buffers();
  return filtered(next, async function* (range, signal) {
    const to = Math.min(range.to ?? Number.POSITIVE_INFINITY, next.facts.length ?? Number.POSITIVE_INFINITY);
    let at = range.from;
    while (at < to) {
      const alone = tuner.connections === 1 || to - at <= WINDOW;
      const bytes = alone
        ? single(next, { from: at, to }, signal, meter, tuner)
        : windows(next, { from: at, to }, signal, meter, tuner, buffers);
      try {
        for await (const batch of bytes) {
          at += sizeOf(batch);
          yield batch;
        }
      } finally {
        meter.left();
      }
    }
  });
}

interface Span {
  readonly from: number;
  readonly to: number;
}

/** One long request, left when more connections are to be tried and enough is left for them. */
async function* single(next: Source, span: Span, signal: AbortSignal, meter: Meter, tuner: Tuner): ByteStream {
  let at = span.from;
  meter.waiting();
  for await (const batch of next.read(span, signal)) {
    const bytes = sizeOf(batch);
    at += bytes;
    meter.came(bytes);
    yield batch;
    if (tuner.connections > 1 && span.to - at > 2 * WINDOW) return;
    meter.waiting();
  }
}

/** As many windows under way as the tuner says, until it says one. */
async function* windows(
  next: Source,
  span: Span,
  signal: AbortSignal,
  meter: Meter,
  tuner: Tuner,
  buffers: Buffers,
): ByteStream {
  const leave = new AbortController();
  const stop = AbortSignal.any([signal, leave.signal]);
  const under: Window[] = [];
  let asked = span.from;
  const fill = (): void => {
    while (under.length < tuner.connections && tuner.connections > 1 && asked < span.to) {
      const to = Math.min(span.to, asked + WINDOW);
      under.push(new Window(next, { from: asked, to }, stop, buffers.take()));
      asked = to;
    }
  };
  try {
    for (;;) {
      fill();
      const window = under[0];
      if (!window) return;
      meter.waiting();
      const chunk = await window.next();
      if (!chunk) {
        under.shift();
        buffers.give(window.buffer);
        continue;
      }
      meter.came(chunk.length);
      yield [chunk];
    }
  } finally {
    leave.abort();
    await Promise.all(under.map((window) => window.left));
    for (const window of under) buffers.give(window.buffer);
  }
}

/**
 * Room for windows, used again and again: socket chunks that wait for their turn would grow old in V8's heap, where
 * nothing frees them for a long time.
 */
class Buffers {
  readonly #free: Uint8Array[] = [];

  take(): Uint8Array {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(WINDOW);
  }

  give(buffer: Uint8Array): void {
    this.#free.push(buffer);
  }
}

/** A range that is being fetched into memory. */
class Window {
  readonly buffer: Uint8Array;
  /** Resolves when nothing is being fetched any more. Never rejects. */
  readonly left: Promise<void>;
  #filled = 0;
  #taken = 0;
  #state: 'coming' | 'ended' | { readonly error: unknown } = 'coming';
  #wake: (() => void) | undefined;

  /** `buffer` has room for the whole span. */
  constructor(next: Source, span: Span, signal: AbortSignal, buffer: Uint8Array) {
    this.buffer = buffer;
    this.left = this.#fetch(next.read(span, signal));
  }

  /** All that has come and was not taken; undefined at the end. */
  async next(): Promise<Uint8Array | undefined> {
    for (;;) {
      if (this.#taken < this.#filled) {
        const chunk = this.buffer.subarray(this.#taken, this.#filled);
        this.#taken = this.#filled;
        return chunk;
      }
      if (this.#state === 'ended') return undefined;
      if (this.#state !== 'coming') throw this.#state.error;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  async #fetch(bytes: ByteStream): Promise<void> {
    try {
      for await (const batch of bytes) {
        for (const chunk of batch) {
          this.buffer.set(chunk, this.#filled);
          this.#filled += chunk.length;
        }
        this.#wake?.();
      }
      this.#state = 'ended';
    } catch (error) {
      this.#state = { error };
    }
    this.#wake?.();
  }
}

/** Measures intervals for the tuner. Time in which nobody reads does not count as time of the source. */
class Meter {
  readonly #tuner: Tuner;
  readonly #context: Context;
  #began = performance.now();
  #load: EventLoopUtilization = performance.eventLoopUtilization();
  #retries: number;
  #bytes = 0;
  #waited = 0;
  #since: number | undefined;

  constructor(tuner: Tuner, context: Context) {
    this.#tuner = tuner;
    this.#context = context;
    this.#retries = context.counters.retries;
  }

  waiting(): void {
    this.#since ??= performance.now();
  }

  /** Nobody waits any more: what passes from here on is not the source's time. */
  left(): void {
    if (this.#since !== undefined) this.#waited += performance.now() - this.#since;
    this.#since = undefined;
  }

  came(bytes: number): void {
    const now = performance.now();
    this.#bytes += bytes;
    if (this.#since !== undefined) this.#waited += now - this.#since;
    this.#since = undefined;
    const milliseconds = now - this.#began;
    if (milliseconds < INTERVAL) return;
    const load = performance.eventLoopUtilization();
    const { counters } = this.#context;
    const before = this.#tuner.connections;
    this.#tuner.observe({
      bytes: this.#bytes,
      milliseconds,
      waited: this.#waited,
      busy: performance.eventLoopUtilization(load, this.#load).utilization,
      retries: counters.retries - this.#retries,
    });
    const after = this.#tuner.connections;
    if (after !== before) this.#context.log.info(`${after} connections instead of ${before}`);
    this.#began = now;
    this.#load = load;
    this.#retries = counters.retries;
    this.#bytes = 0;
    this.#waited = 0;
  }
}

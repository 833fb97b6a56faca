import { setTimeout as sleep } from 'node:timers/promises';
import type { Context } from '../context.ts';
import { asFerryError, FerryError } from '../errors.ts';
import type { ByteStream, Source } from '../source.ts';
import { filtered, sizeOf } from './filtered.ts';

/** Milliseconds: exponential back-off with full jitter, https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/ */
const SHORTEST = 250;
const LONGEST = 30_000;
/** Bytes since the last failure after which the way is taken to work: going on does not wait. */
const WORKS = 1024 * 1024;
/** Milliseconds that opening is tried again when the server does not ask for more. */
const OPENING = 15_000;

export interface RetryOptions {
  /** A digest over the whole is demanded at the end, so that a wrong splice would not pass. Default false. */
  readonly verified?: boolean;
}

/** Why reads of a source cannot be resumed; undefined = they can. */
export function unresumable(source: Source, options: RetryOptions): string | undefined {
  const { facts } = source;
  if (!facts.ranges) return 'the source does not honour ranges';
  if (facts.validator !== undefined || facts.locked) return undefined;
  if (options.verified && facts.length !== undefined) return undefined;
  if (facts.unidentified !== undefined) return facts.unidentified;
  return 'the source has nothing that identifies it (such as a strong ETag), and no digest was given';
}

/**
 * Goes on at the exact byte after an error that may pass, as long as there is progress within `limits.patience`
 * milliseconds. Where the source cannot be resumed safely an error is final and says why.
 */
export function retry(next: Source, context: Context, options: RetryOptions = {}): Source {
  const why = unresumable(next, options);
  return filtered(next, async function* (range, signal): ByteStream {
    let at = range.from;
    const attempts = new Attempts(context, context.limits.patience);
    for (;;) {
      try {
        const rest = range.to === undefined ? { from: at } : { from: at, to: range.to };
        for await (const batch of next.read(rest, signal)) {
          const bytes = sizeOf(batch);
          at += bytes;
          attempts.progressed(bytes);
          yield batch;
        }
        return;
      } catch (thrown) {
        const error = asFerryError(thrown, 'source');
        if (why !== undefined && error.retryable && !signal.aborted) {
          throw again(error, `${error.message}; this cannot be resumed: ${why}`);
        }
        await attempts.failed(error, signal, `at byte ${at}`);
      }
    }
  });
}

/** Runs what opens a source until it succeeds, fails for good or has taken too long. */
export async function retrying<T>(context: Context, run: () => Promise<T>): Promise<T> {
  const attempts = new Attempts(context, Math.min(OPENING, context.limits.patience));
  for (;;) {
    try {
      return await run();
    } catch (thrown) {
      await attempts.failed(asFerryError(thrown, 'source'), context.signal, 'while opening');
    }
  }
}

function again(error: FerryError, message: string): FerryError {
  return new FerryError(message, { code: error.code, stage: error.stage, cause: error });
}

class Attempts {
  readonly #context: Context;
  readonly #patience: number;
  #last = performance.now();
  #bytes = 0;
  #count = 0;

  constructor(context: Context, patience: number) {
    this.#context = context;
    this.#patience = patience;
  }

  progressed(bytes: number): void {
    this.#bytes += bytes;
    this.#count = 0;
    this.#last = performance.now();
  }

  /** Waits until it is time to try again, or throws when it is not worth it. */
  async failed(error: FerryError, signal: AbortSignal, where: string): Promise<void> {
    if (!error.retryable || signal.aborted) throw error;
    const { counters, limits, log } = this.#context;
    const without = performance.now() - this.#last;
    const patience = error.retryAfter === undefined ? this.#patience : limits.patience;
    if (without >= patience) {
      const seconds = Math.round(without / 1000);
      throw again(
        error,
        `${error.message}; gave up after ${seconds} s and ${this.#count + 1} attempts without progress`,
      );
    }
    // Timers drop fractions of a millisecond: without rounding up the last wait would end just before its time.
    const wait = Math.ceil(Math.min(this.#wait(error), patience - without));
    this.#count += 1;
    this.#bytes = 0;
    counters.retries += 1;
    log.warn(`${error.message}; trying again ${where} in ${(wait / 1000).toFixed(1)} s`, { code: error.code });
    await sleep(wait, undefined, { signal }).catch((cause: unknown) => {
      throw new FerryError('the transfer was stopped', { code: 'ABORTED', stage: 'source', cause });
    });
  }

  #wait(error: FerryError): number {
    if (error.retryAfter !== undefined) return error.retryAfter * 1000;
    if (this.#bytes >= WORKS) return 0;
    return Math.random() * Math.min(LONGEST, SHORTEST * 2 ** Math.min(this.#count, 10));
  }
}

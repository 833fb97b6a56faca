import { received } from './memory.ts';

/** Bytes that one batch holds when the source is fast: one await a chunk would cost a third of the speed. */
export const BATCH = 512 * 1024;
/** One batch being handed over and one being gathered. */
const FULL = 2 * BATCH;
/** Milliseconds after which a smaller batch is handed over, so that a slow source is seen to move. */
const LINGER = 20;

interface Waiter {
  resolve(batch: readonly Uint8Array[] | undefined): void;
  reject(error: unknown): void;
}

/**
 * Turns pushed chunks into batches that are pulled, with back-pressure: `push` answers false when the producer should
 * pause; `resume` is called when there is room again. One consumer.
 */
export class Batcher {
  readonly #resume: () => void;
  #chunks: Uint8Array[] = [];
  #bytes = 0;
  #paused = false;
  #ended = false;
  #error: { readonly reason: unknown } | undefined;
  #waiter: Waiter | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** The producer pauses while nobody waits for what comes: nothing is read ahead. */
  #onDemand: boolean;

  constructor(resume: () => void, onDemand = false) {
    this.#resume = resume;
    this.#onDemand = onDemand;
  }

  /** From now on the producer may be ahead by as much as is gathered. */
  readAhead(): void {
    this.#onDemand = false;
    this.#goOn();
  }

  /** False = enough for now. */
  push(chunk: Uint8Array): boolean {
    received(chunk.length);
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    if (this.#waiter) {
      if (this.#onDemand || this.#bytes >= BATCH) this.#deliver();
      else this.#timer ??= setTimeout(() => this.#deliver(), LINGER);
    }
    this.#paused = this.#onDemand || this.#bytes >= FULL;
    return !this.#paused;
  }

  end(): void {
    this.#ended = true;
    this.#deliver();
  }

  /** What was pushed before is still delivered first. */
  fail(reason: unknown): void {
    if (this.#ended || this.#error) return;
    this.#error = { reason };
    this.#deliver();
  }

  /** The next batch; undefined = the end. Throws what `fail` was given. */
  next(): Promise<readonly Uint8Array[] | undefined> {
    return new Promise((resolve, reject) => {
      this.#waiter = { resolve, reject };
      const some = this.#onDemand ? this.#bytes > 0 : this.#bytes >= BATCH;
      if (some || this.#ended || this.#error) this.#deliver();
      else if (this.#bytes > 0) this.#timer ??= setTimeout(() => this.#deliver(), LINGER);
      this.#goOn();
    });
  }

  /** Forgets what has gathered. */
  clear(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#chunks = [];
    this.#bytes = 0;
  }

  #deliver(): void {
    const waiter = this.#waiter;
    if (!waiter) return;
    this.#waiter = undefined;
    const batch = this.#chunks;
    this.clear();
    if (batch.length > 0) waiter.resolve(batch);
    else if (this.#error) waiter.reject(this.#error.reason);
    else waiter.resolve(undefined);
    this.#goOn();
  }

  #goOn(): void {
    const room = this.#onDemand ? this.#waiter !== undefined : this.#bytes < FULL;
    if (!this.#paused || !room) return;
    this.#paused = false;
    this.#resume();
  }
}

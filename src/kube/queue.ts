import { backoff } from './backoff.ts';
import { KubeError } from './error.ts';

/** Milliseconds before a key is handled again that failed: doubled with each time, up to five minutes. */
const DELAY = { first: 5, longest: 300_000 };
/** Milliseconds; timers of Node that are longer fire at once. */
const LONGEST_TIMER = 2 ** 31 - 1;

interface Timer {
  /** On the clock of performance.now(). */
  readonly due: number;
  readonly timer: NodeJS.Timeout;
}

export interface QueueOptions {
  /** Told of each failure, and in how many milliseconds the key is handled again. Must not throw. */
  readonly failed?: (key: string, error: unknown, again: number) => void;
}

/**
 * Keys that wait to be handled, first come first served. A key waits once however often it is added, and is never handled by two
 * at a time: added while it is handled, it is handled once more.
 */
export class Queue {
  /** In the order in which they came. */
  readonly #waiting = new Set<string>();
  /** A Set's own iterator goes on with what is added behind it; a new one for each key would step over all that are gone. */
  #order = this.#waiting.values();
  /** Being handled. */
  readonly #active = new Set<string>();
  /** Added while they are handled. */
  readonly #again = new Set<string>();
  readonly #later = new Map<string, Timer>();
  readonly #failures = new Map<string, number>();
  readonly #options: QueueOptions;
  /** Times that a key was to be handled again since it failed. */
  retries = 0;
  #run:
    | { readonly workers: number; readonly handle: (key: string) => Promise<void>; readonly ended: () => void }
    | undefined;
  #closed = false;

  constructor(options: QueueOptions = {}) {
    this.#options = options;
  }

  /** Keys that are ready and wait for a worker. */
  get waiting(): number {
    return this.#waiting.size + this.#again.size;
  }

  /** Keys that are being handled. */
  get active(): number {
    return this.#active.size;
  }

  /** Keys that are added at a later time. */
  get later(): number {
    return this.#later.size;
  }

  /** Keys that failed when they were handled last. */
  get failing(): number {
    return this.#failures.size;
  }

  add(key: string): void {
    if (this.#closed) return;
    if (this.#active.has(key)) this.#again.add(key);
    else this.#waiting.add(key);
    this.#start();
  }

  /** Adds a key in so many milliseconds, or earlier where that is asked for as well. */
  addAfter(key: string, milliseconds: number): void {
    if (this.#closed) return;
    const delay = Math.min(Math.max(0, milliseconds), LONGEST_TIMER);
    const due = performance.now() + delay;
    const set = this.#later.get(key);
    if (set) {
      if (set.due <= due) return;
      clearTimeout(set.timer);
    }
    const timer = setTimeout(() => {
      this.#later.delete(key);
      this.add(key);
    }, delay);
    this.#later.set(key, { due, timer });
  }

  /**
   * Handles keys, `workers` at a time, until it is aborted and those that were begun have ended; it is empty for good then. A key
   * whose handling throws is added again, later each time, and not before a KubeError's `retryAfter`.
   */
  async run(workers: number, handle: (key: string) => Promise<void>, signal: AbortSignal): Promise<void> {
    if (this.#run) throw new TypeError('the queue runs already');
    const end = Promise.withResolvers<void>();
    this.#run = { workers, handle, ended: end.resolve };
    const close = (): void => {
      this.#closed = true;
      for (const { timer } of this.#later.values()) clearTimeout(timer);
      for (const keys of [this.#waiting, this.#again, this.#later, this.#failures]) keys.clear();
      if (this.#active.size === 0) end.resolve();
    };
    if (signal.aborted) close();
    else signal.addEventListener('abort', close, { once: true });
    this.#start();
    await end.promise;
  }

  #start(): void {
    if (!this.#run || this.#closed) return;
    while (this.#active.size < this.#run.workers && this.#waiting.size > 0) {
      const { value: key, done } = this.#order.next();
      if (done) {
        this.#order = this.#waiting.values();
        continue;
      }
      this.#waiting.delete(key);
      this.#active.add(key);
      void this.#work(key, this.#run.handle);
    }
  }

  async #work(key: string, handle: (key: string) => Promise<void>): Promise<void> {
    try {
      await handle(key);
      this.#failures.delete(key);
    } catch (error) {
      this.#retry(key, error);
    }
    this.#active.delete(key);
    if (this.#again.delete(key)) this.#waiting.add(key);
    if (this.#closed && this.#active.size === 0) this.#run?.ended();
    this.#start();
  }

  #retry(key: string, error: unknown): void {
    if (this.#closed) return;
    const failures = this.#failures.get(key) ?? 0;
    this.#failures.set(key, failures + 1);
    this.retries += 1;
    const pause = error instanceof KubeError ? (error.retryAfter ?? 0) * 1000 : 0;
    const delay = pause + backoff(failures, DELAY);
    this.#options.failed?.(key, error, delay);
    this.addAfter(key, delay);
  }
}

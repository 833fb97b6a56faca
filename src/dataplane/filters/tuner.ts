/** Milliseconds between two looks. */
export const INTERVAL = 500;
/** A step must bring this much to be kept: less is noise. */
const WORTH = 1.15;
/** Share of the time that the consumer must have waited, for the source to be what holds us up. */
const WAITED = 0.5;
/** Above this share of work on its own thread this process is what holds us up, and connections only cost. */
const BUSY = 0.7;
/** Bytes a millisecond (400 MB/s): one connection that brings this much is not held up by its window or its server. */
const FAST = 400_000;
/**
 * Milliseconds to connect and be answered from which a server is far: one connection then brings at most its window a
 * round trip (RFC 7323 section 1.1), so it is not tried alone first.
 */
const FAR = 25;
const BEGIN_FAR = 4;
/** Intervals without a new step: after one that brought nothing (30 s), and after the server protested (10 s). */
const AFTER_FAILURE = 60;
const AFTER_PROTEST = 20;

/** What happened in one interval. */
export interface Sample {
  readonly bytes: number;
  readonly milliseconds: number;
  /** Milliseconds of these that the consumer waited for bytes. */
  readonly waited: number;
  /** Share of the time, 0 to 1, that JavaScript's thread worked. */
  readonly busy: number;
  /** Retries in it: the server answered 429, 503 or cut. */
  readonly retries: number;
}

/** Decides how many connections are worth it. Begins with one, or some where the server is far; doubles while that pays; a protest brings it back to one. */
export class Tuner {
  readonly #most: number;
  /** Bytes a millisecond beyond which nothing is gained, the user's own limit. */
  readonly #enough: number;
  #connections: number;
  #trial: { readonly from: number; readonly rate: number; warm: boolean } | undefined;
  #hold = 0;

  /** `latency`: milliseconds that the source's first answer took. */
  constructor(most: number, enough = FAST, latency = 0) {
    this.#most = most;
    this.#connections = latency < FAR ? 1 : Math.min(most, BEGIN_FAR);
    this.#enough = Math.min(enough, FAST);
  }

  get connections(): number {
    return this.#connections;
  }

  observe(sample: Sample): void {
    const rate = sample.bytes / sample.milliseconds;
    const starved = sample.waited / sample.milliseconds > WAITED;
    if (sample.retries > 0) {
      this.#trial = undefined;
      this.#hold = AFTER_PROTEST;
      this.#connections = 1;
    } else if (this.#trial && !this.#trial.warm) {
      // New connections begin slowly (RFC 5681): their first interval says nothing.
      this.#trial.warm = true;
    } else if (this.#trial) {
      const paid = !starved || rate > this.#trial.rate * WORTH;
      if (!paid) {
        this.#connections = this.#trial.from;
        this.#hold = AFTER_FAILURE;
      }
      this.#trial = undefined;
    } else if (this.#hold > 0) this.#hold -= 1;
    else if (starved && sample.busy < BUSY && this.#connections < this.#most && rate < this.#enough) {
      this.#trial = { from: this.#connections, rate, warm: false };
      this.#connections = Math.min(this.#most, this.#connections * 2);
    }
  }
}

import { setTimeout as sleep } from 'node:timers/promises';
import { FerryError } from './errors.ts';

/** Milliseconds of the rate that may pass at once: what a timer that fires late may catch up, and no more. */
const BURST = 100;
/** Milliseconds of the rate in one piece. */
const PIECE = 50;

/** Holds whatever passes, of one transfer or of several, to a rate, with bursts of at most 100 ms. */
export class Pace {
  /** Bytes. */
  readonly perMillisecond: number;
  /** Most bytes to pass at once: who shares it takes turns of that many. */
  readonly piece: number;
  /** When the next byte may pass. */
  #due = 0;

  /** `rate`: bytes a second. */
  constructor(rate: number) {
    this.perMillisecond = rate / 1000;
    this.piece = Math.max(1, Math.floor(this.perMillisecond * PIECE));
  }

  /** Resolves when `bytes` may have passed. ABORTED. */
  async pass(bytes: number, signal?: AbortSignal): Promise<void> {
    const now = performance.now();
    this.#due = Math.max(this.#due, now - (BURST - PIECE)) + bytes / this.perMillisecond;
    const wait = this.#due - now;
    if (wait < 1) return;
    await sleep(wait, undefined, signal && { signal }).catch((cause: unknown) => {
      throw new FerryError('the transfer was stopped', { code: 'ABORTED', stage: 'source', cause });
    });
  }
}

import { setTimeout as sleep } from 'node:timers/promises';
import { FerryError } from '../errors.ts';
import type { SourceFilter } from '../source.ts';
import { filtered } from './filtered.ts';

/** Milliseconds of the rate that may pass at once: what a timer that fires late may catch up, and no more. */
const BURST = 100;
/** Milliseconds of the rate in one piece. */
const PIECE = 50;

/** Holds all reads of this source together to `limits.rate` bytes a second, with bursts of at most 100 ms. */
export const rate: SourceFilter = (next, context) => {
  const limit = context.limits.rate;
  if (limit === undefined) return next;
  const perMillisecond = limit / 1000;
  const most = Math.max(1, Math.floor(perMillisecond * PIECE));
  /** When the next byte may pass; all reads share it. */
  let due = 0;

  async function pass(bytes: number, signal: AbortSignal): Promise<void> {
    const now = performance.now();
    due = Math.max(due, now - (BURST - PIECE)) + bytes / perMillisecond;
    const wait = due - now;
    if (wait < 1) return;
    await sleep(wait, undefined, { signal }).catch((cause: unknown) => {
      throw new FerryError('the transfer was stopped', { code: 'ABORTED', stage: 'source', cause });
    });
  }

  return filtered(next, async function* (range, signal) {
    for await (const batch of next.read(range, signal)) {
      for (const piece of pieces(batch, most)) {
        await pass(
          piece.reduce((sum, chunk) => sum + chunk.length, 0),
          signal,
        );
        yield piece;
      }
    }
  });
};

/** A batch cut into batches of at most `most` bytes. */
export function* pieces(batch: readonly Uint8Array[], most: number): Generator<Uint8Array[]> {
  let piece: Uint8Array[] = [];
  let room = most;
  for (const chunk of batch) {
    for (let at = 0; at < chunk.length; ) {
      const part = chunk.subarray(at, at + room);
      piece.push(part);
      at += part.length;
      room -= part.length;
      if (room > 0) continue;
      yield piece;
      piece = [];
      room = most;
    }
  }
  if (piece.length > 0) yield piece;
}

import { FerryError } from '../errors.ts';
import type { ByteStream, Source, SourceFilter } from '../source.ts';
import { filtered } from './filtered.ts';

/**
 * Throws STALLED (retryable) when no byte came for `limits.stall` milliseconds while we were waiting. The clock stands
 * while the consumer works, so it never fires when we are the slow side.
 */
export const watchdog: SourceFilter = (next, context) =>
  filtered(next, (range, signal) => watched(next, range, signal, context.limits.stall));

async function* watched(
  next: Source,
  range: { from: number; to?: number },
  signal: AbortSignal,
  stall: number,
): ByteStream {
  const bark = new AbortController();
  const batches = next.read(range, AbortSignal.any([signal, bark.signal]))[Symbol.asyncIterator]();
  try {
    for (;;) {
      const result = await within(batches.next(), stall, () => {
        const seconds = Math.round(stall / 100) / 10;
        const error = new FerryError(`${next.name} sent nothing for ${seconds} s`, {
          code: 'STALLED',
          stage: 'source',
          retryable: true,
        });
        bark.abort(error);
        return error;
      });
      if (result.done) return;
      yield result.value;
    }
  } finally {
    const leaving = batches.return?.();
    // A source that hangs would hang its leaving too.
    if (bark.signal.aborted) leaving?.then(undefined, () => {});
    else await leaving;
  }
}

/** `promise`, or the error that `expired` makes when it takes longer than `milliseconds`. */
function within<T>(promise: Promise<T>, milliseconds: number, expired: () => FerryError): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(expired()), milliseconds);
    promise.then(
      (value) => {
        clearTimeout(timer);
        resolve(value);
      },
      (error: unknown) => {
        clearTimeout(timer);
        reject(error);
      },
    );
  });
}

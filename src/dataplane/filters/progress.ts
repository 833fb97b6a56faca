import type { SourceFilter } from '../source.ts';
import { filtered, sizeOf } from './filtered.ts';

/** Counts every byte that came from the source, those that a retry fetched twice included. */
export const progress: SourceFilter = (next, { counters }) =>
  filtered(next, async function* (range, signal) {
    for await (const batch of next.read(range, signal)) {
      counters.received += sizeOf(batch);
      yield batch;
    }
  });

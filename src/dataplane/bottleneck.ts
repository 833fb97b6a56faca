import type { Progress } from './native.ts';

export type Bottleneck = 'source' | 'decode' | 'target' | 'none';

/** Which stage the pipeline waited for between two looks at the counters (nanoseconds in, a word out). */
export function bottleneck(before: Progress, now: Progress, elapsed: number): Bottleneck {
  if (elapsed <= 0) return 'none';
  const share = (field: keyof Progress): number => (now[field] - before[field]) / elapsed;
  // The decoder starves: everything behind it is faster than what comes.
  if (share('decodeStarved') > 0.5) return 'source';
  const writing = share('writeBusy') / now.workers;
  const unpacking = Math.max(share('workBusy') / now.workers, share('decodeBusy'));
  return writing > unpacking ? 'target' : 'decode';
}

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/**
 * Bytes received between two collections of the young generation. Measured over loopback (2 GB): it keeps the
 * socket buffers in the processor's cache and the process at two thirds of the memory; 4 MiB costs a tenth of the speed.
 */
const EVERY = 8 * 1024 * 1024;

/**
 * Bytes of buffers outside the heap above which the old generation is collected too: with several connections chunks
 * wait long enough to grow old, and V8 would leave some 50 MiB of dead ones there (measured with a round trip of 20 ms).
 */
const MOST = 32 * 1024 * 1024;

type Collect = (options: { type: 'minor' | 'major' }) => void;

let collect: Collect | undefined;
let since = 0;

/**
 * From here on `received` collects the young generation every 8 MiB. Called where a transfer starts; may be called
 * again. Socket chunks are young objects with large buffers outside the heap: V8 alone lets some 100 MB of them gather.
 */
export function startYoungCollection(): void {
  if (collect) return;
  setFlagsFromString('--expose-gc');
  collect = runInNewContext('gc') as Collect;
}

/** Counts bytes that came in fresh buffers. */
export function received(bytes: number): void {
  since += bytes;
  if (since < EVERY || !collect) return;
  since = 0;
  collect({ type: 'minor' });
  if (process.memoryUsage().arrayBuffers > MOST) collect({ type: 'major' });
}

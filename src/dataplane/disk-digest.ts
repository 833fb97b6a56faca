import { native } from './native.ts';

/** Milliseconds that a stop waits for the engine's threads: a device that hangs must not keep a person waiting. */
const STOP_WAIT = 700;

export interface DiskDigest {
  /** `dd1:<hex>`. */
  readonly diskDigest: string;
  /** Length of the disk. */
  readonly bytes: number;
}

/**
 * Reads `length` bytes of a file or device (default all) and computes their disk digest. TRUNCATED when it is shorter;
 * the signal's reason within a second after the signal.
 */
export async function readDiskDigest(
  path: string,
  length: number | undefined,
  onProgress: (done: number, total: number) => void,
  signal: AbortSignal,
): Promise<DiskDigest> {
  signal.throwIfAborted();
  const engine = native();
  const stop = new engine.Stop();
  let timer: NodeJS.Timeout | undefined;
  let onAbort = (): void => undefined;
  const late = new Promise<never>((_, reject) => {
    onAbort = () => {
      stop.stop();
      timer = setTimeout(() => reject(signal.reason), STOP_WAIT);
    };
  });
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([engine.diskDigest(path, length, onProgress, stop), late]);
  } catch (thrown) {
    // The reason says who stopped it; the engine's own ABORTED does not.
    throw signal.aborted ? signal.reason : thrown;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
  }
}

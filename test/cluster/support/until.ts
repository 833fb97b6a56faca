import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Asks until there is an answer that is not undefined or false, and gives it. Throws after `seconds`, with what was asked for
 * and, where asking failed, the last error.
 */
export async function until<T>(
  what: string,
  seconds: number,
  probe: () => Promise<T | undefined | false>,
  pause = 100,
): Promise<T> {
  const latest = performance.now() + seconds * 1000;
  for (let last: unknown; ; ) {
    try {
      const found = await probe();
      if (found !== undefined && found !== false) return found;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (performance.now() > latest)
      throw new Error(`${what}: not after ${seconds} s`, last === undefined ? {} : { cause: last });
    await sleep(pause);
  }
}

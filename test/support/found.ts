import { setTimeout as sleep } from 'node:timers/promises';

/** Waits until `look` finds something, and gives it. Throws after so many seconds, with what `why` says. */
export async function found<T>(
  what: string,
  seconds: number,
  look: () => Promise<T | undefined>,
  why: () => string,
): Promise<T> {
  const end = performance.now() + seconds * 1000;
  while (performance.now() < end) {
    const one = await look().catch(() => undefined);
    if (one !== undefined) return one;
    await sleep(100);
  }
  throw new Error(`${what} did not come within ${seconds} s: ${why()}`);
}

/**
 * Milliseconds to wait after `failures` failures in succession: any time up to one that doubles with each of them, so that many
 * that failed at one moment do not come back at one moment ("full jitter").
 */
export function backoff(
  failures: number,
  { first, longest }: { readonly first: number; readonly longest: number },
): number {
  return Math.random() * Math.min(longest, first * 2 ** Math.min(failures, 30));
}

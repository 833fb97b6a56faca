/** What is claimed to fill a volume. */
export interface Filling {
  /** Bytes of the claim itself. */
  readonly size: bigint;
  /** Whether another claim of the same size is filled in its place, and its volume then given to it. */
  readonly populator: boolean;
  /** Bytes of scratch space, where it is needed. */
  readonly scratch?: bigint | undefined;
}

/**
 * Bytes of claims that are there at once while a volume is filled: what a quota of `requests.storage` must have room for. Of
 * a populator's two claims only one has a volume.
 */
export function peakOf({ size, populator, scratch = 0n }: Filling): bigint {
  return size * (populator ? 2n : 1n) + scratch;
}

/** In one sentence, for events: `needs 2147483648 bytes of claims at its peak: …`. */
export function peakInWords(filling: Filling): string {
  const { size, populator, scratch } = filling;
  const parts = [`${size} for itself`];
  if (populator) parts.push(`${size} for the claim that is filled in its place`);
  if (scratch !== undefined) parts.push(`${scratch} for scratch space`);
  return `needs ${peakOf(filling)} bytes of claims at its peak: ${parts.join(', ')}`;
}

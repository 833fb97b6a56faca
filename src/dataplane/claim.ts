import { usable } from '../api/overhead.ts';
import { FerryError } from './errors.ts';

/** A volume as its claim asks for it. */
export interface Claim {
  /** Bytes requested. */
  readonly size: number;
  /** Part of a file system that its own data takes, 0 to 1 (CDI's filesystemOverhead). */
  readonly overhead: number;
}

/**
 * Length of the disk of a Filesystem volume: all that is usable, or the image's own where that is more and has room.
 * `image` in bytes, undefined where only its end will tell; `capacity`: bytes that can be written. Throws TOO_LARGE in
 * the words that CDI's controller looks for ("is larger than the reported available").
 */
export function diskSize(image: number | undefined, capacity: number, claim: Claim): number {
  const available = Math.min(capacity, claim.size);
  if (image !== undefined && image > available) {
    throw new FerryError(
      `virtual image size ${image} is larger than the reported available storage ${available}. A larger PVC is required`,
      { code: 'TOO_LARGE', stage: 'plan' },
    );
  }
  return Math.max(image ?? 0, Number(usable(BigInt(available), claim.overhead)));
}

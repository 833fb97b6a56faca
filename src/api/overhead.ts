/**
 * How large the claim of a disk must be, and how large the disk of a claim can be: the same arithmetic for those who make
 * claims and for those who fill them. It is exact: CDI's overheads have three decimals, and are counted in thousandths.
 */

/** Bytes. Disks begin and end at such a border (CDI, pkg/util/util.go: DefaultAlignBlockSize). */
export const ALIGNMENT = 2n ** 20n;
const WHOLE = 1000n;

/** The part that `0`, `0.06` or `1` is; undefined for what CDI's schema does not take (doc of CDIConfig: filesystemOverhead). */
export function parseOverhead(text: string): number | undefined {
  return /^(0(\.\d{1,3})?|1)$/.test(text) ? Number(text) : undefined;
}

/** Bytes that a disk can have in a volume of `size` bytes, of whose file system `overhead`, 0 to 1, is needed for itself. */
export function usable(size: bigint, overhead: number): bigint {
  const rest = dividedUp(size * WHOLE, WHOLE + thousandths(overhead));
  return rest - (rest % ALIGNMENT);
}

/** Bytes that a volume must have so that a disk of `size` bytes is in it: usable(required(size)) is size or more. */
export function required(size: bigint, overhead: number): bigint {
  const disk = dividedUp(size, ALIGNMENT) * ALIGNMENT;
  return dividedUp(disk * (WHOLE + thousandths(overhead)), WHOLE);
}

function thousandths(overhead: number): bigint {
  return BigInt(Math.round(overhead * Number(WHOLE)));
}

function dividedUp(size: bigint, by: bigint): bigint {
  return (size + by - 1n) / by;
}

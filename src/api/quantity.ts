/** A quantity as objects hold it. Where a schema says `x-kubernetes-int-or-string`, as CDI's does, it may be a number. */
export type Quantity = string | number;

const QUANTITY = /^([+-]?)(\d*)(?:\.(\d*))?(?:([KMGTPE]i)|([numkMGTPE])|[eE]([+-]?\d{1,6}))?$/;
const BINARY = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'];
/** Powers of ten. */
const DECIMAL: Readonly<Record<string, number>> = { n: -9, u: -6, m: -3, k: 3, M: 6, G: 9, T: 12, P: 15, E: 18 };
/** No quantity is more (apimachinery, pkg/api/resource/quantity.go). */
const MOST = 2n ** 63n - 1n;
/** Characters. The longest that have a meaning: 2^63 with nine places, a sign and a suffix, have 31. */
const LONGEST = 64;

/**
 * Whole bytes of a Kubernetes quantity: `20Gi`, `1.5G`, `1e9`, `500m`. What is left of a byte counts as one, away from zero;
 * more than 2^63 - 1 is that. Negative ones are quantities too. Undefined for what is none: unlike a size that people type,
 * it has no spaces, and neither `KB` nor `K`.
 */
export function parseQuantity(quantity: Quantity): bigint | undefined {
  const bytes = exact(quantity);
  if (bytes === undefined) return undefined;
  if (bytes > MOST) return MOST;
  return bytes < -MOST ? -MOST : bytes;
}

/** Whether a quantity is more than there can be, and would be taken for the most that there can. */
export function isTooLarge(quantity: Quantity): boolean {
  return (exact(quantity) ?? 0n) > MOST;
}

function exact(quantity: Quantity): bigint | undefined {
  const text = String(quantity);
  const match = text.length > LONGEST ? null : QUANTITY.exec(text);
  if (!match) return undefined;
  const [, sign, whole = '', part = '', binary, decimal, exponent] = match;
  if (whole + part === '') return undefined;
  const digits = BigInt(whole + part) * 1024n ** BigInt(binary ? BINARY.indexOf(binary) : 0);
  const shift = (decimal ? (DECIMAL[decimal] ?? 0) : Number(exponent ?? 0)) - part.length;
  const bytes = shifted(digits, shift);
  return sign === '-' ? -bytes : bytes;
}

/** `digits` times ten to the power of `shift`, rounded up; far beyond MOST it is only certain to be more. */
function shifted(digits: bigint, shift: number): bigint {
  if (digits === 0n) return 0n;
  if (shift >= 0) return digits * 10n ** BigInt(Math.min(shift, LONGEST));
  // The digits are less than 10^64 times 1024^6.
  const divisor = 10n ** BigInt(Math.min(-shift, 2 * LONGEST));
  return (digits + divisor - 1n) / divisor;
}

/** As parseQuantity, of sizes that volumes have; undefined for others too: negative ones, and 2^53 and more, as numbers are not exact there. */
export function parseBytes(quantity: Quantity): number | undefined {
  const bytes = Number(parseQuantity(quantity) ?? -1n);
  return bytes >= 0 && Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Bytes as a quantity: in the largest of Ki, Mi, … of which they are a whole number. */
export function formatQuantity(bytes: bigint): string {
  let [count, unit] = [bytes, 0];
  while (count !== 0n && count % 1024n === 0n && unit < BINARY.length - 1) {
    count /= 1024n;
    unit += 1;
  }
  return `${count}${BINARY[unit]}`;
}

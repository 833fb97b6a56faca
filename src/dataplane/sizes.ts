import { FerryError } from './errors.ts';

/** As Kubernetes quantities: Ki, Mi, … are powers of 1024, k (or K), M, … powers of 1000; a B may follow. */
const UNITS: Readonly<Record<string, bigint>> = {
  '': 1n,
  k: 10n ** 3n,
  m: 10n ** 6n,
  g: 10n ** 9n,
  t: 10n ** 12n,
  p: 10n ** 15n,
  ki: 2n ** 10n,
  mi: 2n ** 20n,
  gi: 2n ** 30n,
  ti: 2n ** 40n,
  pi: 2n ** 50n,
};

/**
 * Bytes of '20Gi', '1.5GiB', '50MB', '10G', '1024'. Throws BAD_SPEC for anything else, for what is not a whole number
 * of bytes, and above 2^53 - 1 (beyond it numbers are no longer exact).
 */
export function parseSize(text: string): number {
  const match = /^(\d{1,20})(?:\.(\d{1,20}))?\s*(?:([kmgtp]i?)?b?)$/i.exec(text.trim());
  // A small m is a thousandth in Kubernetes: whoever writes it means something else than a million.
  if (!match || match[3]?.startsWith('m')) {
    throw bad(`'${text.slice(0, 40)}' is not a size: write 1024, 20Gi (powers of 1024) or 50MB (powers of 1000)`);
  }
  const fraction = match[2] ?? '';
  const scaled = BigInt((match[1] ?? '') + fraction) * (UNITS[(match[3] ?? '').toLowerCase()] ?? 1n);
  const divisor = 10n ** BigInt(fraction.length);
  if (scaled % divisor !== 0n) throw bad(`'${text.trim()}' is not a whole number of bytes`);
  const bytes = scaled / divisor;
  if (bytes > BigInt(Number.MAX_SAFE_INTEGER))
    throw bad(`'${text.trim()}' is more than ${Number.MAX_SAFE_INTEGER} bytes`);
  return Number(bytes);
}

/** Bytes a second of '50MB/s', '10Mi' or '1000'; at least 1. */
export function parseRate(text: string): number {
  const rate = parseSize(text.trim().replace(/\s*\/\s*s$/i, ''));
  if (rate === 0) throw bad('a rate of 0 bytes a second would never end');
  return rate;
}

function bad(message: string): FerryError {
  return new FerryError(message, { code: 'BAD_SPEC', stage: 'plan' });
}

const NAMES = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;

/** For people, in powers of 1024 and three figures: '512 B', '1.5 GiB', '20 GiB'. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  // 1023.5 would print as 1024.
  while (value >= 1023.5 && unit < NAMES.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${String(Number(value.toFixed(digits)))} ${NAMES[unit]}`;
}

/** For people and exactly: '20 GiB (21474836480 bytes)'. */
export function formatExactSize(bytes: number): string {
  return bytes < 1024 ? `${bytes} bytes` : `${formatSize(bytes)} (${bytes} bytes)`;
}

/** '52.4 MiB/s'. */
export function formatRate(bytesPerSecond: number): string {
  return `${formatSize(Math.round(bytesPerSecond))}/s`;
}

import type { Digest } from '../source.ts';
import { type Fields, field } from './exchange.ts';

export interface ContentRange {
  /** First byte, and the first byte after the last. */
  readonly from: number;
  readonly to: number;
  /** Length of the whole; undefined = `*`. */
  readonly total?: number;
}

/** `bytes 0-99/1000` (RFC 9110 section 14.4). Undefined when malformed or impossible. */
export function parseContentRange(text: string): ContentRange | undefined {
  const match = /^bytes[ \t]+(\d{1,16})-(\d{1,16})\/(\d{1,16}|\*)$/i.exec(text.trim());
  if (!match) return undefined;
  const from = Number(match[1]);
  const last = Number(match[2]);
  const total = match[3] === '*' ? undefined : Number(match[3]);
  if (last < from || !Number.isSafeInteger(last + 1)) return undefined;
  if (total === undefined) return { from, to: last + 1 };
  if (!Number.isSafeInteger(total) || last >= total) return undefined;
  return { from, to: last + 1, total };
}

/** Total that a 416 carries: `bytes`, a star, a slash and the number (RFC 9110 section 14.4). */
export function parseUnsatisfied(text: string): number | undefined {
  const match = /^bytes[ \t]+\*\/(\d{1,15})$/i.exec(text.trim());
  return match ? Number(match[1]) : undefined;
}

/** Seconds to wait: a number of seconds or a date (RFC 9110 section 10.2.3). Undefined when neither. */
export function parseRetryAfter(text: string, now: number): number | undefined {
  const trimmed = text.trim();
  if (/^\d{1,9}$/.test(trimmed)) return Number(trimmed);
  // Only forms with a month's name: Date.parse would take '-5' and '1.5' for years.
  if (!/[a-z]{3}/i.test(trimmed)) return undefined;
  const date = Date.parse(trimmed);
  return Number.isNaN(date) ? undefined : Math.max(0, (date - now) / 1000);
}

/** Content-Length as a whole number; undefined when absent or malformed. */
export function contentLength(fields: Fields): number | undefined {
  const text = field(fields, 'content-length');
  if (text === undefined || !/^\d{1,16}$/.test(text)) return undefined;
  const length = Number(text);
  return Number.isSafeInteger(length) ? length : undefined;
}

export interface Tag {
  /** As sent, quotes included. */
  readonly text: string;
  readonly strong: boolean;
}

/** An entity tag (RFC 9110 section 8.8.3). Anything malformed counts as absent. */
export function entityTag(fields: Fields): Tag | undefined {
  const text = field(fields, 'etag')?.trim();
  if (text === undefined) return undefined;
  if (/^"[\x21\x23-\x7e\x80-\xff]*"$/.test(text)) return { text, strong: true };
  if (/^W\/"[\x21\x23-\x7e\x80-\xff]*"$/.test(text)) return { text, strong: false };
  return undefined;
}

/**
 * SHA-256 or SHA-512 that the server promises of the whole representation: `Repr-Digest` (RFC 9530), `Digest`
 * (RFC 3230), `x-amz-checksum-sha256` of objects uploaded in one piece; the CRC-32C of `x-goog-hash`; `Content-Digest` is of this message only, so it
 * counts when the message carries the whole.
 */
export function promisedDigest(fields: Fields, whole: boolean): Digest | undefined {
  const texts = [field(fields, 'repr-digest'), field(fields, 'digest')];
  if (whole) texts.push(field(fields, 'content-digest'));
  for (const text of texts) {
    for (const item of text?.split(',') ?? []) {
      const match = /^\s*sha-(256|512)=:?([A-Za-z0-9+/]+={0,2}):?\s*$/i.exec(item);
      const digest = match && fromBase64(match[1] === '256' ? 'sha256' : 'sha512', match[2] ?? '');
      if (digest) return digest;
    }
  }
  const amazon = field(fields, 'x-amz-checksum-sha256');
  if (amazon !== undefined && field(fields, 'x-amz-checksum-type') !== 'COMPOSITE') return fromBase64('sha256', amazon);
  // Of the stored object; composite ones have no other ("Hashes and ETags", Google Cloud Storage).
  for (const item of field(fields, 'x-goog-hash')?.split(',') ?? []) {
    const match = /^\s*crc32c=([A-Za-z0-9+/]+={0,2})\s*$/.exec(item);
    if (match) return fromBase64('crc32c', match[1] ?? '');
  }
  return undefined;
}

/** Bytes of each. */
const LENGTHS = { sha256: 32, sha512: 64, sha1: 20, md5: 16, crc32c: 4 } as const;

function fromBase64(algorithm: Digest['algorithm'], text: string): Digest | undefined {
  const bytes = Buffer.from(text, 'base64');
  // Buffer.from skips what is no base64, such as the part count of a composite checksum ('…-3').
  if (bytes.toString('base64') !== text || bytes.length !== LENGTHS[algorithm]) return undefined;
  return { algorithm, hex: bytes.toString('hex') };
}

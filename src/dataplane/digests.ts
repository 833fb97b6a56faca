import { FerryError } from './errors.ts';
import type { Digest } from './source.ts';

/** Hexadecimal digits of each. */
const LENGTHS = { sha256: 64, sha512: 128 } as const;
type Listed = keyof typeof LENGTHS;
/** A list of digests is text of some hundred lines; more is something else. */
export const LIST_LIMIT = 4 * 1024 * 1024;

function bad(message: string): FerryError {
  return new FerryError(message, { code: 'BAD_SPEC', stage: 'plan' });
}

/** `sha256:<64 hex>` or `sha512:<128 hex>` in either case. Throws BAD_SPEC. */
export function parseDigest(text: string): Digest {
  const match = /^(sha256|sha512):([0-9a-f]+)$/i.exec(text.trim());
  const algorithm = match?.[1]?.toLowerCase() as Listed | undefined;
  const hex = match?.[2]?.toLowerCase() ?? '';
  if (!algorithm || hex.length !== LENGTHS[algorithm]) {
    throw bad(`'${text.slice(0, 160)}' is not a digest: write sha256: and 64, or sha512: and 128 hexadecimal digits`);
  }
  return { algorithm, hex };
}

/** A digest, or one of the older checksums of images: `md5:<32 hex>`, `sha1:<40 hex>`. Throws BAD_SPEC. */
export function parseChecksum(text: string): Digest {
  const match = /^(?:(md5):([0-9a-f]{32})|(sha1):([0-9a-f]{40}))$/i.exec(text.trim());
  if (!match) return parseDigest(text);
  const algorithm = match[1] === undefined ? 'sha1' : 'md5';
  return { algorithm, hex: (match[2] ?? match[4] ?? '').toLowerCase() };
}

/** Whether no two contents are known that have it in common: of what only finds accidents there are many. */
export function isStrong(digest: Digest | undefined): digest is Digest {
  return digest !== undefined && digest.algorithm in LENGTHS;
}

export function formatDigest(digest: Digest): string {
  return `${digest.algorithm}:${digest.hex}`;
}

interface Line {
  readonly name: string;
  readonly digest: Digest;
}

/**
 * The digest of `name` in a list as sha256sum writes it (`hash  name`, `hash *name`), or BSD's (`SHA256 (name) = hash`),
 * also signed in the clear by PGP (the signature is not checked). Names are compared without their directories. A file
 * that holds one bare digest and nothing else is of whatever it lies beside. Where both kinds are listed sha256 is taken:
 * it is what the report shows. Throws BAD_SPEC when the name is missing or has two.
 */
export function pickDigest(list: string, name: string): Digest {
  if (list.length > LIST_LIMIT) throw bad(`the list of digests is longer than ${LIST_LIMIT} characters`);
  const lines = parseList(list);
  if (lines.length === 0) throw bad('the list of digests has no line with a sha256 or sha512 digest');
  const wanted = basename(name);
  const [only] = lines;
  const found =
    lines.length === 1 && only?.name === '' ? lines : lines.filter((line) => basename(line.name) === wanted);
  if (found.length === 0) {
    const some = lines.slice(0, 3).map((line) => line.name || 'one without a name');
    throw bad(
      `the list of digests has no line for '${wanted}'; it has ${lines.length}: ${some.join(', ')}${lines.length > 3 ? ', …' : ''}`,
    );
  }
  for (const algorithm of ['sha256', 'sha512'] as const) {
    const candidates = new Set(
      found.filter((line) => line.digest.algorithm === algorithm).map((line) => line.digest.hex),
    );
    if (candidates.size > 1) {
      throw bad(
        `the list of digests has ${candidates.size} different ${algorithm} digests for '${wanted}': give the right one with --digest`,
      );
    }
    for (const hex of candidates) return { algorithm, hex };
  }
  throw bad(`the list of digests has no sha256 or sha512 digest for '${wanted}'`);
}

function basename(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

function parseList(text: string): Line[] {
  const lines: Line[] = [];
  let signature = false;
  for (const raw of text.split(/\r?\n/)) {
    if (raw.startsWith('-----BEGIN PGP SIGNATURE')) signature = true;
    else if (raw.startsWith('-----END PGP SIGNATURE')) signature = false;
    else if (!signature) {
      // Lines that begin with a dash are escaped in signed text (RFC 9580 section 7.2).
      const line = parseLine(raw.replace(/^- /, ''));
      if (line) lines.push(line);
    }
  }
  return lines;
}

/** Undefined for whatever is no line with a digest: comments, the signature's header, other algorithms. */
function parseLine(raw: string): Line | undefined {
  const bsd = /^(SHA256|SHA512) \((.+)\) ?= ?([0-9a-f]+)\s*$/i.exec(raw);
  if (bsd) return lineOf(bsd[3] ?? '', bsd[2] ?? '', (bsd[1] ?? '').toLowerCase() as Listed);
  // A leading backslash says that the name is escaped (GNU coreutils, 'md5sum invocation').
  const gnu = /^(\\?)([0-9a-f]{64}|[0-9a-f]{128})(?:[ \t]+\*?(.*))?$/i.exec(raw.trimEnd());
  if (!gnu) return undefined;
  const name = (gnu[3] ?? '').trim();
  return lineOf(gnu[2] ?? '', gnu[1] ? name.replace(/\\([\\nr])/g, unescaped) : name);
}

function unescaped(_all: string, letter: string): string {
  return letter === 'n' ? '\n' : letter === 'r' ? '\r' : '\\';
}

function lineOf(
  hex: string,
  name: string,
  algorithm: Listed = hex.length === 64 ? 'sha256' : 'sha512',
): Line | undefined {
  if (hex.length !== LENGTHS[algorithm]) return undefined;
  return { name, digest: { algorithm, hex: hex.toLowerCase() } };
}

import { posix } from 'node:path';
import { Header, type HeaderData, Pax } from 'tar';
import { type Code, FerryError } from '../errors.ts';
import type { Source } from '../source.ts';
import { whole } from './whole.ts';

/** "Basic Tar Format", GNU tar manual. */
const BLOCK = 512;
/** An archive of images has some files a layer. */
const MOST = 10_000;
/** Names and records for an entry, bytes. */
const MOST_RECORDS = 1024 * 1024;

interface Member {
  readonly from: number;
  readonly size: number;
}

/** What is where in a tar archive: only its headers are read. */
export class Members {
  readonly #path: string;
  readonly #members = new Map<string, Member>();
  readonly #links = new Map<string, string>();

  private constructor(path: string) {
    this.#path = path;
  }

  /** Reads the headers and closes the archive. Throws CORRUPT, TRUNCATED, TOO_LARGE; UNSUPPORTED when it is compressed. */
  static async of(opened: Source, path: string, signal: AbortSignal): Promise<Members> {
    await using archive = opened;
    const found = new Members(path);
    const { length = 0 } = archive.facts;
    const read = (from: number, size: number): Promise<Buffer> =>
      whole(part(archive, path, { from, size }), MOST_RECORDS, path, signal);
    let more: HeaderData = {};
    for (let at = 0, entries = 0; at + BLOCK <= length; entries += 1) {
      const block = await read(at, BLOCK);
      if (block.every((byte) => byte === 0)) break;
      if (entries === MOST)
        throw failed(`${path} has more than ${MOST} entries: it is no archive of images`, 'TOO_LARGE');
      const header = headerOf(block, more);
      if (!header && at === 0) throw noArchive(path, block);
      if (!header) throw failed(`${path} is damaged near byte ${at}: no header where one must be`, 'CORRUPT');
      const { size = 0, type } = header;
      const from = at + BLOCK;
      at = from + Math.ceil(size / BLOCK) * BLOCK;
      if (!Number.isSafeInteger(at) || from + size > length) {
        throw failed(`${path} ends at byte ${length}, inside ${header.path ?? 'an entry'}`, 'TRUNCATED');
      }
      if (type === 'ExtendedHeader' || type === 'NextFileHasLongPath' || type === 'NextFileHasLongLinkpath') {
        if (size > MOST_RECORDS) throw failed(`${path} has ${size} bytes of records for an entry`, 'TOO_LARGE');
        const text = (await read(from, size)).toString('utf8');
        const long = text.replace(/\0.*$/s, '');
        if (type === 'ExtendedHeader') more = { ...more, ...Pax.parse(text) };
        else more = { ...more, ...(type === 'NextFileHasLongPath' ? { path: long } : { linkpath: long }) };
        continue;
      }
      more = {};
      found.#note(header, { from, size });
    }
    return found;
  }

  #note({ path = '', linkpath = '', type }: Header, member: Member): void {
    const name = posix.normalize(path);
    if (type === 'File' || type === 'OldFile' || type === 'ContiguousFile') this.#members.set(name, member);
    // `docker save` before version 25 has a layer once, and links to it.
    if (type === 'SymbolicLink') this.#links.set(name, posix.join(posix.dirname(name), linkpath));
    if (type === 'Link') this.#links.set(name, posix.normalize(linkpath));
  }

  /** A file of the archive; `archive` is closed with it. Throws NOT_FOUND. */
  async open(name: string, archive: Source): Promise<Source> {
    const wanted = posix.normalize(name);
    const member = this.#members.get(wanted) ?? this.#members.get(this.#links.get(wanted) ?? '');
    if (member) return part(archive, this.#path, member);
    await archive[Symbol.asyncDispose]();
    throw failed(
      `${this.#path} has no file ${name.slice(0, 200)}: it is no archive of images, or not a whole one`,
      'NOT_FOUND',
    );
  }
}

/** Bytes [from, from + size) of a source as a source. */
function part(archive: Source, name: string, { from, size }: Member): Source {
  const { validator } = archive.facts;
  return {
    name,
    details: archive.details,
    facts: { length: size, ranges: true, ...(validator === undefined ? {} : { validator: `${validator}@${from}` }) },
    read: (range, signal) =>
      archive.read({ from: from + range.from, to: from + Math.min(range.to ?? size, size) }, signal),
    [Symbol.asyncDispose]: () => archive[Symbol.asyncDispose](),
  };
}

/** Undefined where the block is none: its checksum is wrong, or a number in it. */
function headerOf(block: Buffer, more: HeaderData): Header | undefined {
  try {
    const header = new Header(block, 0, more);
    return header.cksumValid ? header : undefined;
  } catch {
    return undefined;
  }
}

function noArchive(path: string, head: Buffer): FerryError {
  // gzip (RFC 1952), zstd (RFC 8878), xz: what people compress such archives with.
  const packed = ['1f8b', '28b52ffd', 'fd377a58'].some((magic) => head.toString('hex').startsWith(magic));
  const what = packed ? 'is compressed: unpack it once first (gunzip, unzstd, unxz)' : 'is no tar archive';
  return failed(`${path} ${what}`, 'UNSUPPORTED');
}

function failed(message: string, code: Code): FerryError {
  return new FerryError(message, { code, stage: 'source' });
}

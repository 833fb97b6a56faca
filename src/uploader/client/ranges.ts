import { createHash } from 'node:crypto';
import { readDiskDigest } from '../../dataplane/disk-digest.ts';
import { asFerryError, FerryError } from '../../dataplane/errors.ts';
import { Extents } from '../../dataplane/extents.ts';
import { fromEngine } from '../../dataplane/native.ts';
import type { Extent, Source } from '../../dataplane/source.ts';
import { type Answered, type Made, parsed, refusal } from './answers.ts';
import type { Line } from './line.ts';
import type { Memory } from './memory.ts';

/** Bytes of one request at most: what a cut costs, and what each connection holds in memory. */
const MOST = 8 << 20;
/** Bytes of one at least, however often the line is cut. */
const LEAST = 64 << 10;
/** Bytes by which requests grow again with each that was taken: after a cut they are half as long, as TCP does. */
const STEP = 512 << 10;
/** Bytes of a chunk that is handed on. */
const CHUNK = 256 << 10;
/** Milliseconds between two notes for the next process. */
const NOTE = 1000;
/** Times that it is begun anew because the server has forgotten what was sent. */
const BEGINNINGS = 5;

/** Told of the bytes that are on the way or there. */
type Came = (bytes: number) => void;

export interface RangesOptions {
  /** Where images of the volume are begun. */
  readonly images: URL;
  /** Bytes of the disk. */
  readonly size: number;
  readonly connections: number;
  /** What the source is, for the memory. */
  readonly of: string;
  readonly memory: Memory;
}

/** What of a disk is sent: gaps for which a request costs more go along. */
export function rangesOf(size: number, data: Iterable<Extent>): Extents {
  const ranges = new Extents(size);
  for (const extent of data) ranges.add(extent);
  return ranges;
}

/**
 * Writes the ranges of a raw disk into an image of the server's, several at once, each with its digest; the disk digest of the
 * whole is compared at the end. Errors of the source, of the line, DIGEST_MISMATCH.
 */
export async function sendRanges(
  line: Line,
  source: Source,
  ranges: Extents,
  options: RangesOptions,
  came: Came,
): Promise<Made & { readonly resumedAt: number }> {
  const over = new AbortController();
  const signal = AbortSignal.any([line.signal, over.signal]);
  // Read meanwhile, and by itself: its leaves are none of the pieces that are sent.
  const digest = readDiskDigest(source.name, options.size, () => undefined, signal).catch((thrown: unknown) => {
    throw asFerryError(fromEngine(thrown), 'verify');
  });
  digest.catch(() => undefined);
  try {
    for (let beginnings = 1; ; beginnings += 1) {
      const writing = await Writing.begin(line, source, ranges, options, came);
      try {
        await writing.all();
        // What was read of the source is what it was when it was opened.
        for await (const _ of source.read({ from: 0, to: 0 }, signal));
        return { ...(await writing.finish((await digest).diskDigest)), resumedAt: writing.resumedAt };
      } catch (thrown) {
        if (!writing.forgotten || beginnings === BEGINNINGS) throw thrown;
        line.options.log.info('the server has forgotten what was sent: beginning anew');
        await options.memory.forget();
        line.reached = 0;
      }
    }
  } finally {
    over.abort();
  }
}

/** An image of the server's while ranges are written into it. */
class Writing {
  /** Bytes that earlier processes sent. */
  readonly resumedAt: number;
  /** The server knows nothing of it any more. */
  forgotten = false;
  readonly #line: Line;
  readonly #source: Source;
  readonly #options: RangesOptions;
  readonly #came: Came;
  readonly #place: URL;
  readonly #pieces: Iterator<Extent>;
  /** Of each connection: the byte of the disk below which all that it took is there, and bytes on their way. */
  readonly #at: { disk: number; flying: number }[];
  #taken: number;
  #notedAt = performance.now();
  #noted = Promise.resolve();

  private constructor(
    line: Line,
    source: Source,
    ranges: Extents,
    options: RangesOptions,
    came: Came,
    place: URL,
    sent: number,
  ) {
    this.#line = line;
    this.#source = source;
    this.#options = options;
    this.#came = came;
    this.#place = place;
    this.#at = Array.from({ length: options.connections }, () => ({ disk: sent, flying: 0 }));
    this.#pieces = piecesOf(ranges, sent);
    this.#taken = 0;
    for (const { from, to } of ranges) this.#taken += Math.max(0, Math.min(to, sent) - from);
    this.resumedAt = this.#taken;
  }

  /** Goes on with the image that the memory has, if the server has it too. */
  static async begin(
    line: Line,
    source: Source,
    ranges: Extents,
    options: RangesOptions,
    came: Came,
  ): Promise<Writing> {
    const { memory, images, size, of } = options;
    const { url } = line.options;
    const { known } = memory;
    if (known !== undefined) {
      const place = new URL(known.place, url);
      const there = await line.persistently(async () => {
        const answer = await line.ask('OPTIONS', place);
        if (answer.status < 300) return true;
        if (answer.status === 404 || answer.status === 410) return false;
        throw refusal(answer, place);
      });
      if (there) return new Writing(line, source, ranges, options, came, place, known.sent ?? 0);
    }
    const wanted = new URL(images);
    wanted.search = new URLSearchParams({
      size: String(size),
      ...(url.searchParams.has('replace') ? { replace: url.searchParams.get('replace') ?? '' } : {}),
    }).toString();
    const location = await line.persistently(async () => {
      const answer = await line.ask('POST', wanted, { length: 0 });
      const { location } = answer.headers;
      if (answer.status !== 201 || typeof location !== 'string') throw refusal(answer, images);
      return location;
    });
    await memory.keep({ way: 'ranges', place: location, of, sent: 0 });
    return new Writing(line, source, ranges, options, came, new URL(location, url), 0);
  }

  /** Sends all that is missing. */
  async all(): Promise<void> {
    const over = new AbortController();
    const signal = AbortSignal.any([this.#line.signal, over.signal]);
    const connections = this.#at.map((_, n) => this.#send(n, signal));
    try {
      this.#tell();
      await Promise.all(connections);
    } catch (thrown) {
      over.abort();
      await Promise.allSettled(connections);
      throw thrown;
    } finally {
      await this.#note();
    }
  }

  /** One connection: piece after piece, the next in shorter requests where the line is cut. */
  async #send(n: number, signal: AbortSignal): Promise<void> {
    const mine = this.#at[n] as { disk: number; flying: number };
    let longest = MOST;
    for (let piece = this.#pieces.next(); !piece.done; piece = this.#pieces.next()) {
      const { to } = piece.value;
      for (mine.disk = piece.value.from; mine.disk < to; ) {
        const from = mine.disk;
        const end = await this.#line.persistently(async () => {
          const end = Math.min(from + longest, to);
          try {
            await this.#put(from, end, mine, signal);
          } catch (thrown) {
            longest = Math.max(LEAST, Math.floor((end - from) / 2));
            throw thrown;
          }
          return end;
        }, signal);
        longest = Math.min(MOST, longest + STEP);
        mine.disk = end;
        this.#taken += end - from;
        this.#line.reached = Math.max(this.#line.reached, this.#taken);
        this.#tell();
        if (performance.now() - this.#notedAt > NOTE) await this.#note();
      }
    }
    mine.disk = this.#options.size;
  }

  async #put(from: number, to: number, mine: { flying: number }, signal: AbortSignal): Promise<void> {
    const bytes = await this.#read(from, to, signal);
    const digest = createHash('sha256').update(bytes).digest('base64');
    const place = new URL(this.#place);
    // Nothing of it outlives the server, which has no use for a flush of each range then.
    place.searchParams.set('flush', 'n');
    const came = (flying: number): void => {
      mine.flying = flying;
      this.#tell();
    };
    try {
      const answer = await this.#line.ask('PUT', place, {
        headers: { 'content-range': `bytes ${from}-${to - 1}/*`, 'content-digest': `sha-256=:${digest}:` },
        length: bytes.length,
        signal,
        async *bytes() {
          for (let at = 0; at < bytes.length; at += CHUNK) {
            yield bytes.subarray(at, at + CHUNK);
            came(Math.min(at + CHUNK, bytes.length));
          }
        },
      });
      if (answer.status >= 300) throw this.#refused(answer, to - from);
    } finally {
      mine.flying = 0;
    }
  }

  async #read(from: number, to: number, signal: AbortSignal): Promise<Buffer> {
    const bytes = Buffer.allocUnsafe(to - from);
    let at = 0;
    for await (const batch of this.#source.read({ from, to }, signal)) {
      for (const chunk of batch) {
        bytes.set(chunk, at);
        at += chunk.length;
      }
    }
    return bytes;
  }

  /** Makes it the volume, which must be the disk of this digest. */
  async finish(digest: string): Promise<Made> {
    const { url } = this.#line.options;
    // The server compares it too, before it makes a volume of what came.
    const finalize = new URL(`${this.#place.pathname}/finalize?digest=${digest}`, this.#place);
    return await this.#line.persistently(async () => {
      const answer = await this.#line.ask('POST', finalize, { length: 0, worked: true });
      if (answer.status < 300) return compared(parsed(answer.body) as Made, digest);
      if (answer.status === 404) {
        // An earlier answer may have been lost on the way.
        const volume = new URL(url.pathname, url);
        const { state, ...made } = parsed((await this.#line.ask('GET', volume)).body) as Made & { state?: string };
        if (state === 'ready' && made.diskDigest === digest) return made;
      }
      throw this.#refused(answer, 0);
    });
  }

  /** A refusal of the image, of `length` bytes for it. */
  #refused(answer: Answered, length: number): FerryError {
    this.forgotten ||= answer.status === 404 || answer.status === 410;
    const error = refusal(answer, this.#place);
    // Damaged on the way; a request whose line was cut and that the server still waits for; too large for what is between.
    const passes = ['DIGEST_MISMATCH', 'BUSY'].includes(error.code) || (answer.status === 413 && length > LEAST);
    return passes ? new FerryError(error.message, { code: error.code, stage: error.stage, retryable: true }) : error;
  }

  #tell(): void {
    this.#came(this.#at.reduce((sum, { flying }) => sum + flying, this.#taken));
  }

  /** For the next process: all below is there. */
  #note(): Promise<void> {
    this.#notedAt = performance.now();
    const { memory, of } = this.#options;
    this.#noted = this.#noted.then(() => {
      const sent = Math.min(...this.#at.map(({ disk }) => disk));
      return memory.keep({ way: 'ranges', place: this.#place.href, of, sent });
    });
    return this.#noted;
  }
}

function compared(made: Made, digest: string): Made {
  if (made.diskDigest === digest) return made;
  const message = `the server has made a disk ${made.diskDigest} where ${digest} was sent: delete it there, and send it again`;
  throw new FerryError(message, { code: 'DIGEST_MISMATCH', stage: 'verify' });
}

/** Ranges from `sent` on, in pieces that one connection sends. */
function* piecesOf(ranges: Iterable<Extent>, sent: number): Generator<Extent> {
  for (const { from, to } of ranges) {
    for (let at = Math.max(from, sent); at < to; at += MOST) yield { from: at, to: Math.min(at + MOST, to) };
  }
}

import type { ByteStream, Source } from '../source.ts';
import { filtered, sizeOf } from './filtered.ts';
import { pieces } from './rate.ts';

/** Bytes of a source that a plan looks at, where a format does not keep what it needs farther away. */
export const HEAD = 1024 * 1024;

/** A source that can be looked into before it is read. */
export interface HeadSource extends Source {
  /**
   * The first `bytes`, HEAD if it is not said, or all there are. May be called again; whatever was read for it is not fetched again by
   * `read`, and a source that can be read once still can.
   */
  head(signal: AbortSignal, bytes?: number): Promise<Uint8Array>;
}

/** Keeps the first bytes for `read` to begin with. */
export function head(next: Source): HeadSource {
  let kept: Promise<Kept> | undefined;

  async function look(signal: AbortSignal, wanted: number): Promise<Kept> {
    const all = next.facts.ranges;
    const batches = next.read(all ? { from: 0, to: wanted } : { from: 0 }, signal)[Symbol.asyncIterator]();
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    let ended = false;
    while (bytes < wanted || all) {
      const result = await batches.next();
      ended = result.done === true;
      if (result.done) break;
      bytes += sizeOf(result.value);
      chunks.push(...result.value);
    }
    return { chunks, bytes, ...(all ? {} : { rest: batches, ended }) };
  }

  /** Of what can be read once the rest is taken from where it stopped; other sources are asked again. */
  async function more(found: Kept, signal: AbortSignal, wanted: number): Promise<Kept> {
    if (!found.rest)
      return (next.facts.length ?? Number.POSITIVE_INFINITY) <= found.bytes ? found : look(signal, wanted);
    const chunks = [...found.chunks];
    let { bytes, ended = false } = found;
    while (bytes < wanted && !ended) {
      const result = await found.rest.next();
      ended = result.done === true;
      if (result.done) break;
      bytes += sizeOf(result.value);
      chunks.push(...result.value);
    }
    return { chunks, bytes, rest: found.rest, ended };
  }

  async function* read(range: { from: number; to?: number }, signal: AbortSignal): ByteStream {
    const found = await kept;
    // What cannot be read a second time is given once; the source itself then says so.
    if (!found || (found.rest ? found.given || range.from > 0 : range.from >= found.bytes)) {
      yield* next.read(range, signal);
      return;
    }
    const to = range.to ?? Number.POSITIVE_INFINITY;
    const whole = Buffer.concat(found.chunks);
    found.given = true;
    if (found.rest) found.chunks = [];
    let at = Math.min(to, found.bytes);
    const first = whole.subarray(range.from, at);
    try {
      for (const piece of pieces([first], HEAD / 2)) yield piece;
      if (at >= to) return;
      if (!found.rest) {
        yield* next.read(range.to === undefined ? { from: at } : { from: at, to }, signal);
        return;
      }
      while (!found.ended && at < to) {
        signal.throwIfAborted();
        const result = await found.rest.next();
        if (result.done) return;
        for (const piece of pieces(result.value, Math.min(to - at, Number.MAX_SAFE_INTEGER))) {
          if (at < to) yield piece;
          at += sizeOf(piece);
        }
      }
    } finally {
      await found.rest?.return?.();
    }
  }

  return {
    ...filtered(next, read),
    async head(signal, bytes = HEAD) {
      kept ??= look(signal, bytes);
      const before = await kept.catch(() => undefined);
      if (before && before.bytes < bytes) kept = more(before, signal, bytes);
      const found = await kept.catch((error: unknown) => {
        kept = undefined;
        throw error;
      });
      return Buffer.concat(found.chunks).subarray(0, bytes);
    },
    async [Symbol.asyncDispose]() {
      await next[Symbol.asyncDispose]();
    },
  };
}

interface Kept {
  chunks: Uint8Array[];
  readonly bytes: number;
  /** Where a source that can be read once goes on. */
  readonly rest?: AsyncIterator<readonly Uint8Array[]>;
  readonly ended?: boolean;
  given?: boolean;
}

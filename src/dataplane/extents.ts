import { FerryError } from './errors.ts';
import type { Extent, Source } from './source.ts';

/** Extents are widened to whole leaves of the disk digest, so that each leaf is read or zeros. Bytes. */
const LEAF = 64 * 1024;
/** Gaps below this are read: a request costs more. Bytes. */
const GAP = 256 * 1024;
/** Extents that are kept; with more of them, larger gaps are read. */
const MOST = 16_384;

/** Where a source can have data: a bounded number of extents, ascending, none nearer to another than a gap. */
export class Extents implements Iterable<Extent> {
  readonly #length: number;
  readonly #most: number;
  #gap: number;
  #kept: { from: number; to: number }[] = [];
  #end = 0;

  /** `length` of the source in bytes; `gap` bytes between two at least, as long as there are no more than `most`. */
  constructor(length: number, gap = GAP, most = MOST) {
    this.#length = length;
    this.#gap = gap;
    this.#most = most;
  }

  /** Throws UNSUPPORTED when the source does not name its extents in order and within itself. */
  add({ from, to }: Extent): void {
    if (!(from >= this.#end && to > from && to <= this.#length)) {
      throw new FerryError(
        `the source says that it has data from ${from} to ${to}, behind ${this.#end} and within ${this.#length} bytes: its extents cannot be used`,
        { code: 'UNSUPPORTED', stage: 'source' },
      );
    }
    this.#end = to;
    this.#join({ from: from - (from % LEAF), to: Math.min(Math.ceil(to / LEAF) * LEAF, this.#length) });
    while (this.#kept.length > this.#most) {
      this.#gap *= 2;
      const before = this.#kept;
      this.#kept = [];
      for (const extent of before) this.#join(extent);
    }
  }

  #join(extent: { from: number; to: number }): void {
    const last = this.#kept.at(-1);
    if (last && extent.from - last.to < this.#gap) last.to = Math.max(last.to, extent.to);
    else this.#kept.push(extent);
  }

  [Symbol.iterator](): Iterator<Extent> {
    return this.#kept.values();
  }

  /** Bytes of the source that are to be read. */
  get bytes(): number {
    return this.#kept.reduce((sum, { from, to }) => sum + to - from, 0);
  }

  /** As the engine takes them. */
  pairs(): Float64Array {
    return Float64Array.from(this.#kept.flatMap(({ from, to }) => [from, to]));
  }
}

/** The extents of a source that tells them and its length; else undefined. */
export async function extentsOf(source: Source, signal: AbortSignal): Promise<Extents | undefined> {
  const { length, ranges } = source.facts;
  if (!source.extents || !ranges || length === undefined) return undefined;
  const extents = new Extents(length);
  for await (const batch of source.extents(signal)) for (const extent of batch) extents.add(extent);
  return extents;
}

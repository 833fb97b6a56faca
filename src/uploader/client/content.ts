import { createHash } from 'node:crypto';
import { FerryError } from '../../dataplane/errors.ts';
import { decoderLimits } from '../../dataplane/memory-budget.ts';
import { native } from '../../dataplane/native.ts';
import type { Source } from '../../dataplane/source.ts';
import { type Layout, packed } from './packed.ts';

/** Bytes that tell what an image is. */
const HEAD = 1024 * 1024;

/** What is sent: an image as it is, or a raw disk without its holes. */
export class Content {
  readonly length: number;
  /** Bytes of the disk that are not sent, because they are zeros. */
  readonly spared: number;
  readonly #source: Source;
  readonly #layout: Layout;
  readonly #hash = createHash('sha256');
  #hashed = 0;

  private constructor(source: Source, layout: Layout, spared: number) {
    this.length = layout.length;
    this.spared = spared;
    this.#source = source;
    this.#layout = layout;
  }

  /** UNSUPPORTED for what cannot be read from anywhere: standard input. */
  static async of(source: Source, signal: AbortSignal): Promise<Content> {
    const { length } = source.facts;
    if (length === undefined || !source.facts.ranges) {
      throw new FerryError(`${source.name} can be read once only: save it to a file, and upload that`, {
        code: 'UNSUPPORTED',
        stage: 'source',
      });
    }
    const asItIs: Layout = { length, parts: [{ from: 0, to: length, disk: 0 }] };
    if (!source.extents || !(await isRaw(source, length, signal))) return new Content(source, asItIs, 0);
    const data = [];
    for await (const batch of source.extents(signal)) data.push(...batch);
    const layout = packed(length, data);
    return layout ? new Content(source, layout, length - layout.length) : new Content(source, asItIs, 0);
  }

  /** Hashes what an earlier process sent, up to `to`: before anybody waits for the rest. */
  async catchUp(to: number, signal: AbortSignal): Promise<void> {
    for await (const chunk of this.#bytes(this.#hashed, to, signal)) this.#note(this.#hashed, chunk);
  }

  /** From `from` on, up to `to`; what passes is hashed, each byte once. All before `from` must have passed. */
  async *read(from: number, to: number, signal: AbortSignal): AsyncIterable<Uint8Array> {
    let at = from;
    for await (const chunk of this.#bytes(from, to, signal)) {
      this.#note(at, chunk);
      at += chunk.length;
      yield chunk;
    }
  }

  #note(at: number, chunk: Uint8Array): void {
    const known = this.#hashed - at;
    if (known >= chunk.length) return;
    this.#hash.update(known > 0 ? chunk.subarray(known) : chunk);
    this.#hashed = at + chunk.length;
  }

  /** Of all of it; to be asked once, when all has passed. */
  digest(): string {
    return `sha256:${this.#hash.digest('hex')}`;
  }

  async *#bytes(from: number, to: number, signal: AbortSignal): AsyncIterable<Uint8Array> {
    for (const part of this.#layout.parts) {
      const [begin, end] = [Math.max(part.from, from), Math.min(part.to, to)];
      if (begin >= end) continue;
      if (part.bytes) yield part.bytes.subarray(begin - part.from, end - part.from);
      else {
        const disk = (part.disk ?? 0) - part.from;
        for await (const batch of this.#source.read({ from: begin + disk, to: end + disk }, signal)) yield* batch;
      }
    }
  }
}

async function isRaw(source: Source, length: number, signal: AbortSignal): Promise<boolean> {
  const chunks: Uint8Array[] = [];
  for await (const batch of source.read({ from: 0, to: Math.min(HEAD, length) }, signal)) chunks.push(...batch);
  const sniffed = native().sniff(Buffer.concat(chunks), length, decoderLimits());
  return sniffed.format === 'raw' && sniffed.codecs.length === 0 && sniffed.refusal === undefined;
}

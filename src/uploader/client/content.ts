import { createHash } from 'node:crypto';
import type { Extent, Source } from '../../dataplane/source.ts';
import { type Layout, packed } from './packed.ts';

/** The bytes of an upload: an image as it is, or a raw disk without its zeros. */
export class Content {
  readonly length: number;
  /** Of the layout: what was sent of another one cannot be gone on with. */
  readonly shape: string;
  readonly #source: Source;
  readonly #layout: Layout;
  readonly #hash = createHash('sha256');
  #hashed = 0;

  /** `data`: where a raw disk has some, if it may come in another form than it lies. */
  constructor(source: Source, length: number, data?: Iterable<Extent>) {
    this.#source = source;
    this.#layout = (data && packed(length, data)) ?? { length, parts: [{ from: 0, to: length, disk: 0 }] };
    this.length = this.#layout.length;
    const made = createHash('sha256').update(String(this.length));
    for (const { bytes } of this.#layout.parts) if (bytes) made.update(bytes);
    this.shape = made.digest('hex');
  }

  /** Hashes what an earlier process sent, up to `to`: before anybody waits for the rest. */
  async catchUp(to: number, signal: AbortSignal): Promise<void> {
    for await (const chunk of this.#bytes(this.#hashed, to, signal)) this.#note(this.#hashed, chunk);
  }

  /**
   * From `from` on, up to `to`; what passes is hashed, each byte once. All before `from` must have passed. The last chunk
   * comes when the source has said that it is what it was: with it a server would make a disk of what is not.
   */
  async *read(from: number, to: number, signal: AbortSignal): AsyncIterable<Uint8Array> {
    let at = from;
    let held: Uint8Array | undefined;
    for await (const chunk of this.#bytes(from, to, signal)) {
      this.#note(at, chunk);
      at += chunk.length;
      if (held) yield held;
      held = chunk;
    }
    if (held) yield held;
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

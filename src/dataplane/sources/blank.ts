import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import { CLUSTER, TABLE_SPAN, writeHeader } from '../qcow2.ts';
import { parseSize } from '../sizes.ts';
import type { ByteStream, Source, SourceDriver } from '../source.ts';

export interface BlankSpec {
  /** Of the disk, bytes. */
  readonly size: number;
}

/** Disks are whole sectors of this many bytes. */
const SECTOR = 512;
/** The largest disk that the engine takes, 64 TiB: its L1 table has 1 MiB. */
const LARGEST = 2 ** 46;

/** An empty disk. */
export const blank: SourceDriver<BlankSpec> = {
  schemes: ['blank'],
  opaque: true,

  parse(text: string): BlankSpec {
    const size = parseSize(text.slice(text.indexOf(':') + 1));
    if (size === 0 || size % SECTOR !== 0 || size > LARGEST) {
      throw new FerryError(
        `blank:${size} is no disk: a disk has whole sectors of ${SECTOR} bytes, at least one, and at most ${LARGEST} bytes`,
        { code: 'BAD_SPEC', stage: 'plan' },
      );
    }
    return { size };
  },

  async open({ size }: BlankSpec, context: Context): Promise<Source> {
    return new BlankSource(size, context);
  },
};

/**
 * An image that says how large the disk is and that nothing is in it. The engine then does all that it does for other
 * images: zeros a device, keeps a journal, verifies, leaves holes or reserves the room.
 */
class BlankSource implements Source {
  readonly facts;
  readonly details = { kind: 'an empty disk', resumable: 'yes' };
  readonly name: string;
  readonly #image: Uint8Array;
  readonly #context: Context;
  readonly #closed = new AbortController();

  constructor(size: number, context: Context) {
    this.name = `blank:${size}`;
    this.#image = emptyQcow2(size);
    this.#context = context;
    this.facts = { length: this.#image.length, ranges: true, validator: this.name };
  }

  async *read({ from, to }: { from: number; to?: number }, signal: AbortSignal): ByteStream {
    this.#context.counters.opened += 1;
    const stop = AbortSignal.any([signal, this.#closed.signal]);
    const end = Math.min(to ?? this.#image.length, this.#image.length);
    for (let at = from; at < end; at += CLUSTER) {
      if (stop.aborted) throw new FerryError('the transfer was stopped', { code: 'ABORTED', stage: 'source' });
      yield [this.#image.slice(at, Math.min(at + CLUSTER, end))];
    }
    if (stop.aborted) throw new FerryError('the transfer was stopped', { code: 'ABORTED', stage: 'source' });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort();
  }
}

/** A qcow2 whose L1 table is empty: `size` bytes of zeros. */
export function emptyQcow2(size: number): Buffer {
  const entries = Math.ceil(size / TABLE_SPAN);
  const tableAt = CLUSTER + Math.ceil((entries * 8) / CLUSTER) * CLUSTER;
  const refcountsAt = tableAt + CLUSTER;
  const image = Buffer.alloc(refcountsAt + CLUSTER);
  writeHeader(image, size, tableAt);
  image.writeBigUInt64BE(BigInt(refcountsAt), tableAt);
  for (let at = 0; at < image.length; at += CLUSTER) image.writeUInt16BE(1, refcountsAt + (at / CLUSTER) * 2);
  return image;
}

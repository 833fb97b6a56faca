import { FerryError } from './errors.ts';
import type { Limits, Sniffed } from './native.ts';

const MiB = 1 << 20;
/** What another transfer in the same process needs: its slabs, threads and tables (docs/benchmarks.md, "Uploads"). */
const ANOTHER = 48 * MiB;
/** The whole process, page cache counted, where nothing else is asked for: 160 MiB. */
export const DEFAULT_MEMORY = 160 * MiB;
/** What Node, the transport and the engine's slabs need of it. */
const BASE = 128 * MiB;
/** A decoder's window up to this size is within the default. */
const WINDOW = 8 * MiB;
/**
 * Kept for clusters without a place beside a decoder, of an image that looks to be in order: every qcow2 that
 * `qemu-img convert` writes holds back less than 1 MiB.
 */
const IN_ORDER = 8 * MiB;

/** Bytes that a process needs for `transfers` at once, with windows up to 8 MiB each. */
export function memoryFor(transfers: number): number {
  return DEFAULT_MEMORY + (transfers - 1) * ANOTHER;
}

/** Bounds for the decoders from `--memory` (bytes for the whole process), to look at an image with. */
export function decoderLimits(memory: number = DEFAULT_MEMORY): Limits {
  return {
    decoderMemory: Math.max(WINDOW, memory - BASE),
    decoderWindow: Math.max(WINDOW, memory - DEFAULT_MEMORY + WINDOW),
  };
}

/**
 * Bounds for a transfer of an image that was looked at: what the process needs at any rate, the decoders and the clusters
 * that have no place yet are together within `--memory`, from 160 MiB on. A decoder gets less for its threads rather than
 * less than one window.
 */
export function transferLimits(image: Sniffed, memory: number = DEFAULT_MEMORY): Limits {
  const looking = decoderLimits(memory);
  const room = looking.decoderMemory ?? 0;
  // A raw disk has a place for everything.
  if (image.format === 'raw') return { ...looking, holdBack: 0 };
  if (image.codecs.length === 0) return { ...looking, decoderMemory: 0, holdBack: room };
  const wanted = image.order === 'metadata' ? room / 2 : Math.min(IN_ORDER, room / 2);
  const holdBack = Math.max(0, Math.min(Math.floor(wanted), room - image.window));
  return { ...looking, decoderMemory: room - holdBack, holdBack };
}

/** What one transfer has of what several share; given back when it is disposed. */
export interface Share extends Disposable {
  /** As `--memory` of this transfer alone. */
  readonly memory: number;
}

/** What the transfers of one process have together for decoders' windows above 8 MiB each, bytes. */
export class SharedWindows {
  readonly total: number;
  #free: number;

  constructor(total: number) {
    this.total = total;
    this.#free = total;
  }

  /** BUSY, to be tried again, while others have what a decoder's window needs. */
  take(window: number): Share {
    const bytes = Math.max(0, window - WINDOW);
    if (bytes > this.#free) {
      const message = `the decoder needs a window of ${window} bytes, and other transfers have the memory for it now: ${this.#free} of ${this.total} bytes are free`;
      throw new FerryError(message, { code: 'BUSY', stage: 'plan', retryable: true, retryAfter: 5 });
    }
    this.#free -= bytes;
    return {
      memory: DEFAULT_MEMORY + bytes,
      [Symbol.dispose]: () => {
        this.#free += bytes;
      },
    };
  }
}

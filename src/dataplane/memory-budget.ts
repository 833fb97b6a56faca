import type { Limits } from './native.ts';

/** The whole process, page cache counted, where nothing else is asked for: 160 MiB. */
export const DEFAULT_MEMORY = 160 << 20;
/** What Node, the transport and the engine's slabs need of it. */
const BASE = 128 << 20;
/** A decoder's window up to this size is within the default. */
const WINDOW = 8 << 20;

/** Bounds for the decoders from `--memory` (bytes for the whole process). */
export function decoderLimits(memory: number = DEFAULT_MEMORY): Limits {
  return {
    decoderMemory: Math.max(WINDOW, memory - BASE),
    decoderWindow: Math.max(WINDOW, memory - DEFAULT_MEMORY + WINDOW),
  };
}

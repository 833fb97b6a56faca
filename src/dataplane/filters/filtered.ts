import type { Source } from '../source.ts';

/** `next` with another `read`; all else is passed on. */
export function filtered(next: Source, read: Source['read']): Source {
  return {
    facts: next.facts,
    details: next.details,
    name: next.name,
    read,
    ...(next.nonzero ? { nonzero: next.nonzero.bind(next) } : {}),
    ...(next.extents ? { extents: next.extents.bind(next) } : {}),
    [Symbol.asyncDispose]: () => next[Symbol.asyncDispose](),
  };
}

/** Bytes in a batch. */
export function sizeOf(batch: readonly Uint8Array[]): number {
  let bytes = 0;
  for (const chunk of batch) bytes += chunk.length;
  return bytes;
}

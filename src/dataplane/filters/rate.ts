import type { SourceFilter } from '../source.ts';
import { filtered } from './filtered.ts';

/** Holds all reads of this source together to `limits.rate`, and with them whatever else shares it. */
export const rate: SourceFilter = (next, context) => {
  const { rate: pace } = context.limits;
  if (pace === undefined) return next;
  return filtered(next, async function* (range, signal) {
    for await (const batch of next.read(range, signal)) {
      for (const piece of pieces(batch, pace.piece)) {
        await pace.pass(
          piece.reduce((sum, chunk) => sum + chunk.length, 0),
          signal,
        );
        yield piece;
      }
    }
  });
};

/** A batch cut into batches of at most `most` bytes. */
export function* pieces(batch: readonly Uint8Array[], most: number): Generator<Uint8Array[]> {
  let piece: Uint8Array[] = [];
  let room = most;
  for (const chunk of batch) {
    for (let at = 0; at < chunk.length; ) {
      const part = chunk.subarray(at, at + room);
      piece.push(part);
      at += part.length;
      room -= part.length;
      if (room > 0) continue;
      yield piece;
      piece = [];
      room = most;
    }
  }
  if (piece.length > 0) yield piece;
}

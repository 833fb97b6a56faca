import { FerryError } from '../errors.ts';
import type { ByteStream } from '../source.ts';

export interface Expected {
  readonly from: number;
  /** Where to stop; undefined = at the end. */
  readonly to: number | undefined;
  /** Where the bytes were promised to end; undefined = not known. */
  readonly end: number | undefined;
  /** Of the source, for messages. */
  readonly name: string;
}

/**
 * Passes on bytes that begin at `from` and stops at `to`. Throws TRUNCATED (retryable) when they end earlier, and IO
 * when more come than were promised; when `to` lies before `end` what follows is left unread.
 */
export async function* exactly(bytes: ByteStream, { from, to, end, name }: Expected): ByteStream {
  let at = from;
  if (to !== undefined && at >= to && end !== to) return;
  for await (const batch of bytes) {
    const length = batch.reduce((sum, chunk) => sum + chunk.length, 0);
    if (end !== undefined && at + length > end) {
      throw new FerryError(`${name} sent more than the ${end - from} bytes that it promised from byte ${from} on`, {
        code: 'IO',
        stage: 'source',
        retryable: true,
      });
    }
    if (to !== undefined && at + length > to) {
      yield cut(batch, to - at);
      return;
    }
    at += length;
    if (length > 0) yield batch;
    if (to !== undefined && at === to && end !== to) return;
  }
  const due = to ?? end;
  if (due !== undefined && at < due) {
    throw new FerryError(`${name} ended at byte ${at}, ${due - at} bytes before byte ${due}`, {
      code: 'TRUNCATED',
      stage: 'source',
      retryable: true,
    });
  }
}

function cut(batch: readonly Uint8Array[], bytes: number): Uint8Array[] {
  const kept: Uint8Array[] = [];
  let left = bytes;
  for (const chunk of batch) {
    if (left === 0) break;
    kept.push(left < chunk.length ? chunk.subarray(0, left) : chunk);
    left -= Math.min(left, chunk.length);
  }
  return kept;
}

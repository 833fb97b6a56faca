import type { Intake, Range } from './native.ts';
import type { ByteStream, Source } from './source.ts';

/** Ranges up to this size are fetched ahead, so that a round trip is not paid for each. Bytes. */
const SMALL = 1 << 20;
/** Requests that are asked of the engine at once. */
const ROUND = 64;
/** The engine takes chunks of at most 1 MiB. */
const CHUNK = 1 << 20;

/** Carries everything that the engine asks for from the source into it. Resolves when it asks for nothing more. */
export async function feed(intake: Intake, source: Source, connections: number, signal: AbortSignal): Promise<void> {
  for (;;) {
    const ranges = await intake.next(ROUND);
    if (ranges.length === 0) return;
    await feedRound(intake, source, ranges, connections, signal);
  }
}

async function feedRound(
  intake: Intake,
  source: Source,
  ranges: readonly Range[],
  connections: number,
  signal: AbortSignal,
): Promise<void> {
  const ahead = new Map<Range, Promise<readonly Uint8Array[]>>();
  const fetchAhead = (from: number): void => {
    for (const range of ranges.slice(from, from + connections)) {
      if (range.to === undefined || range.to - range.from > SMALL || ahead.has(range)) continue;
      const fetched = collect(source.read({ from: range.from, to: range.to }, signal));
      fetched.catch(() => undefined); // told where it is awaited
      ahead.set(range, fetched);
    }
  };
  for (const [index, range] of ranges.entries()) {
    fetchAhead(index);
    const ready = ahead.get(range);
    ahead.delete(range);
    const wanted =
      ready === undefined
        ? await feedRange(intake, source, range, signal)
        : await pushAll(intake, range.from, await ready);
    if (wanted === undefined) return;
  }
}

/** Undefined when the engine wants no more of this pass. */
async function feedRange(
  intake: Intake,
  source: Source,
  range: Range,
  signal: AbortSignal,
): Promise<number | undefined> {
  let offset = range.from;
  const request = range.to === undefined ? { from: range.from } : { from: range.from, to: range.to };
  if (range.to === undefined && source.facts.length === range.from) {
    intake.end(range.from);
    return offset;
  }
  for await (const batch of source.read(request, signal)) {
    const reached = await pushAll(intake, offset, batch);
    if (reached === undefined) return undefined;
    offset = reached;
  }
  if (range.to === undefined) intake.end(offset);
  return offset;
}

/** Source offset behind the last chunk, or undefined when the engine wants no more of this pass. */
async function pushAll(intake: Intake, from: number, chunks: readonly Uint8Array[]): Promise<number | undefined> {
  let offset = from;
  for (const chunk of chunks) {
    for (let at = 0; at < chunk.length; at += CHUNK) {
      const part = chunk.length <= CHUNK ? chunk : chunk.subarray(at, at + CHUNK);
      for (;;) {
        const pushed = intake.push(offset, part);
        if (pushed === 1) break;
        if (pushed === -1) return undefined;
        await intake.drained();
      }
      offset += part.length;
    }
  }
  return offset;
}

async function collect(stream: ByteStream): Promise<readonly Uint8Array[]> {
  const chunks: Uint8Array[] = [];
  for await (const batch of stream) chunks.push(...batch);
  return chunks;
}

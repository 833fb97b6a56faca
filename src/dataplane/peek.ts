import type { ByteStream, Source } from './source.ts';

/** Traffic that a plan may cost: 1 MiB (design, decision 3). */
export const PEEK = 1 << 20;

/** The first bytes of a source (at most 1 MiB), and a source that still yields everything. */
export async function peek(source: Source, signal: AbortSignal): Promise<{ head: Uint8Array; source: Source }> {
  if (source.facts.ranges) {
    const to = Math.min(PEEK, source.facts.length ?? PEEK);
    return { head: join(to === 0 ? [] : await collect(source.read({ from: 0, to }, signal), to), to), source };
  }
  // It can be read once only: what was taken from it is given again before the rest.
  const iterator = source.read({ from: 0 }, signal)[Symbol.asyncIterator]();
  const taken: Uint8Array[] = [];
  let bytes = 0;
  let ended = false;
  while (bytes < PEEK && !ended) {
    const next = await iterator.next();
    ended = next.done === true;
    if (next.done) break;
    for (const chunk of next.value) {
      taken.push(chunk);
      bytes += chunk.length;
    }
  }
  const rest: ByteStream = {
    async *[Symbol.asyncIterator]() {
      try {
        yield taken;
        while (!ended) {
          const next = await iterator.next();
          if (next.done) return;
          yield next.value;
        }
      } finally {
        await iterator.return?.();
      }
    },
  };
  return { head: join(taken, PEEK), source: replaying(source, rest) };
}

function replaying(source: Source, rest: ByteStream): Source {
  let used = false;
  return {
    facts: source.facts,
    details: source.details,
    name: source.name,
    read(range, signal) {
      if (range.from !== 0 || used) return source.read(range, signal);
      used = true;
      return rest;
    },
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}

async function collect(stream: ByteStream, most: number): Promise<Uint8Array[]> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const batch of stream) {
    for (const chunk of batch) {
      chunks.push(chunk);
      bytes += chunk.length;
    }
    if (bytes >= most) break;
  }
  return chunks;
}

function join(chunks: readonly Uint8Array[], most: number): Uint8Array {
  const all = Buffer.concat(chunks);
  return all.subarray(0, Math.min(most, all.length));
}

import type { Source } from '../source.ts';

/** A text that is at hand, as a source. */
export function textSource(name: string, text: string): Source {
  const bytes = Buffer.from(text, 'utf8');
  return {
    name,
    details: {},
    facts: { length: bytes.length, ranges: true },
    async *read({ from, to }) {
      yield [bytes.subarray(from, to)];
    },
    async [Symbol.asyncDispose]() {},
  };
}

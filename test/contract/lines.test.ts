// Lines of a watch, in whatever pieces they come.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { lines } from '../../src/kube/lines.ts';

async function* pieces(bytes: Buffer, cuts: readonly number[]): AsyncGenerator<Buffer> {
  let from = 0;
  for (const cut of [...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length].sort((a, b) => a - b)) {
    yield bytes.subarray(from, cut);
    from = cut;
  }
}

async function collected(bytes: Buffer, cuts: readonly number[], longest = 1000): Promise<string[]> {
  const found: string[] = [];
  for await (const line of lines(pieces(bytes, cuts), longest, () => new Error('too long'))) found.push(line);
  return found;
}

const texts = fc.array(fc.string({ unit: 'binary' }).map((text) => text.replaceAll('\n', '')));
const cuts = fc.array(fc.nat(), { maxLength: 20 });

test('come whole, also in the middle of a character, with or without the last end', async () => {
  await fc.assert(
    fc.asyncProperty(texts, cuts, fc.boolean(), async (given, where, ends) => {
      const bytes = Buffer.from(given.join('\n') + (ends ? '\n' : ''));
      const wanted = bytes.toString().split('\n');
      expect(await collected(bytes, where)).toEqual(wanted.filter((line) => line !== ''));
    }),
  );
});

test('that are too long are refused before they are whole', async () => {
  let given = 0;
  async function* endless(): AsyncGenerator<Buffer> {
    for (; given < 1_000_000; given += 10) yield Buffer.from('0123456789');
  }
  const all = async (): Promise<void> => {
    for await (const _ of lines(endless(), 95, () => new Error('too long'))) expect.unreachable();
  };
  await expect(all()).rejects.toThrow('too long');
  expect(given).toBe(90);
  expect(await collected(Buffer.from(`${'x'.repeat(95)}\n`), [50], 95)).toHaveLength(1);
});

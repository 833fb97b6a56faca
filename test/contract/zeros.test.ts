// Where an upload finds data on a raw disk.
import { randomBytes } from 'node:crypto';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Extent, Source } from '../../src/dataplane/source.ts';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { dataOf, isRawDisk } from '../../src/uploader/client/zeros.ts';
import { testContext } from '../support/context.ts';
import { pattern } from '../support/extents.ts';
import { KiB, MiB, qcow2 } from '../support/images.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';

const GRAIN = 64 * KiB;
let home: TempDir;
const at = (name: string): string => join(home.path, name);
beforeAll(async () => {
  home = await tempdir();
});
afterAll(() => home?.[Symbol.asyncDispose]());

async function found(source: Source, watch: (done: number, all: number) => void = () => undefined): Promise<Extent[]> {
  return [...(await dataOf(source, source.facts.length ?? 0, watch, new AbortController().signal))];
}

test('exactly the grains that are not zeros, whoever wrote the others', async () => {
  const written = fc.record({
    from: fc.nat(8 * MiB),
    length: fc.integer({ min: 1, max: MiB }),
    zeros: fc.boolean(),
  });
  const disk = fc.record({
    pieces: fc.array(written, { maxLength: 8 }),
    size: fc.integer({ min: 1, max: 8 * MiB }),
  });
  await fc.assert(
    fc.asyncProperty(disk, async ({ pieces, size }) => {
      const content = Buffer.alloc(size);
      const file = await open(at('property'), 'w+');
      await file.truncate(size);
      for (const { from, length, zeros } of pieces) {
        const bytes = zeros ? Buffer.alloc(length) : randomBytes(length);
        const there = bytes.subarray(0, Math.max(0, size - from));
        if (there.length === 0) continue;
        await file.write(there, 0, there.length, from);
        content.set(there, from);
      }
      await file.close();
      const grains = Array.from({ length: Math.ceil(size / GRAIN) }, (_, n) =>
        content.subarray(n * GRAIN, (n + 1) * GRAIN).some((byte) => byte !== 0),
      );
      await using source = await openSource(at('property'), {}, testContext());
      const extents = await found(source);
      const told = grains.map((_, n) => extents.some(({ from, to }) => from <= n * GRAIN && n * GRAIN < to));
      expect(told).toEqual(grains);
    }),
    { numRuns: 40 },
  );
}, 60_000);

test('a disk full of data is looked at here and there, one with a twentieth of zeros everywhere', async () => {
  const size = 256 * MiB;
  await pattern(at('full'), size, [[0, size]]);
  const looks: number[] = [];
  const counting = (source: Source): Source => ({
    ...source,
    facts: source.facts,
    read: source.read.bind(source),
    extents: source.extents?.bind(source) as NonNullable<Source['extents']>,
    nonzero: async (range, grain, signal) => {
      looks.push(range.to - range.from);
      return (await source.nonzero?.(range, grain, signal)) ?? [];
    },
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  });
  {
    await using source = counting(await openSource(at('full'), {}, testContext()));
    expect(await found(source)).toEqual([{ from: 0, to: size }]);
    expect([looks.length, Math.max(...looks)]).toEqual([128, GRAIN]);
  }
  const disk = await open(at('full'), 'r+');
  await disk.write(Buffer.alloc(13 * MiB), 0, 13 * MiB, 200 * MiB);
  await disk.close();
  const seen: number[] = [];
  await using source = counting(await openSource(at('full'), {}, testContext()));
  expect(await found(source, (done) => seen.push(done))).toEqual([
    { from: 0, to: 200 * MiB },
    { from: 213 * MiB, to: size },
  ]);
  expect(seen).toEqual([0, 64 * MiB, 128 * MiB, 192 * MiB]);
}, 30_000);

test('extents that lie near are looked at together', async () => {
  const pieces = Array.from({ length: 1000 }, (_, n) => [n * 256 * KiB, 64 * KiB] as const);
  await pattern(at('many'), 2048 * MiB, [...pieces, [2000 * MiB, MiB]]);
  const disk = await open(at('many'), 'r+');
  await disk.write(Buffer.alloc(32 * MiB), 0, 32 * MiB, 1000 * MiB);
  await disk.close();
  await using source = await openSource(at('many'), {}, testContext());
  const seen: number[] = [];
  const extents = await found(source, (done) => seen.push(done));
  expect(extents).toEqual(pieces.concat([[2000 * MiB, MiB]]).map(([from, length]) => ({ from, to: from + length })));
  // Four of 64 MiB, the zeros, the end.
  expect(seen.length).toBe(6);
});

test('what is a disk as it lies', async () => {
  await pattern(at('raw'), 4 * MiB, [[MiB, MiB]]);
  await qcow2(at('raw'), at('qcow2'));
  for (const [name, is] of [
    ['raw', true],
    ['qcow2', false],
  ] as const) {
    await using source = await openSource(at(name), {}, testContext());
    expect(await isRawDisk(source, source.facts.length ?? 0, new AbortController().signal)).toBe(is);
  }
});

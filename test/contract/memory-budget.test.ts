// What a process may use is divided so that it fits, whatever the image is.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { DEFAULT_MEMORY, decoderLimits, transferLimits } from '../../src/dataplane/memory-budget.ts';
import type { Sniffed } from '../../src/dataplane/native.ts';
import { MiB } from '../support/images.ts';

/** What everything but decoders and held clusters needs (docs/use.md, "Memory"). */
const BASE = 128 * MiB;

function image(
  codecs: readonly string[],
  order: Sniffed['order'] = 'stream',
  format: Sniffed['format'] = 'qcow2',
  window = 0,
) {
  return { codecs, order, format, window, decoderMemory: window, features: [], leftOut: [] } satisfies Sniffed;
}

test('the default holds back what is left of 160 MiB, and 64 MiB where --memory allows', () => {
  expect(DEFAULT_MEMORY).toBe(160 * MiB);
  expect(transferLimits(image([])).holdBack).toBe(32 * MiB);
  expect(transferLimits(image([], 'metadata'), 192 * MiB).holdBack).toBe(64 * MiB);
  expect(transferLimits(image([], 'metadata'), 1024 * MiB).holdBack).toBe(896 * MiB);
});

test('a codec around a qcow2 shares with what is held back', () => {
  const held = (order: Sniffed['order']) => transferLimits(image(['xz'], order, 'qcow2', 8 * MiB));
  expect(held('metadata')).toMatchObject({ decoderMemory: 16 * MiB, holdBack: 16 * MiB });
  expect(held('stream')).toMatchObject({ decoderMemory: 24 * MiB, holdBack: 8 * MiB });
  expect(transferLimits(image(['xz'], 'stream', 'raw', 8 * MiB))).toMatchObject({
    decoderMemory: 32 * MiB,
    holdBack: 0,
  });
});

test('base, decoders and what is held back are within --memory, and a window that was accepted fits', () => {
  const sizes = fc.integer({ min: 160, max: 65536 }).map((n) => n * MiB);
  const kind = fc.record({
    codecs: fc.constantFrom<string[]>([], ['gzip'], ['zstd'], ['xz', 'gzip']),
    order: fc.constantFrom('stream' as const, 'metadata' as const),
    format: fc.constantFrom('raw' as const, 'qcow2' as const),
  });
  fc.assert(
    fc.property(sizes, kind, fc.double({ min: 0, max: 1, noNaN: true }), (memory, { codecs, order, format }, share) => {
      const looking = decoderLimits(memory);
      const window = codecs.length === 0 ? 0 : Math.floor((looking.decoderWindow ?? 0) * share);
      const limits = transferLimits(image(codecs, order, format, window), memory);
      const [decoders, held] = [limits.decoderMemory ?? 0, limits.holdBack ?? 0];
      expect(BASE + decoders + held).toBeLessThanOrEqual(memory);
      expect(decoders).toBeGreaterThanOrEqual(window);
      expect(Number.isSafeInteger(held) && held >= 0).toBe(true);
      expect(limits.decoderWindow).toBe(looking.decoderWindow);
    }),
  );
});

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ALIGNMENT, parseOverhead, required, usable } from '../../src/api/overhead.ts';

const MIB = 2n ** 20n;
const EIB = 2n ** 60n;
const sizes = fc.oneof(fc.bigInt({ min: 0n, max: 16n * EIB }), fc.bigInt({ min: 0n, max: 4n * MIB }));
/** As CDI's schema has them: three decimals. */
const overheads = fc.nat(1000).map((thousandths) => thousandths / 1000);

test('what is required has room for the disk', () =>
  fc.assert(fc.property(sizes, overheads, (size, part) => usable(required(size, part), part) >= size)));

// The usable part is rounded up before it is aligned: hence three bytes, and not one.
test('with three bytes less, it has not', () =>
  fc.assert(
    fc.property(sizes, overheads, (size, part) => {
      const needed = required(size, part);
      expect(needed === 0n || usable(needed - 3n, part) < size).toBe(true);
    }),
  ));

test('disks are aligned', () =>
  fc.assert(
    fc.property(sizes, overheads, (size, part) => {
      expect(usable(size, part) % ALIGNMENT).toBe(0n);
      expect(required(size, 0) % ALIGNMENT).toBe(0n);
    }),
  ));

test('more is required of more, and more is usable of more', () =>
  fc.assert(
    fc.property(sizes, sizes, overheads, (one, other, part) => {
      const [less, more] = one < other ? [one, other] : [other, one];
      expect(required(less, part) <= required(more, part)).toBe(true);
      expect(usable(less, part) <= usable(more, part)).toBe(true);
    }),
  ));

test('where numbers are exact, they come to the same', () =>
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 40n }), overheads, (size, part) => {
      // One byte is lost or won where a product is next to a whole number.
      const number = Math.ceil(Math.ceil(Number(size) / Number(MIB)) * Number(MIB) * (1 + part));
      expect(Math.abs(Number(required(size, part)) - number)).toBeLessThanOrEqual(1);
    }),
  ));

test.each<[bigint, number, bigint, bigint]>([
  // size, overhead, required, usable: by bc, as the formulas of CDI's pkg/util/util.go have it.
  [2n ** 30n, 0.06, 1_138_166_334n, 966n * MIB],
  [2n ** 30n, 0, 2n ** 30n, 2n ** 30n],
  [2n ** 30n, 1, 2n ** 31n, 2n ** 29n],
  [1n, 0.06, 1_111_491n, 0n],
  [0n, 0.06, 0n, 0n],
  [8n * EIB, 0.06, 9_776_774_359_066_062_357n, 8_701_294_374_391_119_872n],
])('%d bytes of %d', (size, part, needed, rest) => {
  expect(required(size, part)).toBe(needed);
  expect(usable(size, part)).toBe(rest);
});

test.each<[string, number | undefined]>([
  ['0', 0],
  ['0.06', 0.06],
  ['0.055', 0.055],
  ['1', 1],
  ['0.0555', undefined],
  ['1.0', undefined],
  ['1.1', undefined],
  ['.5', undefined],
  ['-0.1', undefined],
  ['', undefined],
  ['6%', undefined],
])('overhead %j', (text, part) => expect(parseOverhead(text)).toBe(part));

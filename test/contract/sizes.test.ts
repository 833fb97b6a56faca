import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { formatExactSize, formatSize, parseRate, parseSize } from '../../src/dataplane/sizes.ts';

describe('sizes', () => {
  test.each([
    ['0', 0],
    ['1024', 1024],
    ['20Gi', 20 * 2 ** 30],
    ['1.5GiB', 1.5 * 2 ** 30],
    ['10G', 10e9],
    ['50MB', 50e6],
    ['50 MB', 50e6],
    ['1k', 1000],
    ['1K', 1000],
    ['1KiB', 1024],
    ['0.5Ki', 512],
    ['512B', 512],
    ['9007199254740991', Number.MAX_SAFE_INTEGER],
  ])('%s is %d bytes', (text, bytes) => expect(parseSize(text)).toBe(bytes));

  test.each([
    '',
    'Gi',
    '-1',
    '1e3',
    '1.5',
    '0.3Ki',
    '1Zi',
    '9007199254740992',
    '8Pi',
    '10m',
    '1 2',
    '1..5G',
    '0x10',
    '1Mbit',
    '１',
  ])('%j is refused', (text) => expect(() => parseSize(text)).toThrow(expect.objectContaining({ code: 'BAD_SPEC' })));

  test('rates may say that they are rates', () => {
    expect(parseRate('50MB/s')).toBe(50e6);
    expect(parseRate('10Mi')).toBe(10 * 2 ** 20);
    expect(() => parseRate('0')).toThrow(/never end/);
  });

  test('whole numbers of any unit are exact', () => {
    const units = {
      '': 1n,
      B: 1n,
      Ki: 1024n,
      KiB: 1024n,
      k: 1000n,
      MB: 1000000n,
      Mi: 1048576n,
      Gi: 2n ** 30n,
      T: 10n ** 12n,
    };
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 54n }), fc.constantFrom(...Object.keys(units)), (count, unit) => {
        const bytes = count * units[unit as keyof typeof units];
        if (bytes > BigInt(Number.MAX_SAFE_INTEGER)) expect(() => parseSize(`${count}${unit}`)).toThrow();
        else expect(BigInt(parseSize(`${count}${unit}`))).toBe(bytes);
      }),
    );
  });

  test('any text is a size or is refused', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        try {
          expect(Number.isSafeInteger(parseSize(text))).toBe(true);
        } catch (error) {
          expect(error).toMatchObject({ code: 'BAD_SPEC' });
        }
      }),
    );
  });

  test.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [1536, '1.5 KiB'],
    [1024 * 1024 - 1, '1 MiB'],
    [20 * 2 ** 30, '20 GiB'],
    [Number.MAX_SAFE_INTEGER, '8 PiB'],
  ])('%d prints as %s', (bytes, text) => expect(formatSize(bytes)).toBe(text));

  test('what is printed names the bytes exactly', () => {
    expect(formatExactSize(20 * 2 ** 30)).toBe('20 GiB (21474836480 bytes)');
    fc.assert(
      fc.property(fc.maxSafeNat(), (bytes) => {
        expect(formatExactSize(bytes)).toContain(`${bytes} bytes`);
      }),
    );
  });
});

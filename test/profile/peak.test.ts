import { expect, test } from 'vitest';
import { type Filling, peakInWords, peakOf } from '../../src/profile/peak.ts';

const GIB = 2n ** 30n;

test.each<[Filling, bigint, string]>([
  [
    { size: 10n * GIB, populator: false },
    10n * GIB,
    'needs 10737418240 bytes of claims at its peak: 10737418240 for itself',
  ],
  [
    { size: 10n * GIB, populator: true },
    20n * GIB,
    'needs 21474836480 bytes of claims at its peak: 10737418240 for itself, 10737418240 for the claim that is filled in its place',
  ],
  [
    { size: 10n * GIB, populator: true, scratch: 3n * GIB },
    23n * GIB,
    'needs 24696061952 bytes of claims at its peak: 10737418240 for itself, 10737418240 for the claim that is filled in its place, 3221225472 for scratch space',
  ],
  [
    { size: 2n ** 63n - 1n, populator: false, scratch: 1n },
    2n ** 63n,
    'needs 9223372036854775808 bytes of claims at its peak: 9223372036854775807 for itself, 1 for scratch space',
  ],
])('peak of $0.size, populator $0.populator, scratch $0.scratch', (filling, peak, words) => {
  expect(peakOf(filling)).toBe(peak);
  expect(peakInWords(filling)).toBe(words);
});

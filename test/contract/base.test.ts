import { expect, test } from 'vitest';
import { admitBase } from '../../src/dataplane/base.ts';
import type { Identity } from '../../src/dataplane/identity.ts';
import type { Recovered, TargetFacts } from '../../src/dataplane/native.ts';

const MINE: Identity = { name: 'disk', length: 100, state: 'c', changedSince: 'b' };
const facts: TargetFacts = { kind: 'file', exists: true, length: 100, capacity: 100, logicalBlock: 512 };
const finished = (identity: Partial<Identity>): Recovered => ({
  kind: 'finished',
  identity: JSON.stringify({ name: 'disk', length: 100, ...identity }),
  diskDigest: 'dd1:00',
  virtualSize: 100,
});
const unfinished = (identity: Partial<Identity>, kind: 'checkpoint' | 'finishing' = 'checkpoint'): Recovered => ({
  kind,
  identity: JSON.stringify(identity),
  watermark: 0,
  way: 'seek',
  resumes: 0,
});
const admitted = (recovered: Recovered, more: Partial<TargetFacts> = {}, force = false): boolean =>
  admitBase({ facts: { ...facts, ...more }, recovered }, { identity: MINE, length: 100, target: 'T', force });

test('onto the state before, or onto what nothing is known of', () => {
  for (const recovered of [
    { kind: 'nothing' } as const,
    finished({ state: 'b' }),
    finished({ state: 'b', changedSince: 'a' }),
    finished({}),
    finished(MINE),
  ])
    expect(admitted(recovered)).toBe(false);
  expect(admitted({ kind: 'nothing' }, { length: 200 })).toBe(false);
});

test('on with its own', () => {
  expect(admitted(unfinished(MINE))).toBe(true);
  expect(admitted(unfinished(MINE, 'finishing'))).toBe(true);
  const cut: Recovered = { kind: 'finishing', identity: 'cut', watermark: 0, way: 'seek', resumes: 0 };
  expect(admitted(cut)).toBe(true);
});

test.each<[string, Recovered, RegExp, Partial<TargetFacts>?]>([
  ['another disk', finished({ name: 'other' }), /holds a disk of other/],
  [
    'another state',
    finished({ state: 'a' }),
    /holds the disk as it was at a: the changes belong onto the disk as it was at b/,
  ],
  ['a later state', finished({ state: 'd', changedSince: 'c' }), /as it was at d/],
  [
    'an import that is not finished',
    unfinished({ name: 'disk', length: 100, state: 'b' }),
    /unfinished transfer of disk/,
  ],
  ['other changes half way', unfinished({ ...MINE, changedSince: 'a' }), /unfinished transfer of disk/],
  ["another host's", { kind: 'foreign' }, /another host or user/],
  ['nothing', { kind: 'nothing' }, /does not exist/, { exists: false, length: 0 }],
  ['a shorter disk', { kind: 'nothing' }, /has 99 bytes and the disk 100/, { length: 99 }],
])('not onto %s', (_, recovered, message, more = {}) => {
  expect(() => admitted(recovered, more)).toThrow(message);
});

test('a person may say what a finished disk is, not what an unfinished one is', () => {
  expect(admitted(finished({ name: 'other' }), {}, true)).toBe(false);
  expect(() => admitted(unfinished({ name: 'other' }), {}, true)).toThrow(/unfinished/);
});

// What counts as a change of a spec. Semantic equality, as Go clients and kubectl write the same spec in several ways.
import { expect, test } from 'vitest';
import { differenceOf } from '../../src/apiserver/admission/difference.ts';

const STORAGE = { storage: { resources: { requests: { storage: '1Gi' } } } };
const sized = (storage: unknown): object => ({ storage: { resources: { requests: { storage } } } });

test.each<[what: string, before: unknown, after: unknown, difference: string | undefined]>([
  ['nothing', undefined, undefined, undefined],
  ['the order of fields', { a: 1, b: 2 }, { b: 2, a: 1 }, undefined],
  ['a field that is null', { a: 1, b: null }, { a: 1 }, undefined],
  ['a list that is empty', { checkpoints: [] }, {}, undefined],
  ['a text that is empty', { priorityClassName: '' }, {}, undefined],
  ['what is false', { finalCheckpoint: false }, {}, undefined],
  ['what is true', { finalCheckpoint: true }, {}, 'spec.finalCheckpoint'],
  ['the class without a name', { storage: { storageClassName: '' } }, { storage: {} }, 'spec.storage.storageClassName'],
  ['preallocation', { preallocation: false }, {}, 'spec.preallocation'],
  ['a quantity in other words', STORAGE, sized('1024Mi'), undefined],
  ['a quantity as a number', STORAGE, sized(1073741824), undefined],
  ['another quantity', STORAGE, sized('1G'), 'spec.storage.resources.requests.storage'],
  ['what looks like a quantity elsewhere', { a: '1Gi' }, { a: '1024Mi' }, 'spec.a'],
  ['hollow resources', { storage: { resources: { limits: {} } } }, { storage: {} }, undefined],
  ['an upload', { source: { upload: {} } }, { source: {} }, 'spec.source.upload'],
  ['an upload in place of a blank disk', { source: { upload: {} } }, { source: { blank: {} } }, 'spec.source.upload'],
  ['a selector of all', { storage: { selector: {} } }, { storage: {} }, 'spec.storage.selector'],
  ['the order of a list', { a: ['b', 'c'] }, { a: ['c', 'b'] }, 'spec.a[0]'],
  ['the length of a list', { a: ['b'] }, { a: ['b', ''] }, 'spec.a'],
  ['a value of another kind', { a: { b: 1 } }, { a: [1] }, 'spec.a'],
  ['the whole', { a: 1 }, undefined, 'spec'],
])('%s', (_, before, after, difference) => {
  expect(differenceOf(before, after, 'spec')).toBe(difference);
  expect(differenceOf(after, before, 'spec') === undefined).toBe(difference === undefined);
});

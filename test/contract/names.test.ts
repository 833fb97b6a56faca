// Names of what CDI makes of an object: clients look for them. The hashes were computed with Go's hash/fnv.
import { expect, test } from 'vitest';
import { resourceName, serviceName, uploadPodName } from '../../src/api/names.ts';

test('what fits is base-suffix, and a service has no dots', () => {
  expect(uploadPodName('my.disk')).toBe('cdi-upload-my.disk');
  expect(serviceName(uploadPodName('my.disk'))).toBe('cdi-upload-my-disk');
  expect(resourceName('foobar', 's'.repeat(246))).toBe(`foobar-${'s'.repeat(246)}`);
});

test('of what does not fit the base is shortened, and its hash says which it was', () => {
  expect(uploadPodName('s'.repeat(243))).toBe(`-39173ad5-${'s'.repeat(243)}`);
  expect(uploadPodName('s'.repeat(242))).toBe(`cdi-upload-${'s'.repeat(242)}`);
});

test('a suffix that leaves no room for the base is in the hash alone', () => {
  expect(resourceName('foobar', 's'.repeat(248))).toBe('foobar-0b5f8897');
});

test('a service of a long name keeps its beginning and says cdi', () => {
  const name = serviceName(`cdi-upload-${'a.'.repeat(40)}z`);
  expect(name).toBe(`${`cdi-upload-${'a-'.repeat(40)}z`.slice(0, 50)}-791c0106-cdi`);
  expect(name).toHaveLength(63);
});

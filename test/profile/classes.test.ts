import { describe, expect, test } from 'vitest';
import { classFor, classOf, hasCsiDriver, waitsForConsumer } from '../../src/profile/classes.ts';
import { overheadOf } from '../../src/profile/overhead.ts';
import { IS_DEFAULT, IS_VIRT_DEFAULT, storageClass } from './cluster.ts';

const at = (name: string, creationTimestamp: string, annotations: Record<string, string>) =>
  storageClass(name, { metadata: { creationTimestamp, annotations } });

describe('the default class', () => {
  const old = at('a', '2026-01-01T00:00:00Z', IS_DEFAULT);
  const young = at('z', '2026-02-01T00:00:00Z', IS_DEFAULT);
  const virt = at('virt', '2025-01-01T00:00:00Z', IS_VIRT_DEFAULT);
  const off = at('off', '2027-01-01T00:00:00Z', { 'storageclass.kubernetes.io/is-default-class': 'false' });
  test.each([
    ['is the only one', [off, old], undefined, 'a'],
    ['is the newest', [old, young, off], undefined, 'z'],
    ['is the newest in any order', [young, old], undefined, 'z'],
    ['is the first by name of one time', [at('c', '2026-02-01T00:00:00Z', IS_DEFAULT), young], undefined, 'c'],
    ['is of virtual machines', [young, virt], undefined, 'virt'],
    ['is of virtual machines for what is not known', [young, virt], 'other', 'virt'],
    ['is not of virtual machines for files', [young, virt], 'archive', 'z'],
    ['is not there', [off], undefined, undefined],
    ['is not of virtual machines alone for files', [virt], 'archive', undefined],
  ])('%s', (_, classes, contentType, name) =>
    expect(classFor(undefined, classes, contentType)?.metadata?.name).toBe(name),
  );

  test('is Kubernetes’ own where no claim is made', () =>
    expect(classOf(undefined, [virt, old])?.metadata?.name).toBe('a'));

  test('does not stand in for a name', () => {
    expect(classFor('gone', [virt, old], undefined)).toBeUndefined();
    expect(classFor('', [virt, old], undefined)).toBeUndefined();
    expect(classFor('a', [virt, old], undefined)).toBe(old);
  });
});

describe('the overhead', () => {
  const classes = [at('fast', '2026-01-01T00:00:00Z', IS_DEFAULT), at('virt', '2026-01-01T00:00:00Z', IS_VIRT_DEFAULT)];
  const config = (storageClasses: Record<string, string>, global?: string) => ({
    status: { filesystemOverhead: { ...(global === undefined ? {} : { global }), storageClass: storageClasses } },
  });
  const both = config({ fast: '0.1', virt: '0.2', gone: '0.3' }, '0.4');
  test.each([
    ['of the class', 'virt', classes, both, 0.2],
    ['of Kubernetes’ default', undefined, classes, both, 0.1],
    ['of Kubernetes’ default for a class that is gone', 'gone', classes, both, 0.1],
    ['of all where there is no default', 'gone', [], both, 0.4],
    ['of all for a class that is not listed', 'virt', classes, config({}, '0.4'), 0.4],
    ['of volumes without a class', '', classes, both, 0],
    ['before there is a configuration', 'fast', classes, undefined, 0.06],
    ['where nothing that is said is one', 'fast', classes, config({ fast: 'much' }, '2'), 0.06],
  ])('%s', (_, name, known, seen, overhead) => expect(overheadOf(name, known, seen)).toBe(overhead));
});

test('claims wait for a consumer where the class says so', () => {
  expect(waitsForConsumer(storageClass('a', { volumeBindingMode: 'WaitForFirstConsumer' }))).toBe(true);
  expect(waitsForConsumer(storageClass('a', { volumeBindingMode: 'Immediate' }))).toBe(false);
  expect(waitsForConsumer(storageClass('a'))).toBe(false);
  expect(waitsForConsumer(undefined)).toBe(false);
});

test('a driver is there by the name of the provisioner', () => {
  const drivers = [{ metadata: { name: 'csi.example.com' }, spec: {} }];
  expect(hasCsiDriver(storageClass('a'), drivers)).toBe(true);
  expect(hasCsiDriver(storageClass('a', { provisioner: 'rancher.io/local-path' }), drivers)).toBe(false);
  expect(hasCsiDriver(undefined, drivers)).toBe(false);
});

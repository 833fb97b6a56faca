import { describe, expect, test } from 'vitest';
import type { Cdi, CdiConfigSpec } from '../../src/api/config.ts';
import { configOf, hasGate } from '../../src/profile/config.ts';
import { storageClass } from './cluster.ts';

const storageClasses = [storageClass('slow'), storageClass('fast')];
const HANDED_OVER = { 'cdi.kubevirt.io/configAuthority': '' };
const status = (config: CdiConfigSpec): ReturnType<typeof configOf>['status'] =>
  configOf({ cdi: { spec: { config } }, storageClasses }).status;

test('nothing configured is the defaults', () =>
  expect(configOf({ storageClasses })).toEqual({
    spec: {},
    status: {
      scratchSpaceStorageClass: '',
      defaultPodResourceRequirements: {
        limits: { cpu: '750m', memory: '600M' },
        requests: { cpu: '100m', memory: '60M' },
      },
      filesystemOverhead: { global: '0.06', storageClass: { fast: '0.06', slow: '0.06' } },
      preallocation: false,
      imagePullSecrets: [],
    },
  }));

describe('the spec', () => {
  const own = { spec: { logVerbosity: 3 } };
  const cdi = (annotations: Record<string, string>, config?: CdiConfigSpec): Cdi => ({
    metadata: { annotations },
    spec: config === undefined ? {} : { config },
  });
  test.each<[string, Parameters<typeof configOf>[0], CdiConfigSpec]>([
    ['is its own', { cdiConfig: own, storageClasses }, { logVerbosity: 3 }],
    ['stays its own', { cdi: cdi({}), cdiConfig: own, storageClasses }, { logVerbosity: 3 }],
    [
      'is of the CDI',
      { cdi: cdi({}, { preallocation: true }), cdiConfig: own, storageClasses },
      { preallocation: true },
    ],
    ['is of the CDI once handed over', { cdi: cdi(HANDED_OVER), cdiConfig: own, storageClasses }, {}],
    ['is of the CDI even if empty', { cdi: cdi(HANDED_OVER, {}), cdiConfig: own, storageClasses }, {}],
  ])('%s', (_, seen, spec) => expect(configOf(seen).spec).toEqual(spec));
});

describe('overheads', () => {
  test.each<[NonNullable<CdiConfigSpec['filesystemOverhead']>, object]>([
    [{ global: '0.1' }, { global: '0.1', storageClass: { fast: '0.1', slow: '0.1' } }],
    [{ storageClass: { fast: '0.2' } }, { global: '0.06', storageClass: { fast: '0.2', slow: '0.06' } }],
    [{ storageClass: { gone: '0.2' } }, { global: '0.06', storageClass: { fast: '0.06', slow: '0.06' } }],
    [
      { global: '1', storageClass: { fast: '0' } },
      { global: '1', storageClass: { fast: '0', slow: '1' } },
    ],
    [{ global: '1.1' }, { global: '0.06', storageClass: { fast: '0.06', slow: '0.06' } }],
    [{ global: '0.0625' }, { global: '0.06', storageClass: { fast: '0.06', slow: '0.06' } }],
    [{ storageClass: { fast: 'much' } }, { global: '0.06', storageClass: { fast: '0.06', slow: '0.06' } }],
  ])('%j', (filesystemOverhead, shown) => expect(status({ filesystemOverhead }).filesystemOverhead).toEqual(shown));
});

test('resources of pods are each their own', () => {
  const asked = { limits: { memory: '1Gi', 'example.com/gpu': '1' }, requests: { cpu: '1' } };
  expect(status({ podResourceRequirements: asked }).defaultPodResourceRequirements).toEqual({
    limits: { cpu: '750m', memory: '1Gi' },
    requests: { cpu: '1', memory: '60M' },
  });
});

test('scratch space is of a class that is there', () => {
  expect(status({ scratchSpaceStorageClass: 'fast' }).scratchSpaceStorageClass).toBe('fast');
  expect(status({ scratchSpaceStorageClass: 'gone' }).scratchSpaceStorageClass).toBe('');
});

test('proxies are what is said of them, or what is found', () => {
  const found = { uploadProxyURL: 'upload.example.com', uploadProxyCA: 'PEM', clusterProxy: { HTTPProxy: 'http://a' } };
  expect(configOf({ ...found, storageClasses }).status).toMatchObject({
    uploadProxyURL: 'upload.example.com',
    uploadProxyCA: 'PEM',
    importProxy: { HTTPProxy: 'http://a' },
  });
  const config = { uploadProxyURLOverride: 'https://mine', importProxy: { noProxy: 'b' } };
  expect(configOf({ ...found, cdi: { spec: { config } }, storageClasses }).status).toMatchObject({
    uploadProxyURL: 'https://mine',
    importProxy: { noProxy: 'b' },
  });
});

test('what is said of pods and volumes is shown', () =>
  expect(status({ preallocation: true, imagePullSecrets: [{ name: 'registry' }] })).toMatchObject({
    preallocation: true,
    imagePullSecrets: [{ name: 'registry' }],
  }));

test('gates are off that are not named', () => {
  const config = { spec: { featureGates: ['HonorWaitForFirstConsumer'] } };
  expect(hasGate(config, 'HonorWaitForFirstConsumer')).toBe(true);
  expect(hasGate(config, 'DataVolumeClaimAdoption')).toBe(false);
  expect(hasGate(undefined, 'HonorWaitForFirstConsumer')).toBe(false);
});

import { describe, expect, test } from 'vitest';
import { type ProfileSeen, profileLabels } from '../../src/profile/info.ts';
import { IS_DEFAULT, IS_VIRT_DEFAULT, profile, storageClass } from './cluster.ts';

const DRIVER = 'csi.example.com';

function labels(sets: string, strategy: string | undefined, more: Partial<ProfileSeen> = {}) {
  const one = profile('a', sets);
  return profileLabels({
    storageClass: storageClass('a'),
    profile: { ...one, status: { ...one.status, ...(strategy === undefined ? {} : { cloneStrategy: strategy }) } },
    snapshotClasses: [{ driver: DRIVER }],
    csiDrivers: [{ metadata: { name: DRIVER }, spec: {} }],
    singleNode: false,
    ...more,
  });
}

test('are texts', () =>
  expect(labels('RWX-B RWO-F', 'snapshot')).toEqual({
    storageclass: 'a',
    provisioner: DRIVER,
    complete: 'true',
    default: 'false',
    virtdefault: 'false',
    rwx: 'true',
    smartclone: 'true',
    degraded: 'false',
  }));

test('of defaults', () => {
  const of = (annotations: Record<string, string>) =>
    labels('RWX-B', 'copy', { storageClass: storageClass('a', { metadata: { annotations } }) });
  expect(of(IS_DEFAULT)).toMatchObject({ default: 'true', virtdefault: 'false' });
  expect(of(IS_VIRT_DEFAULT)).toMatchObject({ default: 'false', virtdefault: 'true' });
});

describe('smartclone', () => {
  test.each<[string | undefined, Partial<ProfileSeen>, string]>([
    ['csi-clone', {}, 'true'],
    ['csi-clone', { csiDrivers: [] }, 'false'],
    ['csi-clone', { snapshotClasses: [] }, 'true'],
    ['snapshot', {}, 'true'],
    ['snapshot', { csiDrivers: [] }, 'true'],
    ['snapshot', { snapshotClasses: [{ driver: 'other' }] }, 'false'],
    [undefined, {}, 'true'],
    [undefined, { snapshotClasses: [] }, 'false'],
    ['copy', {}, 'false'],
  ])('%s %j', (strategy, more, smart) => expect(labels('RWX-B', strategy, more).smartclone).toBe(smart));
});

describe('degraded', () => {
  test.each<[string, string, boolean, string]>([
    ['RWX-B', 'snapshot', false, 'false'],
    ['RWO-B', 'snapshot', false, 'true'],
    ['RWO-B', 'snapshot', true, 'false'],
    ['RWX-B', 'copy', true, 'true'],
  ])('%s %s, single node: %s', (sets, strategy, singleNode, degraded) =>
    expect(labels(sets, strategy, { singleNode }).degraded).toBe(degraded),
  );
});

describe('complete', () => {
  test.each<[string, string, string]>([
    ['', DRIVER, 'false'],
    ['RWO-F', DRIVER, 'true'],
    ['', 'openshift-storage.noobaa.io/obc', 'true'],
    ['', 'kubernetes.io/no-provisioner', 'true'],
  ])('%j of %s', (sets, provisioner, complete) =>
    expect(labels(sets, 'copy', { storageClass: storageClass('a', { provisioner }) }).complete).toBe(complete),
  );

  test('not with a set that lacks a mode', () => {
    const status = {
      claimPropertySets: [{ accessModes: ['ReadWriteOnce'], volumeMode: 'Block' }, { volumeMode: 'Block' }],
    };
    expect(labels('', 'copy', { profile: { status } }).complete).toBe('false');
  });
});

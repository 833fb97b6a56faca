import type { PersistentVolume } from 'kubernetes-types/core/v1.js';
import type { StorageClass } from 'kubernetes-types/storage/v1.js';
import { describe, expect, test } from 'vitest';
import { parseQuantity } from '../../src/api/quantity.ts';
import type { SnapshotClass } from '../../src/api/snapshot-class.ts';
import type { StorageProfile, StorageProfileSpec } from '../../src/api/storage-profile.ts';
import { CAPABILITIES } from '../../src/profile/capabilities.ts';
import { type Profiled, profileOf, type SeenOfClass } from '../../src/profile/profile.ts';
import { storageClass, volume } from './cluster.ts';

const NOW = '2026-03-01T00:00:00Z';
const LATER = '2026-04-01T00:00:00Z';
const ROOK = 'rook-ceph.rbd.csi.ceph.com';
const GKE = 'pd.csi.storage.gke.io';
const MINIMUM = 'cdi.kubevirt.io/minimumSupportedPvcSize';

const snapshots = (name: string, driver: string, more: Partial<SnapshotClass> = {}): SnapshotClass => ({
  driver,
  ...more,
  metadata: { name, ...more.metadata },
});

function profiled(of: Partial<SeenOfClass> & { provisioner?: string; spec?: StorageProfileSpec }): Profiled {
  const { provisioner = 'csi.example.com', spec, ...seen } = of;
  const profile: StorageProfile | undefined = spec && { metadata: { name: 'a' }, spec };
  return profileOf({
    storageClass: storageClass('a', { provisioner }),
    profile,
    snapshotClasses: undefined,
    volumes: [],
    now: NOW,
    ...seen,
  });
}

/** `RWX-B`: as in the table. */
const letters = ({ claimPropertySets = [] }: Profiled['status']): string =>
  claimPropertySets
    .map(({ accessModes = [], volumeMode }) => {
      const short = { ReadWriteMany: 'RWX', ReadWriteOnce: 'RWO', ReadOnlyMany: 'ROX', ReadWriteOncePod: 'RWOP' };
      return `${accessModes.map((mode) => short[mode as 'ReadOnlyMany'])}-${volumeMode?.[0]}`;
    })
    .join(' ');

test('of a provisioner that nobody knows', () =>
  expect(profiled({})).toEqual({
    annotations: {},
    status: {
      storageClass: 'a',
      provisioner: 'csi.example.com',
      cloneStrategy: 'copy',
      claimPropertySets: [],
      dataImportCronSourceFormat: 'pvc',
      conditions: [
        {
          type: 'Recognized',
          status: 'False',
          reason: 'UnrecognizedProvisioner',
          message: 'Provisioner is not recognized',
          lastTransitionTime: NOW,
          lastHeartbeatTime: NOW,
        },
      ],
    },
  }));

// Rows of which more is known than modes, with and without snapshots: clone strategy and format.
describe('with snapshots', () => {
  test.each<[string, Record<string, string>, string, string, string, string | undefined]>([
    ['csi.example.com', {}, '', 'snapshot pvc', 'copy pvc', undefined],
    ['kubevirt.io.hostpath-provisioner', {}, 'RWO-F', 'snapshot pvc', 'copy pvc', undefined],
    ['nfs.csi.k8s.io', {}, 'RWX-F', 'snapshot pvc', 'copy pvc', undefined],
    ['rbd.csi.ceph.com', {}, 'RWX-B RWO-B RWO-F', 'csi-clone pvc', 'csi-clone pvc', undefined],
    [ROOK, {}, 'RWX-B RWO-B RWO-F', 'csi-clone snapshot', 'csi-clone pvc', undefined],
    ['openshift-storage.rbd.csi.ceph.com', {}, 'RWX-B RWO-B RWO-F', 'csi-clone snapshot', 'csi-clone pvc', undefined],
    ['cephfs.csi.ceph.com', {}, 'RWX-F RWO-F', 'csi-clone pvc', 'csi-clone pvc', undefined],
    ['linstor.csi.linbit.com', {}, 'RWX-B RWO-B RWO-F ROX-B ROX-F', 'snapshot pvc', 'copy pvc', undefined],
    ['csi-vxflexos.dellemc.com', {}, 'RWX-B RWO-B RWO-F ROX-B ROX-F', 'csi-clone pvc', 'csi-clone pvc', undefined],
    ['csi-isilon.dellemc.com', {}, 'RWX-F RWO-F ROX-F', 'csi-clone pvc', 'csi-clone pvc', undefined],
    ['csi-powermax.dellemc.com', {}, 'RWX-B RWO-B RWO-F ROX-B', 'csi-clone pvc', 'csi-clone pvc', undefined],
    ['csi-powerstore.dellemc.com', {}, 'RWX-B RWO-B RWO-F ROX-B', 'copy pvc', 'copy pvc', undefined],
    ['ebs.csi.aws.com', { type: 'io1' }, 'RWO-B', 'snapshot pvc', 'copy pvc', '4Gi'],
    ['ebs.csi.aws.com', { type: 'io2' }, 'RWX-B RWO-B RWO-F', 'snapshot pvc', 'copy pvc', '4Gi'],
    ['ebs.csi.aws.com', { type: 'gp3' }, 'RWO-B', 'snapshot pvc', 'copy pvc', '1Gi'],
    ['ebs.csi.aws.com', {}, 'RWO-B', 'snapshot pvc', 'copy pvc', undefined],
    [GKE, {}, 'RWO-B RWO-F', 'snapshot snapshot', 'copy pvc', undefined],
    [GKE, { type: 'hyperdisk-balanced' }, 'RWX-B RWO-B RWO-F', 'snapshot snapshot', 'copy pvc', '4Gi'],
    ['hspc.csi.hitachi.com', {}, 'RWX-B RWO-B RWO-F', 'csi-clone pvc', 'csi-clone pvc', '1Gi'],
    ['xspc.csi.hpe.com', {}, '', 'snapshot pvc', 'copy pvc', '1Gi'],
    ['csi.hpe.com', {}, 'RWX-B RWO-B RWO-F', 'csi-clone pvc', 'csi-clone pvc', undefined],
    ['spectrumscale.csi.ibm.com', {}, 'RWX-F RWO-F', 'csi-clone pvc', 'csi-clone pvc', undefined],
    ['block.csi.ibm.com', {}, 'RWX-B RWO-B RWO-F', 'csi-clone pvc', 'csi-clone pvc', undefined],
    ['vpc.block.csi.ibm.io', {}, 'RWO-B RWO-F', 'copy pvc', 'copy pvc', undefined],
    ['vpc.file.csi.ibm.io', {}, 'RWX-F RWO-F', 'snapshot snapshot', 'copy pvc', undefined],
    ['vpc.file.csi.ibm.io', { profile: 'dp2' }, 'RWX-F RWO-F', 'snapshot snapshot', 'copy pvc', '10Gi'],
    ['vpc.file.csi.ibm.io', { profile: 'rfs', vmState: 'true' }, 'RWO-F', 'snapshot snapshot', 'copy pvc', '1Gi'],
    ['pxd.portworx.com', {}, 'RWX-B RWX-F RWO-B RWO-F', 'csi-clone pvc', 'csi-clone pvc', undefined],
    ['csi.trident.netapp.io', { backendType: 'ontap-nas' }, 'RWX-F RWO-F', 'snapshot snapshot', 'copy pvc', undefined],
    ['csi.trident.netapp.io', { backendType: 'ontap-san' }, 'RWX-B', 'snapshot snapshot', 'copy pvc', undefined],
    ['topolvm.io', {}, 'RWO-B RWO-F', 'copy pvc', 'copy pvc', undefined],
    ['infinibox-csi-driver', { storage_protocol: 'nfs' }, 'RWX-F RWO-F', 'csi-clone pvc', 'csi-clone pvc', undefined],
    [
      'csi.vsphere.vmware.com',
      { 'csi.storage.k8s.io/fstype': 'nfs4' },
      'RWX-F RWO-B RWO-F',
      'snapshot pvc',
      'copy pvc',
      undefined,
    ],
    ['kubesan.gitlab.io', {}, 'RWX-B ROX-B RWO-B RWO-F', 'csi-clone pvc', 'csi-clone pvc', undefined],
    ['driver.longhorn.io', { migratable: 'true' }, 'RWX-B RWO-B', 'snapshot pvc', 'copy pvc', undefined],
    ['blockvolume.csi.oraclecloud.com', {}, 'RWX-B RWO-B RWO-F', 'csi-clone pvc', 'csi-clone pvc', undefined],
    ['csi.san.synology.com', {}, 'RWX-B RWO-B RWO-F', 'csi-clone pvc', 'csi-clone pvc', '1Gi'],
    ['directpv-min-io', {}, 'RWO-F', 'snapshot pvc', 'copy pvc', undefined],
  ])('%s %j', (provisioner, parameters, sets, having, without, minimum) => {
    const of: StorageClass = storageClass('a', { provisioner, parameters });
    const one = profiled({ storageClass: of, snapshotClasses: [snapshots('s', provisioner)] });
    expect(letters(one.status)).toBe(sets);
    expect(`${one.status.cloneStrategy} ${one.status.dataImportCronSourceFormat}`).toBe(having);
    expect(one.annotations[MINIMUM]).toBe(minimum);
    for (const snapshotClasses of [undefined, [], [snapshots('s', 'other')]]) {
      const { status } = profiled({ storageClass: of, snapshotClasses });
      expect(`${status.cloneStrategy} ${status.dataImportCronSourceFormat}`).toBe(without);
      expect(status.snapshotClass).toBeUndefined();
    }
  });

  test('every row has modes that Kubernetes knows, and minimums that are sizes', () => {
    expect(Object.keys(CAPABILITIES)).toHaveLength(80);
    for (const [key, { sets, minimum }] of Object.entries(CAPABILITIES)) {
      if (key !== 'xspc.csi.hpe.com') expect([key, sets.length > 0]).toEqual([key, true]);
      for (const set of sets)
        expect(set.accessModes).toEqual([expect.stringMatching(/^Read(WriteMany|WriteOnce|OnlyMany)$/)]);
      expect(new Set(sets.map((set) => JSON.stringify(set))).size).toBe(sets.length);
      if (minimum) expect(parseQuantity(minimum)).toBeGreaterThan(0n);
    }
  });
});

describe('the snapshot class', () => {
  const chosen = { 'snapshot.storage.kubernetes.io/is-default-class': 'true' };
  const [b, c] = [snapshots('b', ROOK), snapshots('c', ROOK)];
  const d = snapshots('d', ROOK, { metadata: { annotations: chosen } });
  const other = snapshots('a', 'other', { metadata: { annotations: chosen } });
  test.each<[string, SnapshotClass[], StorageProfileSpec, string | undefined]>([
    ['is the first of the driver', [other, c, b], {}, 'b'],
    ['is the default of the driver', [other, c, b, d], {}, 'd'],
    ['is the one that is asked for', [c, b, d], { snapshotClass: 'c' }, 'c'],
    ['is not of another driver', [other, d], { snapshotClass: 'a' }, 'd'],
    ['is not one that is gone', [b], { snapshotClass: 'gone' }, 'b'],
    ['is none', [other], { snapshotClass: 'a' }, undefined],
  ])('%s', (_, snapshotClasses, spec, name) =>
    expect(profiled({ provisioner: ROOK, snapshotClasses, spec }).status.snapshotClass).toBe(name),
  );

  test('is not named once it is gone', () => {
    const before = profiled({ provisioner: ROOK, snapshotClasses: [b] }).status;
    expect(profiled({ provisioner: ROOK, profile: { status: before } }).status.snapshotClass).toBeUndefined();
  });
});

describe('what is said', () => {
  const annotated = (strategy: string): StorageClass =>
    storageClass('a', { provisioner: ROOK, metadata: { annotations: { 'cdi.kubevirt.io/clone-strategy': strategy } } });
  test.each<[string, StorageClass, StorageProfileSpec, string | undefined]>([
    ['by the class', annotated('copy'), {}, 'copy'],
    ['by the class, of snapshots that are not there', annotated('snapshot'), {}, 'snapshot'],
    ['by the class, that is unknown', annotated('teleport'), {}, undefined],
    ['by the profile', annotated('copy'), { cloneStrategy: 'snapshot' }, 'snapshot'],
  ])('%s is how volumes are cloned', (_, of, spec, strategy) =>
    expect(profiled({ storageClass: of, spec }).status.cloneStrategy).toBe(strategy),
  );

  test('by the profile is what crons keep, with or without snapshots', () => {
    const spec = { dataImportCronSourceFormat: 'snapshot' };
    expect(profiled({ spec }).status.dataImportCronSourceFormat).toBe('snapshot');
  });

  test('by the profile are the modes, but for sets that lack one', () => {
    const good = { accessModes: ['ReadWriteMany', 'ReadOnlyMany'], volumeMode: 'Filesystem' };
    const halves = [
      { volumeMode: 'Block', accessModes: [] },
      { accessModes: ['ReadWriteOnce'] },
      { volumeMode: 'Block' },
    ];
    const sets = (claimPropertySets: object[]) => profiled({ provisioner: ROOK, spec: { claimPropertySets } }).status;
    expect(sets([halves[0] ?? {}, good]).claimPropertySets).toEqual([good]);
    expect(letters(sets(halves))).toBe('RWX-B RWO-B RWO-F');
    expect(letters(sets([]))).toBe('RWX-B RWO-B RWO-F');
  });
});

describe('of volumes that are made by hand', () => {
  const at = (name: string, accessModes: string[], volumeMode?: string, storageClassName = 'a'): PersistentVolume =>
    volume(name, { storageClassName, accessModes, ...(volumeMode ? { volumeMode } : {}) });
  const of = (...volumes: PersistentVolume[]) => profiled({ provisioner: 'kubernetes.io/no-provisioner', volumes });
  test.each<[string, PersistentVolume[], string]>([
    ['none', [], ''],
    ['a device', [at('1', ['ReadWriteOnce'], 'Block')], 'RWO-B'],
    ['a file system', [at('1', ['ReadWriteOnce'], 'Filesystem')], 'RWO-F'],
    ['nothing said', [at('1', ['ReadWriteOnce'])], 'RWO-F'],
    ['several modes', [at('1', ['ReadOnlyMany', 'ReadWriteOnce', 'ReadWriteMany'])], 'RWX-F RWO-F ROX-F'],
    ['several alike', [at('1', ['ReadWriteOnce']), at('2', ['ReadWriteOnce'])], 'RWO-F'],
    [
      'several',
      [at('1', ['ReadWriteOnce']), at('2', ['ReadWriteOncePod', 'ReadWriteOnce'], 'Block')],
      'RWO-B RWO-F RWOP-B',
    ],
    ['another class', [at('1', ['ReadWriteOnce'], 'Block', 'b'), at('2', ['ReadWriteOnce'], 'Block', '')], ''],
  ])('%s', (_, volumes, sets) => {
    expect(letters(of(...volumes).status)).toBe(sets);
    expect(of(...volumes.toReversed())).toEqual(of(...volumes));
    expect(of(...volumes).status.conditions?.[0]?.reason).toBe('RecognizedProvisioner');
  });

  test('what their profile says holds', () => {
    const claimPropertySets = [{ accessModes: ['ReadWriteOnce'], volumeMode: 'Block' }];
    const one = profiled({
      provisioner: 'kubernetes.io/no-provisioner',
      spec: { claimPropertySets },
      volumes: [at('1', ['ReadWriteMany'])],
    });
    expect(letters(one.status)).toBe('RWO-B');
  });
});

describe('annotations', () => {
  const images = { parameters: { 'snapshot-type': 'images' } };
  const snapshotClasses = [
    snapshots('plain', GKE),
    snapshots('y', GKE, images),
    snapshots('x', GKE, images),
    snapshots('a', 'b', images),
  ];
  const of = (there: Record<string, string>, more: Partial<SeenOfClass> = {}) =>
    profiled({
      storageClass: storageClass('a', { provisioner: GKE, parameters: { type: 'hyperdisk-balanced' } }),
      snapshotClasses,
      profile: { metadata: { annotations: there } },
      ...more,
    }).annotations;
  const ALL = {
    [MINIMUM]: '4Gi',
    'cdi.kubevirt.io/useReadWriteOnceForDataImportCron': 'true',
    'cdi.kubevirt.io/snapshotClassForDataImportCron': 'x',
  };
  test('are added, and then left', () => {
    expect(of({})).toEqual(ALL);
    expect(of({ ...ALL, mine: 'kept' })).toEqual({});
  });
  test('of others are left: the minimum', () => expect(of({ ...ALL, [MINIMUM]: '1Gi' })).toEqual({}));
  test('of the snapshot class change with it', () => {
    const key = 'cdi.kubevirt.io/snapshotClassForDataImportCron';
    expect(of({ ...ALL, [key]: 'mine' })).toEqual({ [key]: 'x' });
    expect(of(ALL, { snapshotClasses: undefined })).toEqual({ [key]: null });
    expect(profiled({ provisioner: ROOK, snapshotClasses: [snapshots('x', ROOK, images)] }).annotations).toEqual({});
  });
});

describe('the condition', () => {
  test.each<[string, Record<string, string>, string, string, string]>([
    [ROOK, {}, 'True', 'RecognizedProvisioner', 'Provisioner is recognized'],
    ['rancher.io/local-path', {}, 'False', 'UnrecognizedProvisioner', 'Provisioner is not recognized'],
    ['constructor', {}, 'False', 'UnrecognizedProvisioner', 'Provisioner is not recognized'],
    ['xspc.csi.hpe.com', {}, 'False', 'UnrecognizedProvisioner', 'Provisioner is not recognized'],
    [
      'csi.trident.netapp.io',
      {},
      'False',
      'UnrecognizedStorageClassParameters',
      'Storage class parameters are not recognized',
    ],
    [
      'infinibox-csi-driver',
      { storage_protocol: 'x' },
      'False',
      'UnrecognizedStorageClassParameters',
      'Storage class parameters are not recognized',
    ],
  ])('of %s %j', (provisioner, parameters, status, reason, message) => {
    const { status: got } = profiled({ storageClass: storageClass('a', { provisioner, parameters }) });
    expect(got.conditions).toMatchObject([{ type: 'Recognized', status, reason, message }]);
  });

  test('keeps its times while it is the same, and each moves with what it tells of', () => {
    const first = profiled({ provisioner: ROOK });
    const again = profiled({ provisioner: ROOK, profile: { status: first.status }, now: LATER });
    expect(again).toEqual({ annotations: {}, status: first.status });
    const lost = profiled({ profile: { status: first.status }, now: LATER }).status;
    expect(lost.conditions).toMatchObject([{ status: 'False', lastTransitionTime: LATER, lastHeartbeatTime: LATER }]);
    const trident = storageClass('a', { provisioner: 'csi.trident.netapp.io' });
    const muddled = profiled({ storageClass: trident, profile: { status: lost }, now: '2026-05-01T00:00:00Z' }).status;
    expect(muddled.conditions).toMatchObject([
      { lastTransitionTime: LATER, lastHeartbeatTime: '2026-05-01T00:00:00Z' },
    ]);
  });
});

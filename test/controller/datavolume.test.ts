import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { expect, test } from 'vitest';
import { ANNOTATION } from '../../src/api/claim.ts';
import type { DataVolumeStatus } from '../../src/api/datavolume.ts';
import type { VolumeImportSource } from '../../src/api/populators.ts';
import { decideDataVolume } from '../../src/controller/decide/datavolume.ts';
import type { DataVolumeSeen } from '../../src/controller/decide/seen.ts';
import { claim, dataVolume, HTTP, importing, NOW, storageClass } from './objects.ts';
import { annotations, made, status, words } from './words.ts';

const OWNED = { kind: 'DataVolume', name: 'disk', uid: 'dv-uid' };

function seen(more: Partial<DataVolumeSeen> = {}): DataVolumeSeen {
  return {
    dv: dataVolume(),
    rendered: { spec: HTTP.pvc ?? {} },
    storageClass: storageClass(),
    csi: false,
    gates: { honorsConsumers: true, adoptsClaims: false },
    reserved: [],
    now: NOW,
    ...more,
  };
}

const conditions = (of: DataVolumeStatus | undefined) =>
  Object.fromEntries((of?.conditions ?? []).map((one) => [one.type, one]));

test('without a CSI driver the claim says itself what it is filled with', () => {
  const decisions = decideDataVolume(seen());
  expect(words(decisions)).toEqual([
    'patch DataVolume status',
    'tell Normal StoragePlanned',
    'patch DataVolume',
    'create PersistentVolumeClaim disk',
  ]);
  expect(status<DataVolumeStatus>(decisions)).toMatchObject({ phase: 'Pending', progress: 'N/A' });
  const wanted = made<PersistentVolumeClaim>(decisions, 'PersistentVolumeClaim');
  expect(wanted?.metadata?.annotations).toMatchObject({
    [ANNOTATION.source]: 'http',
    [ANNOTATION.endpoint]: 'https://images.example.org/disk.qcow2',
    [ANNOTATION.createdForDataVolume]: 'dv-uid',
    [ANNOTATION.usePopulator]: 'false',
    [ANNOTATION.contentType]: 'kubevirt',
    [ANNOTATION.preallocationRequested]: 'false',
  });
  expect(wanted?.spec?.dataSourceRef).toBeUndefined();
  expect(wanted?.metadata?.ownerReferences).toEqual([
    {
      apiVersion: 'cdi.kubevirt.io/v1beta1',
      kind: 'DataVolume',
      name: 'disk',
      uid: 'dv-uid',
      controller: true,
      blockOwnerDeletion: true,
    },
  ]);
});

test('a status that is there already is not written again', () => {
  const first = status<DataVolumeStatus>(decideDataVolume(seen({ claim: claim({ owner: OWNED, phase: 'Pending' }) })));
  // The API server sorts the keys of what it stores.
  const conditions = first?.conditions?.map((one) => Object.fromEntries(Object.entries(one).sort()) as never) ?? [];
  const dv = { ...dataVolume(), status: { ...first, conditions } };
  const later = { dv, claim: claim({ owner: OWNED, phase: 'Pending' }), now: '2026-01-02T00:00:00Z' };
  expect(words(decideDataVolume(seen(later)))).toEqual([]);
});

test('with a CSI driver a VolumeImportSource says it', () => {
  const decisions = decideDataVolume(seen({ csi: true }));
  expect(words(decisions).slice(2)).toEqual([
    'patch DataVolume',
    'create VolumeImportSource volume-import-source-dv-uid',
    'create PersistentVolumeClaim disk',
  ]);
  expect(made<VolumeImportSource>(decisions, 'VolumeImportSource')?.spec?.source).toEqual(HTTP.source);
  const wanted = made<PersistentVolumeClaim>(decisions, 'PersistentVolumeClaim');
  expect(wanted?.spec?.dataSourceRef).toEqual({
    apiGroup: 'cdi.kubevirt.io',
    kind: 'VolumeImportSource',
    name: 'volume-import-source-dv-uid',
  });
  expect(wanted?.metadata?.annotations?.[ANNOTATION.endpoint]).toBeUndefined();
});

test('its user decides between the two', () => {
  const dv = dataVolume(HTTP, { [ANNOTATION.usePopulator]: 'false' });
  expect(made(decideDataVolume(seen({ dv, csi: true })), 'VolumeImportSource')).toBeUndefined();
});

test('labels and annotations go to the claim, but what is said only after success', () => {
  const dv = dataVolume(HTTP, { mine: 'a', [ANNOTATION.populatedFor]: 'disk', [ANNOTATION.podPhase]: 'Succeeded' });
  const wanted = made<PersistentVolumeClaim>(decideDataVolume(seen({ dv })), 'PersistentVolumeClaim');
  expect(wanted?.metadata?.annotations).toMatchObject({ mine: 'a' });
  expect(wanted?.metadata?.annotations).not.toHaveProperty(ANNOTATION.populatedFor);
  expect(wanted?.metadata?.annotations?.[ANNOTATION.podPhase]).toBeUndefined();
});

test('a claim that cannot be made says why, and nothing is made', () => {
  const rendered = { reason: 'ErrClaimNotValid', message: 'no storage class' };
  const decisions = decideDataVolume(seen({ rendered }));
  expect(words(decisions)).toEqual(['patch DataVolume status', 'tell Warning ErrClaimNotValid']);
  expect(conditions(status(decisions)).Bound).toMatchObject({ status: 'False', ...rendered });
});

test('a quota that is exceeded is a condition, and heals', () => {
  const refused = { status: 403, message: 'persistentvolumeclaims "disk" is forbidden: exceeded quota: small' };
  const decisions = decideDataVolume(seen({ refused }));
  expect(words(decisions)).toEqual([
    'patch DataVolume status',
    'tell Warning ErrExceededQuota',
    'patch DataVolume',
    'create PersistentVolumeClaim disk',
    'again',
  ]);
  expect(conditions(status(decisions)).Ready).toMatchObject({
    reason: 'ErrExceededQuota',
    message: `${refused.message}; it needs 1073741824 bytes of claims at its peak: 1073741824 for itself`,
  });
});

test.each([
  [
    'a claim that waits for a consumer',
    { claim: importing({ phase: 'Pending', owner: OWNED }), storageClass: storageClass('csi', 'WaitForFirstConsumer') },
    'WaitForFirstConsumer',
  ],
  ['one that does not wait', { claim: importing({ phase: 'Pending', owner: OWNED }) }, 'Pending'],
  ['a claim that is bound', { claim: importing({ owner: OWNED }) }, 'PVCBound'],
  [
    'a pod that waits',
    {
      claim: importing({
        owner: OWNED,
        annotations: { [ANNOTATION.importPod]: 'p', [ANNOTATION.podPhase]: 'Pending' },
      }),
    },
    'ImportScheduled',
  ],
  [
    'a pod that runs',
    {
      claim: importing({
        owner: OWNED,
        annotations: { [ANNOTATION.importPod]: 'p', [ANNOTATION.podPhase]: 'Running' },
      }),
    },
    'ImportInProgress',
  ],
  [
    'a checksum that differs',
    {
      claim: importing({
        owner: OWNED,
        annotations: { [ANNOTATION.importPod]: 'p', [ANNOTATION.podPhase]: 'Failed', [ANNOTATION.fatalError]: 'true' },
      }),
    },
    'Failed',
  ],
  [
    'a pod that is done',
    {
      claim: importing({
        owner: OWNED,
        annotations: { [ANNOTATION.importPod]: 'p', [ANNOTATION.podPhase]: 'Succeeded' },
      }),
    },
    'Succeeded',
  ],
  ['a claim that is lost', { claim: importing({ phase: 'Lost', owner: OWNED }) }, 'Failed'],
  [
    'a claim to populate that waits for a consumer',
    {
      claim: claim({ phase: 'Pending', owner: OWNED, annotations: { [ANNOTATION.usePopulator]: 'true' } }),
      storageClass: storageClass('csi', 'WaitForFirstConsumer'),
    },
    'PendingPopulation',
  ],
  [
    'a claim whose prime is being filled',
    {
      claim: claim({
        phase: 'Pending',
        owner: OWNED,
        annotations: { [ANNOTATION.usePopulator]: 'true', [ANNOTATION.podPhase]: 'Running' },
      }),
      prime: importing({ name: 'prime', annotations: { [ANNOTATION.importPod]: 'p' } }),
    },
    'ImportInProgress',
  ],
  [
    'a claim whose prime is full, before it has its volume',
    {
      claim: claim({
        phase: 'Pending',
        owner: OWNED,
        annotations: { [ANNOTATION.usePopulator]: 'true', [ANNOTATION.podPhase]: 'Succeeded' },
      }),
      prime: importing({ name: 'prime' }),
    },
    'ImportInProgress',
  ],
] as const)('the phase of %s', (_, of, phase) => {
  expect(status<DataVolumeStatus>(decideDataVolume(seen(of as Partial<DataVolumeSeen>)))?.phase).toBe(phase);
});

test('success is said on the claim, and its source is not needed any more', () => {
  const source = {
    metadata: {
      name: 's',
      namespace: 'ns',
      uid: 's',
      resourceVersion: '1',
      ownerReferences: [{ apiVersion: '', controller: true, ...OWNED }],
    },
    spec: {},
  };
  const of = importing({
    owner: OWNED,
    annotations: {
      [ANNOTATION.podPhase]: 'Succeeded',
      [ANNOTATION.runningReason]: 'Completed',
      [ANNOTATION.runningMessage]: 'Import Complete',
    },
  });
  const decisions = decideDataVolume(seen({ claim: of, source }));
  expect(annotations(decisions)[ANNOTATION.populatedFor]).toBe('disk');
  expect(words(decisions)).toContain('delete VolumeImportSource s');
  const is = status<DataVolumeStatus>(decisions);
  expect(is).toMatchObject({ phase: 'Succeeded', progress: '100.0%', claimName: 'disk' });
  expect(conditions(is)).toMatchObject({
    Ready: { status: 'True' },
    Bound: { status: 'True', reason: 'Bound', message: 'PVC disk Bound' },
    Running: { status: 'False', reason: 'Completed', message: 'Import Complete' },
  });
});

test('the same seen again writes nothing', () => {
  const of = importing({
    owner: OWNED,
    annotations: {
      [ANNOTATION.importPod]: 'p',
      [ANNOTATION.podPhase]: 'Running',
      [ANNOTATION.running]: 'true',
      [ANNOTATION.runningReason]: 'Pod is running',
    },
  });
  const first = decideDataVolume(seen({ claim: of }));
  const dv = { ...dataVolume(), status: status<DataVolumeStatus>(first) as DataVolumeStatus };
  expect(decideDataVolume(seen({ dv, claim: of, now: '2026-02-02T00:00:00Z' }))).toEqual([]);
  // The API server gives the keys of what it has no type for in the order of the alphabet.
  const stored = { ...dv, status: sorted(dv.status) as DataVolumeStatus };
  expect(JSON.stringify(stored.status)).not.toBe(JSON.stringify(dv.status));
  expect(decideDataVolume(seen({ dv: stored, claim: of, now: '2026-02-02T00:00:00Z' }))).toEqual([]);
});

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, inner]) => [key, sorted(inner)]));
}

test('a claim of another is taken only where that is allowed', () => {
  const other = claim({ phase: 'Bound' });
  expect(conditions(status(decideDataVolume(seen({ claim: other })))).Bound).toMatchObject({
    reason: 'ErrResourceExists',
  });
  const dv = dataVolume(HTTP, { [ANNOTATION.allowClaimAdoption]: 'true' });
  expect(words(decideDataVolume(seen({ dv, claim: other })))).toEqual(['patch PersistentVolumeClaim']);
  const restored = claim({ phase: 'Bound', annotations: { [ANNOTATION.populatedFor]: 'disk' } });
  expect(words(decideDataVolume(seen({ claim: restored })))).toEqual(['patch PersistentVolumeClaim']);
  const taken = claim({ phase: 'Bound', annotations: { [ANNOTATION.populatedFor]: 'disk' }, owner: OWNED });
  expect(status<DataVolumeStatus>(decideDataVolume(seen({ claim: taken })))?.phase).toBe('Succeeded');
  const owned = claim({
    phase: 'Bound',
    annotations: { [ANNOTATION.populatedFor]: 'disk' },
    owner: { kind: 'VM', name: 'vm', uid: 'vm' },
  });
  expect(conditions(status(decideDataVolume(seen({ claim: owned })))).Bound?.message).toContain('belongs to VM vm');
});

test('sources that nobody fills yet are told, not passed over', () => {
  const dv = dataVolume({ source: { upload: {} }, pvc: HTTP.pvc ?? {} });
  const decisions = decideDataVolume(seen({ dv }));
  expect(words(decisions)).toEqual(['patch DataVolume status', 'tell Warning SourceNotSupported']);
});

test('a volume that is reserved for the claim is waited for, and nothing is imported', () => {
  const dv = dataVolume(HTTP, { [ANNOTATION.checkStaticVolume]: '' });
  const volume = { metadata: { name: 'pv', uid: 'pv', resourceVersion: '1' }, spec: {} };
  const wanted = made<PersistentVolumeClaim>(
    decideDataVolume(seen({ dv, reserved: [volume] })),
    'PersistentVolumeClaim',
  );
  expect(wanted?.metadata?.annotations).toMatchObject({ [ANNOTATION.persistentVolumeList]: '["pv"]' });
  expect(wanted?.metadata?.annotations).not.toHaveProperty(ANNOTATION.endpoint);
  const list = { [ANNOTATION.persistentVolumeList]: '["pv"]' };
  const bound = (volumeName: string) =>
    claim({ phase: 'Bound', owner: OWNED, annotations: list, spec: { volumeName } });
  expect(annotations(decideDataVolume(seen({ dv, claim: bound('pv') })))).toMatchObject({
    [ANNOTATION.persistentVolumeList]: null,
    [ANNOTATION.populatedFor]: 'disk',
  });
  expect(words(decideDataVolume(seen({ dv, claim: bound('another') })))).toEqual(['delete PersistentVolumeClaim disk']);
});

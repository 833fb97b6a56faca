import type { Pod } from 'kubernetes-types/core/v1.js';
import { expect, test } from 'vitest';
import { ANNOTATION } from '../../src/api/claim.ts';
import type { Stored } from '../../src/api/meta.ts';
import { decideImport, isImport } from '../../src/controller/decide/import.ts';
import { container, importing, importSeen, pod } from './objects.ts';
import { annotations, made, words } from './words.ts';

const complete = JSON.stringify({
  scratchSpaceRequired: false,
  preallocationApplied: false,
  message: 'Import Complete',
});
const ended = (exitCode: number, message: string): Pod['status'] => ({
  phase: exitCode === 0 ? 'Succeeded' : 'Running',
  containerStatuses: container({ terminated: { exitCode, message, reason: exitCode === 0 ? 'Completed' : 'Error' } }),
});

test('makes the pod of a bound claim, and marks the claim with its name', () => {
  const decisions = decideImport(importSeen());
  expect(words(decisions)).toEqual(['patch PersistentVolumeClaim', 'create Pod importer-disk']);
  expect(annotations(decisions)).toEqual({ [ANNOTATION.importPod]: 'importer-disk', [ANNOTATION.podRestarts]: '0' });
});

test.each([
  ['s3', 's3'],
  ['none', 'none'],
  ['glance', 'http'],
  ['', 'http'],
])('the source %o of a claim is %s to its pod', (source, expected) => {
  const claim = importing({ annotations: { [ANNOTATION.source]: source, [ANNOTATION.endpoint]: 'http://x/disk' } });
  const found = made<Pod>(decideImport(importSeen({ claim })), 'Pod');
  expect(found?.spec?.containers[0]?.env).toContainEqual({ name: 'IMPORTER_SOURCE', value: expected });
});

test.each([
  ['http', 'true', false, 'true'],
  ['imageio', 'true', false, 'true'],
  ['http', 'false', true, 'false'],
  ['registry', '', true, 'true'],
  ['registry', 'true', false, 'false'],
  ['s3', 'true', true, 'false'],
])('the source %s that says %o, in a list of registries: %o, is insecure: %s', (source, said, insecure, expected) => {
  const claim = importing({ annotations: { [ANNOTATION.source]: source, [ANNOTATION.insecureSkipVerify]: said } });
  const pods = { owner: 'dv-uid', overhead: '0.06', insecure };
  const found = made<Pod>(decideImport(importSeen({ claim, pods })), 'Pod');
  expect(found?.spec?.containers[0]?.env).toContainEqual({ name: 'INSECURE_TLS', value: expected });
});

test('the pod is told how its server of metrics is to speak', () => {
  const found = made<Pod>(decideImport(importSeen()), 'Pod');
  expect(found?.spec?.containers[0]?.env).toEqual(
    expect.arrayContaining([
      { name: 'TLS_MIN_VERSION', value: 'VersionTLS12' },
      { name: 'TLS_CIPHERS', value: 'TLS_AES_128_GCM_SHA256,ECDHE-RSA-AES128-GCM-SHA256' },
    ]),
  );
});

test('a claim that others fill is none of ours', () => {
  const claim = importing({ annotations: { [ANNOTATION.endpoint]: 'http://x/disk' } });
  expect(isImport(claim)).toBe(true);
  expect(isImport(importing({ annotations: { [ANNOTATION.externalPopulation]: 'true' } }))).toBe(false);
});

test('waits for a claim that is not bound, unless its pod may be the first consumer', () => {
  const claim = importing({ phase: 'Pending' });
  expect(decideImport(importSeen({ claim }))).toEqual([]);
  expect(words(decideImport(importSeen({ claim, mayConsumeFirst: true })))).toContain('create Pod importer-disk');
});

test.each([
  [
    'Pending',
    { phase: 'Pending', containerStatuses: container({ waiting: { reason: 'ContainerCreating' } }) },
    { phase: 'Pending', running: 'false', reason: 'ContainerCreating' },
  ],
  [
    'Running',
    { phase: 'Running', containerStatuses: container({ running: {} }) },
    { phase: 'Running', running: 'true', reason: 'Pod is running', ready: 'true' },
  ],
  [
    'an image that cannot be had',
    {
      phase: 'Pending',
      containerStatuses: container({ waiting: { reason: 'ImagePullBackOff', message: 'not found' } }),
    },
    { reason: 'ImagePullFailed', message: 'failed to pull image: registry.test/diskferry:dev: not found' },
  ],
  [
    'a Secret that is missing',
    {
      phase: 'Pending',
      containerStatuses: container({
        waiting: { reason: 'CreateContainerConfigError', message: 'secret "keys" not found' },
      }),
    },
    { reason: 'CreateContainerConfigError', message: 'secret "keys" not found: create it in namespace ns' },
  ],
  [
    'a pod that fits nowhere',
    { phase: 'Pending', conditions: [{ type: 'PodScheduled', status: 'False', message: '0/1 nodes are available' }] },
    {
      reason: 'Unschedulable',
      message: 'Importer pod cannot be scheduled: 0/1 nodes are available',
      schedulable: 'false',
    },
  ],
  [
    'an error between two tries',
    {
      phase: 'Running',
      containerStatuses: container(
        { waiting: { reason: 'CrashLoopBackOff' } },
        {
          restartCount: 2,
          lastState: {
            terminated: { exitCode: 1, reason: 'Error', message: 'Unable to connect to http data source: 404' },
          },
        },
      ),
    },
    { reason: 'Error', message: 'Unable to connect to http data source: 404', restarts: '2' },
  ],
  [
    'an image that is too large',
    ended(
      1,
      'Unable to process data: virtual image size 2 is larger than the reported available storage 1. A larger PVC is required',
    ),
    {
      message:
        'DataVolume too small to contain image: Unable to process data: virtual image size 2 is larger than the reported available storage 1. A larger PVC is required',
    },
  ],
  [
    'a registry that refuses',
    ended(1, 'Unable to process data: failed to pull image: 401'),
    { reason: 'ImagePullFailed' },
  ],
] as const)('tells of %s on the claim', (_, status, expected) => {
  const told = annotations(decideImport(importSeen({ pod: pod(status as unknown as Pod['status']) })));
  const keys = {
    phase: 'podPhase',
    running: 'running',
    reason: 'runningReason',
    message: 'runningMessage',
    ready: 'podReady',
    restarts: 'podRestarts',
    schedulable: 'podSchedulable',
  } as const;
  for (const [name, value] of Object.entries(expected))
    expect(told[ANNOTATION[keys[name as keyof typeof keys]]]).toBe(value);
});

test('a volume that cannot be mounted is told by the event about the pod', () => {
  const event = { message: 'MountVolume.SetUp failed for volume "cdi-cert-vol": configmap "ca" not found' } as never;
  const status = { phase: 'Pending', containerStatuses: container({ waiting: { reason: 'ContainerCreating' } }) };
  const told = annotations(decideImport(importSeen({ pod: pod(status), event })));
  expect(told[ANNOTATION.runningMessage]).toContain('configmap "ca" not found: create it in namespace ns');
});

test('what a container image says of its machine is on the claim before it is filled; what the claim has stays', () => {
  const labels = {
    'instancetype.kubevirt.io/default-preference': 'fedora',
    'instancetype.kubevirt.io/default-instancetype': 'u1.medium',
    'cdi.kubevirt.io/applystorageprofile': 'true',
    'example.com/other': 'x',
  };
  const claim = importing();
  claim.metadata.labels = { 'instancetype.kubevirt.io/default-instancetype': 'mine' };
  const message = JSON.stringify({ ...JSON.parse(complete), labels });
  const decisions = decideImport(importSeen({ claim, pod: pod(ended(0, message)) }));
  expect(decisions[0]).toMatchObject({
    act: 'patch',
    patch: { metadata: { labels: { 'instancetype.kubevirt.io/default-preference': 'fedora' } } },
  });
  expect((decisions[0] as unknown as { patch: { metadata: { labels: object } } }).patch.metadata.labels).toEqual({
    'instancetype.kubevirt.io/default-preference': 'fedora',
  });
  expect(annotations(decisions.slice(1))[ANNOTATION.podPhase]).toBe('Succeeded');
});

test('a pod that has done its work is told of, and then deleted', () => {
  const seen = importSeen({ pod: pod(ended(0, complete)) });
  expect(words(decideImport(seen))).toEqual([
    'patch PersistentVolumeClaim',
    'tell Normal ImportSucceeded',
    'delete Pod importer-disk',
  ]);
  expect(annotations(decideImport(seen))[ANNOTATION.podPhase]).toBe('Succeeded');
  const retained = importing({ annotations: { [ANNOTATION.retain]: 'true' } });
  expect(words(decideImport(importSeen({ claim: retained, pod: pod(ended(0, complete)) })))).not.toContain(
    'delete Pod importer-disk',
  );
});

test('a filled claim gets no pod again', () => {
  const claim = importing({ annotations: { [ANNOTATION.podPhase]: 'Succeeded' } });
  expect(decideImport(importSeen({ claim }))).toEqual([]);
  expect(words(decideImport(importSeen({ claim, pod: pod(ended(0, complete)) })))).toEqual([
    'delete Pod importer-disk',
  ]);
});

test('a checksum that differs is final', () => {
  const message = JSON.stringify({
    message: 'Unable to process data: checksum validation failed: checksum mismatch: expected a, calculated b',
  });
  const decisions = decideImport(importSeen({ pod: pod(ended(0, message)) }));
  expect(annotations(decisions)).toMatchObject({
    [ANNOTATION.fatalError]: 'true',
    [ANNOTATION.podPhase]: 'Failed',
    [ANNOTATION.runningReason]: 'ChecksumError',
  });
  expect(words(decisions)).toEqual(['patch PersistentVolumeClaim', 'tell Warning ErrImportFailed']);
  const claim = importing({ annotations: { [ANNOTATION.fatalError]: 'true' } });
  expect(decideImport(importSeen({ claim }))).toEqual([]);
});

test('scratch space comes only when a pod says that it needs it, and goes with the next one', () => {
  const needs = JSON.stringify({ scratchSpaceRequired: true, message: 'Import Complete' });
  const first = decideImport(importSeen({ pod: pod(ended(0, needs)) }));
  expect(annotations(first)[ANNOTATION.requiresScratch]).toBe('true');
  expect(words(first)).toContain('delete Pod importer-disk');
  const claim = importing({ annotations: { [ANNOTATION.requiresScratch]: 'true' } });
  expect(words(decideImport(importSeen({ claim })))).toEqual([
    'patch PersistentVolumeClaim',
    'create Pod importer-disk',
  ]);
  const running = pod({ phase: 'Pending' });
  expect(words(decideImport(importSeen({ claim, pod: running })))[0]).toBe('create PersistentVolumeClaim disk-scratch');
});

test('a pod of the name that is not its own is never touched', () => {
  const other = pod({ phase: 'Running' }, { ownerReferences: [] });
  const decisions = decideImport(importSeen({ pod: other }));
  expect(words(decisions)).toEqual(['patch PersistentVolumeClaim', 'again']);
  expect(annotations(decisions)[ANNOTATION.runningReason]).toBe('PodNameTaken');
});

test('a claim that others use waits for them', () => {
  const user = pod({ phase: 'Running' }, { name: 'vm', uid: 'other' });
  const decisions = decideImport(importSeen({ users: [user] }));
  expect(words(decisions)).toEqual(['patch PersistentVolumeClaim', 'tell Warning ImportTargetInUse']);
  expect(annotations(decisions)[ANNOTATION.runningMessage]).toContain('pod ns/vm using PersistentVolumeClaim disk');
});

test('a lost pod is replaced when it is gone, and not before', () => {
  const failed: Stored<Pod> = pod({ phase: 'Failed', reason: 'Evicted' });
  expect(words(decideImport(importSeen({ pod: failed })))).toEqual([
    'patch PersistentVolumeClaim',
    'delete Pod importer-disk',
  ]);
  const going = pod({ phase: 'Running' }, { deletionTimestamp: '2026-01-01T00:00:00Z' });
  expect(words(decideImport(importSeen({ pod: going })))).toEqual(['patch PersistentVolumeClaim']);
});

test('a pod that its node does not let in is told of, and followed by another after a while', () => {
  const status = {
    phase: 'Failed',
    reason: 'OutOfcpu',
    message: 'Pod was rejected: Node did not have enough resource',
  };
  const young = pod(status, { creationTimestamp: '2026-01-01T00:00:50Z' });
  const decisions = decideImport(importSeen({ pod: young }));
  expect(annotations(decisions)).toMatchObject({
    [ANNOTATION.running]: 'false',
    [ANNOTATION.runningReason]: 'OutOfcpu',
    [ANNOTATION.runningMessage]: 'Pod was rejected: Node did not have enough resource',
  });
  expect(decisions.at(-1)).toEqual({ act: 'again', seconds: 5 });
  const old = pod(status, { creationTimestamp: '2026-01-01T00:00:40Z' });
  expect(words(decideImport(importSeen({ pod: old })))).toContain('delete Pod importer-disk');
});

test('the pod of a claim that is being deleted keeps it no longer', () => {
  const claim = importing();
  const going = { ...claim, metadata: { ...claim.metadata, deletionTimestamp: '2026-01-01T00:00:00Z' } };
  expect(words(decideImport(importSeen({ claim: going, pod: pod({ phase: 'Running' }) })))).toEqual([
    'delete Pod importer-disk',
  ]);
  expect(decideImport(importSeen({ claim: going }))).toEqual([]);
});

test('a pod that is going is not deleted again', () => {
  const going = pod({ phase: 'Succeeded' }, { deletionTimestamp: '2026-01-01T00:00:00Z' });
  const claim = importing({ annotations: { [ANNOTATION.podPhase]: 'Succeeded' } });
  expect(words(decideImport(importSeen({ claim, pod: pod({ phase: 'Succeeded' }) })))).toEqual([
    'delete Pod importer-disk',
  ]);
  expect(decideImport(importSeen({ claim, pod: going }))).toEqual([]);
});

test('what is refused is told, and tried again', () => {
  const refused = {
    status: 403,
    message: 'pods "importer-disk" is forbidden: exceeded quota: small, requested: pods=1',
  };
  const decisions = decideImport(importSeen({ refused }));
  expect(words(decisions)).toEqual([
    'patch PersistentVolumeClaim',
    'tell Warning ErrExceededQuota',
    'create Pod importer-disk',
    'again',
  ]);
  expect(annotations(decisions)[ANNOTATION.runningMessage]).toContain('exceeded quota: small');
});

test('the certificates of a proxy are copied for a pod that waits for them', () => {
  const pods = { owner: 'dv-uid', overhead: '0.06', insecure: false, proxyCertificates: 'import-proxy-cm-disk' };
  const made = decideImport(importSeen({ pods }));
  expect(JSON.stringify(made)).toContain('"configMap":{"name":"import-proxy-cm-disk"}');
  const waiting = pod({ phase: 'Pending', conditions: [{ type: 'PodScheduled', status: 'True' }] });
  const proxyCertificates = { 'ca.crt': 'PEM' };
  expect(words(decideImport(importSeen({ pods, pod: waiting, proxyCertificates }))).at(-1)).toBe(
    'create ConfigMap import-proxy-cm-disk',
  );
});

test('nothing is said on a claim while the scheduler is at it', () => {
  expect(decideImport(importSeen({ pod: pod({ phase: 'Pending' }) }))).toEqual([]);
});

test.each([
  ['asked for scratch space', JSON.stringify({ scratchSpaceRequired: true, message: 'Import Complete' }), 'Pending'],
  ['found another checksum', JSON.stringify({ message: 'checksum mismatch: expected a, calculated b' }), 'Failed'],
  ['said nothing', '', 'Failed'],
])('a pod that %s and is going has filled nothing', (_, message, phase) => {
  const going = pod(ended(0, message), { deletionTimestamp: '2026-01-01T00:00:00Z' });
  expect(annotations(decideImport(importSeen({ pod: going })))[ANNOTATION.podPhase]).toBe(phase);
});

test('scratch space that is there before the pod is not written over', () => {
  const claim = importing({ annotations: { [ANNOTATION.requiresScratch]: 'true' } });
  const scratch = importing({ name: 'disk-scratch' });
  const decisions = decideImport(importSeen({ claim, scratch }));
  expect(words(decisions)).toEqual(['patch PersistentVolumeClaim', 'again']);
  expect(annotations(decisions)[ANNOTATION.runningReason]).toBe('ScratchNameTaken');
});

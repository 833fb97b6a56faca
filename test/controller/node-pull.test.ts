import type { ContainerStatus, Pod, PodSpec } from 'kubernetes-types/core/v1.js';
import { expect, test } from 'vitest';
import { ANNOTATION, STREAM_FINALIZER } from '../../src/api/claim.ts';
import { decideImport } from '../../src/controller/decide/import.ts';
import { annotationsOf } from '../../src/controller/decide/source.ts';
import { type ClaimOf, container, importing, importSeen, pod } from './objects.ts';
import { annotations, made, words } from './words.ts';

const pulled = (more: Readonly<Record<string, string>> = {}): ClaimOf => ({
  annotations: {
    [ANNOTATION.source]: 'registry',
    [ANNOTATION.endpoint]: 'docker://registry.example.org/vm/disk:1',
    [ANNOTATION.registryMethod]: 'node',
    ...more,
  },
});
const stream = (): ClaimOf =>
  pulled(annotationsOf({ source: { registry: { imageStream: 'fedora:41', pullMethod: 'node' } } }));

function podFor(claim: ClaimOf, more: Parameters<typeof importSeen>[0] = {}): Pod {
  return made<Pod>(decideImport(importSeen({ ...more, claim: importing(claim) })), 'Pod') as Pod;
}

const specFor = (...args: Parameters<typeof podFor>): PodSpec => podFor(...args).spec as PodSpec;

test('a sidecar of the image serves its disk to the importer; a first container brings the program along', () => {
  const { initContainers, containers, volumes, ...spec } = specFor(pulled());
  const shared = { name: 'shared-volume', mountPath: '/shared' };
  expect(initContainers).toMatchObject([
    {
      name: 'init',
      image: 'registry.test/diskferry:dev',
      command: ['cp', '/usr/bin/cdi-containerimage-server', '/shared/server'],
      volumeMounts: [shared],
    },
    {
      name: 'server',
      image: 'registry.example.org/vm/disk:1',
      restartPolicy: 'Always',
      command: ['/shared/server', '-p', '8100', '-image-dir', '/disk', '-ready-file', '/shared/ready'],
      volumeMounts: [shared],
    },
  ]);
  expect(initContainers?.[0]?.restartPolicy).toBeUndefined();
  expect(containers[0]?.volumeMounts).toContainEqual({ ...shared, readOnly: true });
  expect(volumes).toContainEqual({ name: 'shared-volume', emptyDir: { sizeLimit: '16Mi' } });
  expect(Object.fromEntries(containers[0]?.env?.map(({ name, value }) => [name, value]) ?? [])).toMatchObject({
    IMPORTER_SOURCE: 'http',
    IMPORTER_ENDPOINT: 'http://localhost:8100/disk.img',
    IMPORTER_PULL_METHOD: 'node',
    IMPORTER_READY_FILE: '/shared/ready',
  });
  expect(spec.nodeSelector).toBeUndefined();
});

test('each of its containers is restricted, has the limits of all, and is pulled as all are', () => {
  const resources = { limits: { memory: '600M' }, requests: { cpu: '100m' } };
  const workers = { ...importSeen().workers, resources, pullSecrets: [{ name: 'login' }] };
  const { initContainers = [], containers, imagePullSecrets } = specFor(pulled(), { workers });
  expect(imagePullSecrets).toEqual([{ name: 'login' }]);
  for (const one of [...initContainers, ...containers]) {
    expect(one).toMatchObject({
      resources,
      imagePullPolicy: 'IfNotPresent',
      terminationMessagePolicy: 'FallbackToLogsOnError',
      securityContext: {
        allowPrivilegeEscalation: false,
        capabilities: { drop: ['ALL'] },
        readOnlyRootFilesystem: true,
        runAsNonRoot: true,
        runAsUser: 107,
        seccompProfile: { type: 'RuntimeDefault' },
      },
    });
  }
});

test('a login and certificates are for registries that the pod itself asks', () => {
  const claim = pulled({ [ANNOTATION.secret]: 'login', [ANNOTATION.certConfigMap]: 'authority' });
  expect(JSON.stringify(specFor(claim))).not.toMatch(/login|authority/);
  const byPod = pulled({ [ANNOTATION.secret]: 'login', [ANNOTATION.registryMethod]: 'pod' });
  expect(JSON.stringify(specFor(byPod))).toContain('login');
  expect(specFor(byPod).initContainers).toBeUndefined();
});

test('an image for an architecture is pulled by a node that has it', () => {
  const workers = { ...importSeen().workers, placement: { nodeSelector: { disks: 'fast' } } };
  const claim = pulled({ [ANNOTATION.registryArchitecture]: 'arm64' });
  expect(specFor(claim, { workers }).nodeSelector).toEqual({ disks: 'fast', 'kubernetes.io/arch': 'arm64' });
});

test('only a registry has the method: the URL of a web server is its own', () => {
  const claim = pulled({ [ANNOTATION.source]: 'http', [ANNOTATION.endpoint]: 'http://localhost:8100/disk.img' });
  expect(JSON.stringify(specFor(claim))).not.toContain('IMPORTER_PULL_METHOD');
});

test('the name of an image stream is for OpenShift to resolve, which does so in pods without an owner only', () => {
  const { metadata, spec } = podFor(stream());
  expect(spec?.initContainers?.[1]?.image).toBe('fedora:41');
  expect(metadata?.annotations).toMatchObject({
    'alpha.image.policy.openshift.io/resolve-names': '*',
    [ANNOTATION.importOf]: 'claim-uid',
  });
  expect(metadata?.ownerReferences).toBeUndefined();
  const byUrl = podFor(pulled()).metadata;
  expect(byUrl?.annotations).not.toHaveProperty(['alpha.image.policy.openshift.io/resolve-names']);
  expect(byUrl?.ownerReferences).toMatchObject([{ uid: 'claim-uid', controller: true }]);
});

test('a claim that does not own its pod stays until the pod is gone', () => {
  const unowned = pod(
    { phase: 'Running' },
    { ownerReferences: [], annotations: { [ANNOTATION.importOf]: 'claim-uid' } },
  );
  unowned.spec.volumes = [{ name: 'cdi-data-vol', persistentVolumeClaim: { claimName: 'disk' } }];
  const claim = importing(stream());
  const first = decideImport(importSeen({ claim }));
  expect(words(first)).toEqual([
    'patch PersistentVolumeClaim',
    'patch PersistentVolumeClaim',
    'create Pod importer-disk',
  ]);
  expect(first[1]).toMatchObject({ patch: { metadata: { finalizers: [STREAM_FINALIZER] } }, exact: true });
  const held = { ...claim, metadata: { ...claim.metadata, finalizers: ['other', STREAM_FINALIZER] } };
  expect(words(decideImport(importSeen({ claim: held }))).filter((one) => one.startsWith('patch'))).toHaveLength(1);

  const going = { ...held, metadata: { ...held.metadata, deletionTimestamp: '2026-01-01T00:00:00Z' } };
  expect(words(decideImport(importSeen({ claim: going, pod: unowned })))).toEqual(['delete Pod importer-disk']);
  const released = [{ act: 'patch', patch: { metadata: { finalizers: ['other'] } }, exact: true }];
  expect(decideImport(importSeen({ claim: going }))).toMatchObject(released);

  const filled = {
    ...held.metadata,
    annotations: { ...held.metadata.annotations, [ANNOTATION.podPhase]: 'Succeeded' },
  };
  expect(decideImport(importSeen({ claim: { ...held, metadata: filled } }))).toMatchObject(released);

  const others = { ...unowned, metadata: { ...unowned.metadata, annotations: { [ANNOTATION.importOf]: 'another' } } };
  expect(annotations(decideImport(importSeen({ claim, pod: others })))[ANNOTATION.runningReason]).toBe('PodNameTaken');
});

const WAITS = container({ waiting: { reason: 'PodInitializing' } });
const RUNS = container({ running: {} });

function toldOf(server: Partial<ContainerStatus>, importer = WAITS, phase = 'Pending') {
  const [one] = container(undefined, { name: 'server', ...server }) as [ContainerStatus];
  const found = pod({ phase, containerStatuses: importer, initContainerStatuses: [one] });
  found.spec.initContainers = [{ name: 'server', image: 'registry.example.org/vm/disk:1' }];
  return decideImport(importSeen({ claim: importing(pulled()), pod: found }));
}

test('while the node pulls, its pod is being made', () => {
  const told = annotations(toldOf({ state: { waiting: { reason: 'PodInitializing' } } }));
  expect(told[ANNOTATION.runningReason]).toBe('ContainerCreating');
});

test('an image that the node cannot pull is told as one that the importer could not', () => {
  const told = annotations(toldOf({ state: { waiting: { reason: 'ErrImagePull', message: 'not found' } } }));
  expect(told).toMatchObject({
    [ANNOTATION.running]: 'false',
    [ANNOTATION.runningReason]: 'ImagePullFailed',
    [ANNOTATION.runningMessage]: 'failed to pull image: registry.example.org/vm/disk:1: not found',
  });
});

test('an image without a disk is told in the words of the server, and counted', () => {
  const terminated = { exitCode: 1, reason: 'Error', message: 'the image holds no directory /disk\n' };
  const decisions = toldOf(
    { restartCount: 2, state: { waiting: { reason: 'CrashLoopBackOff' } }, lastState: { terminated } },
    RUNS,
    'Running',
  );
  expect(annotations(decisions)).toMatchObject({
    [ANNOTATION.podPhase]: 'Running',
    [ANNOTATION.running]: 'false',
    [ANNOTATION.runningReason]: 'Error',
    [ANNOTATION.runningMessage]: 'the image holds no directory /disk',
    [ANNOTATION.podRestarts]: '2',
  });
  expect(decisions.at(-1)).toMatchObject({ act: 'tell', message: 'the image holds no directory /disk' });
});

test('a server that was killed is told until it runs again; what it ended with says nothing when the importer is done', () => {
  const killed = { terminated: { exitCode: 137, reason: 'Error' } };
  expect(annotations(toldOf({ state: killed }, RUNS, 'Running'))[ANNOTATION.runningMessage]).toBe(
    "the server of the image's disk was ended by signal 9; it goes on where it was",
  );
  expect(annotations(toldOf({ state: { running: {} }, lastState: killed }, RUNS, 'Running'))).toMatchObject({
    [ANNOTATION.running]: 'true',
  });
  const message = JSON.stringify({ scratchSpaceRequired: false, message: 'Import Complete' });
  const done = container({ terminated: { exitCode: 0, message } });
  expect(annotations(toldOf({ state: killed }, done, 'Succeeded'))).toMatchObject({
    [ANNOTATION.podPhase]: 'Succeeded',
    [ANNOTATION.runningReason]: 'Completed',
  });
});

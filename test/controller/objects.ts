// Objects as the API server has them, for tables of decisions.
import type { ContainerStatus, PersistentVolumeClaim, Pod } from 'kubernetes-types/core/v1.js';
import type { StorageClass } from 'kubernetes-types/storage/v1.js';
import { ANNOTATION } from '../../src/api/claim.ts';
import type { DataVolume } from '../../src/api/datavolume.ts';
import type { Stored } from '../../src/api/meta.ts';
import type { ImportSeen } from '../../src/controller/decide/import.ts';

export const NOW = '2026-01-01T00:00:00Z';
type Annotations = Readonly<Record<string, string>>;

export function dataVolume(spec: DataVolume['spec'] = HTTP, annotations: Annotations = {}): Stored<DataVolume> {
  return {
    metadata: { name: 'disk', namespace: 'ns', uid: 'dv-uid', resourceVersion: '1', annotations: { ...annotations } },
    spec: spec ?? {},
  };
}

export const HTTP: NonNullable<DataVolume['spec']> = {
  source: { http: { url: 'https://images.example.org/disk.qcow2' } },
  pvc: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Gi' } } },
};

export interface ClaimOf {
  readonly name?: string;
  readonly uid?: string;
  readonly annotations?: Annotations;
  readonly phase?: string;
  readonly spec?: PersistentVolumeClaim['spec'];
  readonly owner?: { readonly kind: string; readonly name: string; readonly uid: string };
}

export function claim({
  name = 'disk',
  uid = 'claim-uid',
  annotations,
  phase,
  spec,
  owner,
}: ClaimOf = {}): Stored<PersistentVolumeClaim> {
  return {
    metadata: {
      ...{ name, namespace: 'ns', uid, resourceVersion: '1' },
      annotations: { ...annotations },
      ...(owner ? { ownerReferences: [{ apiVersion: 'v1', controller: true, ...owner }] } : {}),
    },
    spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Gi' } }, ...spec },
    ...(phase ? { status: { phase } } : {}),
  };
}

/** A claim that says what it is to be filled with. */
export const importing = (more: ClaimOf = {}): Stored<PersistentVolumeClaim> =>
  claim({
    phase: 'Bound',
    ...more,
    annotations: {
      [ANNOTATION.source]: 'http',
      [ANNOTATION.endpoint]: 'https://images.example.org/disk.qcow2',
      ...more.annotations,
    },
  });

export function pod(status: Pod['status'] = {}, more: Partial<Stored<Pod>['metadata']> = {}): Stored<Pod> {
  return {
    metadata: {
      ...{ name: 'importer-disk', namespace: 'ns', uid: 'pod-uid', resourceVersion: '1' },
      ownerReferences: [
        { apiVersion: 'v1', kind: 'PersistentVolumeClaim', name: 'disk', uid: 'claim-uid', controller: true },
      ],
      ...more,
    },
    spec: { containers: [{ name: 'importer', image: 'registry.test/diskferry:dev' }] },
    status,
  };
}

/** The pod's container, in a state. */
export function container(state: ContainerStatus['state'], more: object = {}): ContainerStatus[] {
  return [
    { name: 'importer', image: '', imageID: '', ready: false, restartCount: 0, ...(state ? { state } : {}), ...more },
  ];
}

export function storageClass(provisioner = 'csi.example.org', volumeBindingMode = 'Immediate'): Stored<StorageClass> {
  return {
    metadata: { name: 'fast', uid: 'class-uid', resourceVersion: '1' },
    provisioner,
    volumeBindingMode,
  } as Stored<StorageClass>;
}

export function importSeen(more: Partial<ImportSeen> = {}): ImportSeen {
  const of = more.claim ?? importing();
  return {
    claim: of,
    target: of,
    users: [],
    mayConsumeFirst: false,
    scratchSettings: { overhead: 0.06 },
    pods: { owner: 'dv-uid', overhead: '0.06', insecure: false },
    settings: {
      namespace: 'cdi',
      identity: 'me',
      importerImage: 'registry.test/diskferry:dev',
      pullPolicy: 'IfNotPresent',
    },
    workers: {
      placement: {},
      resources: {},
      pullSecrets: [],
      proxy: { http: '', https: '', none: '' },
      verbosity: 1,
      tls: { minVersion: 'VersionTLS12', ciphers: ['TLS_AES_128_GCM_SHA256', 'ECDHE-RSA-AES128-GCM-SHA256'] },
    },
    now: '2026-01-01T00:01:00Z',
    ...more,
  };
}

// A rule of admission, and what most of them are about.
import type { DataVolumeSource, DataVolumeSpec, StorageSpec } from '../../../src/api/datavolume.ts';
import { CLAIMS, type Resource } from '../../../src/api/resource.ts';

export interface Thing {
  readonly metadata: {
    readonly name: string;
    readonly annotations?: Readonly<Record<string, string>>;
    readonly deletionTimestamp?: string;
  };
  readonly spec: object;
  readonly status?: object;
}

export interface Rule {
  readonly title: string;
  readonly resource: Resource<unknown>;
  /** What there is already, which is changed. */
  readonly before?: Thing;
  /** What there is besides. */
  readonly there?: { readonly resource: Resource<unknown>; readonly object: Thing };
  readonly refused: Thing;
  /** Of one of the causes. */
  readonly field: string;
  /** In its message. */
  readonly says: string;
  /** An API server refuses it before anybody is asked, in these words. */
  readonly alreadyRefused?: string;
  readonly accepted: readonly Thing[];
}

export const GI: StorageSpec = { resources: { requests: { storage: '1Gi' } } };
export const URL = 'https://images.example/disk.qcow2';
export const HTTP: DataVolumeSource = { http: { url: URL } };
export const long = (length: number): string => 'a'.repeat(length);

/** Names are `disk`, unless it matters. */
export const named = (spec: object, name = 'disk', annotations?: Record<string, string>): Thing => ({
  metadata: { name, ...(annotations ? { annotations } : {}) },
  spec,
});
export const from = (source: object, more: object = {}): Thing => named({ source, storage: GI, ...more });
export const dv = (spec: DataVolumeSpec, name?: string, annotations?: Record<string, string>): Thing =>
  named(spec, name, annotations);
export const sized = (storage: unknown): object => ({ resources: { requests: { storage } } });
export const onStorage = (storage: object, source: object = HTTP): Thing => named({ source, storage });
export const onPvc = (pvc: object): Thing =>
  named({ source: HTTP, pvc: { accessModes: ['ReadWriteOnce'], ...GI, ...pvc } });
export const filled = (storage: object, more: object = {}): Thing => named({ storage: { ...GI, ...storage }, ...more });

export type Row = Omit<Rule, 'resource' | 'accepted'> & { readonly accepted: Thing | readonly Thing[] };
export const of = (resource: Resource<unknown>, rows: readonly Row[]): Rule[] =>
  rows.map((row) => ({ resource, ...row, accepted: [row.accepted].flat() as readonly Thing[] }));

export const SNAPSHOT = { apiGroup: 'snapshot.storage.k8s.io', kind: 'VolumeSnapshot', name: 'one' };
export const claimOf = (name: string, more: object = {}): { resource: Resource<unknown>; object: Thing } => ({
  resource: CLAIMS,
  object: { metadata: { name, ...more }, spec: { accessModes: ['ReadWriteOnce'], ...GI } },
});
export const CLAIM = claimOf('taken');
export const owned = (kind: string): object => ({
  ownerReferences: [{ apiVersion: 'v1', kind, name: 'owner', uid: 'a-uid', controller: true }],
});
export const POPULATED = { 'cdi.kubevirt.io/storage.populatedFor': 'populated' };
export const ADOPTS = { 'cdi.kubevirt.io/allowClaimAdoption': 'true' };
export const CHECKSUM = `sha256:${'0'.repeat(64)}`;
export const http = (url: string, more: object = {}): object => ({ http: { url, ...more } });
export const IMAGEIO = {
  url: 'https://engine.example/ovirt-engine/api',
  secretRef: 'login',
  diskId: '1',
  certConfigMap: 'ca',
};
export const VDDK = {
  url: 'https://vcenter.example/sdk',
  secretRef: 'login',
  uuid: '52260566-b032-36cb-55b1-79bf29e30490',
  backingFile: '[datastore] vm/vm.vmdk',
  thumbprint: '20:6C:8A',
};
export const without = (object: object, key: string): object => ({ ...object, [key]: undefined });

export const STAGE = { previous: '', current: 'snapshot-1' };
export const NEXT = { previous: 'snapshot-1', current: 'snapshot-2' };

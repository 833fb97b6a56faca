import type { ObjectMeta } from 'kubernetes-types/meta/v1.js';

/** A VolumeSnapshotClass of the CSI snapshotter, which a cluster need not have (snapshot.storage.k8s.io/v1). */
export interface SnapshotClass {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  readonly driver: string;
  readonly deletionPolicy?: string;
  readonly parameters?: Readonly<Record<string, string>>;
}

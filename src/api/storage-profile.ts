import type { ObjectMeta } from 'kubernetes-types/meta/v1.js';
import type { Condition } from './meta.ts';

/** CDI's StorageProfile: what is known of a storage class of the same name, and what its administrator says of it. */
export interface StorageProfile {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  readonly spec?: StorageProfileSpec;
  readonly status?: StorageProfileStatus;
}

export interface StorageProfileStatus extends StorageProfileSpec {
  readonly storageClass?: string;
  readonly provisioner?: string;
  readonly conditions?: readonly Condition[];
}

export interface StorageProfileSpec {
  readonly cloneStrategy?: string;
  /** In the order of preference. */
  readonly claimPropertySets?: readonly ClaimPropertySet[];
  readonly dataImportCronSourceFormat?: string;
  readonly snapshotClass?: string;
}

export interface ClaimPropertySet {
  readonly accessModes?: readonly string[];
  readonly volumeMode?: string;
}

import type {
  PersistentVolumeClaimSpec,
  TypedLocalObjectReference,
  TypedObjectReference,
} from 'kubernetes-types/core/v1.js';
import type { LabelSelector, ObjectMeta } from 'kubernetes-types/meta/v1.js';
import type { Condition } from './meta.ts';

/** CDI's DataVolume: a claim, and what it is to be filled with. */
export interface DataVolume {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  readonly spec?: DataVolumeSpec;
  readonly status?: DataVolumeStatus;
}

export interface DataVolumeSpec {
  readonly source?: DataVolumeSource;
  readonly sourceRef?: SourceReference;
  /** A claim as it is to be. */
  readonly pvc?: PersistentVolumeClaimSpec;
  /** A claim of which the StorageProfile says what is left out. */
  readonly storage?: StorageSpec;
  readonly priorityClassName?: string;
  readonly serviceAccountName?: string;
  readonly contentType?: string;
  readonly checkpoints?: readonly Checkpoint[];
  readonly finalCheckpoint?: boolean;
  readonly preallocation?: boolean;
}

export interface SourceReference {
  readonly kind: string;
  readonly namespace?: string;
  readonly name: string;
}

export interface StorageSpec {
  readonly accessModes?: string[];
  readonly selector?: LabelSelector;
  readonly resources?: NonNullable<PersistentVolumeClaimSpec['resources']>;
  readonly volumeName?: string;
  readonly storageClassName?: string;
  readonly volumeMode?: string;
  readonly dataSource?: TypedLocalObjectReference;
  readonly dataSourceRef?: TypedObjectReference;
}

export interface Checkpoint {
  readonly previous: string;
  readonly current: string;
}

/** What a VolumeImportSource can hold. */
export interface ImportSource {
  readonly http?: HttpSource;
  readonly s3?: UrlSource;
  readonly gcs?: Omit<UrlSource, 'certConfigMap'>;
  readonly registry?: RegistrySource;
  readonly imageio?: ImageioSource;
  readonly vddk?: VddkSource;
  readonly blank?: Readonly<Record<string, never>>;
}

export interface DataVolumeSource extends ImportSource {
  readonly upload?: Readonly<Record<string, never>>;
  readonly pvc?: ObjectRef;
  readonly snapshot?: ObjectRef;
}

/** An object in any namespace. */
export interface ObjectRef {
  readonly namespace: string;
  readonly name: string;
}

export interface UrlSource {
  readonly url: string;
  readonly secretRef?: string;
  readonly certConfigMap?: string;
}

export interface HttpSource extends UrlSource {
  readonly extraHeaders?: readonly string[];
  readonly secretExtraHeaders?: readonly string[];
  readonly checksum?: string;
  readonly insecureSkipVerify?: boolean;
}

export interface RegistrySource extends Omit<UrlSource, 'url'> {
  readonly url?: string;
  readonly imageStream?: string;
  readonly pullMethod?: string;
  readonly platform?: { readonly architecture?: string };
}

export interface ImageioSource extends UrlSource {
  readonly diskId: string;
  readonly insecureSkipVerify?: boolean;
}

export interface VddkSource extends Omit<UrlSource, 'url'> {
  readonly url?: string;
  readonly uuid?: string;
  readonly backingFile?: string;
  readonly thumbprint?: string;
  readonly initImageURL?: string;
  readonly extraArgs?: string;
}

export interface DataVolumeStatus {
  readonly claimName?: string;
  readonly phase?: DataVolumePhase;
  /** `N/A`, `12.34%`, `100.0%`. */
  readonly progress?: string;
  readonly restartCount?: number;
  readonly conditions?: readonly Condition[];
}

export const PHASES = [
  '',
  'Pending',
  'PVCBound',
  'ImportScheduled',
  'ImportInProgress',
  'CloneScheduled',
  'CloneInProgress',
  'SnapshotForSmartCloneInProgress',
  'CloneFromSnapshotSourceInProgress',
  'SmartClonePVCInProgress',
  'CSICloneInProgress',
  'ExpansionInProgress',
  'NamespaceTransferInProgress',
  'UploadScheduled',
  'UploadReady',
  'WaitForFirstConsumer',
  'PendingPopulation',
  'Succeeded',
  'Failed',
  'Unknown',
  'Paused',
  'PrepClaimInProgress',
  'RebindInProgress',
] as const;
export type DataVolumePhase = (typeof PHASES)[number];

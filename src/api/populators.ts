import type { ObjectReference, TypedLocalObjectReference } from 'kubernetes-types/core/v1.js';
import type { ObjectMeta } from 'kubernetes-types/meta/v1.js';
import type { Checkpoint, ImportSource } from './datavolume.ts';

/** CDI's VolumeImportSource: what a claim whose `dataSourceRef` names it is to be filled with. */
export interface VolumeImportSource {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  readonly spec?: VolumeImportSourceSpec;
  readonly status?: Readonly<Record<string, never>>;
}

export interface VolumeImportSourceSpec {
  readonly source?: ImportSource;
  readonly preallocation?: boolean;
  readonly contentType?: string;
  readonly targetClaim?: string;
  readonly checkpoints?: readonly Checkpoint[];
  readonly finalCheckpoint?: boolean;
}

/** CDI's VolumeUploadSource: the claim is to be filled with what a client uploads. */
export interface VolumeUploadSource {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  readonly spec?: { readonly contentType?: string; readonly preallocation?: boolean };
  readonly status?: Readonly<Record<string, never>>;
}

/** CDI's VolumeCloneSource, in the namespace of what is cloned. */
export interface VolumeCloneSource {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  readonly spec?: {
    /** A PersistentVolumeClaim or a VolumeSnapshot. */
    readonly source: TypedLocalObjectReference;
    readonly preallocation?: boolean;
    readonly priorityClassName?: string;
  };
}

/** Forklift's OvirtVolumePopulator: the claim is to be filled with a disk of an oVirt engine. */
export interface OvirtVolumePopulator {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  readonly spec?: {
    readonly engineUrl: string;
    readonly secretRef: string;
    readonly diskId: string;
    readonly transferNetwork?: ObjectReference;
  };
  readonly status?: { readonly progress?: string };
}

/** Forklift's OpenstackVolumePopulator: the claim is to be filled with an image of an OpenStack. */
export interface OpenstackVolumePopulator {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  readonly spec?: {
    readonly identityUrl: string;
    readonly secretRef: string;
    readonly imageId: string;
    readonly transferNetwork?: ObjectReference;
  };
  readonly status?: { readonly progress?: string };
}

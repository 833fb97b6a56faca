import type { PersistentVolumeClaim, PersistentVolumeClaimSpec } from 'kubernetes-types/core/v1.js';
import { ANNOTATION } from '../api/claim.ts';
import type { CdiConfig } from '../api/config.ts';
import type { DataVolume, StorageSpec } from '../api/datavolume.ts';
import { LABEL } from '../api/label.ts';

/** The volume mode of a claim of which the StorageProfile is to say it: the webhook of claims replaces it. */
export const FROM_PROFILE = 'FromStorageProfile';

/** A claim that is to be, and what is left open of it. */
export interface Wanted {
  /** Kind of the object that says it, as refusals name it. */
  readonly kind: 'DataVolume' | 'PersistentVolumeClaim';
  readonly namespace: string;
  /** Of that object, and of the claim. */
  readonly name: string;
  /** As the claim is to be. */
  readonly pvc?: PersistentVolumeClaimSpec;
  /** What is left out of it is rendered. */
  readonly storage?: StorageSpec;
  readonly contentType?: string;
  /**
   * Whose size it is: of a `disk`, for which the claim must have room; of a `copy` of another volume, as that of a disk, but it
   * may be left out; or of the `claim`, which is not changed and may be left out.
   */
  readonly size: 'disk' | 'copy' | 'claim';
  /** The webhook of claims renders it, and no more is done than to say so. */
  readonly byWebhook?: boolean;
}

export function ofDataVolume(volume: DataVolume, config: CdiConfig | undefined): Wanted {
  const { metadata, spec } = volume;
  const copied = spec?.sourceRef ?? spec?.source?.pvc ?? spec?.source?.snapshot;
  return {
    kind: 'DataVolume',
    namespace: metadata?.namespace ?? '',
    name: metadata?.name ?? '',
    ...(spec?.pvc === undefined ? {} : { pvc: spec.pvc }),
    ...(spec?.storage === undefined ? {} : { storage: spec.storage }),
    ...(spec?.contentType === undefined ? {} : { contentType: spec.contentType }),
    size: copied ? 'copy' : 'disk',
    byWebhook:
      metadata?.labels?.[LABEL.applyStorageProfile] === 'true' && config?.spec?.webhookPvcRendering !== 'Disabled',
  };
}

/** Of a claim that was made with the label applyStorageProfile, as its webhook sees it. */
export function ofClaim(claim: PersistentVolumeClaim): Wanted {
  const { metadata, spec } = claim;
  const contentType = metadata?.annotations?.[ANNOTATION.contentType];
  return {
    kind: 'PersistentVolumeClaim',
    namespace: metadata?.namespace ?? '',
    // The API server has not made up the name yet where it is to.
    name: metadata?.name ?? metadata?.generateName ?? '',
    storage: spec ?? {},
    ...(contentType === undefined ? {} : { contentType }),
    size: isCopy(spec) ? 'claim' : 'disk',
  };
}

function isCopy(spec: PersistentVolumeClaimSpec | undefined): boolean {
  const { dataSource, dataSourceRef } = spec ?? {};
  if (dataSource?.kind === 'VolumeSnapshot' || dataSourceRef?.kind === 'VolumeSnapshot') return true;
  return dataSourceRef?.apiGroup === 'cdi.kubevirt.io' && dataSourceRef.kind === 'VolumeCloneSource';
}

import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { ANNOTATION } from '../../api/claim.ts';
import type { DataVolume, DataVolumeSpec } from '../../api/datavolume.ts';
import { controllerOf, type Stored } from '../../api/meta.ts';
import { type Cause, checkLength, duplicate, invalid } from './cause.ts';
import { differenceOf } from './difference.ts';
import { checkPopulation } from './population.ts';
import { checkContentType, checkSource, checkSourceRef, membersOf } from './source.ts';
import { checkStorage } from './storage.ts';

/** Characters (RFC 1123). */
const LONGEST_NAME = 253;

export interface DataVolumeSeen {
  /** The claim of its name, if there is one. */
  readonly claim?: Stored<PersistentVolumeClaim>;
  /** Whether DataVolumes take claims that are there, where they do not say. */
  readonly adoptsClaims: boolean;
}

/** Why a DataVolume cannot be made. */
export function checkNewDataVolume(dv: DataVolume, seen: DataVolumeSeen): Cause[] {
  return [
    ...checkLength('Name of a DataVolume', 'metadata.name', dv.metadata?.name, LONGEST_NAME),
    ...checkClaim(dv, seen),
    ...checkDataVolumeSpec(dv.spec ?? {}, 'spec'),
  ];
}

/**
 * Why a DataVolume cannot be changed so. One whose spec stays is let through, whatever is in it: it is stored already, and its
 * finalizers must be able to go.
 */
export function checkChangedDataVolume(dv: DataVolume, before: DataVolume): Cause[] {
  const change = changeOf(before.spec, dv.spec);
  if (change === 'none') return [];
  if (change === 'stages') return checkDataVolumeSpec(dv.spec ?? {}, 'spec');
  const message = `Cannot update DataVolume Spec: ${change.of} is not what it was; delete the DataVolume and create it as it is to be. Of vddk and imageio, checkpoints and finalCheckpoint may change`;
  return [invalid('spec', message)];
}

type Staged = Pick<DataVolumeSpec, 'source' | 'checkpoints' | 'finalCheckpoint'>;

/** How a spec changed: not at all, by stages that came, or in another way, of which the first field is named. */
export function changeOf(
  before: Staged | undefined,
  after: Staged | undefined,
): 'none' | 'stages' | { readonly of: string } {
  const difference = differenceOf(before, after, 'spec');
  if (difference === undefined) return 'none';
  if (!isStaged(after)) return { of: difference };
  const other = differenceOf(fixedOf(before), fixedOf(after), 'spec');
  return other === undefined ? 'stages' : { of: other };
}

/** Whether it is imported in stages, of which more come later. */
export function isStaged(spec: Staged | undefined): boolean {
  return Boolean(spec?.source?.vddk ?? spec?.source?.imageio) && (spec?.checkpoints?.length ?? 0) > 0;
}

function fixedOf(spec: Staged | undefined): object {
  const { checkpoints, finalCheckpoint, ...fixed } = spec ?? {};
  return fixed;
}

/** A claim of its name must be one that it may take, or one of a DataVolume's. */
function checkClaim(dv: DataVolume, { claim, adoptsClaims }: DataVolumeSeen): Cause[] {
  if (!claim) return [];
  const { namespace, name } = claim.metadata;
  if (claim.metadata.annotations?.[ANNOTATION.populatedFor] === name) return [];
  const said = dv.metadata?.annotations?.[ANNOTATION.allowClaimAdoption];
  if (said === undefined ? adoptsClaims : said === 'true') return [];
  const owner = controllerOf(claim);
  if (owner?.kind === 'DataVolume') return [];
  const whose = owner ? `it belongs to ${owner.kind} ${owner.name}` : 'it belongs to no DataVolume';
  const message = `Destination PVC ${namespace}/${name} already exists: ${whose}. Give the DataVolume another name, delete the claim, or annotate the DataVolume with ${ANNOTATION.allowClaimAdoption}: "true" to take the claim as it is`;
  return [duplicate('metadata.name', message)];
}

/** Of a DataVolume, and of what a DataImportCron makes DataVolumes of. */
export function checkDataVolumeSpec(spec: DataVolumeSpec, field: string): Cause[] {
  const { pvc, storage } = spec;
  if (!pvc && !storage) {
    const message = `Missing Data volume PVC: ${field} has neither storage nor pvc; write storage, with resources.requests.storage`;
    return [invalid(`${field}.pvc`, message)];
  }
  if (pvc && storage) {
    const message = `Duplicate storage definition, both target storage and target pvc defined: write one of ${field}.storage and ${field}.pvc`;
    return [duplicate(`${field}.pvc`, message)];
  }
  return [
    ...(pvc ? checkStorage({ what: 'PVC', claim: pvc, mayOmitSize: false }, `${field}.pvc`) : []),
    ...(storage
      ? checkStorage({ what: 'Storage', claim: storage, mayOmitSize: isCopy(spec) }, `${field}.storage`)
      : []),
    ...(checkPopulation(spec, field) ?? checkOrigin(spec, field)),
  ];
}

function isCopy({ source, sourceRef }: DataVolumeSpec): boolean {
  return Boolean(sourceRef ?? source?.pvc ?? source?.snapshot);
}

/** What the claim is filled with by us. */
function checkOrigin(spec: DataVolumeSpec, field: string): Cause[] {
  const { source, sourceRef, contentType } = spec;
  if (Boolean(source) === Boolean(sourceRef)) {
    const has = source ? 'both' : 'neither';
    const message = `Data volume should have either Source or SourceRef, or be externally populated: it has ${has} of ${field}.source and ${field}.sourceRef`;
    return [invalid(`${field}.source`, message)];
  }
  if (sourceRef) return [...checkSourceRef(sourceRef, `${field}.sourceRef`), ...checkContent(contentType, field)];
  const members = membersOf(source);
  if (members.length === 0) {
    const message = `Missing Data volume source: ${field}.source is empty; write one of http, s3, gcs, registry, pvc, snapshot, upload, blank, imageio, vddk`;
    return [invalid(`${field}.source`, message)];
  }
  if (members.length > 1) {
    const message = `Multiple Data volume sources: ${field}.source has ${members.join(', ')}; write one of them`;
    return [invalid(`${field}.source`, message)];
  }
  return [...checkContent(contentType, field), ...checkSource(source ?? {}, contentType, `${field}.source`)];
}

function checkContent(contentType: string | undefined, field: string): Cause[] {
  return checkContentType(contentType, `${field}.contentType`);
}

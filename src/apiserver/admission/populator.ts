import type { VolumeImportSource, VolumeImportSourceSpec, VolumeUploadSource } from '../../api/populators.ts';
import { type Cause, checkLength, invalid } from './cause.ts';
import { changeOf, isStaged } from './datavolume.ts';
import { differenceOf } from './difference.ts';
import { checkContentType, checkSource, membersOf } from './source.ts';

/** Characters: labels are made of it. */
const LONGEST_NAME = 63;

export function checkNewImportSource({ metadata, spec }: VolumeImportSource): Cause[] {
  return [
    ...checkLength('Name of a VolumeImportSource', 'metadata.name', metadata?.name, LONGEST_NAME),
    ...checkImportSpec(spec ?? {}),
  ];
}

/** As of a DataVolume: stages may come, and nothing else changes. */
export function checkChangedImportSource({ spec }: VolumeImportSource, before: VolumeImportSource): Cause[] {
  const change = changeOf(before.spec, spec);
  if (change === 'none') return [];
  return change === 'stages' ? checkImportSpec(spec ?? {}) : [changed('VolumeImportSource', change.of)];
}

export function checkNewUploadSource({ metadata, spec }: VolumeUploadSource): Cause[] {
  return [
    ...checkLength('Name of a VolumeUploadSource', 'metadata.name', metadata?.name, LONGEST_NAME),
    ...checkContentType(spec?.contentType, 'spec.contentType'),
  ];
}

export function checkChangedUploadSource({ spec }: VolumeUploadSource, before: VolumeUploadSource): Cause[] {
  const difference = differenceOf(before.spec, spec, 'spec');
  return difference === undefined ? [] : [changed('VolumeUploadSource', difference)];
}

function changed(kind: string, difference: string): Cause {
  return invalid(
    'spec',
    `Cannot update ${kind} Spec: ${difference} is not what it was; delete the ${kind} and create it as it is to be`,
  );
}

function checkImportSpec(spec: VolumeImportSourceSpec): Cause[] {
  const { source, contentType, targetClaim } = spec;
  const members = membersOf(source);
  const found = checkContentType(contentType, 'spec.contentType');
  if (members.length === 0) {
    const message =
      'Missing VolumeImport source: spec.source is empty; write one of http, s3, gcs, registry, imageio, vddk, blank';
    return [...found, invalid('spec.source', message)];
  }
  if (members.length > 1) {
    const message = `Multiple VolumeImport sources: spec.source has ${members.join(', ')}; write one of them`;
    return [...found, invalid('spec.source', message)];
  }
  if (isStaged(spec) && !targetClaim) {
    const message =
      'Unable to do multi-stage import without specifying a target claim: write the name of the claim in spec.targetClaim';
    found.push(invalid('spec.targetClaim', message));
  }
  return [...found, ...checkSource(source ?? {}, contentType, 'spec.source')];
}

import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { ANNOTATION } from '../../api/claim.ts';
import type { DataVolume, DataVolumePhase } from '../../api/datavolume.ts';
import { APP, LABEL } from '../../api/label.ts';
import { controllerOf, isControlledBy, type Stored } from '../../api/meta.ts';
import type { VolumeImportSource } from '../../api/populators.ts';
import { apiVersionOf, CDI_GROUP, CLAIMS, DATA_VOLUMES, IMPORT_SOURCES } from '../../api/resource.ts';
import { waitsForConsumer } from '../../profile/classes.ts';
import { peakInWords } from '../../profile/peak.ts';
import { requestOf } from '../../profile/render.ts';
import { annotate, type Decision, mergePatch } from '../decision.ts';
import { phaseOf } from './phase.ts';
import { importSourceName } from './population.ts';
import type { DataVolumeSeen } from './seen.ts';
import { annotationsOf, importedFrom } from './source.ts';
import { decideStage, firstCursor, isPaused, isStaged, type Stages } from './stages.ts';
import { boundOf, type Outcome, runningOf, statusOf } from './status.ts';

const AGAIN = 15;
/** Of a DataVolume's annotations, those that would say of the claim what has not happened to it: that it is filled, above all. */
const NOT_GIVEN: ReadonlySet<string> = new Set([
  'kubectl.kubernetes.io/last-applied-configuration',
  ANNOTATION.populatedFor,
  ANNOTATION.podPhase,
  ANNOTATION.fatalError,
  ANNOTATION.requiresScratch,
  ANNOTATION.checkpointsDone,
]);

/** What is to be done for a DataVolume: its claim, what that is filled from, and its status. */
export function decideDataVolume(seen: DataVolumeSeen): Decision[] {
  const { dv, claim } = seen;
  if (dv.metadata.deletionTimestamp) return [];
  if (!acted(dv)) return statusOf(seen, notActedOn(seen));
  return claim ? withClaim(seen, claim) : withoutClaim(seen);
}

const about = (dv: Stored<DataVolume>) => ({ resource: DATA_VOLUMES, object: dv });
const phaseBefore = (dv: Stored<DataVolume>): DataVolumePhase => dv.status?.phase ?? '';

/** Whether it is an import. */
function acted(dv: Stored<DataVolume>): boolean {
  return importedFrom(dv.spec.source) !== undefined;
}

function notActedOn({ dv }: DataVolumeSeen): Outcome {
  const { source, sourceRef } = dv.spec;
  const what = sourceRef ? `sourceRef ${sourceRef.kind}` : (Object.keys(source ?? {})[0] ?? 'no source');
  const message = `diskferry does not fill DataVolumes from ${what} yet: import from http, s3, gcs, registry, imageio or blank`;
  const said = { status: 'False', reason: 'SourceNotSupported', message } as const;
  return { phase: phaseBefore(dv) || 'Pending', bound: said, trouble: said, warning: true };
}

function withoutClaim(seen: DataVolumeSeen): Decision[] {
  const { dv, rendered, refused } = seen;
  const missing = { status: 'False', reason: 'NotFound', message: 'No PVC found' } as const;
  const before = phaseBefore(dv);
  if (dv.metadata.annotations?.[ANNOTATION.prePopulated] !== undefined)
    return statusOf(seen, { phase: 'Pending', bound: missing });
  if ('reason' in rendered) {
    const said = { status: 'False', ...rendered } as const;
    return statusOf(seen, { phase: before, bound: said, trouble: said, warning: true });
  }
  const populated = usesPopulator(seen);
  const marked = annotate(about(dv), { [ANNOTATION.usePopulator]: String(populated) });
  const size = requestOf(rendered.spec);
  const peak = size === undefined || size <= 0n ? undefined : peakInWords({ size, populator: populated });
  const made = [...marked, ...(populated ? importSource(seen) : []), ...create(seen, rendered.spec, populated)];
  if (refused) {
    const quota = refused.message.includes('exceeded quota');
    const reason = quota ? 'ErrExceededQuota' : 'ErrClaimNotValid';
    const message = `${refused.message}${peak ? `; it ${peak}` : ''}`;
    const said = { status: 'False', reason, message } as const;
    const told = statusOf(seen, { phase: before || 'Pending', bound: said, trouble: said, warning: true });
    return [...told, ...made, { act: 'again', seconds: AGAIN }];
  }
  const planned: Decision[] =
    before === '' && peak
      ? [{ act: 'tell', about: about(dv), type: 'Normal', reason: 'StoragePlanned', message: peak }]
      : [];
  return [...statusOf(seen, { phase: before || 'Pending', bound: missing }), ...planned, ...made];
}

/** Whether its claim is filled by way of a prime: as its annotation says, else where the class has a CSI driver. */
function usesPopulator({ dv, csi }: DataVolumeSeen): boolean {
  const said = dv.metadata.annotations?.[ANNOTATION.usePopulator];
  return said === undefined ? csi : said === 'true';
}

function importSource({ dv, source }: DataVolumeSeen): Decision[] {
  if (source) return [];
  const { contentType, preallocation, source: from, checkpoints, finalCheckpoint } = dv.spec;
  const object: VolumeImportSource = {
    metadata: {
      name: importSourceName(dv.metadata.uid),
      namespace: dv.metadata.namespace as string,
      ownerReferences: [ownerOf(dv)],
    },
    spec: {
      source: from ?? {},
      ...(contentType === undefined ? {} : { contentType }),
      ...(preallocation === undefined ? {} : { preallocation }),
      ...(isStaged(dv.spec) ? { targetClaim: dv.metadata.name, checkpoints, finalCheckpoint } : {}),
    },
  };
  return [{ act: 'create', resource: IMPORT_SOURCES, object: object, owner: about(dv) }];
}

function ownerOf(dv: Stored<DataVolume>) {
  const { name, uid } = dv.metadata;
  const { kind } = DATA_VOLUMES;
  return { apiVersion: apiVersionOf(DATA_VOLUMES), kind, name, uid, controller: true, blockOwnerDeletion: true };
}

function create(seen: DataVolumeSeen, spec: PersistentVolumeClaim['spec'], populated: boolean): Decision[] {
  const { dv, reserved, gates } = seen;
  const isStatic = reserved.length > 0 && dv.metadata.annotations?.[ANNOTATION.checkStaticVolume] !== undefined;
  const given = Object.fromEntries(
    Object.entries(dv.metadata.annotations ?? {}).filter(([key]) => !NOT_GIVEN.has(key)),
  );
  const { priorityClassName, serviceAccountName, contentType, preallocation, source = {} } = dv.spec;
  const wanted = {
    source,
    ...(contentType === undefined ? {} : { contentType }),
    ...(preallocation === undefined ? {} : { preallocation }),
  };
  const { [ANNOTATION.contentType]: content, [ANNOTATION.preallocationRequested]: requested } = annotationsOf(wanted);
  const object: PersistentVolumeClaim = {
    metadata: {
      name: dv.metadata.name,
      namespace: dv.metadata.namespace as string,
      labels: {
        ...dv.metadata.labels,
        [LABEL.app]: APP,
        // A disk image fills its file system, and is meant to.
        ...(spec?.volumeMode === 'Block' ? {} : { [LABEL.fillingUpAlert]: 'disabled' }),
      },
      annotations: {
        ...given,
        [ANNOTATION.createdForDataVolume]: dv.metadata.uid,
        [ANNOTATION.usePopulator]: String(populated),
        ...(content ? { [ANNOTATION.contentType]: content } : {}),
        ...(requested ? { [ANNOTATION.preallocationRequested]: requested } : {}),
        ...(populated || isStatic ? {} : { ...annotationsOf(wanted), ...firstCursor(dv.spec) }),
        ...(isStatic
          ? { [ANNOTATION.persistentVolumeList]: JSON.stringify(reserved.map((one) => one.metadata.name)) }
          : {}),
        ...(gates.honorsConsumers || ANNOTATION.immediate in given ? {} : { [ANNOTATION.immediate]: 'true' }),
        ...(priorityClassName ? { [ANNOTATION.priorityClass]: priorityClassName } : {}),
        ...(serviceAccountName ? { [ANNOTATION.serviceAccount]: serviceAccountName } : {}),
      },
      ownerReferences: [ownerOf(dv)],
    },
    spec: {
      ...spec,
      ...(populated && !isStatic
        ? {
            dataSourceRef: {
              apiGroup: CDI_GROUP,
              kind: IMPORT_SOURCES.kind,
              name: importSourceName(dv.metadata.uid),
            },
          }
        : {}),
    },
  };
  return [{ act: 'create', resource: CLAIMS, object: object, owner: about(dv) }];
}

function withClaim(seen: DataVolumeSeen, claim: Stored<PersistentVolumeClaim>): Decision[] {
  const { dv } = seen;
  const before = phaseBefore(dv);
  if (claim.metadata.deletionTimestamp) {
    const message = `PVC ${claim.metadata.name} is being deleted`;
    const said = { status: 'False', reason: 'ErrResourceMarkedForDeletion', message } as const;
    return statusOf(seen, { phase: before || 'Pending', bound: said, trouble: said, warning: true });
  }
  const adopted = adopts(seen, claim);
  if (!isControlledBy(claim, dv)) {
    if (adopted && !controllerOf(claim)) return take(dv, claim);
    const owner = controllerOf(claim);
    const of = owner ? `belongs to ${owner.kind} ${owner.name}` : 'was there before';
    const message = `Resource "${claim.metadata.name}" already exists and is not managed by DataVolume: the claim ${of}; delete it, give the DataVolume another name, or annotate it with ${ANNOTATION.allowClaimAdoption}: "true" to take it as it is`;
    const said = { status: 'False', reason: 'ErrResourceExists', message } as const;
    return statusOf(seen, { phase: before || 'Pending', bound: said, trouble: said, warning: true });
  }
  const checked = checkReserved(dv, claim);
  if (checked) return checked;
  const filled = claim.metadata.annotations?.[ANNOTATION.populatedFor] === dv.metadata.name || adopted;
  const populated = claim.metadata.annotations?.[ANNOTATION.usePopulator] === 'true';
  const filling = populated ? seen.prime : claim;
  const phase = phaseOf({
    before,
    claim,
    ...(seen.prime ? { prime: seen.prime } : {}),
    filled,
    populated,
    awaitsConsumer: waitsForConsumer(seen.storageClass),
    honored: seen.gates.honorsConsumers,
    paused: filling !== undefined && isPaused(filling, dv.spec),
  });
  return [
    ...(phase === 'Succeeded' ? settle(seen, claim, filled) : []),
    ...(filled ? [] : populated ? stagesOf(seen) : decideStage(claim, dv.spec)),
    ...statusOf(seen, { phase, bound: boundOf(seen, claim, phase), running: runningOf(claim) }),
  ];
}

/** What has come to the stages of a DataVolume is told to what its claim is filled from. */
function stagesOf({ dv, source }: DataVolumeSeen): Decision[] {
  if (!source || !isControlledBy(source, dv) || !isStaged(dv.spec)) return [];
  const of = ({ checkpoints = [], finalCheckpoint = false }: Stages) => ({ checkpoints, finalCheckpoint });
  const spec = mergePatch(of(source.spec), of(dv.spec));
  if (!spec) return [];
  return [{ act: 'patch', subject: { resource: IMPORT_SOURCES, object: source }, patch: { spec } }];
}

/** Whether a claim that is not its own is taken as it is: its user said so, or the installation does. */
function adopts({ dv, gates }: DataVolumeSeen, claim: Stored<PersistentVolumeClaim>): boolean {
  const annotations = claim.metadata.annotations ?? {};
  if (annotations[ANNOTATION.populatedFor] === dv.metadata.name) return true;
  if (annotations[ANNOTATION.createdForDataVolume] === dv.metadata.uid) return false;
  const said = dv.metadata.annotations?.[ANNOTATION.allowClaimAdoption];
  return said === undefined ? gates.adoptsClaims : said === 'true';
}

function take(dv: Stored<DataVolume>, claim: Stored<PersistentVolumeClaim>): Decision[] {
  const ownerReferences = [...(claim.metadata.ownerReferences ?? []), ownerOf(dv)];
  return [
    {
      act: 'patch',
      subject: { resource: CLAIMS, object: claim },
      patch: { metadata: { ownerReferences } },
      exact: true,
    },
  ];
}

/** A claim that waits for one of the volumes that were reserved for it; undefined where it does not, or still does. */
function checkReserved(dv: Stored<DataVolume>, claim: Stored<PersistentVolumeClaim>): Decision[] | undefined {
  const list = claim.metadata.annotations?.[ANNOTATION.persistentVolumeList];
  if (list === undefined || claim.status?.phase !== 'Bound') return undefined;
  const subject = { resource: CLAIMS, object: claim };
  if (!list.includes(JSON.stringify(claim.spec.volumeName))) return [{ act: 'delete', subject }];
  return annotate(subject, {
    [ANNOTATION.persistentVolumeList]: null,
    [ANNOTATION.populatedFor]: dv.metadata.name,
  });
}

/** It is filled: said on the claim, and what it was filled from is not needed any more. */
function settle({ dv, source }: DataVolumeSeen, claim: Stored<PersistentVolumeClaim>, filled: boolean): Decision[] {
  const bound = claim.status?.phase === 'Bound';
  return [
    ...annotate({ resource: CLAIMS, object: claim }, { [ANNOTATION.populatedFor]: dv.metadata.name }),
    ...(filled && bound ? annotate(about(dv), { [ANNOTATION.prePopulated]: claim.metadata.name }) : []),
    ...(source && bound && isControlledBy(source, dv) && !source.metadata.deletionTimestamp
      ? ([{ act: 'delete', subject: { resource: IMPORT_SOURCES, object: source } }] as const)
      : []),
  ];
}

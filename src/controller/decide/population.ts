import type { Event, PersistentVolume, PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import type { StorageClass } from 'kubernetes-types/storage/v1.js';
import { ANNOTATION } from '../../api/claim.ts';
import { APP, LABEL } from '../../api/label.ts';
import { isControlledBy, type Stored } from '../../api/meta.ts';
import { resourceName } from '../../api/names.ts';
import type { VolumeImportSource } from '../../api/populators.ts';
import { CDI_GROUP, CLAIMS, IMPORT_SOURCES, VOLUMES } from '../../api/resource.ts';
import { waitsForConsumer } from '../../profile/classes.ts';
import { annotate, type Decision, label, type Refusal } from '../decision.ts';
import { importPodName, passedOn } from '../import-pod.ts';
import { labelsOfImage } from './pod-state.ts';
import { withRemedy } from './remedy.ts';
import { annotationsOf } from './source.ts';
import { decideStage, firstCursor } from './stages.ts';

/**
 * What is seen of a claim whose `dataSourceRef` names a VolumeImportSource. It stays unbound while another claim is filled
 * in its place (its prime), and then gets the volume of that one: until then nobody can use it.
 */
export interface PopulationSeen {
  readonly target: Stored<PersistentVolumeClaim>;
  readonly source?: Stored<VolumeImportSource>;
  readonly storageClass?: Stored<StorageClass>;
  readonly prime?: Stored<PersistentVolumeClaim>;
  /** Of the prime. */
  readonly volume?: Stored<PersistentVolume>;
  /** The last event about the prime. */
  readonly event?: Stored<Event>;
  /** `12.34%`, while its import runs. */
  readonly progress?: string;
  readonly refused?: Refusal;
}

/** Annotations that the prime has of its import, and the target of the prime. */
const MIRRORED = [
  ANNOTATION.podPhase,
  ANNOTATION.podReady,
  ANNOTATION.podRestarts,
  ANNOTATION.podSchedulable,
  ANNOTATION.preallocationRequested,
  ANNOTATION.preallocation,
  ANNOTATION.currentCheckpoint,
  ANNOTATION.checkpointsDone,
  ANNOTATION.running,
  ANNOTATION.runningMessage,
  ANNOTATION.runningReason,
  ANNOTATION.fatalError,
] as const;
const AGAIN = 15;

export function primeName(target: Stored<PersistentVolumeClaim>): string {
  return `prime-${target.metadata.uid}`;
}

/** The name of the VolumeImportSource that a claim is to be filled from; undefined where it is no such claim. */
export function importSourceOf(claim: Stored<PersistentVolumeClaim>): string | undefined {
  const { apiGroup, kind, name } = claim.spec.dataSourceRef ?? { kind: '', name: '' };
  return apiGroup === CDI_GROUP && kind === IMPORT_SOURCES.kind ? name : undefined;
}

/** Name of what a DataVolume's claim is filled from. */
export function importSourceName(uid: string): string {
  return resourceName('volume-import-source', uid);
}

/** Whether a claim may be filled now, and if not why. */
export function readiness(
  target: Stored<PersistentVolumeClaim>,
  storageClass: Stored<StorageClass> | undefined,
): { readonly ready: boolean; readonly why?: string } {
  const name = target.spec.storageClassName;
  const annotations = target.metadata.annotations ?? {};
  if (name === undefined)
    return { ready: false, why: 'the claim has no storage class, and there is no default class: set storageClassName' };
  if (name === '')
    return {
      ready: false,
      why: 'a claim that is filled from a VolumeImportSource needs a storage class of a CSI driver',
    };
  if (!storageClass)
    return { ready: false, why: `the storage class ${name} does not exist: create it, or name another` };
  if (storageClass.provisioner.startsWith('kubernetes.io/') && !('pv.kubernetes.io/migrated-to' in annotations)) {
    return {
      ready: false,
      why: `the provisioner ${storageClass.provisioner} of storage class ${name} takes no dataSourceRef: annotate the DataVolume with ${ANNOTATION.usePopulator}: "false"`,
    };
  }
  const chosen = ANNOTATION.selectedNode in annotations || ANNOTATION.immediate in annotations;
  return { ready: !waitsForConsumer(storageClass) || chosen };
}

export function decidePopulation(seen: PopulationSeen): Decision[] {
  const { target, prime } = seen;
  const about = { resource: CLAIMS, object: target };
  if (prime && !isControlledBy(prime, target)) {
    const message = `the claim ${prime.metadata.name} was not made for this one and stands in the way of filling it: delete it`;
    return [...annotate(about, unbound('PrimeNameTaken', message)), { act: 'again', seconds: AGAIN }];
  }
  if (target.metadata.deletionTimestamp) return prime ? drop(prime) : [];
  if (target.spec.volumeName) return prime ? finished(seen, prime) : [];
  return prime ? filling(seen, prime) : beginning(seen);
}

/** Unless it is going already. */
function drop(prime: Stored<PersistentVolumeClaim>): Decision[] {
  return prime.metadata.deletionTimestamp ? [] : [{ act: 'delete', subject: { resource: CLAIMS, object: prime } }];
}

function unbound(reason: string, message: string): Record<string, string> {
  return { [ANNOTATION.bound]: 'false', [ANNOTATION.boundReason]: reason, [ANNOTATION.boundMessage]: message };
}

/** The target has its volume. */
function finished({ target }: PopulationSeen, prime: Stored<PersistentVolumeClaim>): Decision[] {
  // What was not filled by us (its user bound it by hand) is not to be filled any more either.
  const retain = target.metadata.annotations?.[ANNOTATION.retain] === 'true';
  const done = target.status?.phase === 'Bound' && prime.status?.phase !== 'Bound';
  const told = annotate(
    { resource: CLAIMS, object: target },
    { ...mirrored(prime), [ANNOTATION.populatorProgress]: '100.0%', ...BOUND },
  );
  return done && !retain ? [...told, ...drop(prime)] : told;
}

const BOUND = {
  [ANNOTATION.bound]: null,
  [ANNOTATION.boundReason]: null,
  [ANNOTATION.boundMessage]: null,
};

function mirrored(prime: Stored<PersistentVolumeClaim>): Record<string, string | null> {
  return Object.fromEntries(MIRRORED.map((key) => [key, prime.metadata.annotations?.[key] ?? null]));
}

function beginning(seen: PopulationSeen): Decision[] {
  const { target, source, storageClass, refused } = seen;
  const about = { resource: CLAIMS, object: target };
  if (!source) {
    const name = target.spec.dataSourceRef?.name;
    return annotate(
      about,
      unbound('Pending', `the VolumeImportSource ${name} does not exist: create it beside the claim`),
    );
  }
  const claimed = source.spec.targetClaim;
  if (claimed && claimed !== target.metadata.name) {
    const message = `the VolumeImportSource ${source.metadata.name} is for the claim ${claimed} only`;
    return annotate(about, unbound('Pending', message));
  }
  const { ready, why } = readiness(target, storageClass);
  if (!ready) return why ? annotate(about, unbound('Pending', why)) : [];
  const create: Decision = {
    act: 'create',
    resource: CLAIMS,
    object: primeOf(seen, source),
    owner: about,
  };
  if (refused) {
    const reason = refused.message.includes('exceeded quota') ? 'ErrExceededQuota' : 'ErrCreatingPVCPrime';
    const remedy = reason === 'ErrExceededQuota' ? 'it begins when quota is free' : 'it is tried again';
    const message = `${refused.message} (${remedy})`;
    const told = annotate(about, unbound(reason, message));
    const event: Decision = { act: 'tell', about, type: 'Warning', reason, message };
    return [...told, ...(told.length > 0 ? [event] : []), create, { act: 'again', seconds: AGAIN }];
  }
  return [
    create,
    {
      act: 'tell',
      about,
      type: 'Normal',
      reason: 'CreatedPVCPrimeSuccessfully',
      message: 'PVC Prime created successfully',
    },
  ];
}

function primeOf({ target, storageClass }: PopulationSeen, source: Stored<VolumeImportSource>): PersistentVolumeClaim {
  const { accessModes, resources, storageClassName, volumeMode } = target.spec;
  const annotations = target.metadata.annotations ?? {};
  const node = waitsForConsumer(storageClass) ? annotations[ANNOTATION.selectedNode] : undefined;
  const { source: from = {}, contentType, preallocation } = source.spec;
  const cursor = firstCursor(source.spec);
  return {
    metadata: {
      name: primeName(target),
      namespace: target.metadata.namespace as string,
      labels: { [LABEL.app]: APP, [LABEL.excludeFromBackup]: 'true' },
      annotations: {
        ...annotationsOf({
          source: from,
          ...(contentType === undefined ? {} : { contentType }),
          ...(preallocation === undefined ? {} : { preallocation }),
        }),
        ...cursor,
        ...passedOn(annotations),
        [ANNOTATION.immediate]: '',
        [ANNOTATION.populatorKind]: IMPORT_SOURCES.kind,
        // Said at once: a change just before the pod comes is one that the scheduler has not seen yet, and stumbles over.
        [ANNOTATION.importPod]: importPodName({ metadata: { name: primeName(target), annotations: cursor } }),
        [ANNOTATION.podRestarts]: '0',
        ...(node ? { [ANNOTATION.selectedNode]: node } : {}),
        ...(ANNOTATION.retain in annotations ? { [ANNOTATION.retain]: annotations[ANNOTATION.retain] as string } : {}),
      },
      ownerReferences: [
        {
          apiVersion: 'v1',
          kind: 'PersistentVolumeClaim',
          name: target.metadata.name,
          uid: target.metadata.uid,
          controller: true,
          blockOwnerDeletion: true,
        },
      ],
    },
    spec: {
      ...(accessModes ? { accessModes } : {}),
      ...(resources ? { resources } : {}),
      ...(storageClassName === undefined ? {} : { storageClassName }),
      ...(volumeMode ? { volumeMode } : {}),
    },
  };
}

/** What is known of the prime stands on the target; when the prime is filled, the target gets its volume. */
function filling(seen: PopulationSeen, prime: Stored<PersistentVolumeClaim>): Decision[] {
  const { target, source, volume, event, progress } = seen;
  const about = { resource: CLAIMS, object: target };
  const filled = prime.metadata.annotations?.[ANNOTATION.podPhase] === 'Succeeded';
  // Why the prime is not bound is why nothing goes on.
  const pending = prime.status?.phase === 'Pending' && event;
  const told = annotate(about, {
    ...mirrored(prime),
    ...(pending
      ? unbound('Pending', `[${prime.metadata.name}] : ${withRemedy(event.message ?? '', target.metadata.namespace)}`)
      : target.metadata.annotations?.[ANNOTATION.boundReason]
        ? BOUND
        : {}),
    [ANNOTATION.prime]: prime.metadata.name,
    [ANNOTATION.populatorProgress]: filled
      ? '100.0%'
      : (progress ?? target.metadata.annotations?.[ANNOTATION.populatorProgress] ?? 'N/A'),
  });
  const labels = filled ? label(about, labelsOfImage(prime.metadata.labels)) : [];
  if (!filled) return [...told, ...(source ? decideStage(prime, source.spec) : [])];
  return volume ? [...labels, ...told, ...handOver(target, prime, volume)] : told;
}

/** The volume is told that it belongs to the target; Kubernetes binds it then, and the prime is lost. */
function handOver(
  target: Stored<PersistentVolumeClaim>,
  prime: Stored<PersistentVolumeClaim>,
  volume: Stored<PersistentVolume>,
): Decision[] {
  // Of the prime, or already the target's.
  if (volume.spec.claimRef?.uid !== prime.metadata.uid) return [];
  const { namespace, name, uid, resourceVersion } = target.metadata;
  const claimRef = { apiVersion: 'v1', kind: 'PersistentVolumeClaim', namespace, name, uid, resourceVersion };
  return [
    { act: 'patch', subject: { resource: VOLUMES, object: volume }, patch: { spec: { claimRef } }, exact: true },
    {
      act: 'tell',
      about: { resource: CLAIMS, object: target },
      type: 'Normal',
      reason: 'importSucceeded',
      message: 'Import Successful',
    },
  ];
}

import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { ANNOTATION } from '../../api/claim.ts';
import type { Checkpoint, DataVolumeSpec } from '../../api/datavolume.ts';
import { controllerOf, type Stored } from '../../api/meta.ts';
import { CLAIMS, DATA_VOLUMES } from '../../api/resource.ts';
import type { Decision } from '../decision.ts';

// A disk that is imported while its machine runs elsewhere: a snapshot, then what changed up to the next, and so on until its
// user says that it was the last (cdi.md §3.11). The claim has a cursor, which is the stage that its pod carries, and a mark for
// each that was carried. The cursor moves only from a stage that is marked: no two pods of two stages ever write.

/** What is to be imported, one behind the other; more come while it goes on. */
export type Stages = Pick<DataVolumeSpec, 'source' | 'checkpoints' | 'finalCheckpoint'>;
type Annotations = Readonly<Record<string, string>>;

const DONE = {
  [ANNOTATION.currentCheckpoint]: null,
  [ANNOTATION.previousCheckpoint]: null,
  [ANNOTATION.finalCheckpoint]: null,
  [ANNOTATION.checkpointsDone]: 'true',
  [ANNOTATION.podPhase]: 'Succeeded',
};

function listOf({ source, checkpoints = [] }: Stages): readonly Checkpoint[] {
  return (source?.vddk ?? source?.imageio) ? checkpoints.filter(({ current }) => current !== '') : [];
}

export function isStaged(stages: Stages): boolean {
  return listOf(stages).length > 0;
}

function markOf(checkpoint: string): string {
  return ANNOTATION.copiedCheckpoint + checkpoint;
}

/** The first that was not carried yet. */
function nextOf(stages: Stages, annotations: Annotations): Checkpoint | undefined {
  return listOf(stages).find(({ current }) => annotations[markOf(current)] === undefined);
}

function cursorAt({ current, previous }: Checkpoint, { finalCheckpoint, ...stages }: Stages): Record<string, string> {
  const isFinal = finalCheckpoint === true && listOf(stages).at(-1)?.current === current;
  return {
    [ANNOTATION.currentCheckpoint]: current,
    [ANNOTATION.previousCheckpoint]: previous,
    [ANNOTATION.finalCheckpoint]: String(isFinal),
  };
}

/** The cursor of a claim that is being made; none where it is not filled in stages. */
export function firstCursor(stages: Stages): Record<string, string> {
  const first = nextOf(stages, {});
  return first ? cursorAt(first, stages) : {};
}

/** Whether a claim has somebody who moves its cursor: what a user wrote on a claim of their own is one import. */
function hasCursor({ metadata }: Stored<PersistentVolumeClaim>): boolean {
  const by = controllerOf({ metadata })?.kind;
  const moved = by === DATA_VOLUMES.kind || by === CLAIMS.kind;
  return moved && metadata.annotations?.[ANNOTATION.currentCheckpoint] !== undefined;
}

/** Whether the stage at the cursor was carried, so that no pod is wanted until the cursor moves. */
export function isCarried(claim: Stored<PersistentVolumeClaim>): boolean {
  const annotations = claim.metadata.annotations ?? {};
  return hasCursor(claim) && annotations[markOf(annotations[ANNOTATION.currentCheckpoint] as string)] !== undefined;
}

/** What a pod that has carried its stage leaves on the claim; undefined where it was all of the import. */
export function markAfter(
  claim: Stored<PersistentVolumeClaim>,
  pod: string,
): Record<string, string | null> | undefined {
  if (!hasCursor(claim)) return undefined;
  const current = claim.metadata.annotations?.[ANNOTATION.currentCheckpoint] as string;
  return { [ANNOTATION.podPhase]: 'Pending', [ANNOTATION.importPod]: null, [markOf(current)]: pod };
}

/** Whether it waits for its user to name another stage, or to say that there is none. */
export function isPaused(claim: Stored<PersistentVolumeClaim>, stages: Stages): boolean {
  return (
    isStaged(stages) &&
    stages.finalCheckpoint !== true &&
    isCarried(claim) &&
    !nextOf(stages, claim.metadata.annotations ?? {})
  );
}

/** Moves the cursor of a claim when its stage was carried: on to the next, or away when that was the last. */
export function decideStage(claim: Stored<PersistentVolumeClaim>, stages: Stages): Decision[] {
  if (!isCarried(claim) || isPaused(claim, stages)) return [];
  const there = claim.metadata.annotations ?? {};
  const next = nextOf(stages, there);
  const marks = Object.keys(there).filter((key) => key.startsWith(ANNOTATION.copiedCheckpoint));
  const annotations = next
    ? cursorAt(next, stages)
    : { ...DONE, ...Object.fromEntries(marks.map((key) => [key, null])) };
  const about = { resource: CLAIMS, object: claim };
  const moved: Decision = { act: 'patch', subject: about, patch: { metadata: { annotations } }, exact: true };
  if (next) return [moved];
  return [moved, { act: 'tell', about, type: 'Normal', reason: 'ImportSucceeded', message: 'Import Successful' }];
}

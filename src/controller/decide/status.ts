import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { ANNOTATION } from '../../api/claim.ts';
import type { DataVolume, DataVolumePhase, DataVolumeStatus } from '../../api/datavolume.ts';
import { isControlledBy, type Stored } from '../../api/meta.ts';
import { DATA_VOLUMES } from '../../api/resource.ts';
import { type Decision, isSame } from '../decision.ts';
import { conditionsOf, type Said } from './conditions.ts';
import { withRemedy } from './remedy.ts';
import type { DataVolumeSeen } from './seen.ts';

/** What is to be said of a DataVolume. */
export interface Outcome {
  readonly phase: DataVolumePhase;
  readonly bound: Said;
  readonly running?: Said;
  /** Why it is not ready, where there is more to say than the others do. */
  readonly trouble?: Said;
  readonly warning?: boolean;
}

const about = (dv: Stored<DataVolume>) => ({ resource: DATA_VOLUMES, object: dv });

/** Whether its claim has a volume, else why not. */
export function boundOf(seen: DataVolumeSeen, claim: Stored<PersistentVolumeClaim>, phase: DataVolumePhase): Said {
  const { name, annotations = {} } = claim.metadata;
  const told = annotations[ANNOTATION.bound];
  const [reason = '', message = ''] = [annotations[ANNOTATION.boundReason], annotations[ANNOTATION.boundMessage]];
  switch (claim.status?.phase) {
    case 'Bound':
      if (told === undefined || told === 'true')
        return { status: 'True', reason: 'Bound', message: `PVC ${name} Bound` };
      return { status: 'False', reason, message };
    case 'Lost':
      return { status: 'False', reason: 'ClaimLost', message: 'Claim Lost' };
    case 'Pending':
      if (told !== undefined) {
        const prime = annotations[ANNOTATION.prime];
        const both = prime ? `target PVC ${name} Pending and ${message}` : message;
        return { status: 'False', reason: reason || 'Pending', message: both };
      }
      return { status: 'False', reason: 'Pending', message: `PVC ${name} Pending${whyPending(seen, phase)}` };
    default:
      return { status: 'False', reason: 'Pending', message: `PVC ${name} ${claim.status?.phase ?? 'Pending'}` };
  }
}

function whyPending({ dv, event, storageClass, claim }: DataVolumeSeen, phase: DataVolumePhase): string {
  if (phase === 'WaitForFirstConsumer' || phase === 'PendingPopulation') {
    const of = storageClass ? `: storage class ${storageClass.metadata.name} ` : ': its storage class ';
    return `${of}waits for a pod that uses the claim; start one, or annotate the DataVolume with ${ANNOTATION.immediate}: "true"`;
  }
  // A claim with a source is left alone by its storage: that it waits is as it should be.
  if (claim?.spec.dataSourceRef && event?.type !== 'Warning') return '';
  return event?.message ? `: ${withRemedy(event.message, dv.metadata.namespace)}` : '';
}

/** Whether its pod runs, as the claim says. */
export function runningOf(claim: Stored<PersistentVolumeClaim>): Said {
  const annotations = claim.metadata.annotations ?? {};
  const running = annotations[ANNOTATION.running];
  return {
    status: running === 'true' ? 'True' : 'False',
    reason: annotations[ANNOTATION.runningReason] ?? '',
    message: annotations[ANNOTATION.runningMessage] ?? '',
  };
}

/** What is told of a phase when it comes. */
const TOLD: Partial<Record<DataVolumePhase, (name: string) => readonly [reason: string, message: string]>> = {
  ImportScheduled: (name) => ['ImportScheduled', `Import into ${name} scheduled`],
  ImportInProgress: (name) => ['ImportInProgress', `Import into ${name} in progress`],
  Paused: (name) => ['ImportPaused', `Multistage import into PVC ${name} is paused`],
  Succeeded: (name) => ['ImportSucceeded', `Successfully imported into PVC ${name}`],
};

/** Patches the status where it differs, and tells what changed. */
export function statusOf(seen: DataVolumeSeen, outcome: Outcome): Decision[] {
  const { dv, claim, now } = seen;
  const before = dv.status ?? {};
  const { phase, bound, running = { status: 'False', reason: '', message: '' }, trouble } = outcome;
  const transferring = running.status === 'True' && phase !== 'Succeeded';
  const ready: Said =
    phase === 'Succeeded'
      ? { status: 'True' }
      : phase === 'Unknown'
        ? { status: 'Unknown' }
        : {
            status: 'False',
            ...(transferring
              ? { reason: 'TransferRunning' }
              : { reason: trouble?.reason ?? '', message: trouble?.message ?? '' }),
          };
  const owned = claim && isControlledBy(claim, dv) && !claim.metadata.deletionTimestamp;
  const status: DataVolumeStatus = {
    phase,
    progress: progressOf(seen, phase),
    restartCount: Number(claim?.metadata.annotations?.[ANNOTATION.podRestarts] ?? before.restartCount ?? 0),
    conditions: conditionsOf(before.conditions, { Bound: bound, Ready: ready, Running: running }, now),
    ...(owned ? { claimName: claim.metadata.name } : {}),
  };
  const changed = Object.entries(status).filter(
    ([key, value]) => !isSame(before[key as keyof DataVolumeStatus], value),
  );
  if (changed.length === 0) return [];
  const subject = about(dv);
  return [
    { act: 'patch', subject, part: 'status', patch: { status: Object.fromEntries(changed) } },
    ...eventsOf(seen, outcome, status),
  ];
}

function progressOf({ dv, claim, progress }: DataVolumeSeen, phase: DataVolumePhase): string {
  if (phase === 'Succeeded') return '100.0%';
  return claim?.metadata.annotations?.[ANNOTATION.populatorProgress] ?? progress ?? dv.status?.progress ?? 'N/A';
}

/** One event for each thing that changed: the phase, the claim's state, what keeps the import from running. */
function eventsOf({ dv, claim }: DataVolumeSeen, { phase, warning }: Outcome, status: DataVolumeStatus): Decision[] {
  const told: Decision[] = [];
  const tell = (type: 'Normal' | 'Warning', reason: string, message: string): void => {
    if (reason !== '') told.push({ act: 'tell', about: about(dv), type, reason, message });
  };
  const before = dv.status;
  if (phase !== (before?.phase ?? '')) {
    const words = TOLD[phase]?.(claim?.metadata.name ?? dv.metadata.name);
    if (words) tell('Normal', ...words);
    if (phase === 'Failed' && claim?.status?.phase === 'Lost')
      tell('Warning', 'ErrClaimLost', `PVC ${claim.metadata.name} lost`);
    else if (phase === 'Failed')
      tell('Warning', 'ImportFailed', `Failed to import into PVC ${claim?.metadata.name ?? ''}`);
  }
  const [was, is] = [before?.conditions, status.conditions].map(
    (list) => (type: string) => list?.find((one) => one.type === type),
  );
  const moved = (type: string): boolean =>
    was?.(type)?.reason !== is?.(type)?.reason || was?.(type)?.message !== is?.(type)?.message;
  const [bound, running] = [is?.('Bound'), is?.('Running')];
  // That it is being made is no news.
  const quiet = !warning && (bound?.reason === 'NotFound' || bound?.message === `PVC ${dv.metadata.name} Pending`);
  if (bound && moved('Bound') && !quiet) tell(warning ? 'Warning' : 'Normal', bound.reason ?? '', bound.message ?? '');
  const stopped = running?.status === 'False' && phase !== 'Succeeded' && bound?.status === 'True';
  if (running && stopped && moved('Running') && !QUIET.includes(running.reason ?? ''))
    tell('Warning', running.reason ?? '', running.message ?? '');
  return told;
}

/** Reasons that are steps on the way. */
const QUIET = ['Completed', 'Scratch space required', 'ContainerCreating', 'Queued'];

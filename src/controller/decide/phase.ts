import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { ANNOTATION } from '../../api/claim.ts';
import type { DataVolumePhase } from '../../api/datavolume.ts';
import type { Stored } from '../../api/meta.ts';

/** What a DataVolume's phase follows from. */
export interface PhaseSeen {
  readonly before: DataVolumePhase;
  readonly claim: Stored<PersistentVolumeClaim>;
  /** The claim that is filled in its place. */
  readonly prime?: Stored<PersistentVolumeClaim>;
  /** It has been filled before, or is taken as it is. */
  readonly filled: boolean;
  /** Whether it is filled by way of a prime. */
  readonly populated: boolean;
  /** Whether its class waits for a consumer, and the gate HonorWaitForFirstConsumer is on. */
  readonly awaitsConsumer: boolean;
  readonly honored: boolean;
  /** Of an import in stages: it waits for its user. */
  readonly paused: boolean;
}

/** The phase of a DataVolume whose claim is there (cdi.md §1.1; a clone's or an upload's has more of them). */
export function phaseOf(seen: PhaseSeen): DataVolumePhase {
  const { claim, filled, populated, before } = seen;
  const annotations = claim.metadata.annotations ?? {};
  if (annotations[ANNOTATION.persistentVolumeList] !== undefined) return 'Pending';
  switch (claim.status?.phase) {
    case 'Pending': {
      if (filled) return 'Succeeded';
      const chosen = ANNOTATION.selectedNode in annotations || ANNOTATION.immediate in annotations;
      if (!populated) return seen.honored && seen.awaitsConsumer && !chosen ? 'WaitForFirstConsumer' : 'Pending';
      if (seen.awaitsConsumer && !chosen) return 'PendingPopulation';
      return ofImport(seen, before === 'PendingPopulation' || before === '' ? 'Pending' : before);
    }
    case 'Bound': {
      if (filled) return 'Succeeded';
      const first = before === 'Pending' || before === 'WaitForFirstConsumer' || before === 'Unknown' || before === '';
      return ofImport(seen, first ? 'PVCBound' : before);
    }
    case 'Lost':
      return 'Failed';
    case undefined:
      return before === '' ? 'Pending' : before;
    default:
      return 'Unknown';
  }
}

function ofImport({ claim, prime, populated, paused }: PhaseSeen, before: DataVolumePhase): DataVolumePhase {
  const annotations = claim.metadata.annotations ?? {};
  const podPhase = annotations[ANNOTATION.podPhase];
  // It is what it should be when its volume is its own.
  if (podPhase === 'Succeeded') return claim.status?.phase === 'Bound' ? 'Succeeded' : 'ImportInProgress';
  if (annotations[ANNOTATION.fatalError] === 'true') return 'Failed';
  if (paused) return 'Paused';
  const filling = populated ? prime : claim;
  if (!filling?.metadata.annotations?.[ANNOTATION.importPod] || filling.status?.phase !== 'Bound') return before;
  return podPhase === 'Running' ? 'ImportInProgress' : 'ImportScheduled';
}

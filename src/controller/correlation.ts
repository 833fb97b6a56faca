import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { controllerOf, type Stored } from '../api/meta.ts';

/**
 * What the lines of all logs about one disk have in common, from its DataVolume to its pod: the UID of the DataVolume, else of
 * the claim that somebody made, never of the one in whose place it is filled.
 */
export function correlationOf(target: Stored<PersistentVolumeClaim>): string {
  return controllerOf(target)?.uid ?? target.metadata.uid;
}

import type { ObjectMeta } from 'kubernetes-types/meta/v1.js';
import type { Checkpoint, ImportSource } from './datavolume.ts';

/** CDI's VolumeImportSource: what a claim whose `dataSourceRef` names it is to be filled with. */
export interface VolumeImportSource {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  readonly spec?: {
    readonly source?: ImportSource;
    readonly preallocation?: boolean;
    readonly contentType?: string;
    readonly targetClaim?: string;
    readonly checkpoints?: readonly Checkpoint[];
    readonly finalCheckpoint?: boolean;
  };
}

import type { ObjectMeta } from 'kubernetes-types/meta/v1.js';
import type { ObjectRef } from './datavolume.ts';
import type { Condition } from './meta.ts';

/** CDI's DataSource: a name for a disk that others clone, which stays when the disk is another. */
export interface DataSource {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  readonly spec?: { readonly source: DataSourceSource };
  readonly status?: {
    /** What `spec.source` leads to; empty while that is not ready. */
    readonly source?: DataSourceSource;
    readonly conditions?: readonly Condition[];
  };
}

/** One of them. */
export interface DataSourceSource {
  readonly pvc?: ObjectRef;
  readonly snapshot?: ObjectRef;
  readonly dataSource?: ObjectRef;
}

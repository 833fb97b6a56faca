import type { ObjectMeta } from 'kubernetes-types/meta/v1.js';
import type { DataVolume, ObjectRef } from './datavolume.ts';
import type { Condition } from './meta.ts';

/** CDI's DataImportCron: a disk that is imported again whenever its image is another. */
export interface DataImportCron {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  readonly spec?: DataImportCronSpec;
  readonly status?: DataImportCronStatus;
}

export interface DataImportCronSpec {
  readonly template: DataVolume;
  /** Five fields of cron, or a descriptor such as `@daily`; empty: nothing is looked for. */
  readonly schedule: string;
  /** `Outdated` (also where it is left out) or `Never`. */
  readonly garbageCollect?: string;
  /** 3 where it is left out. */
  readonly importsToKeep?: number;
  readonly managedDataSource: string;
  /** `All` (also where it is left out) or `None`. */
  readonly retentionPolicy?: string;
  readonly serviceAccountName?: string;
}

export interface DataImportCronStatus {
  /** The first counts. */
  readonly currentImports?: readonly ImportStatus[];
  /** A snapshot, where sources are kept as snapshots. */
  readonly lastImportedPVC?: ObjectRef;
  /** RFC 3339, as the next. */
  readonly lastExecutionTimestamp?: string;
  readonly lastImportTimestamp?: string;
  /** `pvc` or `snapshot`. */
  readonly sourceFormat?: string;
  readonly conditions?: readonly Condition[];
}

export interface ImportStatus {
  readonly DataVolumeName: string;
  readonly Digest: string;
}

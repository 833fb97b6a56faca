import type { StorageClass } from 'kubernetes-types/storage/v1.js';
import type { CdiConfig } from '../api/config.ts';
import { parseOverhead } from '../api/overhead.ts';
import { classOf } from './classes.ts';

/** Of file systems of which nobody said anything (CDI, pkg/common/common.go: DefaultGlobalOverhead). */
export const DEFAULT_OVERHEAD = '0.06';

/**
 * The part of a claim's file system that is needed for itself, by the name of its class: what CDIConfig says of the class, or
 * of the default one where no class has the name, or of all. Volumes without a class, whose name is empty, are taken as they
 * are: 0. Disks of virtual machines have no default of their own here (classes.ts), as in CDI.
 */
export function overheadOf(
  name: string | undefined,
  classes: readonly StorageClass[],
  config: CdiConfig | undefined,
): number {
  if (name === '') return 0;
  const known = (classOf(name, classes) ?? classOf(undefined, classes))?.metadata?.name;
  const { storageClass, global } = config?.status?.filesystemOverhead ?? {};
  for (const text of [known === undefined ? undefined : storageClass?.[known], global, DEFAULT_OVERHEAD]) {
    const overhead = text === undefined ? undefined : parseOverhead(text);
    if (overhead !== undefined) return overhead;
  }
  return 0;
}

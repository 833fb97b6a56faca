import type { CSIDriver, StorageClass } from 'kubernetes-types/storage/v1.js';
import type { SnapshotClass } from '../api/snapshot-class.ts';
import type { StorageProfile } from '../api/storage-profile.ts';
import { WITHOUT_DISKS } from './capabilities.ts';
import { hasCsiDriver, IS_DEFAULT, IS_VIRT_DEFAULT } from './classes.ts';

/** What is seen of a storage class whose profile is there. */
export interface ProfileSeen {
  readonly storageClass: StorageClass;
  readonly profile: StorageProfile;
  readonly snapshotClasses: readonly SnapshotClass[];
  readonly csiDrivers: readonly CSIDriver[];
  /** The cluster has one node for good, so that nothing can be moved from it (OpenShift). */
  readonly singleNode: boolean;
}

/** Labels of the metric `kubevirt_cdi_storageprofile_info`, whose value is always 1; CDI's alerts compare them as texts. */
export function profileLabels(seen: ProfileSeen): Readonly<Record<string, string>> {
  const { storageClass, profile } = seen;
  const sets = profile.status?.claimPropertySets ?? [];
  const filled = sets.length > 0 && sets.every((set) => set.volumeMode && set.accessModes?.length);
  const shared = sets.some((set) => set.accessModes?.includes('ReadWriteMany'));
  const smart = clonesWithoutCopying(seen);
  const annotated = (name: string): boolean => storageClass.metadata?.annotations?.[name] === 'true';
  return {
    storageclass: storageClass.metadata?.name ?? '',
    provisioner: storageClass.provisioner,
    complete: String(filled || WITHOUT_DISKS.includes(storageClass.provisioner)),
    default: String(annotated(IS_DEFAULT)),
    virtdefault: String(annotated(IS_VIRT_DEFAULT)),
    rwx: String(shared),
    smartclone: String(smart),
    degraded: String((!seen.singleNode && !shared) || !smart),
  };
}

function clonesWithoutCopying({ storageClass, profile, snapshotClasses, csiDrivers }: ProfileSeen): boolean {
  const strategy = profile.status?.cloneStrategy;
  if (strategy === 'csi-clone') return hasCsiDriver(storageClass, csiDrivers);
  if (strategy !== undefined && strategy !== 'snapshot') return false;
  return snapshotClasses.some((one) => one.driver === storageClass.provisioner);
}

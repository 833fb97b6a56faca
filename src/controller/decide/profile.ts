import type { PersistentVolume } from 'kubernetes-types/core/v1.js';
import type { StorageClass } from 'kubernetes-types/storage/v1.js';
import { APP, LABEL } from '../../api/label.ts';
import type { Stored } from '../../api/meta.ts';
import { STORAGE_PROFILES } from '../../api/resource.ts';
import type { SnapshotClass } from '../../api/snapshot-class.ts';
import type { StorageProfile } from '../../api/storage-profile.ts';
import { profileOf } from '../../profile/profile.ts';
import { type Decision, mergePatch } from '../decision.ts';

export interface ProfileSeen {
  /** Of both. */
  readonly name: string;
  readonly storageClass?: Stored<StorageClass>;
  readonly profile?: Stored<StorageProfile>;
  readonly snapshotClasses: readonly SnapshotClass[] | undefined;
  readonly volumes: readonly PersistentVolume[];
  /** RFC 3339. */
  readonly now: string;
}

/** One StorageProfile for each storage class, and none without. */
export function decideProfile(seen: ProfileSeen): Decision[] {
  const { name, storageClass, profile, snapshotClasses, volumes, now } = seen;
  if (!storageClass)
    return profile ? [{ act: 'delete', subject: { resource: STORAGE_PROFILES, object: profile } }] : [];
  if (!profile) {
    const labels = { [LABEL.app]: APP, [LABEL.component]: '' };
    return [{ act: 'create', resource: STORAGE_PROFILES, object: { metadata: { name, labels }, spec: {} } as never }];
  }
  const { annotations, status } = profileOf({ storageClass, profile, snapshotClasses, volumes, now });
  const subject = { resource: STORAGE_PROFILES, object: profile };
  const patch = mergePatch(profile.status ?? {}, status);
  return [
    ...(Object.keys(annotations).length > 0
      ? [{ act: 'patch', subject, patch: { metadata: { annotations } } } as const]
      : []),
    ...(patch ? [{ act: 'patch', subject, part: 'status', patch: { status: patch } } as const] : []),
  ];
}

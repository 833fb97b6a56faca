// What a cluster shows, as short as tables need it.
import type { PersistentVolume } from 'kubernetes-types/core/v1.js';
import type { StorageClass } from 'kubernetes-types/storage/v1.js';
import type { StorageProfile } from '../../src/api/storage-profile.ts';

export const IS_DEFAULT = { 'storageclass.kubernetes.io/is-default-class': 'true' };
export const IS_VIRT_DEFAULT = { 'storageclass.kubevirt.io/is-default-virt-class': 'true' };

export function storageClass(name: string, more: Partial<StorageClass> = {}): StorageClass {
  const { metadata, ...rest } = more;
  const creationTimestamp = '2026-01-01T00:00:00Z';
  return { provisioner: 'csi.example.com', ...rest, metadata: { name, creationTimestamp, ...metadata } };
}

/** `RWX-B RWO-F`: sets of modes, each of one access mode. */
export function profile(name: string, sets: string, annotations: Record<string, string> = {}): StorageProfile {
  const claimPropertySets = sets
    .split(' ')
    .filter(Boolean)
    .map((set) => ({
      accessModes: [ACCESS[set.slice(0, 3) as keyof typeof ACCESS]],
      volumeMode: set.endsWith('B') ? 'Block' : 'Filesystem',
    }));
  return { metadata: { name, annotations }, status: { storageClass: name, claimPropertySets } };
}

const ACCESS = {
  RWX: 'ReadWriteMany',
  RWO: 'ReadWriteOnce',
  ROX: 'ReadOnlyMany',
} as const;

export function volume(
  name: string,
  spec: NonNullable<PersistentVolume['spec']>,
  more: Omit<PersistentVolume, 'spec'> = {},
): PersistentVolume {
  return { status: { phase: 'Available' }, ...more, metadata: { name, ...more.metadata }, spec };
}

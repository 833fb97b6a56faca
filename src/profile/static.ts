import type { PersistentVolume } from 'kubernetes-types/core/v1.js';
import type { LabelSelector } from 'kubernetes-types/meta/v1.js';
import type { StorageSpec } from '../api/datavolume.ts';
import { parseQuantity } from '../api/quantity.ts';

/**
 * Of volumes that are there, the one that a claim would be bound to: available, of its class, selected, large enough, with its
 * modes; the smallest of several, as Kubernetes chooses. `sized` gives the bytes that the claim asks for in a volume mode.
 */
export function fittingVolume(
  claim: { readonly namespace: string; readonly name: string },
  wanted: StorageSpec,
  volumes: readonly PersistentVolume[],
  sized: (volumeMode: string) => bigint,
): PersistentVolume | undefined {
  let found: PersistentVolume | undefined;
  for (const one of volumes)
    if (fits(one, claim, wanted, sized) && (found === undefined || isBefore(one, found))) found = one;
  return found;
}

function fits(
  { metadata, spec, status }: PersistentVolume,
  claim: { readonly namespace: string; readonly name: string },
  wanted: StorageSpec,
  sized: (volumeMode: string) => bigint,
): boolean {
  if (status?.phase !== 'Available' || metadata?.deletionTimestamp !== undefined) return false;
  if ((spec?.storageClassName ?? '') !== (wanted.storageClassName ?? '')) return false;
  if (wanted.volumeName && wanted.volumeName !== metadata?.name) return false;
  const owner = spec?.claimRef;
  if (owner && (owner.namespace !== claim.namespace || owner.name !== claim.name)) return false;
  const mode = spec?.volumeMode ?? 'Filesystem';
  if (wanted.volumeMode !== undefined && wanted.volumeMode !== mode) return false;
  if (!(wanted.accessModes ?? []).every((one) => spec?.accessModes?.includes(one))) return false;
  if (!selects(wanted.selector, metadata?.labels ?? {})) return false;
  return capacityOf({ spec }) >= sized(mode);
}

function selects(selector: LabelSelector | undefined, labels: Readonly<Record<string, string>>): boolean {
  const { matchLabels = {}, matchExpressions = [] } = selector ?? {};
  if (!Object.entries(matchLabels).every(([key, value]) => labels[key] === value)) return false;
  return matchExpressions.every(({ key, operator, values = [] }) => {
    const has = Object.hasOwn(labels, key);
    const among = has && values.includes(labels[key] ?? '');
    return { In: among, NotIn: !among, Exists: has, DoesNotExist: !has }[operator] ?? false;
  });
}

function isBefore(one: PersistentVolume, other: PersistentVolume): boolean {
  const [size, otherSize] = [capacityOf(one), capacityOf(other)];
  return size === otherSize ? (one.metadata?.name ?? '') < (other.metadata?.name ?? '') : size < otherSize;
}

function capacityOf({ spec }: { readonly spec?: PersistentVolume['spec'] }): bigint {
  return parseQuantity(spec?.capacity?.storage ?? '0') ?? 0n;
}

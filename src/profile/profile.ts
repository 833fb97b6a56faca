import type { PersistentVolume } from 'kubernetes-types/core/v1.js';
import type { StorageClass } from 'kubernetes-types/storage/v1.js';
import { conditionAfter } from '../api/condition.ts';
import type { Condition } from '../api/meta.ts';
import type { SnapshotClass } from '../api/snapshot-class.ts';
import type { ClaimPropertySet, StorageProfile } from '../api/storage-profile.ts';
import { CAPABILITIES, type Capabilities, NO_PROVISIONER } from './capabilities.ts';
import { capabilityKey } from './key.ts';

/** Annotations of StorageProfiles. A quantity: smaller claims of the class are made as large as it. */
export const MINIMUM_SIZE = 'cdi.kubevirt.io/minimumSupportedPvcSize';
export const CRON_CLAIMS_ONCE = 'cdi.kubevirt.io/useReadWriteOnceForDataImportCron';
export const CRON_SNAPSHOT_CLASS = 'cdi.kubevirt.io/snapshotClassForDataImportCron';
/** Of a storage class. */
const CLONE_STRATEGY = 'cdi.kubevirt.io/clone-strategy';
/** Of a snapshot class. */
const IS_DEFAULT_SNAPSHOT_CLASS = 'snapshot.storage.kubernetes.io/is-default-class';
const STRATEGIES: readonly (string | undefined)[] = ['copy', 'snapshot', 'csi-clone'];
const GKE = 'pd.csi.storage.gke.io';

/** What is seen of a storage class. */
export interface SeenOfClass {
  readonly storageClass: StorageClass;
  readonly profile?: StorageProfile | undefined;
  /** Undefined in a cluster that has none of them, nor their definition. */
  readonly snapshotClasses: readonly SnapshotClass[] | undefined;
  /** Those of other classes are passed over. */
  readonly volumes: readonly PersistentVolume[];
  /** RFC 3339: the time of conditions that change. */
  readonly now: string;
}

export interface Profiled {
  /** A merge patch of the profile's annotations, empty where they are as they are to be. */
  readonly annotations: Readonly<Record<string, string | null>>;
  readonly status: NonNullable<StorageProfile['status']>;
}

/**
 * What a StorageProfile says of its class: what its `spec` says, else what is known of the provisioner. The status replaces the
 * one that is there; seen again, it is the same. A snapshot class that is gone is not named any more (CDI keeps it).
 */
export function profileOf(seen: SeenOfClass): Profiled {
  const { storageClass, profile } = seen;
  const known = capabilitiesOf(storageClass);
  const snapshotClass = snapshotClassOf(seen);
  const cloneStrategy = cloneStrategyOf(seen, known, snapshotClass !== undefined);
  const format = known?.format === 'snapshot' && snapshotClass !== undefined ? 'snapshot' : 'pvc';
  return {
    annotations: annotationsOf(seen, known),
    status: {
      storageClass: storageClass.metadata?.name ?? '',
      provisioner: storageClass.provisioner,
      ...(cloneStrategy === undefined ? {} : { cloneStrategy }),
      claimPropertySets: claimPropertySets(storageClass, profile, seen.volumes),
      dataImportCronSourceFormat: profile?.spec?.dataImportCronSourceFormat ?? format,
      ...(snapshotClass === undefined ? {} : { snapshotClass }),
      conditions: [recognized(seen)],
    },
  };
}

/** What is known of the class's provisioner, if anything. */
function capabilitiesOf(storageClass: StorageClass): Capabilities | undefined {
  const key = capabilityKey(storageClass);
  return key !== undefined && Object.hasOwn(CAPABILITIES, key) ? CAPABILITIES[key] : undefined;
}

/** Modes that claims of a class can have, the most wanted first. Sets of the spec that lack a mode say nothing, and are left out. */
export function claimPropertySets(
  storageClass: StorageClass,
  profile: StorageProfile | undefined,
  volumes: readonly PersistentVolume[],
): readonly ClaimPropertySet[] {
  const own = profile?.spec?.claimPropertySets?.filter((set) => set.volumeMode && set.accessModes?.length) ?? [];
  if (own.length > 0) return own;
  if (storageClass.provisioner === NO_PROVISIONER) return setsOfVolumes(storageClass.metadata?.name, volumes);
  return capabilitiesOf(storageClass)?.sets ?? [];
}

/** Least size of a claim of a class, as a quantity: what its profile says, and before it has one, what it will. */
export function minimumSize(storageClass: StorageClass, profile: StorageProfile | undefined): string | undefined {
  return profile?.metadata?.annotations?.[MINIMUM_SIZE] ?? capabilitiesOf(storageClass)?.minimum;
}

/** In the order that most rows of the table have: who can use the volume comes before how. */
const PREFERRED = ['ReadWriteMany', 'ReadWriteOnce', 'ReadWriteOncePod', 'ReadOnlyMany'].flatMap((access) => [
  { accessModes: [access], volumeMode: 'Block' },
  { accessModes: [access], volumeMode: 'Filesystem' },
]);

function setsOfVolumes(name: string | undefined, volumes: readonly PersistentVolume[]): readonly ClaimPropertySet[] {
  const its = volumes.filter(({ spec }) => (spec?.storageClassName ?? '') === name);
  return PREFERRED.filter(({ accessModes: [access = ''], volumeMode }) =>
    its.some(({ spec }) => (spec?.volumeMode ?? 'Filesystem') === volumeMode && spec?.accessModes?.includes(access)),
  );
}

/** The class that the profile names, if it is of the same driver; else the default of the driver's, else the first by name. */
function snapshotClassOf({ storageClass, profile, snapshotClasses }: SeenOfClass): string | undefined {
  const its = (snapshotClasses ?? []).filter((one) => one.driver === storageClass.provisioner);
  const names = (of: readonly SnapshotClass[]): string[] => of.map((one) => one.metadata?.name ?? '').sort();
  const asked = profile?.spec?.snapshotClass;
  if (asked !== undefined && names(its).includes(asked)) return asked;
  const defaults = its.filter((one) => one.metadata?.annotations?.[IS_DEFAULT_SNAPSHOT_CLASS] === 'true');
  return names(defaults)[0] ?? names(its)[0];
}

/** What was said is taken as it is; what is known of a provisioner holds where the cluster has snapshots. */
function cloneStrategyOf(
  { storageClass, profile }: SeenOfClass,
  known: Capabilities | undefined,
  snapshots: boolean,
): string | undefined {
  if (profile?.spec?.cloneStrategy !== undefined) return profile.spec.cloneStrategy;
  const annotated = storageClass.metadata?.annotations?.[CLONE_STRATEGY];
  // CDI says nothing for a strategy that it does not know, and goes on as without a profile.
  if (annotated !== undefined) return STRATEGIES.includes(annotated) ? annotated : undefined;
  const strategy = known?.clone ?? 'snapshot';
  return strategy === 'snapshot' && !snapshots ? 'copy' : strategy;
}

function annotationsOf(seen: SeenOfClass, known: Capabilities | undefined): Record<string, string | null> {
  const there = seen.profile?.metadata?.annotations ?? {};
  const patch: Record<string, string | null> = {};
  // Whoever wrote another minimum is right.
  if (known?.minimum !== undefined && there[MINIMUM_SIZE] === undefined) patch[MINIMUM_SIZE] = known.minimum;
  if (known?.cronClaimsOnce && there[CRON_CLAIMS_ONCE] !== 'true') patch[CRON_CLAIMS_ONCE] = 'true';
  const forCron = cronSnapshotClass(seen);
  if (there[CRON_SNAPSHOT_CLASS] !== forCron) patch[CRON_SNAPSHOT_CLASS] = forCron ?? null;
  return patch;
}

/** GKE makes images of disks, which are restored faster and more often, by snapshot classes of that type. */
function cronSnapshotClass({ storageClass, snapshotClasses }: SeenOfClass): string | undefined {
  if (storageClass.provisioner !== GKE) return undefined;
  const images = (snapshotClasses ?? []).filter(
    (one) => one.driver === GKE && one.parameters?.['snapshot-type'] === 'images',
  );
  return images.map((one) => one.metadata?.name ?? '').sort()[0];
}

function recognized({ storageClass, profile, now }: SeenOfClass): Condition {
  const previous = profile?.status?.conditions?.find((one) => one.type === 'Recognized');
  const key = capabilityKey(storageClass);
  const known = storageClass.provisioner === NO_PROVISIONER || (capabilitiesOf(storageClass)?.sets.length ?? 0) > 0;
  const [status, reason, message] = known
    ? (['True', 'RecognizedProvisioner', 'Provisioner is recognized'] as const)
    : key === undefined
      ? (['False', 'UnrecognizedStorageClassParameters', 'Storage class parameters are not recognized'] as const)
      : (['False', 'UnrecognizedProvisioner', 'Provisioner is not recognized'] as const);
  return conditionAfter(previous, { type: 'Recognized', status, reason, message }, now);
}

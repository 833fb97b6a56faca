import type { PersistentVolume, PersistentVolumeClaimSpec } from 'kubernetes-types/core/v1.js';
import type { StorageClass } from 'kubernetes-types/storage/v1.js';
import type { CdiConfig } from '../api/config.ts';
import type { StorageSpec } from '../api/datavolume.ts';
import { required } from '../api/overhead.ts';
import { formatQuantity, parseQuantity } from '../api/quantity.ts';
import type { ClaimPropertySet, StorageProfile } from '../api/storage-profile.ts';
import { classFor, IS_DEFAULT, IS_VIRT_DEFAULT } from './classes.ts';
import { overheadOf } from './overhead.ts';
import { claimPropertySets, minimumSize } from './profile.ts';
import { fittingVolume } from './static.ts';
import { FROM_PROFILE, type Wanted } from './wanted.ts';

/** What is seen of the cluster. */
export interface Seen {
  readonly storageClasses: readonly StorageClass[];
  readonly profiles: readonly StorageProfile[];
  readonly volumes: readonly PersistentVolume[];
  readonly config: CdiConfig | undefined;
}

/** A claim as it is to be made; or why it cannot be, as an event of that reason tells it. */
export type Rendered =
  | { readonly spec: PersistentVolumeClaimSpec }
  | { readonly reason: 'ErrClaimNotValid'; readonly message: string };

/** Of virtual machines' disks, and of what is claimed for them (CDI, pkg/controller/datavolume/util.go). Bytes. */
const LEAST = 2n ** 20n;
/** Names in a sentence. */
const NAMED = 10;

/**
 * The claim that is wanted: `pvc` as it is; of `storage` what is left out is taken from the storage class and its profile, and
 * the size is made enough for a disk of that size. Messages begin with the words that clients of CDI look for.
 */
export function renderClaim(wanted: Wanted, seen: Seen): Rendered {
  if (wanted.pvc !== undefined) return { spec: wanted.pvc };
  if (wanted.storage === undefined)
    return refusal(`${nameOf(wanted)} has neither spec.pvc nor spec.storage: one of them says how large it is to be`);
  const { volumeMode, ...rest } = wanted.storage;
  const open = volumeMode === undefined || volumeMode === '' || volumeMode === FROM_PROFILE;
  if (wanted.byWebhook) return { spec: { ...rest, volumeMode: open ? FROM_PROFILE : volumeMode } };
  if (wanted.contentType === 'archive') {
    if (volumeMode === 'Block')
      return refusal(
        `ContentType Archive cannot have block volumeMode: ${nameOf(wanted)} is of files, which need a file system: leave volumeMode out, or write Filesystem`,
      );
    return withModes(wanted, { ...rest, volumeMode: 'Filesystem' }, seen);
  }
  return withModes(wanted, open ? rest : { ...rest, volumeMode }, seen);
}

function withModes(wanted: Wanted, storage: StorageSpec, seen: Seen): Rendered {
  const found = classFor(storage.storageClassName, seen.storageClasses, wanted.contentType);
  if (found === undefined) return withoutClass(wanted, storage, seen);
  const name = found.metadata?.name ?? '';
  const profile = seen.profiles.find((one) => one.metadata?.name === name);
  // The profile of a class that was just made has no status yet, and will say this.
  const sets = profile?.status?.claimPropertySets ?? claimPropertySets(found, profile, seen.volumes);
  const spec = fromSets(storage, sets);
  if (!spec.accessModes?.length) return refusal(noModes(wanted, storage, name, found.provisioner));
  const least = parseQuantity(minimumSize(found, profile) ?? '') ?? 0n;
  return withSize(wanted, { ...spec, storageClassName: name }, seen, least);
}

/** Access modes and a volume mode that go together, where one or both are left out. */
function fromSets(storage: StorageSpec, sets: readonly ClaimPropertySet[]): StorageSpec {
  const { volumeMode, accessModes = [] } = storage;
  if (accessModes.length > 0) {
    const shared = sets.find((set) => set.accessModes?.some((mode) => accessModes.includes(mode)));
    // Without one that shares a mode, Kubernetes' own default holds: Filesystem.
    return volumeMode === undefined && shared?.volumeMode ? { ...storage, volumeMode: shared.volumeMode } : storage;
  }
  const set = volumeMode === undefined ? sets[0] : sets.find((one) => one.volumeMode === volumeMode);
  if (!set?.accessModes?.length) return storage;
  const mode = volumeMode ?? set.volumeMode;
  return { ...storage, accessModes: [...set.accessModes], ...(mode === undefined ? {} : { volumeMode: mode }) };
}

/** No class says how its volumes are: a volume that is there and fits may. */
function withoutClass(wanted: Wanted, storage: StorageSpec, seen: Seen): Rendered {
  const sized = (mode: string): bigint => {
    const rendered = withSize(wanted, { ...storage, volumeMode: mode }, seen, 0n);
    return 'spec' in rendered ? (requestOf(rendered.spec) ?? 0n) : 0n;
  };
  const volume =
    storage.storageClassName === undefined ? undefined : fittingVolume(wanted, storage, seen.volumes, sized);
  const accessModes = storage.accessModes?.length ? storage.accessModes : (volume?.spec?.accessModes ?? []);
  const volumeMode = storage.volumeMode ?? volume?.spec?.volumeMode;
  if (accessModes.length === 0) return refusal(noClass(wanted, storage, seen.storageClasses));
  const spec = { ...storage, accessModes, ...(volumeMode === undefined ? {} : { volumeMode }) };
  return withSize(wanted, spec, seen, 0n);
}

/** The size of the claim, from that of the disk: with what a file system needs, and what the class has at least. Bytes. */
function withSize(wanted: Wanted, spec: StorageSpec, seen: Seen, least: bigint): Rendered {
  const text = spec.resources?.requests?.storage;
  if (text === undefined) {
    if (wanted.size !== 'disk') return { spec };
    return refusal(
      `PVC Spec is not valid - missing storage size: ${nameOf(wanted)} says in resources.requests.storage how large it is to be, as 10Gi`,
    );
  }
  if (wanted.size === 'claim') return { spec };
  const asked = parseQuantity(text);
  if (asked === undefined || asked < LEAST)
    return refusal(
      `PVC Spec is not valid - storage size should be at least 1MiB: ${nameOf(wanted)} asks for '${String(text).slice(0, 40)}'`,
    );
  const overhead =
    spec.volumeMode === 'Block' ? undefined : overheadOf(spec.storageClassName, seen.storageClasses, seen.config);
  const needed = overhead === undefined ? asked : required(asked, overhead);
  const size = needed > least ? needed : least;
  if (size === asked) return { spec };
  const requests = { ...spec.resources?.requests, storage: formatQuantity(size) };
  return { spec: { ...spec, resources: { ...spec.resources, requests } } };
}

/** Bytes that a claim asks for, where it says so in a way that Kubernetes takes. */
export function requestOf(spec: PersistentVolumeClaimSpec | undefined): bigint | undefined {
  const text = spec?.resources?.requests?.storage;
  return text === undefined ? undefined : parseQuantity(text);
}

function noModes(wanted: Wanted, storage: StorageSpec, name: string, provisioner: string | undefined): string {
  const missing = storage.volumeMode === undefined ? 'accessMode and volumeMode, cannot' : 'accessMode and cannot';
  const which = storage.volumeMode === undefined ? '' : ` for volumeMode ${storage.volumeMode}`;
  return (
    `Spec is missing ${missing} get access mode from StorageProfile ${name}: no accessMode specified in StorageProfile ${name}${which}` +
    ` (its provisioner is ${provisioner}). Write accessModes into ${nameOf(wanted)}, or claimPropertySets into the spec of the StorageProfile`
  );
}

function noClass(wanted: Wanted, storage: StorageSpec, classes: readonly StorageClass[]): string {
  const names = classes.map((one) => one.metadata?.name ?? '').sort();
  const more = names.length > NAMED ? ` and ${names.length - NAMED} more` : '';
  const known =
    names.length === 0
      ? 'there is no storage class'
      : `the storage classes are ${names.slice(0, NAMED).join(', ')}${more}`;
  const asked = storage.storageClassName;
  const why =
    asked === undefined
      ? `it names no storage class and none is the default one. Name one in storageClassName, or annotate one with ${IS_DEFAULT}=true, or for disks of virtual machines alone ${IS_VIRT_DEFAULT}=true`
      : asked === ''
        ? 'its storageClassName is empty, so that it takes a volume without a class, and of those none that is available fits. Write accessModes into it, or create the volume'
        : `there is no storage class ${asked}, and no available volume of that class that fits. Write accessModes into it, or name another class`;
  return `PVC spec is missing accessMode and no storageClass to choose profile for ${nameOf(wanted)}: ${why}; ${known}`;
}

function nameOf({ kind, namespace, name }: Wanted): string {
  return `${kind} ${namespace}/${name}`;
}

function refusal(message: string): Rendered {
  return { reason: 'ErrClaimNotValid', message };
}

import type { CSIDriver, StorageClass } from 'kubernetes-types/storage/v1.js';

/** Annotations of storage classes; what says `true` is the default. */
export const IS_DEFAULT = 'storageclass.kubernetes.io/is-default-class';
export const IS_VIRT_DEFAULT = 'storageclass.kubevirt.io/is-default-virt-class';

/**
 * The class of a claim: the one of that name, or where there is no name Kubernetes' default. The empty name is the one of
 * volumes without a class. Undefined where there is none.
 */
export function classOf(name: string | undefined, classes: readonly StorageClass[]): StorageClass | undefined {
  return name === undefined ? defaultOf(classes, IS_DEFAULT) : classes.find((one) => one.metadata?.name === name);
}

/** As classOf, for a claim that is still to be made: disks of virtual machines have a default of their own. */
export function classFor(
  name: string | undefined,
  classes: readonly StorageClass[],
  contentType: string | undefined,
): StorageClass | undefined {
  const own = name === undefined && contentType !== 'archive' ? defaultOf(classes, IS_VIRT_DEFAULT) : undefined;
  return own ?? classOf(name, classes);
}

/** The newest of several, as Kubernetes has it, then the first by name. Times are RFC 3339 in UTC, as API servers write them. */
function defaultOf(classes: readonly StorageClass[], annotation: string): StorageClass | undefined {
  let found: StorageClass | undefined;
  for (const one of classes) {
    if (one.metadata?.annotations?.[annotation] !== 'true') continue;
    if (found === undefined || isBefore(one, found)) found = one;
  }
  return found;
}

function isBefore(one: StorageClass, other: StorageClass): boolean {
  const [made, otherMade] = [one.metadata?.creationTimestamp ?? '', other.metadata?.creationTimestamp ?? ''];
  if (made !== otherMade) return made > otherMade;
  return (one.metadata?.name ?? '') < (other.metadata?.name ?? '');
}

/** Whether claims of the class are bound only when a pod wants them. */
export function waitsForConsumer(storageClass: StorageClass | undefined): boolean {
  return storageClass?.volumeBindingMode === 'WaitForFirstConsumer';
}

/**
 * Whether a CSI driver makes the volumes of the class: only such claims can be filled by populators, since others are bound
 * without a look at their `dataSourceRef`.
 */
export function hasCsiDriver(storageClass: StorageClass | undefined, drivers: readonly CSIDriver[]): boolean {
  return drivers.some((driver) => driver.metadata?.name === storageClass?.provisioner);
}

import type { PersistentVolumeClaimSpec } from 'kubernetes-types/core/v1.js';
import type { StorageSpec } from '../../api/datavolume.ts';
import { isTooLarge, parseQuantity, type Quantity } from '../../api/quantity.ts';
import { type Cause, checkLength, invalid, quoted } from './cause.ts';

const ACCESS_MODES = ['ReadWriteOnce', 'ReadOnlyMany', 'ReadWriteMany', 'ReadWriteOncePod'];
/** Bytes; disks begin and end at such a border (CDI, pkg/util/util.go: DefaultAlignBlockSize). */
const LEAST = 2n ** 20n;
/** Characters of the name of a storage class (RFC 1123). */
const LONGEST_NAME = 253;

/** A claim as a DataVolume asks for it. `mayOmitSize`: the size is that of what is copied. */
export type Asked =
  | { readonly what: 'PVC'; readonly claim: PersistentVolumeClaimSpec; readonly mayOmitSize: false }
  | { readonly what: 'Storage'; readonly claim: StorageSpec; readonly mayOmitSize: boolean };

/** Size, class and modes. */
export function checkStorage(asked: Asked, field: string): Cause[] {
  return [
    ...checkSize(asked, `${field}.resources.requests.storage`),
    ...checkLength('Name of a storage class', `${field}.storageClassName`, asked.claim.storageClassName, LONGEST_NAME),
    ...checkModes(asked, `${field}.accessModes`),
  ];
}

function checkSize({ what, claim, mayOmitSize }: Asked, field: string): Cause[] {
  const asked: Quantity | undefined | null = claim.resources?.requests?.storage;
  if (asked === undefined || asked === null) {
    if (mayOmitSize) return [];
    return [invalid(field, `${what} size is missing: write how large the disk is to be, as 10Gi`)];
  }
  const size = parseQuantity(asked);
  if (size === undefined)
    return [invalid(field, `${what} size is ${quoted(asked)}, which is no quantity of Kubernetes: write it as 10Gi`)];
  if (size <= 0n)
    return [invalid(field, `${what} size can't be equal or less than zero: it is ${quoted(asked)}; write it as 10Gi`)];
  if (size < LEAST) {
    const message = `${what} size should be at least 1MiB: it is ${quoted(asked)}, ${size} bytes; write it as 10Gi`;
    return [invalid(field, message)];
  }
  if (isTooLarge(asked)) {
    const message = `${what} size is ${quoted(asked)}, which is more than Kubernetes can count: ${2n ** 63n - 1n} bytes`;
    return [invalid(field, message)];
  }
  return [];
}

function checkModes({ what, claim: { accessModes } }: Asked, field: string): Cause[] {
  const modes = accessModes ?? [];
  const known = ACCESS_MODES.join(', ');
  if (what === 'PVC' && modes.length === 0)
    return [invalid(field, `Required value: at least 1 access mode is required: write one of ${known}`)];
  if (what === 'PVC' && modes.length > 1)
    return [
      invalid(
        field,
        `PVC multiple accessModes: it has ${modes.length}; write one, or use spec.storage in place of pvc`,
      ),
    ];
  return modes.flatMap((mode, n) =>
    ACCESS_MODES.includes(mode)
      ? []
      : [invalid(`${field}[${n}]`, `${quoted(mode)} is no access mode: write one of ${known}`)],
  );
}

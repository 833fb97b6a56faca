import type { PersistentVolumeClaim, Pod } from 'kubernetes-types/core/v1.js';
import { ANNOTATION } from '../api/claim.ts';
import { APP, LABEL } from '../api/label.ts';
import type { Stored } from '../api/meta.ts';
import { resourceName } from '../api/names.ts';
import { ALIGNMENT, required, usable } from '../api/overhead.ts';
import { formatQuantity, parseQuantity } from '../api/quantity.ts';

export function scratchName(claim: Stored<PersistentVolumeClaim>): string {
  return resourceName(claim.metadata.name, 'scratch');
}

/** Where scratch space is made, and what part of it its file system needs. */
export interface ScratchSettings {
  /** The claim's own where it is not said. */
  readonly storageClass?: string;
  readonly overhead: number;
}

/**
 * Scratch space for an import whose image only QEMU reads: it holds whatever the claim can hold (of whose volume `overhead`
 * is its file system's), and is gone with the pod.
 */
export function scratchClaim(
  claim: Stored<PersistentVolumeClaim>,
  pod: Stored<Pod>,
  overhead: number,
  scratch: ScratchSettings,
): PersistentVolumeClaim {
  const className = scratch.storageClass ?? claim.spec.storageClassName;
  const node = claim.metadata.annotations?.[ANNOTATION.selectedNode];
  const size = parseQuantity(claim.spec.resources?.requests?.storage ?? '0') ?? 0n;
  const storage = formatQuantity(alignedUp(required(usable(size, overhead), scratch.overhead)));
  return {
    metadata: {
      name: scratchName(claim),
      namespace: claim.metadata.namespace as string,
      labels: { [LABEL.app]: APP, [LABEL.excludeFromBackup]: 'true' },
      ...(node ? { annotations: { [ANNOTATION.selectedNode]: node } } : {}),
      ownerReferences: [
        { apiVersion: 'v1', kind: 'Pod', name: pod.metadata.name, uid: pod.metadata.uid, controller: true },
      ],
    },
    spec: {
      accessModes: ['ReadWriteOnce'],
      resources: { requests: { storage } },
      ...(className === undefined ? {} : { storageClassName: className }),
    },
  };
}

function alignedUp(bytes: bigint): bigint {
  return ((bytes + ALIGNMENT - 1n) / ALIGNMENT) * ALIGNMENT;
}

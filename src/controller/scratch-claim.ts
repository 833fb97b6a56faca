import type { PersistentVolumeClaim, Pod } from 'kubernetes-types/core/v1.js';
import { ANNOTATION } from '../api/claim.ts';
import { APP, LABEL } from '../api/label.ts';
import type { Stored } from '../api/meta.ts';
import { resourceName } from '../api/names.ts';

export function scratchName(claim: Stored<PersistentVolumeClaim>): string {
  return resourceName(claim.metadata.name, 'scratch');
}

/**
 * Scratch space for an import whose image only QEMU reads: as large as the claim, and gone with the pod. `storageClass`: of
 * the configuration, else the claim's own.
 */
export function scratchClaim(
  claim: Stored<PersistentVolumeClaim>,
  pod: Stored<Pod>,
  _overhead: string,
  storageClass: string | undefined,
): PersistentVolumeClaim {
  const className = storageClass || claim.spec.storageClassName;
  const node = claim.metadata.annotations?.[ANNOTATION.selectedNode];
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
      resources: { requests: { storage: claim.spec.resources?.requests?.storage ?? '' } },
      ...(className === undefined ? {} : { storageClassName: className }),
    },
  };
}

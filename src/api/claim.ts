/** What is read of a PersistentVolumeClaim. */
export interface PersistentVolumeClaim {
  readonly metadata: {
    readonly name: string;
    readonly namespace: string;
    readonly uid: string;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly spec: {
    readonly dataSourceRef?: { readonly apiGroup?: string; readonly kind: string; readonly name: string };
  };
}

/** Annotations of claims by which CDI's controllers, proxy and clients speak to each other. */
export const ANNOTATION = {
  uploadTarget: 'cdi.kubevirt.io/storage.upload.target',
  uploadPod: 'cdi.kubevirt.io/storage.uploadPodName',
  contentType: 'cdi.kubevirt.io/storage.contentType',
  podPhase: 'cdi.kubevirt.io/storage.pod.phase',
  podReady: 'cdi.kubevirt.io/storage.pod.ready',
  /** Name of the claim that is filled in place of this one. */
  prime: 'cdi.kubevirt.io/storage.populator.pvcPrime',
} as const;

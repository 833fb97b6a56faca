const CDI = 'cdi.kubevirt.io/';

/** Annotations by which CDI's controllers, proxy and clients speak to each other: on claims, and some on DataVolumes. */
export const ANNOTATION = {
  // What is to be imported.
  source: `${CDI}storage.import.source`,
  endpoint: `${CDI}storage.import.endpoint`,
  secret: `${CDI}storage.import.secretName`,
  certConfigMap: `${CDI}storage.import.certConfigMap`,
  registryMethod: `${CDI}storage.import.registryImportMethod`,
  registryStream: `${CDI}storage.import.registryImageStream`,
  registryArchitecture: `${CDI}storage.import.registryImageArchitecture`,
  diskId: `${CDI}storage.import.diskId`,
  uuid: `${CDI}storage.import.uuid`,
  backingFile: `${CDI}storage.import.backingFile`,
  thumbprint: `${CDI}storage.import.vddk.thumbprint`,
  /** Before a number. */
  extraHeaders: `${CDI}storage.import.extraHeaders.`,
  secretExtraHeaders: `${CDI}storage.import.secretExtraHeaders.`,
  checksum: `${CDI}storage.import.checksum`,
  insecureSkipVerify: `${CDI}storage.import.insecureSkipVerify`,
  contentType: `${CDI}storage.contentType`,
  preallocationRequested: `${CDI}storage.preallocation.requested`,
  currentCheckpoint: `${CDI}storage.checkpoint.current`,
  previousCheckpoint: `${CDI}storage.checkpoint.previous`,
  finalCheckpoint: `${CDI}storage.checkpoint.final`,
  /** Before a checkpoint. */
  copiedCheckpoint: `${CDI}storage.checkpoint.copied.`,
  checkpointsDone: `${CDI}storage.checkpoint.done`,
  /** Its presence counts. */
  immediate: `${CDI}storage.bind.immediate.requested`,
  externalPopulation: `${CDI}externalPopulation`,

  // What is to be uploaded.
  uploadTarget: `${CDI}storage.upload.target`,
  uploadPod: `${CDI}storage.uploadPodName`,

  // What is to be cloned: not of CDI's domain.
  cloneRequest: 'k8s.io/CloneRequest',
  cloneOf: 'k8s.io/CloneOf',

  // How it goes.
  podPhase: `${CDI}storage.pod.phase`,
  podReady: `${CDI}storage.pod.ready`,
  podRestarts: `${CDI}storage.pod.restarts`,
  podSchedulable: `${CDI}storage.pod.schedulable`,
  importPod: `${CDI}storage.import.importPodName`,
  /** On an import pod that has no owner: UID of its claim. Not CDI's. */
  importOf: `${CDI}storage.import.claimUID`,
  requiresScratch: `${CDI}storage.import.requiresScratch`,
  fatalError: `${CDI}storage.import.fatalError`,
  preallocation: `${CDI}storage.preallocation`,
  running: `${CDI}storage.condition.running`,
  runningMessage: `${CDI}storage.condition.running.message`,
  runningReason: `${CDI}storage.condition.running.reason`,
  bound: `${CDI}storage.condition.bound`,
  boundMessage: `${CDI}storage.condition.bound.message`,
  boundReason: `${CDI}storage.condition.bound.reason`,

  // Of the pods.
  priorityClass: `${CDI}storage.pod.priorityclassname`,
  serviceAccount: `${CDI}storage.pod.serviceAccountName`,
  /** The pod, and the claim that is filled in place of another, are left when they have done their work. */
  retain: `${CDI}storage.pod.retainAfterCompletion`,
  createdByController: `${CDI}storage.createdByController`,

  // Of populators and DataVolumes.
  usePopulator: `${CDI}storage.usePopulator`,
  populatorKind: `${CDI}storage.populator.kind`,
  /** Name of the claim that is filled in place of this one. */
  prime: `${CDI}storage.populator.pvcPrime`,
  populatorProgress: `${CDI}storage.populator.progress`,
  createdForDataVolume: `${CDI}createdForDataVolume`,
  populatedFor: `${CDI}storage.populatedFor`,
  prePopulated: `${CDI}storage.prePopulated`,
  checkStaticVolume: `${CDI}storage.checkStaticVolume`,
  persistentVolumeList: `${CDI}storage.persistentVolumeList`,
  allowClaimAdoption: `${CDI}allowClaimAdoption`,
  /** Kubernetes' scheduler has chosen this node for the claim. */
  selectedNode: 'volume.kubernetes.io/selected-node',
} as const;

/** On a claim, while it has an import pod of which it is no owner: that goes before it. */
export const STREAM_FINALIZER = `${CDI}importImageStream`;

// Objects of every kind that we bring, with every field that users are known to write.
import type { Affinity } from 'kubernetes-types/core/v1.js';
import type { Cdi, CdiConfig, CdiConfigSpec, NodePlacement } from '../../src/api/config.ts';
import type { DataImportCron } from '../../src/api/data-import-cron.ts';
import type { DataSource } from '../../src/api/datasource.ts';
import type { DataVolume, DataVolumeSource, ImportSource } from '../../src/api/datavolume.ts';
import type { ObjectTransfer } from '../../src/api/object-transfer.ts';
import type {
  OpenstackVolumePopulator,
  OvirtVolumePopulator,
  VolumeCloneSource,
  VolumeImportSource,
  VolumeUploadSource,
} from '../../src/api/populators.ts';
import {
  apiVersionOf,
  CDI_CONFIGS,
  CDIS,
  CLONE_SOURCES,
  DATA_IMPORT_CRONS,
  DATA_SOURCES,
  DATA_VOLUMES,
  IMPORT_SOURCES,
  OBJECT_TRANSFERS,
  OPENSTACK_POPULATORS,
  OVIRT_POPULATORS,
  type Resource,
  STORAGE_PROFILES,
  UPLOAD_SOURCES,
} from '../../src/api/resource.ts';
import type { StorageProfile } from '../../src/api/storage-profile.ts';

export interface Example {
  readonly title: string;
  readonly resource: Resource<unknown>;
  readonly object: object;
}

const example = <T extends { spec?: unknown; status?: unknown }>(
  title: string,
  resource: Resource<T>,
  spec: NonNullable<T['spec']>,
  status?: NonNullable<T['status']>,
): Example => ({
  title: `${resource.kind}: ${title}`,
  resource,
  object: {
    apiVersion: apiVersionOf(resource),
    kind: resource.kind,
    metadata: { name: 'example', ...(resource.namespaced ? { namespace: 'default' } : {}) },
    spec,
    ...(status ? { status } : {}),
  },
});

const URL = 'https://images.example/disk.qcow2';
const SIZED = { resources: { requests: { storage: '10Gi' } } };

const imports: readonly ImportSource[] = [
  { http: { url: URL } },
  {
    http: {
      url: URL,
      secretRef: 'login',
      certConfigMap: 'authorities',
      extraHeaders: ['X-Team: storage'],
      secretExtraHeaders: ['authorization'],
      checksum: `sha256:${'0'.repeat(64)}`,
      insecureSkipVerify: false,
    },
  },
  { s3: { url: 's3://s3.example/bucket/disk.img', secretRef: 'login', certConfigMap: 'authorities' } },
  { gcs: { url: 'gs://bucket/disk.img', secretRef: 'login' } },
  { registry: { url: 'docker://registry.example/disk:1', secretRef: 'login', certConfigMap: 'authorities' } },
  { registry: { imageStream: 'disk', pullMethod: 'node', platform: { architecture: 'arm64' } } },
  {
    imageio: {
      url: 'https://engine.example/ovirt-engine/api',
      diskId: '1',
      secretRef: 'login',
      certConfigMap: 'authorities',
      insecureSkipVerify: true,
    },
  },
  {
    vddk: {
      url: 'https://vcenter.example',
      uuid: '52260566-b032-36cb-55b1-79bf29e30490',
      backingFile: '[datastore] vm/vm.vmdk',
      thumbprint: '20:6C:8A',
      secretRef: 'login',
      certConfigMap: 'authorities',
      initImageURL: 'registry.example/vddk:8',
      extraArgs: 'options',
    },
  },
  { blank: {} },
];

const sources: readonly DataVolumeSource[] = [
  ...imports,
  { upload: {} },
  { pvc: { namespace: 'golden', name: 'fedora' } },
  { snapshot: { namespace: 'golden', name: 'fedora' } },
];

const nameOf = (source: object): string => Object.keys(source).join();

export const dataVolume = example<DataVolume>('of an image', DATA_VOLUMES, {
  source: { http: { url: URL } },
  pvc: { accessModes: ['ReadWriteOnce'], ...SIZED },
});

const dataVolumes: readonly Example[] = [
  dataVolume,
  ...sources.map((source) =>
    example<DataVolume>(nameOf(source), DATA_VOLUMES, { source, pvc: { accessModes: ['ReadWriteOnce'], ...SIZED } }),
  ),
  example<DataVolume>('with a whole claim', DATA_VOLUMES, {
    source: { blank: {} },
    pvc: {
      accessModes: ['ReadWriteMany'],
      resources: { requests: { storage: '1.5Gi' }, limits: { storage: '2Ti' } },
      selector: { matchLabels: { disk: 'fast' }, matchExpressions: [{ key: 'zone', operator: 'In', values: ['a'] }] },
      storageClassName: 'fast',
      volumeAttributesClassName: 'gold',
      volumeMode: 'Block',
      volumeName: 'pv-1',
    },
    priorityClassName: 'urgent',
    serviceAccountName: 'importer',
    contentType: 'kubevirt',
    preallocation: true,
  }),
  example<DataVolume>('with storage', DATA_VOLUMES, {
    sourceRef: { kind: 'DataSource', namespace: 'golden', name: 'fedora' },
    storage: {
      accessModes: ['ReadWriteOncePod'],
      resources: { requests: { storage: '10Gi' } },
      selector: { matchLabels: { disk: 'fast' } },
      storageClassName: '',
      volumeMode: 'FromStorageProfile',
      volumeName: 'pv-1',
    },
  }),
  example<DataVolume>('that another populator fills', DATA_VOLUMES, {
    storage: {
      ...SIZED,
      dataSource: { apiGroup: 'snapshot.storage.k8s.io', kind: 'VolumeSnapshot', name: 'one' },
      dataSourceRef: { apiGroup: 'example.org', kind: 'Image', name: 'one', namespace: 'golden' },
    },
  }),
  example<DataVolume>('in stages', DATA_VOLUMES, {
    source: { vddk: { url: 'https://vcenter.example' } },
    storage: SIZED,
    contentType: 'archive',
    checkpoints: [
      { previous: '', current: 'snapshot-1' },
      { previous: 'snapshot-1', current: 'snapshot-2' },
    ],
    finalCheckpoint: true,
  }),
];

export const dataImportCron = example<DataImportCron>(
  'daily',
  DATA_IMPORT_CRONS,
  {
    template: {
      metadata: {
        labels: { os: 'fedora' },
        annotations: { 'cdi.kubevirt.io/storage.bind.immediate.requested': 'true' },
      },
      spec: {
        source: { registry: { url: 'docker://registry.example/fedora:latest', pullMethod: 'node' } },
        storage: { resources: { requests: { storage: '30Gi' } } },
      },
    },
    schedule: '30 1 * * *',
    garbageCollect: 'Outdated',
    importsToKeep: 2,
    managedDataSource: 'fedora',
    retentionPolicy: 'None',
    serviceAccountName: 'importer',
  },
  {
    currentImports: [{ DataVolumeName: 'fedora-0123456789ab', Digest: `sha256:${'0'.repeat(64)}` }],
    lastImportedPVC: { namespace: 'default', name: 'fedora-0123456789ab' },
    lastExecutionTimestamp: '2026-01-01T00:00:00Z',
    lastImportTimestamp: '2026-01-01T00:00:00Z',
    sourceFormat: 'snapshot',
    conditions: [
      {
        type: 'UpToDate',
        status: 'True',
        reason: 'UpToDate',
        message: 'Latest import is up to date',
        lastTransitionTime: '2026-01-01T00:00:00Z',
        lastHeartbeatTime: '2026-01-01T00:00:00Z',
      },
    ],
  },
);

const nodes = [
  {
    matchExpressions: [{ key: 'disk', operator: 'Gt', values: ['3'] }],
    matchFields: [{ key: 'metadata.name', operator: 'In', values: ['node-1'] }],
  },
];
const pods = {
  labelSelector: { matchLabels: { app: 'x' } },
  matchLabelKeys: ['version'],
  mismatchLabelKeys: ['tenant'],
  namespaceSelector: {},
  namespaces: ['default'],
  topologyKey: 'kubernetes.io/hostname',
};
const near: NonNullable<Affinity['podAffinity']> = {
  preferredDuringSchedulingIgnoredDuringExecution: [{ podAffinityTerm: pods, weight: 1 }],
  requiredDuringSchedulingIgnoredDuringExecution: [pods],
};
const placement: NodePlacement = {
  nodeSelector: { 'kubernetes.io/os': 'linux' },
  affinity: {
    nodeAffinity: {
      preferredDuringSchedulingIgnoredDuringExecution: [{ preference: nodes[0] ?? {}, weight: 100 }],
      requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: nodes },
    },
    podAffinity: near,
    podAntiAffinity: near,
  },
  tolerations: [
    { key: 'CriticalAddonsOnly', operator: 'Exists' },
    { key: 'a', operator: 'Equal', value: 'b', effect: 'NoExecute', tolerationSeconds: 3600 },
  ],
};

const configuration: CdiConfigSpec = {
  uploadProxyURLOverride: 'https://upload.example',
  importProxy: {
    HTTPProxy: 'http://proxy.example:3128',
    HTTPSProxy: 'http://proxy.example:3128',
    noProxy: '.svc,10.0.0.0/8',
    trustedCAProxy: 'proxy-authorities',
  },
  scratchSpaceStorageClass: 'scratch',
  podResourceRequirements: { limits: { cpu: '1', memory: '1Gi' }, requests: { cpu: '100m', memory: '60M' } },
  featureGates: ['HonorWaitForFirstConsumer'],
  webhookPvcRendering: 'Disabled',
  filesystemOverhead: { global: '0.06', storageClass: { fast: '0', slow: '0.125' } },
  preallocation: false,
  insecureRegistries: ['registry.example:5000'],
  dataVolumeTTLSeconds: -1,
  tlsSecurityProfile: {
    type: 'Custom',
    custom: { ciphers: ['ECDHE-RSA-AES128-GCM-SHA256'], minTLSVersion: 'VersionTLS12' },
  },
  imagePullSecrets: [{ name: 'registry' }],
  logVerbosity: 3,
};

export const cdiConfig = example<CdiConfig>('all of it', CDI_CONFIGS, configuration, {
  uploadProxyURL: 'https://upload.example',
  uploadProxyCA: '-----BEGIN CERTIFICATE-----',
  importProxy: { HTTPProxy: 'http://proxy.example:3128' },
  scratchSpaceStorageClass: '',
  defaultPodResourceRequirements: { limits: { cpu: '750m', memory: '600M' }, requests: { cpu: '100m', memory: '60M' } },
  filesystemOverhead: { global: '0.06', storageClass: { fast: '0.06' } },
  preallocation: false,
  imagePullSecrets: [{ name: 'registry' }],
});

export const cdi = example<Cdi>(
  'all of it',
  CDIS,
  {
    imagePullPolicy: 'IfNotPresent',
    uninstallStrategy: 'BlockUninstallIfWorkloadsExist',
    infra: { ...placement, deploymentReplicas: 2, apiServerReplicas: 2, uploadProxyReplicas: 2 },
    workload: placement,
    customizeComponents: {
      patches: [{ resourceName: 'cdi-deployment', resourceType: 'Deployment', patch: '{}', type: 'strategic' }],
      flags: { api: { v: '5' }, controller: { v: '5' }, uploadProxy: { v: '5' } },
    },
    cloneStrategyOverride: 'csi-clone',
    config: configuration,
    certConfig: {
      ca: { duration: '48h0m0s', renewBefore: '24h0m0s' },
      server: { duration: '24h0m0s', renewBefore: '12h0m0s' },
      client: { duration: '24h0m0s', renewBefore: '12h0m0s' },
    },
    priorityClass: 'system-cluster-critical',
  },
  {
    phase: 'Deployed',
    conditions: [{ type: 'Available', status: 'True' }],
    operatorVersion: '1',
    targetVersion: '1',
    observedVersion: '1',
  },
);

export const storageProfile = example<StorageProfile>('with all', STORAGE_PROFILES, {
  cloneStrategy: 'csi-clone',
  claimPropertySets: [
    { accessModes: ['ReadWriteMany', 'ReadWriteOnce', 'ReadOnlyMany', 'ReadWriteOncePod'], volumeMode: 'Block' },
    { accessModes: ['ReadWriteOnce'], volumeMode: 'Filesystem' },
  ],
  dataImportCronSourceFormat: 'snapshot',
  snapshotClass: 'snapshots',
});

export const dataSource = example<DataSource>(
  'of a claim',
  DATA_SOURCES,
  { source: { pvc: { namespace: 'golden', name: 'fedora' } } },
  {
    source: { pvc: { namespace: 'golden', name: 'fedora' } },
    conditions: [{ type: 'Ready', status: 'True', reason: 'Ready', message: 'DataSource is ready to be consumed' }],
  },
);

export const importSource = example<VolumeImportSource>('in stages', IMPORT_SOURCES, {
  source: { imageio: { url: 'https://engine.example/ovirt-engine/api', diskId: '1' } },
  preallocation: true,
  contentType: 'kubevirt',
  targetClaim: 'disk',
  checkpoints: [{ previous: '', current: 'snapshot-1' }],
  finalCheckpoint: false,
});

export const cloneSource = example<VolumeCloneSource>('of a snapshot', CLONE_SOURCES, {
  source: { apiGroup: 'snapshot.storage.k8s.io', kind: 'VolumeSnapshot', name: 'fedora' },
  preallocation: true,
  priorityClassName: 'urgent',
});

export const objectTransfer = example<ObjectTransfer>('of a DataVolume', OBJECT_TRANSFERS, {
  source: {
    apiVersion: 'cdi.kubevirt.io/v1beta1',
    kind: 'DataVolume',
    namespace: 'default',
    name: 'disk',
    requiredAnnotations: { ready: 'yes' },
  },
  target: { namespace: 'other', name: 'disk-2' },
  parentName: 'parent',
});

const transferNetwork = {
  apiVersion: 'k8s.cni.cncf.io/v1',
  kind: 'NetworkAttachmentDefinition',
  namespace: 'default',
  name: 'fast',
};

export const ovirtPopulator = example<OvirtVolumePopulator>(
  'with a network',
  OVIRT_POPULATORS,
  { engineUrl: 'https://engine.example', secretRef: 'login', diskId: '1', transferNetwork },
  { progress: '10' },
);

export const openstackPopulator = example<OpenstackVolumePopulator>(
  'with a network',
  OPENSTACK_POPULATORS,
  { identityUrl: 'https://identity.example/v3', secretRef: 'login', imageId: '1', transferNetwork },
  { progress: '10' },
);

export const EXAMPLES: readonly Example[] = [
  ...dataVolumes,
  dataSource,
  example<DataSource>('of a snapshot', DATA_SOURCES, { source: { snapshot: { namespace: 'golden', name: 'one' } } }),
  example<DataSource>('of another', DATA_SOURCES, { source: { dataSource: { namespace: 'golden', name: 'one' } } }),
  example<DataSource>('of nothing yet', DATA_SOURCES, { source: {} }),
  dataImportCron,
  example<DataImportCron>('only when told', DATA_IMPORT_CRONS, {
    template: { spec: { source: { pvc: { namespace: 'golden', name: 'fedora' } }, storage: {} } },
    schedule: '',
    managedDataSource: 'fedora',
  }),
  storageProfile,
  example<StorageProfile>('with nothing', STORAGE_PROFILES, {}),
  cdiConfig,
  cdi,
  example<Cdi>('as it is installed', CDIS, {
    config: { featureGates: ['HonorWaitForFirstConsumer'] },
    imagePullPolicy: 'IfNotPresent',
    infra: {
      nodeSelector: { 'kubernetes.io/os': 'linux' },
      tolerations: [{ key: 'CriticalAddonsOnly', operator: 'Exists' }],
    },
    workload: { nodeSelector: { 'kubernetes.io/os': 'linux' } },
  }),
  importSource,
  ...imports.map((source) => example<VolumeImportSource>(nameOf(source), IMPORT_SOURCES, { source })),
  example<VolumeUploadSource>('of an archive', UPLOAD_SOURCES, { contentType: 'archive', preallocation: false }),
  cloneSource,
  example<VolumeCloneSource>('of a claim', CLONE_SOURCES, {
    source: { kind: 'PersistentVolumeClaim', name: 'fedora' },
  }),
  objectTransfer,
  ovirtPopulator,
  openstackPopulator,
];

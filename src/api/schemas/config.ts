import type { LocalObjectReference, ResourceClaim, ResourceRequirements } from 'kubernetes-types/core/v1.js';
import type {
  CdiConfig,
  CdiConfigSpec,
  CdiConfigStatus,
  FilesystemOverhead,
  ImportProxy,
  TlsSecurityProfile,
} from '../config.ts';
import { ATOMIC, quantities } from './claim.ts';
import { choice, empty, flag, int32, kindOf, list, map, object, required, type Schema, text } from './schema.ts';

const NULLABLE = { nullable: true };

const importProxy = object<ImportProxy>('Proxies that imports go through.', {
  HTTPProxy: text('URL of the proxy for http://.'),
  HTTPSProxy: text('URL of the proxy for https://.'),
  noProxy: text('Hosts, domains and networks that are reached without it, with commas between.'),
  trustedCAProxy: text('A ConfigMap in the namespace of the installation: certificates (PEM) of authorities to trust.'),
});

/** Three places at most, and nothing but zero and one before the point. */
const part = text('A part of one: 0.06.', { pattern: '^(0(\\.[0-9]{1,3})?|1)$' });

const filesystemOverhead = object<FilesystemOverhead>('What part of a volume its file system needs for itself.', {
  global: { ...part, description: 'Where the storage class is not listed. Left out: 0.06.' },
  storageClass: map('By the name of the storage class.', part),
});

const podResources = (description: string): Schema<ResourceRequirements> =>
  object<ResourceRequirements>(description, {
    claims: list(
      'Devices.',
      object<ResourceClaim>('A device of the pod.', { name: required(text('Its name in the pod.')) }),
      { 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': ['name'] },
    ),
    limits: quantities('The most that a pod may take.'),
    requests: quantities('What a pod is sure to get.'),
  });

const imagePullSecrets = list(
  'Secrets with logins of the registries that the images come from.',
  object<LocalObjectReference>('A Secret in the same namespace.', { name: text('Its name.') }, ATOMIC),
);

const tlsSecurityProfile = object<TlsSecurityProfile>('What TLS is spoken; what custom says goes before type.', {
  custom: object<NonNullable<TlsSecurityProfile['custom']>>(
    'A profile of your own.',
    {
      ciphers: list('Cipher suites, by the names of OpenSSL.', text('A cipher suite.')),
      minTLSVersion: choice('The oldest version that is spoken.', [
        'VersionTLS10',
        'VersionTLS11',
        'VersionTLS12',
        'VersionTLS13',
      ]),
    },
    NULLABLE,
  ),
  intermediate: empty('TLS 1.2 and 1.3.', NULLABLE),
  modern: empty('TLS 1.3.', NULLABLE),
  old: empty('TLS 1.0 to 1.3.', NULLABLE),
  type: choice('Which profile. Left out: Intermediate.', ['Old', 'Intermediate', 'Modern', 'Custom']),
});

export const configSpec = object<CdiConfigSpec>('What is not to be as it is by itself.', {
  dataVolumeTTLSeconds: int32('Nothing is done by it: DataVolumes are not deleted when they are done.'),
  featureGates: list(
    'What is to be done otherwise: HonorWaitForFirstConsumer, DataVolumeClaimAdoption.',
    text('Name of a feature.'),
  ),
  filesystemOverhead,
  imagePullSecrets,
  importProxy,
  insecureRegistries: list('Registries of which the certificate is not looked at.', text('Host, or host:port.')),
  logVerbosity: int32('How much is logged: 1 to 9.'),
  podResourceRequirements: podResources('Memory and processor of each pod that moves data.'),
  preallocation: flag('Whether the space of whole disks is taken at once, where nothing else is said.'),
  scratchSpaceStorageClass: text('Storage class of scratch space; where this is left out, that of the volume.'),
  tlsSecurityProfile,
  uploadProxyURLOverride: text('Where clients reach the upload proxy.'),
  webhookPvcRendering: choice('Whether claims that ask for it are completed from StorageProfiles. Left out: Enabled.', [
    'Enabled',
    'Disabled',
  ]),
});

const status = object<CdiConfigStatus>(
  // How it and uploadProxyURL begin is what `kubectl explain` is known to say.
  'CDIConfigStatus provides the most recently observed status of the CDI configuration: what is in effect.',
  {
    defaultPodResourceRequirements: podResources('Memory and processor of each pod that moves data.'),
    filesystemOverhead,
    imagePullSecrets,
    importProxy,
    preallocation: flag('Whether the space of whole disks is taken at once, where nothing else is said.'),
    scratchSpaceStorageClass: text('Storage class of scratch space; empty: that of the volume.'),
    uploadProxyCA: text('Certificate (PEM) of the authority that the upload proxy has its own from.'),
    uploadProxyURL: text('The calculated upload proxy URL: where clients reach it.'),
  },
);

export const cdiConfig = kindOf<CdiConfig>('The configuration of the installation; there is one, named config.', {
  spec: required(configSpec),
  status,
});

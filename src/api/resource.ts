import type {
  MutatingWebhookConfiguration,
  ValidatingWebhookConfiguration,
} from 'kubernetes-types/admissionregistration/v1.js';
import type { TokenReview } from 'kubernetes-types/authentication/v1.js';
import type { SubjectAccessReview } from 'kubernetes-types/authorization/v1.js';
import type { Lease } from 'kubernetes-types/coordination/v1.js';
import type {
  ConfigMap,
  Event,
  PersistentVolume,
  PersistentVolumeClaim,
  Pod,
  Secret,
} from 'kubernetes-types/core/v1.js';
import type { CSIDriver, StorageClass } from 'kubernetes-types/storage/v1.js';
import type { Cdi, CdiConfig } from './config.ts';
import type { DataImportCron } from './data-import-cron.ts';
import type { DataSource } from './datasource.ts';
import type { DataVolume } from './datavolume.ts';
import type { ObjectTransfer } from './object-transfer.ts';
import type {
  OpenstackVolumePopulator,
  OvirtVolumePopulator,
  VolumeCloneSource,
  VolumeImportSource,
  VolumeUploadSource,
} from './populators.ts';
import type { SnapshotClass } from './snapshot-class.ts';
import type { StorageProfile } from './storage-profile.ts';

/** A kind of objects that an API server has; `T` is what one looks like. */
export interface Resource<T> {
  /** Empty for the core group. */
  readonly group: string;
  readonly version: string;
  readonly plural: string;
  readonly kind: string;
  readonly namespaced: boolean;
  /** Never there: carries the type. */
  readonly type?: T;
}

const kind = <T>(group: string, version: string, plural: string, name: string, namespaced = true): Resource<T> => ({
  group,
  version,
  plural,
  kind: name,
  namespaced,
});
/** Of CDI's resources. */
export const CDI_GROUP = 'cdi.kubevirt.io';
const FORKLIFT = 'forklift.cdi.kubevirt.io';

export const PODS = kind<Pod>('', 'v1', 'pods', 'Pod');
export const CLAIMS = kind<PersistentVolumeClaim>('', 'v1', 'persistentvolumeclaims', 'PersistentVolumeClaim');
export const VOLUMES = kind<PersistentVolume>('', 'v1', 'persistentvolumes', 'PersistentVolume', false);
export const EVENTS = kind<Event>('', 'v1', 'events', 'Event');
export const CONFIG_MAPS = kind<ConfigMap>('', 'v1', 'configmaps', 'ConfigMap');
export const SECRETS = kind<Secret>('', 'v1', 'secrets', 'Secret');
export const LEASES = kind<Lease>('coordination.k8s.io', 'v1', 'leases', 'Lease');
export const TOKEN_REVIEWS = kind<TokenReview>('authentication.k8s.io', 'v1', 'tokenreviews', 'TokenReview', false);
export const ACCESS_REVIEWS = kind<SubjectAccessReview>(
  'authorization.k8s.io',
  'v1',
  'subjectaccessreviews',
  'SubjectAccessReview',
  false,
);
const ADMISSION = 'admissionregistration.k8s.io';
export const VALIDATING_WEBHOOKS = kind<ValidatingWebhookConfiguration>(
  ADMISSION,
  'v1',
  'validatingwebhookconfigurations',
  'ValidatingWebhookConfiguration',
  false,
);
export const MUTATING_WEBHOOKS = kind<MutatingWebhookConfiguration>(
  ADMISSION,
  'v1',
  'mutatingwebhookconfigurations',
  'MutatingWebhookConfiguration',
  false,
);
export const STORAGE_CLASSES = kind<StorageClass>('storage.k8s.io', 'v1', 'storageclasses', 'StorageClass', false);
export const CSI_DRIVERS = kind<CSIDriver>('storage.k8s.io', 'v1', 'csidrivers', 'CSIDriver', false);
export const DATA_VOLUMES = kind<DataVolume>(CDI_GROUP, 'v1beta1', 'datavolumes', 'DataVolume');
export const IMPORT_SOURCES = kind<VolumeImportSource>(
  CDI_GROUP,
  'v1beta1',
  'volumeimportsources',
  'VolumeImportSource',
);
export const STORAGE_PROFILES = kind<StorageProfile>(CDI_GROUP, 'v1beta1', 'storageprofiles', 'StorageProfile', false);
export const CDI_CONFIGS = kind<CdiConfig>(CDI_GROUP, 'v1beta1', 'cdiconfigs', 'CDIConfig', false);
export const CDIS = kind<Cdi>(CDI_GROUP, 'v1beta1', 'cdis', 'CDI', false);
export const DATA_SOURCES = kind<DataSource>(CDI_GROUP, 'v1beta1', 'datasources', 'DataSource');
export const DATA_IMPORT_CRONS = kind<DataImportCron>(CDI_GROUP, 'v1beta1', 'dataimportcrons', 'DataImportCron');
export const UPLOAD_SOURCES = kind<VolumeUploadSource>(
  CDI_GROUP,
  'v1beta1',
  'volumeuploadsources',
  'VolumeUploadSource',
);
export const CLONE_SOURCES = kind<VolumeCloneSource>(CDI_GROUP, 'v1beta1', 'volumeclonesources', 'VolumeCloneSource');
export const OBJECT_TRANSFERS = kind<ObjectTransfer>(CDI_GROUP, 'v1beta1', 'objecttransfers', 'ObjectTransfer', false);
export const OVIRT_POPULATORS = kind<OvirtVolumePopulator>(
  FORKLIFT,
  'v1beta1',
  'ovirtvolumepopulators',
  'OvirtVolumePopulator',
);
export const OPENSTACK_POPULATORS = kind<OpenstackVolumePopulator>(
  FORKLIFT,
  'v1beta1',
  'openstackvolumepopulators',
  'OpenstackVolumePopulator',
);
export const SNAPSHOT_CLASSES = kind<SnapshotClass>(
  'snapshot.storage.k8s.io',
  'v1',
  'volumesnapshotclasses',
  'VolumeSnapshotClass',
  false,
);

/** `v1`, `storage.k8s.io/v1`: as objects of the kind name it. */
export function apiVersionOf({ group, version }: Resource<unknown>): string {
  return group === '' ? version : `${group}/${version}`;
}

/**
 * Where the objects of a kind are, or one of them, or a part of it such as its status. Names are of RFC 1123 where they come
 * from the API server; what a user wrote is encoded.
 */
export function pathOf(resource: Resource<unknown>, namespace?: string, name?: string, part?: string): string {
  const root = resource.group === '' ? '/api' : `/apis/${resource.group}`;
  const inside = resource.namespaced && namespace ? `/namespaces/${encodeURIComponent(namespace)}` : '';
  const one = name === undefined ? '' : `/${encodeURIComponent(name)}${part === undefined ? '' : `/${part}`}`;
  return `${root}/${resource.version}${inside}/${resource.plural}${one}`;
}

// Every rule of admission: what it refuses and in which words, and beside it what is nearly the same and accepted.
import type { DataImportCronSpec } from '../../src/api/data-import-cron.ts';
import type { DataVolumeSource, DataVolumeSpec, StorageSpec } from '../../src/api/datavolume.ts';
import type { ObjectTransfer } from '../../src/api/object-transfer.ts';
import type { VolumeImportSourceSpec } from '../../src/api/populators.ts';
import {
  CLAIMS,
  DATA_IMPORT_CRONS,
  DATA_VOLUMES,
  IMPORT_SOURCES,
  OBJECT_TRANSFERS,
  type Resource,
  UPLOAD_SOURCES,
} from '../../src/api/resource.ts';

export interface Thing {
  readonly metadata: {
    readonly name: string;
    readonly annotations?: Readonly<Record<string, string>>;
    readonly deletionTimestamp?: string;
  };
  readonly spec: object;
  readonly status?: object;
}

export interface Rule {
  readonly title: string;
  readonly resource: Resource<unknown>;
  /** What there is already, which is changed. */
  readonly before?: Thing;
  /** What there is besides. */
  readonly there?: { readonly resource: Resource<unknown>; readonly object: Thing };
  readonly refused: Thing;
  /** Of one of the causes. */
  readonly field: string;
  /** In its message. */
  readonly says: string;
  /** An API server refuses it before anybody is asked, in these words. */
  readonly alreadyRefused?: string;
  readonly accepted: readonly Thing[];
}

export const GI: StorageSpec = { resources: { requests: { storage: '1Gi' } } };
export const URL = 'https://images.example/disk.qcow2';
const HTTP: DataVolumeSource = { http: { url: URL } };
const long = (length: number): string => 'a'.repeat(length);

/** Names are `disk`, unless it matters. */
const named = (spec: object, name = 'disk', annotations?: Record<string, string>): Thing => ({
  metadata: { name, ...(annotations ? { annotations } : {}) },
  spec,
});
const from = (source: object, more: object = {}): Thing => named({ source, storage: GI, ...more });
const dv = (spec: DataVolumeSpec, name?: string, annotations?: Record<string, string>): Thing =>
  named(spec, name, annotations);
const sized = (storage: unknown): object => ({ resources: { requests: { storage } } });
const onStorage = (storage: object, source: object = HTTP): Thing => named({ source, storage });
const onPvc = (pvc: object): Thing => named({ source: HTTP, pvc: { accessModes: ['ReadWriteOnce'], ...GI, ...pvc } });
const filled = (storage: object, more: object = {}): Thing => named({ storage: { ...GI, ...storage }, ...more });

type Row = Omit<Rule, 'resource' | 'accepted'> & { readonly accepted: Thing | readonly Thing[] };
const of = (resource: Resource<unknown>, rows: readonly Row[]): Rule[] =>
  rows.map((row) => ({ resource, ...row, accepted: [row.accepted].flat() as readonly Thing[] }));

const SNAPSHOT = { apiGroup: 'snapshot.storage.k8s.io', kind: 'VolumeSnapshot', name: 'one' };
const claimOf = (name: string, more: object = {}): { resource: Resource<unknown>; object: Thing } => ({
  resource: CLAIMS,
  object: { metadata: { name, ...more }, spec: { accessModes: ['ReadWriteOnce'], ...GI } },
});
const CLAIM = claimOf('taken');
const owned = (kind: string): object => ({
  ownerReferences: [{ apiVersion: 'v1', kind, name: 'owner', uid: 'a-uid', controller: true }],
});
const POPULATED = { 'cdi.kubevirt.io/storage.populatedFor': 'populated' };
const ADOPTS = { 'cdi.kubevirt.io/allowClaimAdoption': 'true' };

/** What a DataVolume says of its claim. */
const storage: readonly Row[] = [
  {
    title: 'a name is no longer than 253',
    refused: dv({ source: HTTP, storage: GI }, long(254)),
    ...{ field: 'metadata.name', says: 'more than 253 characters: "aaa', alreadyRefused: 'no more than 253' },
    accepted: dv({ source: HTTP, storage: GI }, long(253)),
  },
  {
    title: 'no claim has its name',
    there: CLAIM,
    refused: dv({ source: HTTP, storage: GI }, 'taken'),
    ...{ field: 'metadata.name', says: 'Destination PVC default/taken already exists: it belongs to no DataVolume' },
    accepted: [dv({ source: HTTP, storage: GI }, 'free'), dv({ source: HTTP, storage: GI }, 'taken', ADOPTS)],
  },
  {
    title: 'a claim of its name is of a DataVolume',
    there: claimOf('of-a-pod', owned('Pod')),
    refused: dv({ source: HTTP, storage: GI }, 'of-a-pod'),
    ...{ field: 'metadata.name', says: 'PVC default/of-a-pod already exists: it belongs to Pod owner' },
    accepted: dv({ source: HTTP, storage: GI }, 'other'),
  },
  {
    title: 'a claim of its name is filled for it',
    there: claimOf('populated', { annotations: { ...POPULATED, 'cdi.kubevirt.io/storage.populatedFor': 'another' } }),
    refused: dv({ source: HTTP, storage: GI }, 'populated'),
    ...{ field: 'metadata.name', says: 'PVC default/populated already exists' },
    accepted: dv({ source: HTTP, storage: GI }, 'another'),
  },
  {
    title: 'there is a claim',
    refused: named({ source: HTTP }),
    ...{ field: 'spec.pvc', says: 'Missing Data volume PVC: spec has neither storage nor pvc' },
    accepted: onStorage(GI),
  },
  {
    title: 'there is one claim',
    refused: named({ source: HTTP, storage: GI, pvc: { accessModes: ['ReadWriteOnce'], ...GI } }),
    ...{ field: 'spec.pvc', says: 'Duplicate storage definition, both target storage and target pvc defined' },
    accepted: onPvc({}),
  },
  {
    title: 'a pvc has more than 0 bytes',
    refused: onPvc(sized('-5Gi')),
    ...{
      field: 'spec.pvc.resources.requests.storage',
      says: `PVC size can't be equal or less than zero: it is "-5Gi"`,
    },
    accepted: onPvc(sized('5Gi')),
  },
  {
    title: 'storage has more than 0 bytes',
    refused: onStorage(sized(0)),
    ...{
      field: 'spec.storage.resources.requests.storage',
      says: `Storage size can't be equal or less than zero: it is "0"`,
    },
    accepted: onStorage(sized(1048576)),
  },
  {
    title: 'a pvc has a MiB',
    refused: onPvc(sized('1023Ki')),
    ...{
      field: 'spec.pvc.resources.requests.storage',
      says: 'PVC size should be at least 1MiB: it is "1023Ki", 1047552',
    },
    accepted: onPvc(sized('1024Ki')),
  },
  {
    title: 'storage has a MiB',
    refused: onStorage(sized('1M')),
    ...{ field: 'spec.storage.resources.requests.storage', says: 'Storage size should be at least 1MiB: it is "1M"' },
    accepted: onStorage(sized('1Mi')),
  },
  {
    title: 'a pvc has a size',
    refused: onPvc({ resources: {} }),
    ...{ field: 'spec.pvc.resources.requests.storage', says: 'PVC size is missing' },
    accepted: onPvc({}),
  },
  {
    title: 'storage that is no clone has a size',
    refused: onStorage({ accessModes: ['ReadWriteOnce'] }),
    ...{ field: 'spec.storage.resources.requests.storage', says: 'Storage size is missing' },
    accepted: [
      onStorage({}, { pvc: { namespace: 'golden', name: 'fedora' } }),
      onStorage({}, { snapshot: { namespace: 'golden', name: 'fedora' } }),
      named({ sourceRef: { kind: 'DataSource', name: 'fedora' }, storage: {} }),
    ],
  },
  {
    title: 'a size is a quantity',
    refused: onStorage(sized('1e0.5')),
    ...{ field: 'spec.storage.resources.requests.storage', says: 'is "1e0.5", which is no quantity of Kubernetes' },
    accepted: onStorage(sized('1e9')),
  },
  {
    title: 'a size can be counted',
    refused: onStorage(sized('8Ei')),
    ...{
      field: 'spec.storage.resources.requests.storage',
      says: '"8Ei", which is more than Kubernetes can count: 9223',
    },
    accepted: [onStorage(sized('7Ei')), onStorage(sized('9223372036854775807'))],
  },
  {
    title: 'the name of a class is no longer than 253',
    refused: onStorage({ ...GI, storageClassName: long(254) }),
    ...{ field: 'spec.storage.storageClassName', says: 'cannot have more than 253 characters' },
    accepted: [onStorage({ ...GI, storageClassName: long(253) }), onStorage({ ...GI, storageClassName: '' })],
  },
  {
    title: 'a pvc has an access mode',
    refused: onPvc({ accessModes: [] }),
    ...{ field: 'spec.pvc.accessModes', says: 'Required value: at least 1 access mode is required' },
    accepted: onPvc({}),
  },
  {
    title: 'a pvc has one access mode',
    refused: onPvc({ accessModes: ['ReadWriteOnce', 'ReadWriteMany'] }),
    ...{ field: 'spec.pvc.accessModes', says: 'PVC multiple accessModes: it has 2' },
    accepted: onStorage({ ...GI, accessModes: ['ReadWriteOnce', 'ReadWriteMany'] }),
  },
  {
    title: 'access modes of a pvc are known',
    refused: onPvc({ accessModes: ['ReadWriteTwice'] }),
    ...{ field: 'spec.pvc.accessModes[0]', says: '"ReadWriteTwice" is no access mode: write one of ReadWriteOnce' },
    accepted: ['ReadWriteOnce', 'ReadOnlyMany', 'ReadWriteMany', 'ReadWriteOncePod'].map((mode) =>
      onPvc({ accessModes: [mode] }),
    ),
  },
  {
    title: 'access modes of storage are known',
    refused: onStorage({ ...GI, accessModes: ['ReadWriteOnce', 'RWX'] }),
    ...{ field: 'spec.storage.accessModes[1]', says: '"RWX" is no access mode' },
    accepted: onStorage({ ...GI, accessModes: ['ReadWriteOnce', 'ReadWriteMany'] }),
  },
];

/** Who fills the claim. */
const origins: readonly Row[] = [
  {
    title: 'another populator needs no source',
    refused: filled({ dataSource: SNAPSHOT }, { source: HTTP }),
    ...{ field: 'spec.source', says: 'External population is incompatible with Source and SourceRef' },
    accepted: filled({ dataSource: SNAPSHOT }),
  },
  {
    title: 'another populator needs no sourceRef',
    refused: filled({ dataSourceRef: SNAPSHOT }, { sourceRef: { kind: 'DataSource', name: 'fedora' } }),
    ...{ field: 'spec.sourceRef', says: 'External population is incompatible with Source and SourceRef' },
    accepted: filled({ dataSourceRef: SNAPSHOT }),
  },
  {
    title: 'dataSource and dataSourceRef are the same',
    refused: filled({ dataSource: SNAPSHOT, dataSourceRef: { ...SNAPSHOT, name: 'other' } }),
    ...{ field: 'spec.storage.dataSourceRef', says: 'DataSourceRef and DataSource must match' },
    accepted: filled({ dataSource: SNAPSHOT, dataSourceRef: SNAPSHOT }),
  },
  {
    title: 'what fills the claim has a name',
    refused: filled({ dataSource: { ...SNAPSHOT, name: '' } }),
    ...{ field: 'spec.storage.dataSource.name', says: 'spec.storage.dataSource.name is empty' },
    accepted: filled({ dataSource: SNAPSHOT }),
  },
  {
    title: 'what fills the claim has a kind',
    refused: filled({ dataSourceRef: { ...SNAPSHOT, kind: '' } }),
    ...{ field: 'spec.storage.dataSourceRef.kind', says: 'spec.storage.dataSourceRef.kind is empty' },
    accepted: filled({ dataSourceRef: SNAPSHOT }),
  },
  {
    title: 'what fills the claim has a group',
    refused: filled({ dataSource: { kind: 'VolumeSnapshot', name: 'one' } }),
    ...{
      field: 'spec.storage.dataSource.apiGroup',
      says: 'apiGroup is empty, which is right for a PersistentVolumeClaim',
    },
    accepted: filled({ dataSource: { kind: 'PersistentVolumeClaim', name: 'one' } }),
  },
  {
    title: 'what fills the claim is in its namespace',
    refused: filled({ dataSourceRef: { ...SNAPSHOT, namespace: 'golden' } }),
    ...{ field: 'spec.storage.dataSourceRef.namespace', says: 'must be left out' },
    accepted: filled({ dataSourceRef: SNAPSHOT }),
  },
  {
    title: 'there is a source',
    refused: named({ storage: GI }),
    ...{
      field: 'spec.source',
      says: 'Data volume should have either Source or SourceRef, or be externally populated: it has neither',
    },
    accepted: onStorage(GI, { upload: {} }),
  },
  {
    title: 'there is one of source and sourceRef',
    refused: named({ source: HTTP, sourceRef: { kind: 'DataSource', name: 'fedora' }, storage: GI }),
    ...{ field: 'spec.source', says: 'or be externally populated: it has both' },
    accepted: named({ sourceRef: { kind: 'DataSource', namespace: 'golden', name: 'fedora' }, storage: GI }),
  },
  {
    title: 'a sourceRef has a kind',
    refused: named({ sourceRef: { kind: '', name: 'fedora' }, storage: GI }),
    ...{ field: 'spec.sourceRef.kind', says: 'spec.sourceRef.kind is empty' },
    accepted: named({ sourceRef: { kind: 'DataSource', name: 'fedora' }, storage: GI }),
  },
  {
    title: 'a sourceRef is a DataSource',
    refused: named({ sourceRef: { kind: 'PersistentVolumeClaim', name: 'fedora' }, storage: GI }),
    ...{ field: 'spec.sourceRef.kind', says: 'is "PersistentVolumeClaim": it can be DataSource only' },
    accepted: named({ sourceRef: { kind: 'DataSource', name: 'fedora' }, storage: GI }),
  },
  {
    title: 'a sourceRef has a name',
    refused: named({ sourceRef: { kind: 'DataSource', name: '' }, storage: GI }),
    ...{ field: 'spec.sourceRef.name', says: 'spec.sourceRef.name is empty' },
    accepted: named({ sourceRef: { kind: 'DataSource', name: 'fedora' }, storage: GI }),
  },
  {
    title: 'a source has something in it',
    refused: from({}),
    ...{ field: 'spec.source', says: 'Missing Data volume source: spec.source is empty' },
    accepted: from({ blank: {} }),
  },
  {
    title: 'a source has one thing in it',
    refused: from({ blank: {}, upload: {} }),
    ...{ field: 'spec.source', says: 'Multiple Data volume sources: spec.source has blank, upload' },
    accepted: from({ upload: {} }),
  },
  {
    title: 'contentType is known',
    refused: from(HTTP, { contentType: 'tar' }),
    ...{
      field: 'spec.contentType',
      says: 'ContentType not one of: kubevirt, archive',
      alreadyRefused: 'Unsupported value',
    },
    accepted: [from(HTTP, { contentType: 'archive' }), from(HTTP, { contentType: 'kubevirt' })],
  },
];

const CHECKSUM = `sha256:${'0'.repeat(64)}`;
const http = (url: string, more: object = {}): object => ({ http: { url, ...more } });
const IMAGEIO = {
  url: 'https://engine.example/ovirt-engine/api',
  secretRef: 'login',
  diskId: '1',
  certConfigMap: 'ca',
};
const VDDK = {
  url: 'https://vcenter.example/sdk',
  secretRef: 'login',
  uuid: '52260566-b032-36cb-55b1-79bf29e30490',
  backingFile: '[datastore] vm/vm.vmdk',
  thumbprint: '20:6C:8A',
};
const without = (object: object, key: string): object => ({ ...object, [key]: undefined });

interface SourceRow {
  readonly title: string;
  readonly refused: object;
  readonly field: string;
  readonly says: string;
  readonly accepted: object;
  readonly contentType?: string;
  readonly also?: readonly object[];
}

/** Of sources that both DataVolumes and VolumeImportSources have. */
const sources: readonly SourceRow[] = [
  { title: 'http has a URL', refused: http(''), field: 'http.url', says: 'http.url is empty', accepted: HTTP },
  {
    title: 'a URL has a scheme',
    refused: http('images.example/a'),
    field: 'http.url',
    says: 'no scheme',
    accepted: HTTP,
  },
  {
    title: 'a URL has a scheme that is known',
    refused: http('ftp://images.example/a'),
    ...{ field: 'http.url', says: 'has the scheme "ftp", and this source takes http:// or https:// or gs://' },
    accepted: http('http://images.example/a'),
    also: [http('HTTPS://images.example/a'), http('gs://bucket/a')],
  },
  {
    title: 'a URL can be read',
    refused: http('https://images.example:70000/a'),
    ...{ field: 'http.url', says: 'no URL that can be read' },
    accepted: http('https://images.example:7000/a'),
  },
  {
    title: 'a URL has a host',
    refused: http('gs:///a'),
    ...{ field: 'http.url', says: 'names no host' },
    accepted: http('gs://bucket/a'),
  },
  {
    title: 'what follows a % is two digits',
    refused: http('https://images.example/50%'),
    ...{ field: 'http.url', says: 'what follows a %' },
    accepted: http('https://images.example/50%25'),
    also: [http('https://images.example/a?50%'), http('https://images.example/a b')],
  },
  {
    title: 'a URL has no credentials',
    refused: http('https://user:swordfish@images.example/a'),
    ...{ field: 'http.url', says: 'credentials in it, before the @' },
    accepted: http('https://images.example/user:other@a?b=c@d', { secretRef: 'login' }),
  },
  {
    title: 'a URL has no user',
    refused: http('https:user@images.example/a'),
    ...{ field: 'http.url', says: 'Put them into a Secret with accessKeyId and secretKey, and name that in' },
    accepted: http('https:images.example/a'),
  },
  {
    title: 'a URL is one line',
    refused: http('https://images.example/a\n'),
    ...{ field: 'http.url', says: 'a control character at place 25 of 25' },
    accepted: http('https://images.example/a'),
  },
  {
    title: 'a header is one line',
    refused: http(URL, { extraHeaders: ['X-One: 1', 'X-Two: 2\r\nX-Three: 3'] }),
    ...{ field: 'http.extraHeaders[1]', says: 'has the control character 0x0d at place 9 of 20' },
    accepted: http(URL, { extraHeaders: ['X-One: 1', 'X-Two:\t2'] }),
  },
  {
    title: 'the name of a Secret is one line',
    refused: http(URL, { secretRef: 'login\u0000' }),
    ...{ field: 'http.secretRef', says: 'has the control character 0x00 at place 6 of 6' },
    accepted: http(URL, { secretRef: 'login' }),
  },
  {
    title: 'a checksum has an algorithm',
    refused: http(URL, { checksum: '0'.repeat(64) }),
    ...{ field: 'http.checksum', says: 'Invalid checksum "000' },
    accepted: http(URL, { checksum: CHECKSUM }),
  },
  {
    title: 'a checksum has an algorithm that is known',
    refused: http(URL, { checksum: `sha3:${'0'.repeat(64)}` }),
    ...{ field: 'http.checksum', says: 'the algorithm "sha3" is not one of md5, sha1, sha256, sha512' },
    accepted: http(URL, { checksum: `md5:${'0'.repeat(32)}` }),
    also: [
      http(URL, { checksum: `sha1:${'aF'.repeat(20)}` }),
      http(URL, { checksum: ` SHA512 : ${'0'.repeat(128)} \n` }),
      http(URL, { checksum: '' }),
    ],
  },
  {
    title: 'a checksum has as many digits as its algorithm',
    refused: http(URL, { checksum: `sha256:${'0'.repeat(40)}` }),
    ...{ field: 'http.checksum', says: 'of sha256 it has 64 hexadecimal digits, and "000' },
    accepted: http(URL, { checksum: CHECKSUM }),
  },
  {
    title: 'a checksum has digits',
    refused: http(URL, { checksum: `sha256:${'g'.repeat(64)}` }),
    ...{ field: 'http.checksum', says: 'of sha256 it has 64 hexadecimal digits' },
    accepted: http(URL, { checksum: CHECKSUM.toUpperCase() }),
  },
  {
    title: 'a checksum has two parts',
    refused: http(URL, { checksum: `${CHECKSUM}:1` }),
    ...{ field: 'http.checksum', says: 'Invalid checksum "sha256:000' },
    accepted: http(URL, { checksum: CHECKSUM }),
  },
  {
    title: 's3 has a URL',
    refused: { s3: { url: 's3://bucket/a' } },
    ...{ field: 's3.url', says: 'has the scheme "s3"' },
    accepted: { s3: { url: 'https://s3.example/bucket/a' } },
  },
  {
    title: 's3 has no credentials in its URL',
    refused: { s3: { url: 'https://key:swordfish@s3.example/bucket/a' } },
    ...{ field: 's3.url', says: 's3.secretRef' },
    accepted: { s3: { url: 'https://s3.example/bucket/a', secretRef: 'login' } },
  },
  {
    title: 'gcs has a URL',
    refused: { gcs: { url: 'bucket/a' } },
    ...{ field: 'gcs.url', says: 'no scheme' },
    accepted: { gcs: { url: 'gs://bucket/a' } },
  },
  {
    title: 'gcs has no credentials in its URL',
    refused: { gcs: { url: 'gs://swordfish@bucket/a' } },
    ...{ field: 'gcs.url', says: 'Put them into a Secret with credentials.json, and name that in' },
    accepted: { gcs: { url: 'gs://bucket/a', secretRef: 'login' } },
  },
  {
    title: 'a blank disk is no archive',
    refused: { blank: {} },
    ...{ field: 'blank', says: 'SourceType cannot be blank and the contentType be archive', contentType: 'archive' },
    accepted: http(URL),
  },
  {
    title: 'a registry has no archives',
    refused: { registry: { url: 'docker://a' } },
    ...{ field: 'registry', says: 'must have the contentType kubevirt: it is "archive"', contentType: 'archive' },
    accepted: http(URL),
  },
  {
    title: 'a registry has a URL or an image stream',
    refused: { registry: {} },
    ...{ field: 'registry', says: 'has neither url nor imageStream' },
    accepted: { registry: { url: 'docker://registry.example/disk:1' } },
  },
  {
    title: 'a registry has one of URL and image stream',
    refused: { registry: { url: 'docker://a', imageStream: 'a', pullMethod: 'node' } },
    ...{ field: 'registry', says: 'has both url and imageStream' },
    accepted: { registry: { imageStream: 'a', pullMethod: 'node' } },
  },
  {
    title: 'the URL of an image has a scheme',
    refused: { registry: { url: 'registry.example/disk' } },
    ...{ field: 'registry.url', says: 'Illegal registry URL: spec.source.registry.url has no scheme' },
    accepted: { registry: { url: 'docker://registry.example/disk' } },
  },
  {
    title: 'the URL of an image has a scheme that is known',
    refused: { registry: { url: 'https://registry.example/disk' } },
    ...{ field: 'registry.url', says: 'Illegal registry URL scheme "https"' },
    accepted: { registry: { url: 'oci-archive:/images/disk.tar' } },
    also: [{ registry: { url: 'oci-archive://images/a@b.tar' } }, { registry: { url: 'Docker://fedora' } }],
  },
  {
    title: 'the URL of an image has a host that is none but a scheme',
    refused: { registry: { url: 'registry.example:5000/disk' } },
    ...{ field: 'registry.url', says: 'Illegal registry URL scheme "registry.example"' },
    accepted: { registry: { url: 'docker://registry.example:5000/disk' } },
  },
  {
    title: 'the URL of an image names one',
    refused: { registry: { url: 'docker://' } },
    ...{ field: 'registry.url', says: 'names no image' },
    accepted: { registry: { url: 'docker://fedora' } },
  },
  {
    title: 'the URL of an image has no credentials',
    refused: { registry: { url: 'docker://user:swordfish@registry.example/disk' } },
    ...{ field: 'registry.url', says: 'registry.secretRef' },
    accepted: { registry: { url: `docker://registry.example/disk@${CHECKSUM}` } },
    also: [{ registry: { url: `docker://fedora@${CHECKSUM}` } }],
  },
  {
    title: 'the URL of an image is one line',
    refused: { registry: { url: 'docker://a\n' } },
    ...{ field: 'registry.url', says: 'a control character at place 11 of 11' },
    accepted: { registry: { url: 'docker://a' } },
  },
  {
    title: 'a pull method is known',
    refused: { registry: { url: 'docker://a', pullMethod: 'push' } },
    ...{ field: 'registry.pullMethod', says: 'ImportMethod "push" is neither pod nor node' },
    accepted: { registry: { url: 'docker://a', pullMethod: 'pod' } },
  },
  {
    title: 'an image stream has a name',
    refused: { registry: { imageStream: '', pullMethod: 'node' } },
    ...{ field: 'registry.imageStream', says: 'registry.imageStream is empty' },
    accepted: { registry: { imageStream: 'a', pullMethod: 'node' } },
  },
  {
    title: 'an image stream is pulled by the node',
    refused: { registry: { imageStream: 'a', pullMethod: 'pod' } },
    ...{ field: 'registry.imageStream', says: 'only for the pullMethod node' },
    accepted: { registry: { url: 'docker://a', pullMethod: 'node' } },
  },
  ...['secretRef', 'diskId', 'certConfigMap', 'url'].map((key) => ({
    title: `imageio has its ${key}`,
    refused: { imageio: { ...without(IMAGEIO, key), ...(key === 'diskId' || key === 'url' ? { [key]: '' } : {}) } },
    ...{ field: `imageio.${key}`, says: `imageio.${key} is empty` },
    accepted: { imageio: IMAGEIO },
    ...(key === 'certConfigMap' ? { also: [{ imageio: { ...without(IMAGEIO, key), insecureSkipVerify: true } }] } : {}),
  })),
  {
    title: 'imageio has no credentials in its URL',
    refused: { imageio: { ...IMAGEIO, url: 'https://admin%40internal:swordfish@engine.example/api' } },
    ...{ field: 'imageio.url', says: 'credentials in it' },
    accepted: { imageio: { ...IMAGEIO, url: 'https://engine.example/api' } },
  },
  ...['secretRef', 'uuid', 'backingFile', 'thumbprint', 'url'].map((key) => ({
    title: `vddk has its ${key}`,
    refused: { vddk: without(VDDK, key) },
    ...{ field: `vddk.${key}`, says: `vddk.${key} is empty` },
    accepted: { vddk: VDDK },
  })),
];

const ofSources = (make: (source: object, contentType?: string) => Thing): Row[] =>
  sources.map(({ title, refused, field, says, accepted, contentType, also = [] }) => ({
    title,
    refused: make(refused, contentType),
    ...{ field: `spec.source.${field}`, says },
    accepted: [make(accepted, contentType), ...also.map((one) => make(one, contentType))],
  }));

const cloned: readonly Row[] = ['pvc', 'snapshot'].flatMap((member) =>
  ['namespace', 'name'].map((key) => ({
    title: `a clone of a ${member} has its ${key}`,
    refused: from({ [member]: { namespace: 'golden', name: 'fedora', [key]: '' } }),
    ...{ field: `spec.source.${member}.${key}`, says: `spec.source.${member}.${key} is empty` },
    accepted: from({ [member]: { namespace: 'golden', name: 'fedora' } }),
  })),
);

const STAGE = { previous: '', current: 'snapshot-1' };
const NEXT = { previous: 'snapshot-1', current: 'snapshot-2' };
const VDDK_DV = from({ vddk: VDDK }, { checkpoints: [STAGE] });
const HTTP_DV = from(HTTP);

const changes: readonly Row[] = [
  {
    title: 'a spec does not change',
    before: HTTP_DV,
    refused: from(http('https://images.example/other')),
    ...{ field: 'spec', says: 'Cannot update DataVolume Spec: spec.source.http.url is not what it was' },
    accepted: [
      { ...HTTP_DV, metadata: { name: 'disk', annotations: { a: 'b' } } },
      // The same, as other clients write it.
      from(HTTP, { storage: sized('1024Mi'), finalCheckpoint: false, priorityClassName: '', checkpoints: [] }),
      from(HTTP, { storage: sized(1073741824) }),
    ],
  },
  {
    title: 'a size does not change',
    before: HTTP_DV,
    refused: from(HTTP, { storage: sized('2Gi') }),
    ...{ field: 'spec', says: 'Cannot update DataVolume Spec: spec.storage.resources.requests.storage is not' },
    accepted: HTTP_DV,
  },
  {
    title: 'the empty class is not the default one',
    before: HTTP_DV,
    refused: from(HTTP, { storage: { ...GI, storageClassName: '' } }),
    ...{ field: 'spec', says: 'Cannot update DataVolume Spec: spec.storage.storageClassName is not' },
    accepted: HTTP_DV,
  },
  {
    title: 'no preallocation is not that of the configuration',
    before: HTTP_DV,
    refused: from(HTTP, { preallocation: false }),
    ...{ field: 'spec', says: 'Cannot update DataVolume Spec: spec.preallocation is not' },
    accepted: HTTP_DV,
  },
  {
    title: 'a source stays when stages come',
    before: VDDK_DV,
    refused: from({ vddk: { ...VDDK, uuid: 'another' } }, { checkpoints: [STAGE, NEXT] }),
    ...{ field: 'spec', says: 'Cannot update DataVolume Spec: spec.source.vddk.uuid is not what it was' },
    accepted: [
      from({ vddk: VDDK }, { checkpoints: [STAGE, NEXT] }),
      from({ vddk: VDDK }, { checkpoints: [STAGE], finalCheckpoint: true }),
    ],
  },
  {
    title: 'stages do not go',
    before: VDDK_DV,
    refused: from({ vddk: VDDK }),
    ...{ field: 'spec', says: 'Cannot update DataVolume Spec: spec.checkpoints is not what it was' },
    accepted: VDDK_DV,
  },
  {
    title: 'http has no stages',
    before: HTTP_DV,
    refused: from(HTTP, { checkpoints: [STAGE] }),
    ...{ field: 'spec', says: 'Cannot update DataVolume Spec: spec.checkpoints is not what it was' },
    accepted: HTTP_DV,
  },
  {
    title: 'imageio has stages',
    before: from({ imageio: IMAGEIO }),
    refused: from({ imageio: { ...IMAGEIO, diskId: '2' } }, { checkpoints: [STAGE] }),
    ...{ field: 'spec', says: 'spec.source.imageio.diskId is not what it was' },
    accepted: from({ imageio: IMAGEIO }, { checkpoints: [STAGE] }),
  },
];

const TEMPLATE = { spec: { source: { registry: { url: 'docker://registry.example/fedora:40' } }, storage: GI } };
const cron = (more: object = {}, name = 'fedora'): Thing =>
  named(
    { template: TEMPLATE, schedule: '0 4 * * *', managedDataSource: 'fedora', ...more } as DataImportCronSpec,
    name,
  );
const makes = (spec: object): Thing => cron({ template: { spec: { ...TEMPLATE.spec, ...spec } } });

const crons: readonly Row[] = [
  {
    title: 'a name is no longer than 63',
    refused: cron({}, long(64)),
    ...{ field: 'metadata.name', says: 'cannot have more than 63 characters' },
    accepted: cron({}, long(63)),
  },
  {
    title: 'there is a source of which one knows what is new',
    refused: makes({ source: HTTP }),
    ...{
      field: 'spec.template.spec.source',
      says: 'Missing source: spec.template.spec.source has neither registry nor',
    },
    accepted: [cron(), makes({ source: { pvc: { namespace: 'golden', name: 'fedora' } } })],
  },
  ...(
    [
      ['sourceRef', { kind: 'DataSource', name: 'a' }],
      ['contentType', 'kubevirt'],
      ['checkpoints', [STAGE]],
      ['finalCheckpoint', true],
    ] as const
  ).map(([key, value]) => ({
    title: `a template has no ${key}`,
    refused: makes({ [key]: value }),
    ...{
      field: 'spec.template.spec',
      says: `Unsettable fields: SourceRef, ContentType, Checkpoints, FinalCheckpoint: spec.template.spec has ${key}`,
    },
    accepted: makes({ preallocation: true }),
  })),
  {
    title: 'a template is one of a DataVolume',
    refused: makes({ storage: sized('0') }),
    ...{
      field: 'spec.template.spec.storage.resources.requests.storage',
      says: `Storage size can't be equal or less than zero`,
    },
    accepted: cron(),
  },
  {
    title: 'a template has one source',
    refused: makes({ source: { ...TEMPLATE.spec.source, pvc: { namespace: 'golden', name: 'fedora' } } }),
    ...{ field: 'spec.template.spec.source', says: 'Multiple Data volume sources' },
    accepted: cron(),
  },
  {
    title: 'a template has no credentials in its URL',
    refused: makes({ source: { registry: { url: 'docker://user:swordfish@registry.example/fedora' } } }),
    ...{ field: 'spec.template.spec.source.registry.url', says: 'spec.template.spec.source.registry.secretRef' },
    accepted: makes({ source: { registry: { url: 'docker://registry.example/fedora', secretRef: 'login' } } }),
  },
  {
    title: 'a schedule is one of cron',
    refused: cron({ schedule: '0 4 * * 7' }),
    ...{
      field: 'spec.schedule',
      says: 'Illegal cron schedule "0 4 * * 7": its day of the week is "7": it goes from 0 to 6',
    },
    accepted: [cron({ schedule: '0 4 * * 6' }), cron({ schedule: '' }), cron({ schedule: '@daily' })],
  },
  {
    title: 'imports that are kept are counted',
    refused: cron({ importsToKeep: -1 }),
    ...{ field: 'spec.importsToKeep', says: 'Illegal ImportsToKeep value: it is "-1", and can be 0 and more' },
    accepted: cron({ importsToKeep: 0 }),
  },
  {
    title: 'what is collected is known',
    refused: cron({ garbageCollect: 'Always' }),
    ...{ field: 'spec.garbageCollect', says: 'Illegal GarbageCollect value "Always": it can be Outdated or Never' },
    accepted: [cron({ garbageCollect: 'Never' }), cron({ garbageCollect: 'Outdated' })],
  },
  {
    title: 'there is a DataSource',
    refused: cron({ managedDataSource: '' }),
    ...{ field: 'spec.managedDataSource', says: 'Illegal ManagedDataSource value: it is empty' },
    accepted: cron({ managedDataSource: 'a' }),
  },
  {
    title: 'the name of a DataSource is no longer than 63',
    refused: cron({ managedDataSource: long(64) }),
    ...{ field: 'spec.managedDataSource', says: 'Illegal ManagedDataSource value: it cannot have more than 63' },
    accepted: cron({ managedDataSource: long(63) }),
  },
  {
    title: 'a spec does not change',
    before: cron(),
    refused: cron({ schedule: '@daily' }),
    ...{ field: 'spec', says: 'Cannot update DataImportCron Spec: spec.schedule is not what it was' },
    accepted: [
      { ...cron(), status: { sourceFormat: 'pvc' } },
      cron({ template: { ...TEMPLATE, metadata: { creationTimestamp: null }, status: {} } }),
    ],
  },
  {
    title: 'a template does not change',
    before: cron(),
    refused: makes({ source: { registry: { url: 'docker://registry.example/fedora:41' } } }),
    ...{ field: 'spec', says: 'Cannot update DataImportCron Spec: spec.template.spec.source.registry.url is not' },
    accepted: cron(),
  },
];

const populates = (spec: VolumeImportSourceSpec, name?: string): Thing => named(spec, name);

const importSources: readonly Row[] = [
  {
    title: 'a name is no longer than 63',
    refused: populates({ source: { blank: {} } }, long(64)),
    ...{ field: 'metadata.name', says: 'cannot have more than 63 characters' },
    accepted: populates({ source: { blank: {} } }, long(63)),
  },
  {
    title: 'contentType is known',
    refused: populates({ source: { http: { url: URL } }, contentType: 'tar' }),
    ...{ field: 'spec.contentType', says: 'ContentType not one of: kubevirt, archive: it is "tar"' },
    accepted: populates({ source: { http: { url: URL } }, contentType: 'archive' }),
  },
  {
    title: 'there is a source',
    refused: populates({ source: {} }),
    ...{ field: 'spec.source', says: 'Missing VolumeImport source' },
    accepted: populates({ source: { blank: {} } }),
  },
  {
    title: 'there is one source',
    refused: populates({ source: { blank: {}, http: { url: URL } } }),
    ...{ field: 'spec.source', says: 'Multiple VolumeImport sources: spec.source has' },
    accepted: populates({ source: { http: { url: URL } } }),
  },
  {
    title: 'stages have a claim',
    refused: populates({ source: { vddk: VDDK }, checkpoints: [STAGE] }),
    ...{ field: 'spec.targetClaim', says: 'Unable to do multi-stage import without specifying a target claim' },
    accepted: [
      populates({ source: { vddk: VDDK }, checkpoints: [STAGE], targetClaim: 'disk' }),
      populates({ source: { vddk: VDDK } }),
    ],
  },
  ...ofSources((source, contentType) => named({ source, ...(contentType ? { contentType } : {}) })),
  {
    title: 'a spec does not change',
    before: populates({ source: { http: { url: URL } } }),
    refused: populates({ source: { blank: {} } }),
    ...{ field: 'spec', says: 'Cannot update VolumeImportSource Spec: spec.source.http is not what it was' },
    accepted: populates({ source: { http: { url: URL } }, contentType: '' }),
  },
  {
    title: 'a source stays when stages come',
    before: populates({ source: { vddk: VDDK }, checkpoints: [STAGE], targetClaim: 'disk' }),
    refused: populates({ source: { vddk: VDDK }, checkpoints: [STAGE, NEXT], targetClaim: 'other' }),
    ...{ field: 'spec', says: 'Cannot update VolumeImportSource Spec: spec.targetClaim is not what it was' },
    accepted: populates({ source: { vddk: VDDK }, checkpoints: [STAGE, NEXT], targetClaim: 'disk' }),
  },
];

const uploadSources: readonly Row[] = [
  {
    title: 'a name is no longer than 63',
    refused: named({}, long(64)),
    ...{ field: 'metadata.name', says: 'cannot have more than 63 characters' },
    accepted: named({}, long(63)),
  },
  {
    title: 'contentType is known',
    refused: named({ contentType: 'tar' }),
    ...{ field: 'spec.contentType', says: 'ContentType not one of: kubevirt, archive' },
    accepted: [named({ contentType: 'archive' }), named({})],
  },
  {
    title: 'a spec does not change',
    before: named({ contentType: 'archive' }),
    refused: named({ contentType: 'kubevirt' }),
    ...{ field: 'spec', says: 'Cannot update VolumeUploadSource Spec: spec.contentType is not what it was' },
    accepted: { metadata: { name: 'disk', annotations: { a: 'b' } }, spec: { contentType: 'archive' } },
  },
];

const moves = (more: Partial<NonNullable<ObjectTransfer['spec']>> = {}, kind = 'DataVolume'): Thing =>
  named({
    source: { kind, namespace: 'default', name: 'disk' },
    target: { namespace: 'default', name: 'other' },
    ...more,
  });

const transfers: readonly Row[] = [
  {
    title: 'what is moved is a disk',
    refused: moves({}, 'Pod'),
    ...{ field: 'spec.source.kind', says: 'is "Pod": it can be DataVolume or PersistentVolumeClaim' },
    accepted: [moves(), moves({}, 'PersistentVolumeClaim')],
  },
  {
    title: 'there is a target',
    refused: moves({ target: {} }),
    ...{ field: 'spec.target', says: 'has neither namespace nor name' },
    accepted: [moves({ target: { name: 'other' } }), moves({ target: { namespace: 'elsewhere' } })],
  },
  {
    title: 'the target is free',
    there: CLAIM,
    refused: moves({ target: { name: 'taken' } }, 'PersistentVolumeClaim'),
    ...{ field: 'spec.target', says: 'PersistentVolumeClaim default/taken already exists' },
    accepted: moves({ target: { name: 'free' } }, 'PersistentVolumeClaim'),
  },
  {
    title: 'a spec does not change',
    before: moves(),
    refused: moves({ target: { name: 'third' } }),
    ...{ field: 'spec', says: 'ObjectTransfer spec is immutable: spec.target.n' },
    accepted: { metadata: { name: 'disk', annotations: { a: 'b' } }, spec: moves().spec },
  },
];

export const RULES: readonly Rule[] = [
  ...of(DATA_VOLUMES, [
    ...storage,
    ...origins,
    ...ofSources((source, contentType) => from(source, contentType ? { contentType } : {})),
    ...cloned,
    ...changes,
  ]),
  ...of(DATA_IMPORT_CRONS, crons),
  ...of(IMPORT_SOURCES, importSources),
  ...of(UPLOAD_SOURCES, uploadSources),
  ...of(OBJECT_TRANSFERS, transfers),
];

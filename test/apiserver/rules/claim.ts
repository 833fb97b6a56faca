// Rules about the claim of a DataVolume: what it says of it, and who fills it.
import {
  ADOPTS,
  CLAIM,
  claimOf,
  dv,
  filled,
  from,
  GI,
  HTTP,
  long,
  named,
  onPvc,
  onStorage,
  owned,
  POPULATED,
  type Row,
  SNAPSHOT,
  sized,
} from './row.ts';

/** What a DataVolume says of its claim. */
export const storage: readonly Row[] = [
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
export const origins: readonly Row[] = [
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

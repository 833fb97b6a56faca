// Rules about sources of claims, and about transfers.
import type { ObjectTransfer } from '../../../src/api/object-transfer.ts';
import type { VolumeImportSourceSpec } from '../../../src/api/populators.ts';
import { CLAIM, long, NEXT, named, type Row, STAGE, type Thing, URL, VDDK } from './row.ts';
import { ofSources } from './source.ts';

const populates = (spec: VolumeImportSourceSpec, name?: string): Thing => named(spec, name);

export const importSources: readonly Row[] = [
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

export const uploadSources: readonly Row[] = [
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

export const transfers: readonly Row[] = [
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

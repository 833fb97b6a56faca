// Rules about changes of a DataVolume.
import { from, GI, HTTP, http, IMAGEIO, NEXT, type Row, STAGE, sized, VDDK } from './row.ts';

const VDDK_DV = from({ vddk: VDDK }, { checkpoints: [STAGE] });
const HTTP_DV = from(HTTP);

export const changes: readonly Row[] = [
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

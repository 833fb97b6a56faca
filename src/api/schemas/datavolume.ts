import type { DataVolume, DataVolumeSource, DataVolumeSpec, DataVolumeStatus, SourceReference } from '../datavolume.ts';
import { claimSpec, storageSpec } from './claim.ts';
import { conditions } from './condition.ts';
import { choice, empty, type Fields, flag, int32, kindOf, object, required, text } from './schema.ts';
import { checkpoints, imports, objectRef } from './sources.ts';

export const preallocation = flag(
  'Whether the space of the whole disk is taken at once. Left out: as the configuration says.',
);

const spec = object<DataVolumeSpec>('The claim, and what is to be on it.', {
  checkpoints,
  contentType: choice(
    "What the source is: 'kubevirt', the image of a disk, or 'archive', a tar to unpack. Left out: 'kubevirt'.",
    ['kubevirt', 'archive'],
  ),
  finalCheckpoint: flag('Whether the last of the checkpoints is the last of all.'),
  preallocation,
  priorityClassName: text('Priority class of the pods that write the volume.'),
  pvc: claimSpec,
  serviceAccountName: text('Service account of the pods that write the volume.'),
  source: object<DataVolumeSource>('What the volume is to be filled with: exactly one of these.', {
    ...imports,
    pvc: objectRef('A claim to clone'),
    snapshot: objectRef('A snapshot of a volume to clone'),
    upload: empty('What a client uploads.'),
  }),
  sourceRef: object<SourceReference>('An object that says what the volume is to be filled with, in place of source.', {
    kind: required(text('DataSource.')),
    name: required(text('Its name.')),
    namespace: text('Its namespace; where this is left out, that of the DataVolume.'),
  }),
  storage: storageSpec,
});

const status = object<DataVolumeStatus>(
  // How it begins is what `kubectl explain` is known to say.
  'DataVolumeStatus contains the current status of the DataVolume: how far it is.',
  {
    claimName: text('Name of the claim, once there is one.'),
    conditions: conditions('Bound, Running, Ready'),
    phase: text('What is going on. Succeeded when the volume is ready.'),
    progress: text('How much is done: 45.34%, 100.0% at the end, N/A where it is not known.'),
    restartCount: int32(
      'RestartCount is the number of times the pod populating the DataVolume has been started again.',
    ),
  },
);

const fields: Fields<Pick<DataVolume, 'spec' | 'status'>> = { spec: required(spec), status };
const description =
  'A claim together with what it is to be filled with: an image from elsewhere, a clone, an upload, nothing.';

export const dataVolume = kindOf<DataVolume>(description, fields);

/** To be made again and again: its metadata is of the objects that are made. */
export const dataVolumeTemplate = kindOf<DataVolume>('The DataVolume to make for each import.', fields, {
  'x-kubernetes-preserve-unknown-fields': true,
});

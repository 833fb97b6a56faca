import type { ObjectReference } from 'kubernetes-types/core/v1.js';
import type { ImportSource } from '../datavolume.ts';
import type {
  OpenstackVolumePopulator,
  OvirtVolumePopulator,
  VolumeCloneSource,
  VolumeImportSource,
  VolumeImportSourceSpec,
  VolumeUploadSource,
} from '../populators.ts';
import { ATOMIC, localReference } from './claim.ts';
import { preallocation } from './datavolume.ts';
import { empty, flag, kindOf, object, required, text } from './schema.ts';
import { checkpoints, imports } from './sources.ts';

const contentType = text("'kubevirt', the image of a disk, or 'archive', a tar to unpack. Left out: 'kubevirt'.");
const nothing = empty('Nothing is told here: how far it is stands on the claim.');

export const volumeImportSource = kindOf<VolumeImportSource>(
  'What a claim that names it in dataSourceRef is filled with, from elsewhere.',
  {
    spec: required(
      object<VolumeImportSourceSpec>('What is imported.', {
        checkpoints,
        contentType,
        finalCheckpoint: flag('Whether the last of the checkpoints is the last of all.'),
        preallocation,
        source: object<ImportSource>('Exactly one of these.', imports),
        targetClaim: text('The claim that the checkpoints are copied to; demanded with them.'),
      }),
    ),
    status: nothing,
  },
);

export const volumeUploadSource = kindOf<VolumeUploadSource>(
  'A claim that names it in dataSourceRef is filled with what a client uploads.',
  {
    spec: required(
      object<NonNullable<VolumeUploadSource['spec']>>('What is uploaded.', { contentType, preallocation }),
    ),
    status: nothing,
  },
);

export const volumeCloneSource = kindOf<VolumeCloneSource>(
  'What a claim that names it in dataSourceRef is a clone of; in the namespace of that.',
  {
    spec: required(
      object<NonNullable<VolumeCloneSource['spec']>>('What is cloned.', {
        preallocation,
        priorityClassName: text('Priority class of the pods that copy.'),
        source: required(
          localReference('A PersistentVolumeClaim, or a VolumeSnapshot of the group snapshot.storage.k8s.io.'),
        ),
      }),
    ),
  },
);

const secretRef = required(text('A Secret in the same namespace with the login.'));

const transferNetwork = object<ObjectReference>(
  'A NetworkAttachmentDefinition: the network that the data goes over.',
  {
    apiVersion: text('Its group and version.'),
    fieldPath: text('Not used.'),
    kind: text('Its kind.'),
    name: text('Its name.'),
    namespace: text('Its namespace.'),
    resourceVersion: text('Not used.'),
    uid: text('Not used.'),
  },
  ATOMIC,
);

const progress = text('Not used: how far it is stands on the claim.');

export const ovirtVolumePopulator = kindOf<OvirtVolumePopulator>(
  'A claim that names it in dataSourceRef is filled with a disk of an oVirt engine.',
  {
    spec: required(
      object<NonNullable<OvirtVolumePopulator['spec']>>('Which disk.', {
        diskId: required(text('ID of the disk.')),
        engineUrl: required(text("Where the engine's API is.")),
        secretRef,
        transferNetwork,
      }),
    ),
    status: object<NonNullable<OvirtVolumePopulator['status']>>('How far it is.', { progress }),
  },
);

export const openstackVolumePopulator = kindOf<OpenstackVolumePopulator>(
  'A claim that names it in dataSourceRef is filled with an image of an OpenStack.',
  {
    spec: required(
      object<NonNullable<OpenstackVolumePopulator['spec']>>('Which image.', {
        identityUrl: required(text('Where the identity service is.')),
        imageId: required(text('ID of the image.')),
        secretRef,
        transferNetwork,
      }),
    ),
    status: object<NonNullable<OpenstackVolumePopulator['status']>>('How far it is.', { progress }),
  },
);

import type {
  PersistentVolumeClaimSpec,
  TypedLocalObjectReference,
  TypedObjectReference,
  VolumeResourceRequirements,
} from 'kubernetes-types/core/v1.js';
import type { LabelSelector, LabelSelectorRequirement } from 'kubernetes-types/meta/v1.js';
import type { StorageSpec } from '../datavolume.ts';
import { type Fields, list, map, object, required, type Schema, text } from './schema.ts';

/** Parts of it are not for others to write: it is one value. */
export const ATOMIC = { 'x-kubernetes-map-type': 'atomic' };

/** As Kubernetes' own generated schemas have it (controller-tools, pkg/crd/known_types.go). */
const QUANTITY =
  '^(\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))))?$';

/** `20Gi`. It may be a number too, and then an API server keeps it as one in our kinds, whatever the type of it says. */
const quantity: Schema<string> = {
  anyOf: [{ type: 'integer' }, { type: 'string' }],
  pattern: QUANTITY,
  'x-kubernetes-int-or-string': true,
};

export const quantities = (description: string): Schema<Record<string, string>> => map(description, quantity);

export const labels = (description: string): Schema<Record<string, string>> =>
  map(description, text('Value of the key.'));

export const labelSelector = (description: string): Schema<LabelSelector> =>
  object<LabelSelector>(
    description,
    {
      matchExpressions: list(
        'All of them must hold.',
        object<LabelSelectorRequirement>('What a label must be.', {
          key: required(text('Key of the label.')),
          operator: required(text('In, NotIn, Exists or DoesNotExist.')),
          values: list('What In and NotIn compare with; empty for the others.', text('A value.')),
        }),
      ),
      matchLabels: labels('Each label must have exactly this value.'),
    },
    ATOMIC,
  );

export const localReference = (description: string): Schema<TypedLocalObjectReference> =>
  object<TypedLocalObjectReference>(
    description,
    {
      apiGroup: text('API group of the object; left out for the core group.'),
      kind: required(text('Kind of the object.')),
      name: required(text('Name of the object.')),
    },
    ATOMIC,
  );

const reference = (description: string): Schema<TypedObjectReference> =>
  object<TypedObjectReference>(description, {
    apiGroup: text('API group of the object; left out for the core group.'),
    kind: required(text('Kind of the object.')),
    name: required(text('Name of the object.')),
    namespace: text('Namespace of the object, where a ReferenceGrant allows another one.'),
  });

const resources = object<VolumeResourceRequirements>('How large the volume is to be.', {
  limits: quantities('The most that the volume may have.'),
  requests: quantities('The least that the volume must have; storage is its size.'),
});

const fields: Fields<StorageSpec> = {
  accessModes: list(
    'How nodes may mount the volume: ReadWriteOnce, ReadOnlyMany, ReadWriteMany or ReadWriteOncePod.',
    text('An access mode.'),
  ),
  dataSource: localReference(
    'What else is to fill the volume: a snapshot, a claim or an object that a populator knows.',
  ),
  dataSourceRef: reference('As dataSource, and it may name objects of any kind. Where both are given they are equal.'),
  resources,
  selector: labelSelector('Which volumes may be bound.'),
  storageClassName: text('Storage class of the volume; the default one where this is left out.'),
  volumeMode: text('Filesystem or Block. In storage also FromStorageProfile, which is what leaving it out means.'),
  volumeName: text('The volume to be bound.'),
};

export const claimSpec = object<PersistentVolumeClaimSpec>(
  'The claim as it is to be: nothing is added to it. One access mode and a size are demanded.',
  { ...fields, volumeAttributesClassName: text('Name of a VolumeAttributesClass.') },
);

export const storageSpec = object<StorageSpec>(
  'The claim as far as it is known: the StorageProfile of its storage class says the rest, and its size grows by what a ' +
    'file system needs for itself.',
  fields,
);

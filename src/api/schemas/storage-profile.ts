import type { ClaimPropertySet, StorageProfile, StorageProfileSpec, StorageProfileStatus } from '../storage-profile.ts';
import { conditions } from './condition.ts';
import { choice, type Fields, kindOf, list, object, required, text } from './schema.ts';

const claimPropertySet = object<ClaimPropertySet>('A volume mode, and the access modes that volumes have in it.', {
  accessModes: required(
    list('Access modes, the best first.', text('An access mode.'), {
      maxItems: 4,
      'x-kubernetes-validations': [
        {
          rule: "self.all(mode, mode in ['ReadWriteOnce', 'ReadOnlyMany', 'ReadWriteMany', 'ReadWriteOncePod'])",
          message: 'Illegal AccessMode',
        },
      ],
    }),
  ),
  volumeMode: required(choice('What a volume is in a pod: a file system or a device.', ['Block', 'Filesystem'])),
});

const fields: Fields<StorageProfileSpec> = {
  claimPropertySets: list('What volumes are to be like, the best first.', claimPropertySet, { maxItems: 8 }),
  cloneStrategy: text('How volumes are cloned: copy, snapshot or csi-clone.'),
  dataImportCronSourceFormat: text('What DataImportCrons keep their images as: pvc or snapshot.'),
  snapshotClass: text('VolumeSnapshotClass of snapshots; where this is left out, one of the same driver.'),
};

export const storageProfile = kindOf<StorageProfile>('What volumes of the storage class of this name are like.', {
  spec: required(object<StorageProfileSpec>('What an administrator says of it.', fields)),
  status: object<StorageProfileStatus>('What is in effect: what is known of the provisioner, and spec before it.', {
    ...fields,
    conditions: conditions('Recognized'),
    provisioner: text('Provisioner of the storage class.'),
    storageClass: text('Name of the storage class.'),
  }),
});

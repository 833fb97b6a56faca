import type { ObjectTransfer, TransferSource, TransferTarget } from '../object-transfer.ts';
import { conditions } from './condition.ts';
import { kindOf, map, object, required, text } from './schema.ts';

export const objectTransfer = kindOf<ObjectTransfer>(
  'Deprecated. A claim, or a DataVolume with its claim, that is to have another name or namespace.',
  {
    spec: required(
      object<NonNullable<ObjectTransfer['spec']>>('From where, and to where.', {
        parentName: text('The transfer that this one is a part of.'),
        source: required(
          object<TransferSource>('What is there.', {
            apiVersion: text('Its group and version.'),
            kind: required(text('DataVolume or PersistentVolumeClaim.')),
            name: required(text('Its name.')),
            namespace: required(text('Its namespace.')),
            requiredAnnotations: map('Annotations that it must have before it is touched.', text('Value of the key.')),
          }),
        ),
        target: required(
          object<TransferTarget>('What it is to be: one of these at least.', {
            name: text('Its new name; where this is left out, the old one.'),
            namespace: text('Its new namespace; where this is left out, the old one.'),
          }),
        ),
      }),
    ),
    status: object<NonNullable<ObjectTransfer['status']>>('How far it is.', {
      conditions: conditions('Complete'),
      data: map('What is to be remembered until the end.', text('Value of the key.')),
      phase: text('Pending, Running, Complete or Error.'),
    }),
  },
);

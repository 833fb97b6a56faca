import type { DataImportCron, DataImportCronSpec, DataImportCronStatus, ImportStatus } from '../data-import-cron.ts';
import { conditions } from './condition.ts';
import { dataVolumeTemplate } from './datavolume.ts';
import { int32, kindOf, list, object, required, text, time } from './schema.ts';
import { objectRef } from './sources.ts';

const spec = object<DataImportCronSpec>('What is imported, how often it is looked for, and what is kept.', {
  garbageCollect: text('Which imports are deleted: Outdated or Never. Left out: Outdated.'),
  importsToKeep: int32('How many imports are kept, the newest. Left out: 3.'),
  managedDataSource: required(text('The DataSource in the same namespace that is to name the newest import.')),
  retentionPolicy: text('Whether imports stay when this object is deleted: All or None. Left out: All.'),
  schedule: required(text('When to look: five fields of cron, or @daily and the like. Empty: never.')),
  serviceAccountName: text(
    'Service account that must be allowed to clone the claim in the template. Left out: default.',
    {
      minLength: 1,
    },
  ),
  template: required(dataVolumeTemplate),
});

const status = object<DataImportCronStatus>('What was imported.', {
  conditions: conditions('Progressing, UpToDate'),
  currentImports: list(
    'The import that is going on, or was the last.',
    object<ImportStatus>('An import.', {
      DataVolumeName: required(text('Name of its DataVolume.')),
      Digest: required(text('Digest of its image.')),
    }),
  ),
  lastExecutionTimestamp: time('When it was looked for something new.'),
  lastImportTimestamp: time('When something new was imported.'),
  lastImportedPVC: objectRef('The last import: a claim, or a snapshot'),
  sourceFormat: text('What imports are kept as: pvc or snapshot.'),
});

export const dataImportCron = kindOf<DataImportCron>('An image that is imported again whenever there is a new one.', {
  spec: required(spec),
  status,
});

import {
  CDI_CONFIGS,
  CDIS,
  CLONE_SOURCES,
  DATA_IMPORT_CRONS,
  DATA_SOURCES,
  DATA_VOLUMES,
  IMPORT_SOURCES,
  OBJECT_TRANSFERS,
  OPENSTACK_POPULATORS,
  OVIRT_POPULATORS,
  STORAGE_PROFILES,
  UPLOAD_SOURCES,
} from '../resource.ts';
import { cdi } from './cdi.ts';
import { cdiConfig } from './config.ts';
import { dataImportCron } from './data-import-cron.ts';
import { dataSource } from './datasource.ts';
import { dataVolume } from './datavolume.ts';
import type { Column, Definition } from './definition.ts';
import { objectTransfer } from './object-transfer.ts';
import {
  openstackVolumePopulator,
  ovirtVolumePopulator,
  volumeCloneSource,
  volumeImportSource,
  volumeUploadSource,
} from './populators.ts';
import { storageProfile } from './storage-profile.ts';

const AGE: Column = { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' };
const PHASE: Column = { name: 'Phase', type: 'string', jsonPath: '.status.phase' };

const define = <T>(definition: Definition<T>): Definition<unknown> => definition;

/** All kinds that we bring. */
export const DEFINITIONS: readonly Definition<unknown>[] = [
  define({
    resource: DATA_VOLUMES,
    schema: dataVolume,
    shortNames: ['dv', 'dvs'],
    categories: ['all'],
    statusApart: true,
    columns: [
      { ...PHASE, description: 'What is going on' },
      { name: 'Progress', type: 'string', jsonPath: '.status.progress', description: 'How much is done, or N/A' },
      { name: 'Restarts', type: 'integer', jsonPath: '.status.restartCount', description: 'Of the pod that writes it' },
      AGE,
    ],
  }),
  define({
    resource: DATA_SOURCES,
    schema: dataSource,
    shortNames: ['das'],
    categories: ['all'],
    statusApart: false,
  }),
  define({
    resource: DATA_IMPORT_CRONS,
    schema: dataImportCron,
    shortNames: ['dic', 'dics'],
    categories: ['all'],
    statusApart: false,
    columns: [
      { name: 'Format', type: 'string', jsonPath: '.status.sourceFormat', description: 'What imports are kept as' },
    ],
  }),
  define({ resource: STORAGE_PROFILES, schema: storageProfile, statusApart: true }),
  define({ resource: CDI_CONFIGS, schema: cdiConfig, statusApart: false }),
  define({
    resource: CDIS,
    schema: cdi,
    shortNames: ['cdi', 'cdis'],
    statusApart: false,
    columns: [AGE, PHASE],
    olderVersions: ['v1alpha1'],
  }),
  define({ resource: IMPORT_SOURCES, schema: volumeImportSource, statusApart: false }),
  define({ resource: UPLOAD_SOURCES, schema: volumeUploadSource, statusApart: false }),
  define({ resource: CLONE_SOURCES, schema: volumeCloneSource, statusApart: false }),
  define({
    resource: OVIRT_POPULATORS,
    schema: ovirtVolumePopulator,
    shortNames: ['ovvp', 'ovvps'],
    statusApart: false,
  }),
  define({
    resource: OPENSTACK_POPULATORS,
    schema: openstackVolumePopulator,
    shortNames: ['osvp', 'osvps'],
    statusApart: false,
  }),
  define({
    resource: OBJECT_TRANSFERS,
    schema: objectTransfer,
    shortNames: ['ot', 'ots'],
    statusApart: true,
    columns: [AGE, PHASE],
  }),
];

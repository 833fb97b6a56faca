// Rules about DataImportCrons.
import type { DataImportCronSpec } from '../../../src/api/data-import-cron.ts';
import { GI, HTTP, long, named, type Row, STAGE, sized, type Thing } from './row.ts';

const TEMPLATE = { spec: { source: { registry: { url: 'docker://registry.example/fedora:40' } }, storage: GI } };
const cron = (more: object = {}, name = 'fedora'): Thing =>
  named(
    { template: TEMPLATE, schedule: '0 4 * * *', managedDataSource: 'fedora', ...more } as DataImportCronSpec,
    name,
  );
const makes = (spec: object): Thing => cron({ template: { spec: { ...TEMPLATE.spec, ...spec } } });

export const crons: readonly Row[] = [
  {
    title: 'a name is no longer than 63',
    refused: cron({}, long(64)),
    ...{ field: 'metadata.name', says: 'cannot have more than 63 characters' },
    accepted: cron({}, long(63)),
  },
  {
    title: 'there is a source of which one knows what is new',
    refused: makes({ source: HTTP }),
    ...{
      field: 'spec.template.spec.source',
      says: 'Missing source: spec.template.spec.source has neither registry nor',
    },
    accepted: [cron(), makes({ source: { pvc: { namespace: 'golden', name: 'fedora' } } })],
  },
  ...(
    [
      ['sourceRef', { kind: 'DataSource', name: 'a' }],
      ['contentType', 'kubevirt'],
      ['checkpoints', [STAGE]],
      ['finalCheckpoint', true],
    ] as const
  ).map(([key, value]) => ({
    title: `a template has no ${key}`,
    refused: makes({ [key]: value }),
    ...{
      field: 'spec.template.spec',
      says: `Unsettable fields: SourceRef, ContentType, Checkpoints, FinalCheckpoint: spec.template.spec has ${key}`,
    },
    accepted: makes({ preallocation: true }),
  })),
  {
    title: 'a template is one of a DataVolume',
    refused: makes({ storage: sized('0') }),
    ...{
      field: 'spec.template.spec.storage.resources.requests.storage',
      says: `Storage size can't be equal or less than zero`,
    },
    accepted: cron(),
  },
  {
    title: 'a template has one source',
    refused: makes({ source: { ...TEMPLATE.spec.source, pvc: { namespace: 'golden', name: 'fedora' } } }),
    ...{ field: 'spec.template.spec.source', says: 'Multiple Data volume sources' },
    accepted: cron(),
  },
  {
    title: 'a template has no credentials in its URL',
    refused: makes({ source: { registry: { url: 'docker://user:swordfish@registry.example/fedora' } } }),
    ...{ field: 'spec.template.spec.source.registry.url', says: 'spec.template.spec.source.registry.secretRef' },
    accepted: makes({ source: { registry: { url: 'docker://registry.example/fedora', secretRef: 'login' } } }),
  },
  {
    title: 'a schedule is one of cron',
    refused: cron({ schedule: '0 4 * * 7' }),
    ...{
      field: 'spec.schedule',
      says: 'Illegal cron schedule "0 4 * * 7": its day of the week is "7": it goes from 0 to 6',
    },
    accepted: [cron({ schedule: '0 4 * * 6' }), cron({ schedule: '' }), cron({ schedule: '@daily' })],
  },
  {
    title: 'imports that are kept are counted',
    refused: cron({ importsToKeep: -1 }),
    ...{ field: 'spec.importsToKeep', says: 'Illegal ImportsToKeep value: it is "-1", and can be 0 and more' },
    accepted: cron({ importsToKeep: 0 }),
  },
  {
    title: 'what is collected is known',
    refused: cron({ garbageCollect: 'Always' }),
    ...{ field: 'spec.garbageCollect', says: 'Illegal GarbageCollect value "Always": it can be Outdated or Never' },
    accepted: [cron({ garbageCollect: 'Never' }), cron({ garbageCollect: 'Outdated' })],
  },
  {
    title: 'there is a DataSource',
    refused: cron({ managedDataSource: '' }),
    ...{ field: 'spec.managedDataSource', says: 'Illegal ManagedDataSource value: it is empty' },
    accepted: cron({ managedDataSource: 'a' }),
  },
  {
    title: 'the name of a DataSource is no longer than 63',
    refused: cron({ managedDataSource: long(64) }),
    ...{ field: 'spec.managedDataSource', says: 'Illegal ManagedDataSource value: it cannot have more than 63' },
    accepted: cron({ managedDataSource: long(63) }),
  },
  {
    title: 'a spec does not change',
    before: cron(),
    refused: cron({ schedule: '@daily' }),
    ...{ field: 'spec', says: 'Cannot update DataImportCron Spec: spec.schedule is not what it was' },
    accepted: [
      { ...cron(), status: { sourceFormat: 'pvc' } },
      cron({ template: { ...TEMPLATE, metadata: { creationTimestamp: null }, status: {} } }),
    ],
  },
  {
    title: 'a template does not change',
    before: cron(),
    refused: makes({ source: { registry: { url: 'docker://registry.example/fedora:41' } } }),
    ...{ field: 'spec', says: 'Cannot update DataImportCron Spec: spec.template.spec.source.registry.url is not' },
    accepted: cron(),
  },
];

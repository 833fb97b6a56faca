import { expect, test } from 'vitest';
import { ANNOTATION } from '../../src/api/claim.ts';
import type { DataImportCron } from '../../src/api/data-import-cron.ts';
import type { DataSource } from '../../src/api/datasource.ts';
import type { Condition, Stored } from '../../src/api/meta.ts';
import {
  decideCron,
  decideDataSource,
  decideTransfer,
  decideUnfilled,
  unfilledBy,
} from '../../src/controller/decide/unserved.ts';
import type { Decision } from '../../src/controller/decision.ts';
import { type ClaimOf, claim, importing, NOW } from './objects.ts';
import { annotations, words } from './words.ts';

const LATER = '2026-01-02T00:00:00Z';
const metadata = { name: 'golden', namespace: 'ns', uid: 'uid', resourceVersion: '1' };
type Status = Pick<NonNullable<DataImportCron['status']>, 'conditions'>;
const cron = (conditions?: readonly Condition[]): Stored<DataImportCron> => ({
  metadata,
  spec: { template: {}, schedule: '@daily', managedDataSource: 'golden' },
  ...(conditions ? { status: { conditions } } : {}),
});
const source = (conditions?: readonly Condition[]): Stored<DataSource> => ({
  metadata,
  spec: { source: {} },
  ...(conditions ? { status: { conditions } } : {}),
});

function conditionsIn(decisions: readonly Decision[]): readonly Condition[] {
  const [patch] = decisions.flatMap((one) => (one.act === 'patch' ? [one.patch as { status?: Status }] : []));
  return patch?.status?.conditions ?? [];
}

test('a DataImportCron says that nobody acts on it, and an event says it once', () => {
  const first = decideCron(cron(), NOW);
  expect(words(first)).toEqual(['patch DataImportCron', 'tell Warning NotSupported']);
  const said = conditionsIn(first);
  expect(said.map(({ type, status, reason }) => [type, status, reason])).toEqual([
    ['Progressing', 'False', 'NotSupported'],
    ['UpToDate', 'Unknown', 'NotSupported'],
  ]);
  expect(said[0]?.message).toMatch(/^diskferry does not act on DataImportCrons yet.*: import with a DataVolume/);
  // The API server sorts the keys of what it stores.
  const stored = said.map((one) => Object.fromEntries(Object.entries(one).sort()) as unknown as Condition);
  expect(decideCron(cron(stored), LATER)).toEqual([]);
});

test('one that CDI kept before is not said to be up to date any more; its other conditions stay', () => {
  const before: Condition[] = [
    { type: 'UpToDate', status: 'True', reason: 'UpToDate', message: 'Latest import is up to date' },
    { type: 'Other', status: 'True' },
  ];
  const said = conditionsIn(decideCron(cron(before), NOW));
  expect(said.map(({ type, status }) => `${type} ${status}`)).toEqual([
    'UpToDate Unknown',
    'Other True',
    'Progressing False',
  ]);
  expect(said[0]?.lastTransitionTime).toBe(NOW);
});

test('a DataSource is not ready', () => {
  const first = decideDataSource(source(), NOW);
  expect(words(first)).toEqual(['patch DataSource', 'tell Warning NotSupported']);
  const said = conditionsIn(first);
  expect(said).toMatchObject([{ type: 'Ready', status: 'False', reason: 'NotSupported' }]);
  expect(decideDataSource(source(said), LATER)).toEqual([]);
});

test('an ObjectTransfer moves nothing', () => {
  const transfer = (conditions?: readonly Condition[]) => ({
    metadata: { ...metadata, name: 'move' },
    spec: { source: { kind: 'DataVolume', namespace: 'ns', name: 'disk' }, target: { name: 'other' } },
    ...(conditions ? { status: { conditions } } : {}),
  });
  const first = decideTransfer(transfer(), NOW);
  expect(words(first)).toEqual(['patch ObjectTransfer status', 'tell Warning NotSupported']);
  expect(decideTransfer(transfer(conditionsIn(first)), LATER)).toEqual([]);
});

test('what is being deleted is left alone', () => {
  const going = { ...metadata, deletionTimestamp: NOW };
  expect(decideCron({ ...cron(), metadata: going }, NOW)).toEqual([]);
  expect(decideDataSource({ ...source(), metadata: going }, NOW)).toEqual([]);
  const target = claim({ annotations: { [ANNOTATION.uploadTarget]: '' } });
  expect(decideUnfilled({ ...target, metadata: { ...target.metadata, deletionTimestamp: NOW } })).toEqual([]);
});

const from = (apiGroup: string, kind: string, volumeName?: string): ClaimOf => ({
  spec: { dataSourceRef: { apiGroup, kind, name: 'source' }, ...(volumeName ? { volumeName } : {}) },
});
const CDI = 'cdi.kubevirt.io';

test.each<[string, ClaimOf, RegExp]>([
  ['a VolumeUploadSource', from(CDI, 'VolumeUploadSource'), /VolumeUploadSource of cdi.kubevirt.io\/v1beta1/],
  ['a VolumeCloneSource', from(CDI, 'VolumeCloneSource'), /VolumeCloneSource/],
  ['an oVirt engine', from(`forklift.${CDI}`, 'OvirtVolumePopulator'), /OvirtVolumePopulator of forklift/],
  ['an OpenStack', from(`forklift.${CDI}`, 'OpenstackVolumePopulator'), /OpenstackVolumePopulator/],
  ['an upload', { annotations: { [ANNOTATION.uploadTarget]: '' } }, /by an upload yet/],
  ['a clone', { annotations: { [ANNOTATION.cloneRequest]: 'ns/golden' }, phase: 'Bound' }, /by a clone yet/],
])('a claim that waits for %s is told so once', (_, of, message) => {
  const first = decideUnfilled(claim(of));
  expect(words(first)).toEqual(['patch PersistentVolumeClaim', 'tell Warning NotSupported']);
  const told = annotations(first) as Record<string, string>;
  expect(told).toMatchObject({ [ANNOTATION.running]: 'false', [ANNOTATION.runningReason]: 'NotSupported' });
  expect(told[ANNOTATION.runningMessage]).toMatch(message);
  expect(decideUnfilled(claim({ ...of, annotations: { ...of.annotations, ...told } }))).toEqual([]);
});

test.each<[string, ReturnType<typeof claim>]>([
  ['an import', importing()],
  ['a VolumeImportSource', claim(from(CDI, 'VolumeImportSource'))],
  ['a kind of the name of somebody else', claim(from('example.org', 'VolumeCloneSource'))],
  ['nothing', claim()],
  ['a clone that has its volume', claim(from(CDI, 'VolumeCloneSource', 'volume'))],
  ['a clone that is done', claim({ annotations: { [ANNOTATION.cloneRequest]: '', [ANNOTATION.cloneOf]: 'true' } })],
  [
    'an upload that is done',
    claim({ annotations: { [ANNOTATION.uploadTarget]: '', [ANNOTATION.podPhase]: 'Succeeded' } }),
  ],
  ['what was filled before', claim({ annotations: { [ANNOTATION.uploadTarget]: '', [ANNOTATION.populatedFor]: 'd' } })],
])('a claim of %s is none of them', (_, of) => {
  expect(unfilledBy(of)).toBeUndefined();
  expect(decideUnfilled(of)).toEqual([]);
});

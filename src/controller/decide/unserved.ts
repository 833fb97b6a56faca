import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { ANNOTATION } from '../../api/claim.ts';
import type { DataImportCron } from '../../api/data-import-cron.ts';
import type { DataSource } from '../../api/datasource.ts';
import type { Condition, Stored } from '../../api/meta.ts';
import type { ObjectTransfer } from '../../api/object-transfer.ts';
import {
  apiVersionOf,
  CLAIMS,
  CLONE_SOURCES,
  DATA_IMPORT_CRONS,
  DATA_SOURCES,
  OBJECT_TRANSFERS,
  OPENSTACK_POPULATORS,
  OVIRT_POPULATORS,
  type Resource,
  UPLOAD_SOURCES,
} from '../../api/resource.ts';
import { annotate, type Decision, type Subject } from '../decision.ts';
import { conditionsOf, type Said } from './conditions.ts';
import { isOver } from './import.ts';

// What the API has and nobody acts on yet says so itself, once: nothing waits silently. A controller that comes later, ours or
// CDI's, writes over it.

const REASON = 'NotSupported';
const INSTEAD = 'import with a DataVolume from http, s3, gcs, registry or imageio';

/** A DataImportCron whose image nobody looks for. */
export function decideCron(cron: Stored<DataImportCron>, now: string): Decision[] {
  const message = `diskferry does not act on DataImportCrons yet, so its image is neither looked for nor imported: ${INSTEAD}`;
  const about = { resource: DATA_IMPORT_CRONS, object: cron };
  // Whether what was imported before is still the newest, nobody knows.
  return unserved(about, cron.status?.conditions, { Progressing: 'False', UpToDate: 'Unknown' }, message, now);
}

/** A DataSource that nobody follows to its disk. */
export function decideDataSource(source: Stored<DataSource>, now: string): Decision[] {
  const message = `diskferry does not follow DataSources yet, and does not clone, so nothing is filled from it: ${INSTEAD}`;
  return unserved(
    { resource: DATA_SOURCES, object: source },
    source.status?.conditions,
    { Ready: 'False' },
    message,
    now,
  );
}

/** An ObjectTransfer that moves nothing. */
export function decideTransfer(transfer: Stored<ObjectTransfer>, now: string): Decision[] {
  const message =
    'diskferry does not act on ObjectTransfers, which CDI has given up, so nothing is moved: import the disk where it is to be';
  const about = { resource: OBJECT_TRANSFERS, object: transfer };
  const said = { Complete: 'False', Running: 'False' } as const;
  // It alone of these kinds has a status of its own to the API server.
  return unserved(about, transfer.status?.conditions, said, message, now).map((one) =>
    one.act === 'patch' ? { act: 'patch', subject: about, patch: one.patch, part: 'status' } : one,
  );
}

function unserved(
  about: Subject,
  before: readonly Condition[] | undefined,
  statuses: Readonly<Record<string, Condition['status']>>,
  message: string,
  now: string,
): Decision[] {
  if (about.object.metadata.deletionTimestamp) return [];
  const said = Object.entries(statuses).map(([type, status]): [string, Said] => [
    type,
    { status, reason: REASON, message },
  ]);
  const isSaid = said.every(([type, { status }]) =>
    before?.some((one) => one.type === type && one.status === status && one.message === message),
  );
  if (isSaid) return [];
  const conditions = conditionsOf(before, Object.fromEntries(said), now);
  return [
    { act: 'patch', subject: about, patch: { status: { conditions } }, exact: true },
    { act: 'tell', about, type: 'Warning', reason: REASON, message },
  ];
}

/** Kinds that a claim's `dataSourceRef` may name, and nobody fills it from. */
const SOURCES: readonly Resource<object>[] = [UPLOAD_SOURCES, CLONE_SOURCES, OVIRT_POPULATORS, OPENSTACK_POPULATORS];

/** What a claim waits to be filled by, though nobody does; undefined where there is no such thing. */
export function unfilledBy(claim: Stored<PersistentVolumeClaim>): string | undefined {
  const annotations = claim.metadata.annotations ?? {};
  if (ANNOTATION.populatedFor in annotations || isOver(claim)) return undefined;
  const { apiGroup, kind } = claim.spec.dataSourceRef ?? { kind: '' };
  const source = SOURCES.find((one) => one.kind === kind && one.group === apiGroup);
  // One that has a volume has been filled.
  if (source) return claim.spec.volumeName ? undefined : `${source.kind} of ${apiVersionOf(source)}`;
  if (ANNOTATION.uploadTarget in annotations) return 'an upload';
  if (ANNOTATION.cloneRequest in annotations && annotations[ANNOTATION.cloneOf] !== 'true') return 'a clone';
  return undefined;
}

/** A claim that waits to be filled by somebody who is not there. */
export function decideUnfilled(claim: Stored<PersistentVolumeClaim>): Decision[] {
  const by = unfilledBy(claim);
  if (by === undefined || claim.metadata.deletionTimestamp) return [];
  const message = `diskferry does not fill claims by ${by} yet: ${INSTEAD}`;
  const about = { resource: CLAIMS, object: claim };
  const told = annotate(about, {
    [ANNOTATION.running]: 'false',
    [ANNOTATION.runningReason]: REASON,
    [ANNOTATION.runningMessage]: message,
  });
  return told.length === 0 ? [] : [...told, { act: 'tell', about, type: 'Warning', reason: REASON, message }];
}

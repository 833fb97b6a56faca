import type { DataImportCron, DataImportCronSpec } from '../../api/data-import-cron.ts';
import { type Cause, checkLength, invalid, quoted } from './cause.ts';
import { checkDataVolumeSpec } from './datavolume.ts';
import { differenceOf } from './difference.ts';
import { wrongSchedule } from './schedule.ts';

/** Characters: of both, labels are made. */
const LONGEST = 63;
const COLLECTED = ['Outdated', 'Never'];
/** int32. */
const MOST_IMPORTS = 2 ** 31 - 1;

export function checkNewDataImportCron({ metadata, spec }: DataImportCron): Cause[] {
  return [
    ...checkLength('Name of a DataImportCron', 'metadata.name', metadata?.name, LONGEST),
    ...checkSpec(spec ?? ({} as DataImportCronSpec)),
  ];
}

/** Its status is written with the whole object, and its metadata may change; its spec never. */
export function checkChangedDataImportCron({ spec }: DataImportCron, before: DataImportCron): Cause[] {
  const difference = differenceOf(before.spec, spec, 'spec');
  if (difference === undefined) return [];
  const message = `Cannot update DataImportCron Spec: ${difference} is not what it was; delete the DataImportCron, whose imports stay where retentionPolicy is All, and create it as it is to be`;
  return [invalid('spec', message)];
}

function checkSpec(spec: DataImportCronSpec): Cause[] {
  const { schedule, importsToKeep, garbageCollect, managedDataSource } = spec;
  const found = checkTemplate(spec);
  const wrong = schedule ? wrongSchedule(schedule) : undefined;
  if (wrong !== undefined) {
    const message = `Illegal cron schedule ${quoted(schedule)}: ${wrong}; write five fields, as 0 4 * * *, or @daily, or leave it empty so that nothing is looked for`;
    found.push(invalid('spec.schedule', message));
  }
  if (importsToKeep !== undefined && importsToKeep !== null && !(importsToKeep >= 0 && importsToKeep <= MOST_IMPORTS)) {
    const message = `Illegal ImportsToKeep value: it is ${quoted(importsToKeep)}, and can be 0 and more; left out it is 3`;
    found.push(invalid('spec.importsToKeep', message));
  }
  if (garbageCollect !== undefined && garbageCollect !== null && !COLLECTED.includes(garbageCollect)) {
    const message = `Illegal GarbageCollect value ${quoted(garbageCollect)}: it can be ${COLLECTED.join(' or ')}; left out it is Outdated`;
    found.push(invalid('spec.garbageCollect', message));
  }
  if (!managedDataSource) {
    const message =
      'Illegal ManagedDataSource value: it is empty; write the name of the DataSource that is to name the newest import';
    found.push(invalid('spec.managedDataSource', message));
  }
  found.push(
    ...checkLength('Illegal ManagedDataSource value: it', 'spec.managedDataSource', managedDataSource, LONGEST),
  );
  return found;
}

/** What DataVolumes are made of: only what can be looked at whether it is new. */
function checkTemplate({ template }: DataImportCronSpec): Cause[] {
  const spec = template?.spec ?? {};
  const field = 'spec.template.spec';
  if (!spec.source?.registry && !spec.source?.pvc) {
    const message = `Missing source: ${field}.source has neither registry nor pvc, and of others nobody knows whether they are new`;
    return [invalid(`${field}.source`, message)];
  }
  const set = [
    ...(spec.sourceRef ? ['sourceRef'] : []),
    ...(spec.contentType ? ['contentType'] : []),
    ...((spec.checkpoints?.length ?? 0) > 0 ? ['checkpoints'] : []),
    ...(spec.finalCheckpoint ? ['finalCheckpoint'] : []),
  ];
  if (set.length > 0) {
    const message = `Unsettable fields: SourceRef, ContentType, Checkpoints, FinalCheckpoint: ${field} has ${set.join(', ')}; leave ${set.length > 1 ? 'them' : 'it'} out`;
    return [invalid(field, message)];
  }
  return checkDataVolumeSpec(spec, field);
}

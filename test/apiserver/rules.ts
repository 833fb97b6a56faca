// Every rule of admission: what it refuses and in which words, and beside it what is nearly the same and accepted.
import {
  DATA_IMPORT_CRONS,
  DATA_VOLUMES,
  IMPORT_SOURCES,
  OBJECT_TRANSFERS,
  UPLOAD_SOURCES,
} from '../../src/api/resource.ts';
import { changes } from './rules/change.ts';
import { origins, storage } from './rules/claim.ts';
import { crons } from './rules/cron.ts';
import { importSources, transfers, uploadSources } from './rules/populator.ts';
import { from, of, type Rule } from './rules/row.ts';
import { cloned, ofSources } from './rules/source.ts';

export const RULES: readonly Rule[] = [
  ...of(DATA_VOLUMES, [
    ...storage,
    ...origins,
    ...ofSources((source, contentType) => from(source, contentType ? { contentType } : {})),
    ...cloned,
    ...changes,
  ]),
  ...of(DATA_IMPORT_CRONS, crons),
  ...of(IMPORT_SOURCES, importSources),
  ...of(UPLOAD_SOURCES, uploadSources),
  ...of(OBJECT_TRANSFERS, transfers),
];

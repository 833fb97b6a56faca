import type { DataSource, DataSourceSource } from '../datasource.ts';
import { conditions } from './condition.ts';
import { kindOf, object, required, type Schema } from './schema.ts';
import { objectRef } from './sources.ts';

const dataSourceSource = (description: string): Schema<DataSourceSource> =>
  object<DataSourceSource>(description, {
    dataSource: objectRef('Another DataSource in the same namespace, which names no third'),
    pvc: objectRef('A claim'),
    snapshot: objectRef('A snapshot of a volume'),
  });

export const dataSource = kindOf<DataSource>('A name for a disk that DataVolumes clone.', {
  spec: required(
    object<NonNullable<DataSource['spec']>>('What it is a name for.', {
      source: required(dataSourceSource('The disk: one of these.')),
    }),
  ),
  status: object<NonNullable<DataSource['status']>>('Whether the disk is there.', {
    conditions: conditions('Ready'),
    source: dataSourceSource('The disk that it leads to; empty while that is not ready.'),
  }),
});

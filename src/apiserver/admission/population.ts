import type { TypedLocalObjectReference, TypedObjectReference } from 'kubernetes-types/core/v1.js';
import type { DataVolumeSpec } from '../../api/datavolume.ts';
import { type Cause, invalid } from './cause.ts';

/**
 * What names another than us who fills the claim: `dataSource`, `dataSourceRef` or both; undefined where there is none. Both
 * must say the same (CDI never takes both, by an error of its own).
 */
export function checkPopulation(spec: DataVolumeSpec, field: string): Cause[] | undefined {
  const [claim, of] = spec.pvc ? [spec.pvc, `${field}.pvc`] : [spec.storage, `${field}.storage`];
  const one = claim?.dataSource ?? undefined;
  const other = claim?.dataSourceRef ?? undefined;
  if (!one && !other) return undefined;
  if (spec.source || spec.sourceRef) {
    const message =
      'External population is incompatible with Source and SourceRef: who fills the claim is named in its dataSource or dataSourceRef; leave out either that, or source and sourceRef';
    return [invalid(`${field}.${spec.source ? 'source' : 'sourceRef'}`, message)];
  }
  if (one && other && !isSame(one, other)) {
    const message = 'DataSourceRef and DataSource must match: write dataSourceRef alone';
    return [invalid(`${of}.dataSourceRef`, message)];
  }
  return [
    ...(one ? checkReference(one, `${of}.dataSource`) : []),
    ...(other ? checkReference(other, `${of}.dataSourceRef`) : []),
  ];
}

function isSame(one: TypedLocalObjectReference, other: TypedObjectReference): boolean {
  return (
    one.kind === other.kind &&
    one.name === other.name &&
    (one.apiGroup ?? '') === (other.apiGroup ?? '') &&
    !other.namespace
  );
}

function checkReference(reference: TypedObjectReference, field: string): Cause[] {
  const { name, kind, apiGroup, namespace } = reference;
  const found: Cause[] = [];
  if (!name) found.push(invalid(`${field}.name`, `${field}.name is empty: it names what the claim is filled from`));
  if (!kind) found.push(invalid(`${field}.kind`, `${field}.kind is empty: it is the kind of what ${field}.name names`));
  if (!apiGroup && kind && kind !== 'PersistentVolumeClaim') {
    const message = `${field}.apiGroup is empty, which is right for a PersistentVolumeClaim only: write the group of the kind`;
    found.push(invalid(`${field}.apiGroup`, message));
  }
  if (namespace) {
    const message = `${field}.namespace must be left out: claims are filled from what is in their own namespace`;
    found.push(invalid(`${field}.namespace`, message));
  }
  return found;
}

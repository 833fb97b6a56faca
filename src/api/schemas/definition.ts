import type { Resource } from '../resource.ts';
import type { Json, Schema } from './schema.ts';

/** What a CustomResourceDefinition says of a kind, beside its name. */
export interface Definition<T> {
  readonly resource: Resource<T>;
  readonly schema: Schema<T>;
  readonly shortNames?: readonly string[];
  readonly categories?: readonly string[];
  /** Whether `status` is written apart. Where it is not, it is written with the whole object. */
  readonly statusApart: boolean;
  /** What `kubectl get` shows beside the name. */
  readonly columns?: readonly Column[];
  /** Versions that are served as well, and are the same in all but name. */
  readonly olderVersions?: readonly string[];
}

export interface Column {
  readonly name: string;
  readonly type: 'string' | 'integer' | 'date';
  readonly jsonPath: string;
  readonly description?: string;
}

/**
 * Unknown fields are pruned: in apiextensions.k8s.io/v1 nothing else is lawful. It is not said, since the API server would not
 * keep that it was, and each `kubectl apply` would be a change.
 */
export function customResourceDefinition(definition: Definition<unknown>): Json {
  const { resource, schema, shortNames, categories, statusApart, columns, olderVersions = [] } = definition;
  const version = (name: string, storage: boolean): Json => ({
    name,
    served: true,
    storage,
    ...(columns ? { additionalPrinterColumns: columns } : {}),
    schema: { openAPIV3Schema: schema },
    subresources: statusApart ? { status: {} } : {},
  });
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${resource.plural}.${resource.group}` },
    spec: {
      group: resource.group,
      scope: resource.namespaced ? 'Namespaced' : 'Cluster',
      names: {
        kind: resource.kind,
        listKind: `${resource.kind}List`,
        plural: resource.plural,
        singular: resource.kind.toLowerCase(),
        ...(shortNames ? { shortNames } : {}),
        ...(categories ? { categories } : {}),
      },
      conversion: { strategy: 'None' },
      versions: [...olderVersions.map((name) => version(name, false)), version(resource.version, true)],
    },
  };
}

import type { ObjectMeta, OwnerReference } from 'kubernetes-types/meta/v1.js';

/** Metadata of an object that an API server has stored. */
export type StoredMetadata = Omit<ObjectMeta, 'name' | 'uid' | 'resourceVersion'> & {
  readonly name: string;
  readonly uid: string;
  /** Grows with each change; only to be compared for equality (API conventions, "Concurrency Control"). */
  readonly resourceVersion: string;
};

/** An object as an API server gives it; `T` as it is written. */
export type Stored<T extends { metadata?: ObjectMeta }> = Omit<T, 'metadata' | 'spec'> & {
  readonly metadata: StoredMetadata;
} & (T extends { spec?: infer Spec } ? { readonly spec: NonNullable<Spec> } : unknown);

/** A condition as CDI's resources have them: two times, and both move only with what they tell of. */
export interface Condition {
  readonly type: string;
  readonly status: 'True' | 'False' | 'Unknown';
  readonly reason?: string;
  readonly message?: string;
  /** RFC 3339. Of the last change of status. */
  readonly lastTransitionTime?: string;
  /** RFC 3339. Of the last change of anything. */
  readonly lastHeartbeatTime?: string;
}

/** Which controller owns an object, if one does. */
export function controllerOf(object: { readonly metadata: StoredMetadata }): OwnerReference | undefined {
  return object.metadata.ownerReferences?.find((one) => one.controller === true);
}

/** Whether `owner` is the controller of an object: by UID, since another object may have had the name before. */
export function isControlledBy(
  object: { readonly metadata: StoredMetadata },
  owner: { readonly metadata: StoredMetadata },
): boolean {
  return controllerOf(object)?.uid === owner.metadata.uid;
}

/** `namespace/name`, or the name of what has no namespace: the key of an object of a kind. */
export function keyOf(object: { readonly metadata: Pick<StoredMetadata, 'name' | 'namespace'> }): string {
  const { namespace, name } = object.metadata;
  return namespace ? `${namespace}/${name}` : name;
}

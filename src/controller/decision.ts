import type { Stored } from '../api/meta.ts';
import type { Resource } from '../api/resource.ts';
import type { Written } from '../kube/client.ts';

/** An object that is there, and of which kind it is. */
export interface Subject<T extends Written = Written> {
  readonly resource: Resource<T>;
  readonly object: Stored<T>;
}

/**
 * What is to be done. They are carried out in order, and the first that fails ends it: what is seen next time decides anew.
 * - create: of a deterministic name; `owner` is looked at once more before, so that nothing comes back that a user has
 *   deleted meanwhile.
 * - patch: a merge patch that touches only the keys in it, and only of the object that was seen (its UID).
 * - delete: only of the object that was seen.
 * - tell: an event.
 * - again: to be looked at again, where nothing that is watched tells when.
 */
export type Decision =
  | {
      readonly act: 'create';
      readonly resource: Resource<Written>;
      readonly object: Written;
      readonly owner?: Subject;
    }
  | {
      readonly act: 'patch';
      readonly subject: Subject;
      readonly patch: object;
      readonly part?: 'status';
      /** Only while the object is exactly as it was seen. */
      readonly exact?: boolean;
    }
  | { readonly act: 'delete'; readonly subject: Subject; readonly gracePeriodSeconds?: number }
  | {
      readonly act: 'tell';
      readonly about: Subject;
      readonly type: 'Normal' | 'Warning';
      readonly reason: string;
      readonly message: string;
    }
  | { readonly act: 'again'; readonly seconds: number };

/** What the API server refused of what was decided last, in its own words: quota, limits, admission. */
export interface Refusal {
  /** Of HTTP: 403 for quota and limits, 422 for what is not valid. */
  readonly status: number;
  readonly message: string;
}

/** The part of `wanted` that differs from what is there; null removes. Undefined where nothing differs. */
export function changedAnnotations(
  there: Readonly<Record<string, string>> | undefined,
  wanted: Readonly<Record<string, string | null>>,
): Record<string, string | null> | undefined {
  const changed = Object.entries(wanted).filter(([key, value]) => (there?.[key] ?? null) !== value);
  return changed.length === 0 ? undefined : Object.fromEntries(changed);
}

/** Patches annotations of an object, where any of them differ. */
export function annotate(subject: Subject, wanted: Readonly<Record<string, string | null>>): Decision[] {
  const annotations = changedAnnotations(subject.object.metadata.annotations, wanted);
  return annotations ? [{ act: 'patch', subject, patch: { metadata: { annotations } } }] : [];
}

/** Gives labels to an object that has none of that name: those that it has stay. */
export function label(subject: Subject, wanted: Readonly<Record<string, string>>): Decision[] {
  const there = subject.object.metadata.labels ?? {};
  const labels = Object.fromEntries(Object.entries(wanted).filter(([key]) => !Object.hasOwn(there, key)));
  return Object.keys(labels).length === 0 ? [] : [{ act: 'patch', subject, patch: { metadata: { labels } } }];
}

type Json = unknown;

/** The merge patch (RFC 7396) that makes `wanted` of what is there; undefined where nothing differs. */
export function mergePatch(there: Json, wanted: Json): Json | undefined {
  if (!isObject(there) || !isObject(wanted)) return isSame(there, wanted) ? undefined : wanted;
  const patch: Record<string, Json> = {};
  for (const key of Object.keys(there)) if (!(key in wanted) || wanted[key] === undefined) patch[key] = null;
  for (const [key, value] of Object.entries(wanted)) {
    if (value === undefined) continue;
    const inner = key in there ? mergePatch(there[key], value) : value;
    if (inner !== undefined) patch[key] = inner;
  }
  return Object.keys(patch).length === 0 ? undefined : patch;
}

/** Whether two values are the same, whatever the order of their keys: the API server's is its own. */
export function isSame(a: Json, b: Json): boolean {
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((one, n) => isSame(one, b[n]));
  if (isObject(a) && isObject(b)) return mergePatch(a, b) === undefined;
  return a === b;
}

function isObject(value: Json): value is Record<string, Json> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

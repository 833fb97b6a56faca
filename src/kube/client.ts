import type { ObjectMeta } from 'kubernetes-types/meta/v1.js';
import type { Stored, StoredMetadata } from '../api/meta.ts';
import { apiVersionOf, pathOf, type Resource } from '../api/resource.ts';
import { type About, type ApiServer, type Asked, Connection, LONGEST, type Question, TOO_LONG } from './connection.ts';
import { failureOf, KubeError } from './error.ts';
import { lines } from './lines.ts';

export type { ApiServer } from './connection.ts';
export { KubeError } from './error.ts';

/** An object as one writes it. */
export interface Written {
  metadata?: ObjectMeta;
}

/** An object that is to be changed: one of another `uid` is another object of the same name, and is not touched. */
export interface Target {
  readonly namespace?: string | undefined;
  readonly name: string;
  readonly uid?: string;
  /** Only this version of it. */
  readonly resourceVersion?: string;
  /** The version that was seen last, whichever it is now: where it is that one, nobody needs to ask for it. */
  readonly seen?: string;
}

/** Which objects of a kind. */
export interface Selection {
  /** All of them without one. */
  readonly namespace?: string | undefined;
  readonly labelSelector?: string | undefined;
  readonly fieldSelector?: string | undefined;
}

export interface Page<T extends Written> {
  readonly items: readonly Stored<T>[];
  /** Of the whole list, however many pages it has. */
  readonly resourceVersion: string;
  /** Asks for the next page; undefined on the last one. */
  readonly next?: string;
  /** Objects that were asked for in the end: those of the next page are hardly smaller. */
  readonly limit: number;
}

/** What a watch tells; a bookmark has nothing of its object but the version. */
export interface Told<T extends Written> {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK';
  readonly object: Stored<T>;
}

export interface WatchOptions {
  /** What comes after it is told. */
  readonly resourceVersion: string;
  /** When the API server ends it in order. */
  readonly timeoutSeconds: number;
  /** Milliseconds without a byte after which it is given up. */
  readonly idle: number;
  /** Called when the API server has begun to answer. */
  readonly opened?: () => void;
}

export interface PatchOptions {
  readonly part?: 'status';
  /** `json`: RFC 6902, an array of operations; `merge`, RFC 7396, by itself. */
  readonly type?: 'merge' | 'json';
  readonly signal?: AbortSignal;
}

export interface DeleteOptions {
  readonly gracePeriodSeconds?: number;
  readonly propagation?: 'Foreground' | 'Background';
  readonly signal?: AbortSignal;
}

/** Times that a status is patched that others change at the same time (client-go's DefaultRetry: 5). */
const TRIES = 5;

/** Asks an API server. KubeError for everything that it refuses or does not answer; the reason of a signal that aborts it. */
export class Kube implements AsyncDisposable {
  readonly #connection: Connection;
  /** Asked just before each write, and throws where this process may write no more (lease.ts). */
  guard: (() => void) | undefined;

  constructor(server: ApiServer) {
    this.#connection = new Connection(server);
  }

  /** Told of each request that is answered, or not. */
  set asked(asked: Asked) {
    this.#connection.asked = asked;
  }

  /** An object, undefined where there is none. */
  async get<T extends Written>(
    resource: Resource<T>,
    namespace: string | undefined,
    name: string,
    signal?: AbortSignal,
  ): Promise<Stored<T> | undefined> {
    try {
      const path = pathOf(resource, namespace, name);
      return await this.#connection.ask({ method: 'GET', path, signal, ...about('get', resource) });
    } catch (thrown) {
      if (isGone(thrown)) return undefined;
      throw thrown;
    }
  }

  /** Makes an object in the namespace of its metadata. AlreadyExists where there is one of its name. */
  async create<T extends Written>(resource: Resource<T>, object: T, signal?: AbortSignal): Promise<Stored<T>> {
    const path = pathOf(resource, object.metadata?.namespace);
    const body = { ...object, apiVersion: apiVersionOf(resource), kind: resource.kind };
    return this.#write({ method: 'POST', path, body, signal, ...about('create', resource) });
  }

  /** Changes an object or a part of it; what it is then. Conflict where it is another one of that name, or another version. */
  async patch<T extends Written>(
    resource: Resource<T>,
    target: Target,
    patch: object,
    { part, type = 'merge', signal }: PatchOptions = {},
  ): Promise<Stored<T>> {
    const { uid, resourceVersion } = target;
    if (part === 'status' && type === 'merge' && uid !== undefined && resourceVersion === undefined) {
      return this.#patchStatus(resource, { ...target, uid }, patch, signal);
    }
    const path = pathOf(resource, target.namespace, target.name, part);
    const body = type === 'json' ? tested(target, patch) : marked(target, patch);
    try {
      const format = `application/${type}-patch+json`;
      return await this.#write({ method: 'PATCH', path, body, type: format, signal, ...about('patch', resource) });
    } catch (thrown) {
      // Both another uid in a merge patch and a test that fails are answered as Invalid, as is an object that would be.
      if (!(thrown instanceof KubeError && thrown.status === 422) || uid === undefined) throw thrown;
      const now = await this.get(resource, target.namespace, target.name, signal).catch(() => undefined);
      const difference = now && differenceOf(now.metadata, target);
      throw difference === undefined ? thrown : conflict(resource, target, difference, thrown);
    }
  }

  /**
   * The status of custom resources is patched whatever uid the patch has (statusStrategy of k8s.io/apiextensions-apiserver takes
   * nothing else from it), but not at another version: so it is patched at the version that has the uid, first at the one that
   * was seen.
   */
  async #patchStatus<T extends Written>(
    resource: Resource<T>,
    target: Target & { readonly uid: string },
    patch: object,
    signal: AbortSignal | undefined,
  ): Promise<Stored<T>> {
    const options = { part: 'status', ...(signal ? { signal } : {}) } as const;
    let resourceVersion = target.seen;
    for (let tries = 1; ; tries += 1) {
      resourceVersion ??= await this.#versionOf(resource, target, signal);
      try {
        return await this.patch(resource, { ...target, resourceVersion }, patch, options);
      } catch (thrown) {
        if (!(thrown instanceof KubeError && thrown.status === 409) || tries >= TRIES) throw thrown;
        resourceVersion = undefined;
      }
    }
  }

  /** The version of an object as it is now. Conflict where it is another one of that name. */
  async #versionOf(resource: Resource<Written>, target: Target, signal: AbortSignal | undefined): Promise<string> {
    const now = await this.get(resource, target.namespace, target.name, signal);
    if (!now) throw new KubeError(`${resource.kind} ${target.name} is gone`, { status: 404, reason: 'NotFound' });
    const difference = differenceOf(now.metadata, target);
    if (difference !== undefined) throw conflict(resource, target, difference);
    return now.metadata.resourceVersion;
  }

  /**
   * Deletes an object. One that is gone is fine, also when another has its name by now: that one stays. What it is then, where
   * something still has to end before it is gone.
   */
  async delete<T extends Written>(
    resource: Resource<T>,
    target: Target,
    { gracePeriodSeconds, propagation, signal }: DeleteOptions = {},
  ): Promise<Stored<T> | undefined> {
    const { namespace, name, uid, resourceVersion } = target;
    const body = {
      apiVersion: 'v1',
      kind: 'DeleteOptions',
      preconditions: { uid, resourceVersion },
      gracePeriodSeconds,
      propagationPolicy: propagation,
    };
    try {
      const path = pathOf(resource, namespace, name);
      const answer = await this.#write<Stored<T>>({
        method: 'DELETE',
        path,
        body,
        signal,
        ...about('delete', resource),
      });
      // Of what is gone at once it is a Status, or the object as it was.
      return answer?.metadata?.deletionTimestamp ? answer : undefined;
    } catch (thrown) {
      if (isGone(thrown)) return undefined;
      if (!(thrown instanceof KubeError && thrown.status === 409) || uid === undefined) throw thrown;
      const now = await this.get(resource, namespace, name, signal);
      if (now?.metadata.uid === uid) throw thrown;
      return undefined;
    }
  }

  /**
   * A page of the objects of a kind, as they are at one moment; a smaller one than `limit` where it would be too long. Expired
   * where `next` is too old: then from the first page.
   */
  async list<T extends Written>(
    resource: Resource<T>,
    selection: Selection,
    { limit, next }: { readonly limit: number; readonly next?: string | undefined },
    signal?: AbortSignal,
  ): Promise<Page<T>> {
    const query = queryOf({ ...selectors(selection), limit, continue: next });
    const path = `${pathOf(resource, selection.namespace)}?${query}`;
    try {
      const list = await this.#connection.ask<RawList<T>>({ method: 'GET', path, signal, ...about('list', resource) });
      const { resourceVersion, continue: more } = list.metadata ?? {};
      if (!Array.isArray(list.items) || typeof resourceVersion !== 'string') {
        throw new KubeError(`the API server's list of ${resource.plural} has no items or no version`);
      }
      // The API server leaves out of items what it says of the list.
      const [apiVersion, kind] = [apiVersionOf(resource), resource.kind];
      const items = list.items.map((item) => ({ apiVersion, kind, ...item }));
      return { items, resourceVersion, limit, ...(more ? { next: more } : {}) };
    } catch (thrown) {
      if (!(thrown instanceof KubeError && thrown.reason === TOO_LONG) || limit <= 1) throw thrown;
      return this.list(resource, selection, { limit: Math.ceil(limit / 2), next }, signal);
    }
  }

  /** What happens to objects of a kind after a version. Ends in order, and with KubeError: Expired where the version is too old. */
  async *watch<T extends Written>(
    resource: Resource<T>,
    selection: Selection,
    { resourceVersion, timeoutSeconds, idle, opened }: WatchOptions,
    signal?: AbortSignal,
  ): AsyncGenerator<Told<T>> {
    const options = { watch: true, allowWatchBookmarks: true, resourceVersion, timeoutSeconds };
    const path = `${pathOf(resource, selection.namespace)}?${queryOf({ ...selectors(selection), ...options })}`;
    const chunks = this.#connection.follow({ method: 'GET', path, signal, idle, ...about('watch', resource) }, opened);
    const tooLong = (): Error => new KubeError(`a line of a watch has more than ${LONGEST} bytes`);
    for await (const line of lines(chunks, LONGEST, tooLong)) yield told(line);
  }

  #write<T>(question: Question): Promise<T> {
    return this.#connection.ask({ ...question, guard: () => this.guard?.() });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#connection[Symbol.asyncDispose]();
  }
}

function about(verb: string, { plural }: Resource<unknown>): About {
  return { verb, resource: plural };
}

interface RawList<T extends Written> {
  readonly items?: Stored<T>[];
  readonly metadata?: { readonly resourceVersion?: string; readonly continue?: string };
}

const TYPES = ['ADDED', 'MODIFIED', 'DELETED', 'BOOKMARK'];

function told<T extends Written>(line: string): Told<T> {
  let event: { type?: unknown; object?: Partial<Stored<T>> };
  try {
    event = JSON.parse(line);
  } catch (cause) {
    throw new KubeError(`a line of a watch is no JSON: ${(cause as Error).message}`, { cause, reason: BAD_LINE });
  }
  if (event?.type === 'ERROR') throw failureOf(event.object);
  const version = event?.object?.metadata?.resourceVersion;
  if (!TYPES.includes(String(event?.type)) || typeof version !== 'string') {
    const message = `a line of a watch is no event that is known: its type is ${JSON.stringify(event?.type)}`;
    throw new KubeError(message, { reason: BAD_LINE });
  }
  return event as Told<T>;
}

/** Reason, ours, of a line that cannot be read: what it told of is not known. */
export const BAD_LINE = 'BadLine';

/** A merge patch that is refused on another object, or another version. */
function marked({ uid, resourceVersion }: Target, patch: { metadata?: object }): object {
  const metadata = { ...patch.metadata, ...(uid ? { uid } : {}), ...(resourceVersion ? { resourceVersion } : {}) };
  return Object.keys(metadata).length === 0 ? patch : { ...patch, metadata };
}

/** The same of a JSON patch. */
function tested({ uid, resourceVersion }: Target, patch: object): object {
  const test = (field: string, value: string | undefined): object[] =>
    value === undefined ? [] : [{ op: 'test', path: `/metadata/${field}`, value }];
  return [...test('uid', uid), ...test('resourceVersion', resourceVersion), ...(patch as object[])];
}

function conflict(resource: Resource<Written>, { name }: Target, difference: string, cause?: unknown): KubeError {
  const message = `${resource.kind} ${name} was changed by another, and not by this patch: ${difference}`;
  return new KubeError(message, { status: 409, reason: 'Conflict', cause });
}

function differenceOf(now: StoredMetadata, { uid, resourceVersion }: Target): string | undefined {
  if (uid !== undefined && now.uid !== uid) return `its uid is ${now.uid}, not ${uid}`;
  if (resourceVersion === undefined || now.resourceVersion === resourceVersion) return undefined;
  return `its version is ${now.resourceVersion}, not ${resourceVersion}`;
}

function isGone(thrown: unknown): boolean {
  return thrown instanceof KubeError && thrown.status === 404;
}

function selectors({ labelSelector, fieldSelector }: Selection): Record<string, string | undefined> {
  return { labelSelector, fieldSelector };
}

function queryOf(parameters: Readonly<Record<string, string | number | boolean | undefined>>): string {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) if (value !== undefined) query.set(key, String(value));
  return query.toString();
}

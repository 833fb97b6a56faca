import { setTimeout as sleep } from 'node:timers/promises';
import { keyOf, type Stored } from '../api/meta.ts';
import type { Resource } from '../api/resource.ts';
import { backoff } from './backoff.ts';
import type { Cache } from './cache.ts';
import { BAD_LINE, type Kube, KubeError, type Page, type Selection, type Told, type Written } from './client.ts';
import { SILENT } from './connection.ts';
import { isAfter } from './version.ts';

export interface ReflectorOptions<T extends Written> extends Selection {
  /** What is remembered of an object; undefined: nothing. By itself everything but managedFields, which are half of many. */
  readonly keep?: (object: Stored<T>) => Stored<T> | undefined;
  /** Told of each failure. Nothing needs to be done: it goes on. */
  readonly failed?: (error: unknown) => void;
  /** Objects of a page. */
  readonly page?: number;
  /** Milliseconds without a byte after which a watch is begun again. */
  readonly idle?: number;
}

/** What a reflector did. */
export interface Counters {
  /** Lists begun. */
  lists: number;
  /** Watches begun. */
  watches: number;
  /** Events taken, without bookmarks. */
  events: number;
  /** Watches that did not end in order. */
  restarts: number;
  /** Lines of watches that could not be read. */
  badLines: number;
  /** Lists that did not come to their end. */
  failedLists: number;
}

/** As client-go has it: small enough for an API server to answer at once. */
const PAGE = 500;
/** Milliseconds. API servers send a bookmark each minute (defaultBookmarkFrequency of k8s.io/apiserver). */
const IDLE = 90_000;
/** Seconds after which the API server ends a watch: any between this and twice as many, so that not all watches end at once. */
const WATCH = 300;
/** Milliseconds. A third of client-go's longest: this is one process, and not one on each node. */
const DELAY = { first: 250, longest: 10_000 };
/** Milliseconds, of a pause that an API server asks for. */
const LONGEST_PAUSE = 600_000;
/** Milliseconds that a watch must have been open for to say that all is well: who ends each at once is not to be flooded. */
const SHORT = 1000;
/** Lines in succession that cannot be read, before what they tell of is listed. */
const UNREADABLE = 3;

/**
 * Watches in succession that were answered and then told nothing, not even by a bookmark, before everything is listed: a watch
 * from a version that a store does not have yet, since it is restored from a backup, is silent until it has. Twice as many after
 * each such list, up to one in an hour or so: some servers send no bookmarks, or none before something happened.
 */
const MUTE = { first: 2, longest: 40 };

/** Keeps a cache as the objects of an API server are: a list, and then watches, each from where the one before ended. */
export class Reflector<T extends Written> {
  readonly counters: Counters = { lists: 0, watches: 0, events: 0, restarts: 0, badLines: 0, failedLists: 0 };
  readonly #kube: Kube;
  readonly #resource: Resource<T>;
  readonly #cache: Cache<T>;
  readonly #options: ReflectorOptions<T>;
  /** A watch cannot go on from where the last one ended. */
  #mustList = true;
  /** In succession. */
  #failures = 0;
  #unreadable = 0;
  #mute = 0;
  /** Of these, before a list. */
  #bearable = MUTE.first;

  /** One reflector to a cache. */
  constructor(kube: Kube, resource: Resource<T>, cache: Cache<T>, options: ReflectorOptions<T> = {}) {
    this.#kube = kube;
    this.#resource = resource;
    this.#cache = cache;
    this.#options = options;
    cache.keep = options.keep ?? withoutManagedFields;
  }

  /** Goes on until it is aborted, whatever happens. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      let delay: number;
      try {
        const { version } = this.#cache;
        delay = version === undefined || this.#mustList ? await this.#list(signal) : await this.#watch(version, signal);
      } catch (error) {
        if (signal.aborted) return;
        delay = this.#delayAfter(error);
        this.#options.failed?.(error);
      }
      if (delay > 0) await sleep(delay, undefined, { signal }).catch(() => undefined);
    }
  }

  /** Milliseconds to wait after it, as `#watch` does. */
  async #list(signal: AbortSignal): Promise<number> {
    this.counters.lists += 1;
    let limit = this.#options.page ?? PAGE;
    const keys = new Set<string>();
    let next: string | undefined;
    let version: string | undefined;
    try {
      do {
        const page: Page<T> = await this.#kube.list(this.#resource, this.#options, { limit, next }, signal);
        version ??= page.resourceVersion;
        // A list has the latest version that there is.
        const known = this.#cache.version;
        if (known !== undefined && isAfter(known, version)) this.#cache.rewind();
        for (const object of page.items) {
          keys.add(keyOf(object));
          this.#cache.take(object);
        }
        ({ next, limit } = page);
      } while (next !== undefined);
    } catch (error) {
      this.counters.failedLists += 1;
      throw error;
    }
    this.#cache.end(version, keys);
    this.#mustList = false;
    this.#heard();
    return 0;
  }

  async #watch(resourceVersion: string, signal: AbortSignal): Promise<number> {
    this.counters.watches += 1;
    const timeoutSeconds = Math.ceil(WATCH * (1 + Math.random()));
    let opened = Number.POSITIVE_INFINITY;
    const options = {
      resourceVersion,
      timeoutSeconds,
      idle: this.#options.idle ?? IDLE,
      opened: () => {
        opened = performance.now();
      },
    };
    try {
      for await (const told of this.#kube.watch(this.#resource, this.#options, options, signal)) this.#take(told);
    } catch (error) {
      this.counters.restarts += 1;
      throw error;
    } finally {
      if (performance.now() - opened > SHORT) this.#failures = 0;
    }
    if (performance.now() - opened > SHORT) return 0;
    this.#failures += 1;
    return backoff(this.#failures, DELAY);
  }

  #take({ type, object }: Told<T>): void {
    const { resourceVersion } = object.metadata;
    const known = this.#cache.version;
    if (known !== undefined && isAfter(known, resourceVersion)) {
      this.#mustList = true;
      throw new KubeError(
        `a watch from version ${known} tells of ${resourceVersion}: the API server's store went back`,
      );
    }
    if (type === 'DELETED') this.#cache.drop(object);
    else if (type !== 'BOOKMARK') this.#cache.take(object);
    this.#cache.reach(resourceVersion);
    if (type !== 'BOOKMARK') this.counters.events += 1;
    this.#bearable = MUTE.first;
    this.#heard();
  }

  #heard(): void {
    this.#failures = 0;
    this.#unreadable = 0;
    this.#mute = 0;
  }

  /** Milliseconds. */
  #delayAfter(error: unknown): number {
    const { status, reason, retryAfter } = error instanceof KubeError ? error : new KubeError('');
    if (status === 410) this.#mustList = true;
    if (reason === BAD_LINE) {
      this.counters.badLines += 1;
      this.#unreadable += 1;
      // One that was damaged on its way comes again whole; what is stored as it is does not.
      if (this.#unreadable >= UNREADABLE) this.#mustList = true;
    }
    if (reason === SILENT && !this.#mustList) {
      this.#mute += 1;
      if (this.#mute >= this.#bearable) {
        this.#mustList = true;
        this.#bearable = Math.min(2 * this.#bearable, MUTE.longest);
      }
    }
    const pause = Math.min((retryAfter ?? 0) * 1000, LONGEST_PAUSE);
    const delay = pause + backoff(this.#failures, DELAY);
    this.#failures += 1;
    return delay;
  }
}

function withoutManagedFields<T extends Written>(object: Stored<T>): Stored<T> {
  const { managedFields, ...metadata } = object.metadata;
  return managedFields === undefined ? object : { ...object, metadata };
}

import { keyOf, type Stored } from '../api/meta.ts';
import type { Written } from './client.ts';
import { isAfter } from './version.ts';

/** A change of an object: `before` undefined where it is new, `after` where it is gone. */
export interface Change<T extends Written> {
  readonly before?: Stored<T>;
  readonly after?: Stored<T>;
}

/** Under which values an object is found. Must not throw, whatever an object has. */
export type Index<T extends Written> = (object: Stored<T>) => readonly string[];

/**
 * The objects of a kind as far as they are known. A reflector fills it; whoever changes an object may put in what the API server
 * answered (`learn`), so as not to decide on what was before. It never goes back to an older version of an object.
 */
export class Cache<T extends Written> {
  readonly #objects = new Map<string, Stored<T>>();
  /** Index → value → keys of objects. */
  readonly #indices = new Map<string, { readonly of: Index<T>; readonly keys: Map<string, Set<string>> }>();
  readonly #listeners: ((change: Change<T>) => void)[] = [];
  readonly #synced = Promise.withResolvers<void>();
  #isSynced = false;
  /** What happened up to here is in it: of the list, then of each event. */
  #version: string | undefined;
  #rewound = false;
  /** What is remembered of an object; undefined: nothing. Of the reflector. */
  keep: (object: Stored<T>) => Stored<T> | undefined = (object) => object;

  constructor(indices: Readonly<Record<string, Index<T>>> = {}) {
    for (const [name, of] of Object.entries(indices)) this.#indices.set(name, { of, keys: new Map() });
  }

  /** By `keyOf` of its metadata. */
  get(key: string): Stored<T> | undefined {
    return this.#objects.get(key);
  }

  list(): Iterable<Stored<T>> {
    return this.#objects.values();
  }

  get size(): number {
    return this.#objects.size;
  }

  /** Objects that an index finds under a value. */
  by(index: string, value: string): readonly Stored<T>[] {
    const found = this.#indices.get(index);
    if (!found) throw new TypeError(`the cache has no index ${index}`);
    return [...(found.keys.get(value) ?? [])].flatMap((key) => this.#objects.get(key) ?? []);
  }

  /** Tells of each change from now on, and of what is there already as new. A listener must not throw. */
  watch(listener: (change: Change<T>) => void): void {
    this.#listeners.push(listener);
    for (const after of this.#objects.values()) listener({ after });
  }

  /** Whether the first list is in it. */
  get isSynced(): boolean {
    return this.#isSynced;
  }

  /** When the first list is in it: never, if its reflector is stopped before. */
  get synced(): Promise<void> {
    return this.#synced.promise;
  }

  /** Version up to which everything that happened is in it; undefined before the first list. */
  get version(): string | undefined {
    return this.#version;
  }

  /**
   * An object as the API server answered it to a write. Only of what the reflector would bring as well: nobody else says when it
   * is gone.
   */
  learn(object: Stored<T>): void {
    // Of what happened up to the version of the cache, its own is newer, or it is deleted by now. What cannot be compared comes
    // by the reflector.
    if (this.#version !== undefined && isAfter(object.metadata.resourceVersion, this.#version)) this.#put(object);
  }

  /** What a list or an event has of an object. */
  take(object: Stored<T>): void {
    this.#put(object);
  }

  /** An object is gone, as it was when it went. */
  drop(object: Stored<T>): void {
    const before = this.#objects.get(keyOf(object));
    // One of the same name that came after it stays.
    if (before && isAfter(before.metadata.resourceVersion, object.metadata.resourceVersion) !== true)
      this.#remove(before);
  }

  /** Everything up to `version` was taken. */
  reach(version: string): void {
    this.#version = version;
  }

  /** A list of `version` was taken, of objects with `keys`: others are gone. */
  end(version: string, keys: ReadonlySet<string>): void {
    for (const [key, object] of this.#objects) {
      // What was learned after the list will be told by the watch.
      const later = !this.#rewound && isAfter(object.metadata.resourceVersion, version) === true;
      if (!keys.has(key) && !later) this.#remove(object);
    }
    this.#version = version;
    this.#rewound = false;
    this.#isSynced = true;
    this.#synced.resolve();
  }

  /**
   * The list that comes is of a store that went back, as one does that is restored from a backup: what it has is taken, although
   * its versions are older.
   */
  rewind(): void {
    this.#rewound = true;
    this.#version = undefined;
  }

  #put(object: Stored<T>): void {
    const key = keyOf(object);
    const before = this.#objects.get(key);
    const isNews = !before || isAfter(object.metadata.resourceVersion, before.metadata.resourceVersion) !== false;
    if (!isNews && !this.#rewound) return;
    const after = this.keep(object);
    if (!after) {
      if (before) this.#remove(before);
      return;
    }
    this.#objects.set(key, after);
    this.#reindex(key, before, after);
    this.#tell(before ? { before, after } : { after });
  }

  #remove(before: Stored<T>): void {
    const key = keyOf(before);
    this.#objects.delete(key);
    this.#reindex(key, before, undefined);
    this.#tell({ before });
  }

  #reindex(key: string, before: Stored<T> | undefined, after: Stored<T> | undefined): void {
    for (const { of, keys } of this.#indices.values()) {
      const [old, now] = [new Set(before && of(before)), new Set(after && of(after))];
      for (const value of old) {
        if (now.has(value)) continue;
        const found = keys.get(value);
        found?.delete(key);
        if (found?.size === 0) keys.delete(value);
      }
      for (const value of now) {
        if (old.has(value)) continue;
        const found = keys.get(value);
        if (found) found.add(key);
        else keys.set(value, new Set([key]));
      }
    }
  }

  #tell(change: Change<T>): void {
    for (const listener of this.#listeners) listener(change);
  }
}

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Event } from 'kubernetes-types/core/v1.js';
import type { StoredMetadata } from '../api/meta.ts';
import { EVENTS } from '../api/resource.ts';
import { backoff } from './backoff.ts';
import { type Kube, KubeError } from './client.ts';

/** An object that something happened to, as an API server gave it: with its kind. */
export interface Subject {
  readonly apiVersion?: string | undefined;
  readonly kind?: string | undefined;
  readonly metadata: StoredMetadata;
}

/** Who tells of it. */
export interface Reporter {
  /** As in `kubectl describe`: `import-controller`. */
  readonly component: string;
  /** The pod. */
  readonly instance: string;
}

/** Milliseconds after which the same thing is a new event (client-go: 10 minutes). */
const SAME = 600_000;
/** Events that wait to be sent, and that are remembered so as to be counted. What is more is dropped. */
const WAITING = 1000;
const REMEMBERED = 4096;
/** Bytes of a message: API servers take no more through events.k8s.io, by which others write (NoteLengthLimit). */
const MESSAGE = 1024;
/** Characters of a name (RFC 1123 subdomain). */
const NAME = 253;
const TRIES = 4;
const DELAY = { first: 500, longest: 10_000 };
/** Milliseconds for what waits at the end. */
const FLUSH = 5000;

interface Told {
  readonly key: string;
  readonly namespace: string;
  readonly name: string;
  readonly event: Omit<Event, 'metadata'>;
  /** Milliseconds since 1970. */
  readonly first: number;
  last: number;
  count: number;
  isStored: boolean;
  isWaiting: boolean;
}

/**
 * Tells of objects by Events, in the order in which things happened. The same of the same object within ten minutes of the last
 * time is counted. Nobody waits for it and nothing fails by it: what cannot be told is dropped.
 */
export class Recorder implements AsyncDisposable {
  readonly #kube: Kube;
  readonly #reporter: Reporter;
  /** Those of late last. */
  readonly #known = new Map<string, Told>();
  readonly #waiting: Told[] = [];
  readonly #end = new AbortController();
  #sending: Promise<void> | undefined;
  #isClosed = false;
  /** Events that were not told, or not counted. */
  dropped = 0;

  constructor(kube: Kube, reporter: Reporter) {
    this.#kube = kube;
    this.#reporter = reporter;
  }

  event(object: Subject, type: 'Normal' | 'Warning', reason: string, message: string): void {
    const text = cut(message, MESSAGE);
    const { uid, name } = object.metadata;
    const key = JSON.stringify([uid, type, reason, text]);
    const now = Date.now();
    let told = this.#known.get(key);
    if (!told?.isWaiting && (this.#isClosed || this.#waiting.length >= WAITING)) {
      this.dropped += 1;
      return;
    }
    if (told && now - told.last < SAME) {
      told.count += 1;
      told.last = now;
    } else {
      const event = this.#eventOf(object, type, reason, text);
      const namespace = object.metadata.namespace ?? 'default';
      const own = nameOf(name);
      told = { key, namespace, name: own, event, first: now, last: now, count: 1, isStored: false, isWaiting: false };
    }
    this.#remember(told);
    if (told.isWaiting) return;
    told.isWaiting = true;
    this.#waiting.push(told);
    this.#sending ??= this.#send();
  }

  /** Waits for what was not sent yet, but not for long. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    const timer = setTimeout(() => this.#end.abort(), FLUSH);
    await this.#sending;
    clearTimeout(timer);
  }

  #eventOf(
    { apiVersion = '', kind = '', metadata }: Subject,
    type: string,
    reason: string,
    message: string,
  ): Told['event'] {
    const { namespace, name, uid, resourceVersion } = metadata;
    const { component, instance } = this.#reporter;
    return {
      involvedObject: { apiVersion, kind, name, uid, resourceVersion, ...(namespace ? { namespace } : {}) },
      type,
      reason,
      message,
      source: { component },
      reportingComponent: component,
      reportingInstance: instance,
    };
  }

  #remember(told: Told): void {
    this.#known.delete(told.key);
    this.#known.set(told.key, told);
    if (this.#known.size <= REMEMBERED) return;
    const [oldest] = this.#known.keys();
    if (oldest !== undefined) this.#known.delete(oldest);
  }

  async #send(): Promise<void> {
    // So that all events of one turn are counted before the first is sent.
    await undefined;
    for (let told = this.#waiting.shift(); told; told = this.#waiting.shift()) {
      told.isWaiting = false;
      if (this.#end.signal.aborted || !(await this.#sent(told))) {
        this.dropped += 1;
        if (!told.isStored) this.#known.delete(told.key);
      }
    }
    this.#sending = undefined;
  }

  /** Whether it could be told. */
  async #sent(told: Told): Promise<boolean> {
    const { signal } = this.#end;
    for (let failures = 0; failures < TRIES && !signal.aborted; failures += 1) {
      try {
        await this.#put(told, signal);
        return true;
      } catch (error) {
        const { status, retryAfter = 0 } = error instanceof KubeError ? error : new KubeError('');
        // Of a namespace that is being deleted, or not allowed: it will not be otherwise.
        if (status >= 400 && status < 500 && status !== 429) return false;
        const delay = Math.min(retryAfter * 1000, DELAY.longest) + backoff(failures, DELAY);
        await sleep(delay, undefined, { signal }).catch(() => undefined);
      }
    }
    return false;
  }

  async #put(told: Told, signal: AbortSignal): Promise<void> {
    const { namespace, name, event, first, last, count } = told;
    const times = { firstTimestamp: time(first), lastTimestamp: time(last), count };
    if (told.isStored) {
      try {
        await this.#kube.patch(EVENTS, { namespace, name }, { count, lastTimestamp: times.lastTimestamp }, { signal });
        return;
      } catch (error) {
        // API servers forget events after an hour.
        if (!(error instanceof KubeError && error.status === 404)) throw error;
        told.isStored = false;
      }
    }
    try {
      await this.#kube.create(EVENTS, { ...event, ...times, metadata: { namespace, name } }, signal);
    } catch (error) {
      // The answer to the last try was lost.
      if (!(error instanceof KubeError && error.reason === 'AlreadyExists')) throw error;
    }
    told.isStored = true;
  }
}

/** Of an event: no other has it. */
function nameOf(object: string): string {
  const own = randomBytes(8).toString('hex');
  return `${object.slice(0, NAME - own.length - 1).replace(/[-.]+$/, '')}.${own}`;
}

/** RFC 3339 in seconds, as Kubernetes' Time is written. */
function time(milliseconds: number): string {
  return new Date(milliseconds).toISOString().replace(/\.\d+Z$/, 'Z');
}

/** Text of at most so many bytes of UTF-8, with an ellipsis where some is left out. */
function cut(text: string, longest: number): string {
  const bytes = Buffer.from(text);
  if (bytes.length <= longest) return text;
  const ellipsis = '…';
  let end = longest - Buffer.byteLength(ellipsis);
  // Not within a character.
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1;
  return bytes.subarray(0, end).toString() + ellipsis;
}

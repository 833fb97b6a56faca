import { setTimeout as sleep } from 'node:timers/promises';
import type { Lease } from 'kubernetes-types/coordination/v1.js';
import type { Stored } from '../api/meta.ts';
import { LEASES } from '../api/resource.ts';
import type { Kube } from './client.ts';
import { KubeError } from './error.ts';

/** A lease that one process at a time holds; the numbers by themselves are those of client-go's leader election. */
export interface LeaseOptions {
  readonly namespace: string;
  readonly name: string;
  /** Of this process and no other: who finds it as the holder takes it for itself. */
  readonly identity: string;
  /** How long others wait when it is not renewed any more, before they take it. */
  readonly durationSeconds?: number;
  /** How long this process counts on it after it was renewed last: less than others wait. */
  readonly renewDeadlineSeconds?: number;
  /** Between two renewals, and two looks at who holds it. */
  readonly retrySeconds?: number;
  /** Told of each failure of a look or a renewal. Must not throw. */
  readonly failed?: (error: unknown) => void;
}

type Settings = Required<Omit<LeaseOptions, 'failed'>> & Pick<LeaseOptions, 'failed'>;

/** Looks of many at once are spread (JitterFactor of client-go: 1.2). */
const SPREAD = 0.2;

/**
 * Waits until the lease is this process's, calls `run`, and gives the lease back when that has ended, which others find at their
 * next look. Done when `run` is, or when `signal` aborts, which aborts the signal of `run` and waits for it. Throws what `run`
 * throws. KubeError where the lease is lost: the signal of `run` is aborted then, which must end at once, and `kube` writes no
 * more until it has.
 *
 * It is a Lease as client-go writes it, so that its holders and these exclude each other. Clocks of machines are never compared:
 * each one measures by its own since when the lease has not changed.
 */
export async function lead(
  kube: Kube,
  options: LeaseOptions,
  run: (signal: AbortSignal) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const settings = { durationSeconds: 15, renewDeadlineSeconds: 10, retrySeconds: 2, ...options };
  const { durationSeconds, renewDeadlineSeconds, retrySeconds } = settings;
  if (!(retrySeconds * (1 + SPREAD) < renewDeadlineSeconds && renewDeadlineSeconds < durationSeconds)) {
    const given = `${retrySeconds}, ${renewDeadlineSeconds} and ${durationSeconds} s`;
    throw new RangeError(`a lease is retried before its renewal is due, and that is before it ends: not with ${given}`);
  }
  if (kube.guard) throw new TypeError('this client holds a lease already: one is enough for everything that it writes');
  const held = await acquired(kube, settings, signal);
  if (held) await lent(kube, settings, held, run, signal);
}

/** A lease that is ours until `until`, on the clock of performance.now(): it stands still in no pause of the process. */
interface Held {
  lease: Stored<Lease>;
  until: number;
}

async function acquired(kube: Kube, settings: Settings, signal: AbortSignal): Promise<Held | undefined> {
  const { retrySeconds, failed } = settings;
  const seen: Seen = { what: '', since: 0 };
  while (!signal.aborted) {
    try {
      const held = await tried(kube, settings, seen, signal);
      if (held) return held;
    } catch (error) {
      if (!signal.aborted) failed?.(error);
    }
    const pause = retrySeconds * 1000 * (1 + SPREAD * Math.random());
    await sleep(pause, undefined, { signal }).catch(() => undefined);
  }
  return undefined;
}

/** What stood in the lease, and since when it was not seen to change. */
interface Seen {
  what: string;
  since: number;
}

async function tried(kube: Kube, settings: Settings, seen: Seen, signal: AbortSignal): Promise<Held | undefined> {
  const { namespace, name, identity, durationSeconds, renewDeadlineSeconds } = settings;
  const lease = await kube.get(LEASES, namespace, name, signal);
  const sent = performance.now();
  const until = sent + renewDeadlineSeconds * 1000;
  // A write that was sent is waited for, also when this process is to end: a lease of nobody would be waited for by all.
  const limit = AbortSignal.timeout(Math.ceil(renewDeadlineSeconds * 1000));
  const now = microTime();
  const ours = { holderIdentity: identity, leaseDurationSeconds: durationSeconds, acquireTime: now, renewTime: now };
  if (!lease) {
    const spec = { ...ours, leaseTransitions: 0 };
    return { lease: await kube.create(LEASES, { metadata: { namespace, name }, spec }, limit), until };
  }
  const { holderIdentity = '', leaseDurationSeconds = durationSeconds, leaseTransitions = 0 } = lease.spec;
  const what = JSON.stringify(lease.spec);
  if (what !== seen.what) Object.assign(seen, { what, since: sent });
  const isValid = sent - seen.since < leaseDurationSeconds * 1000;
  if (holderIdentity !== '' && holderIdentity !== identity && isValid) return undefined;
  const spec = { ...ours, leaseTransitions: leaseTransitions + (holderIdentity === identity ? 0 : 1) };
  return { lease: await kube.patch(LEASES, lease.metadata, { spec }, { signal: limit }), until };
}

/** Calls `run` while the lease is held, and gives it back. */
async function lent(
  kube: Kube,
  settings: Settings,
  held: Held,
  run: (signal: AbortSignal) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const { namespace, name, durationSeconds, renewDeadlineSeconds } = settings;
  const stop = new AbortController();
  const forward = (): void => stop.abort(signal.reason);
  signal.addEventListener('abort', forward, { once: true });
  const ended = new AbortController();
  // A process that was stopped for a while goes on where it was, with timers that are late: each write looks at the clock.
  kube.guard = () => {
    if (performance.now() >= held.until) throw new KubeError(`the lease ${namespace}/${name} is not held any more`);
  };
  const running = (signal.aborted ? Promise.resolve() : call(run, stop.signal)).finally(() => ended.abort());
  // Told below; here only its end counts.
  const end = running.catch(() => undefined);
  const lost = await renewed(kube, settings, held, ended.signal);
  signal.removeEventListener('abort', forward);
  if (lost) {
    held.until = Number.NEGATIVE_INFINITY;
    stop.abort(lost);
    // No longer than others wait: by then they act.
    const rest = (durationSeconds - renewDeadlineSeconds) * 1000;
    void end.then(() => {
      kube.guard = undefined;
    });
    await Promise.race([end, sleep(rest, undefined, { ref: false })]);
    throw lost;
  }
  try {
    await running;
  } finally {
    await released(kube, settings, held);
    kube.guard = undefined;
  }
}

async function call(run: (signal: AbortSignal) => Promise<void>, signal: AbortSignal): Promise<void> {
  await run(signal);
}

/** Renews the lease until `ended`; why it could not be, if so. */
async function renewed(kube: Kube, settings: Settings, held: Held, ended: AbortSignal): Promise<KubeError | undefined> {
  const { namespace, name, renewDeadlineSeconds, retrySeconds, failed } = settings;
  for (;;) {
    const pause = Math.min(retrySeconds * 1000, held.until - performance.now());
    if (pause > 0) await sleep(pause, undefined, { signal: ended }).catch(() => undefined);
    if (ended.aborted) return undefined;
    const left = held.until - performance.now();
    if (left <= 0) {
      return new KubeError(`the lease ${namespace}/${name} is lost: not renewed for ${renewDeadlineSeconds} s`);
    }
    try {
      const other = await renew(kube, settings, held, AbortSignal.timeout(Math.ceil(left)));
      if (other !== undefined) {
        return new KubeError(`the lease ${namespace}/${name} is lost: ${other || 'nobody'} holds it`);
      }
    } catch (error) {
      failed?.(error);
    }
  }
}

/** Who holds it, where that is not this process any more. */
async function renew(kube: Kube, settings: Settings, held: Held, limit: AbortSignal): Promise<string | undefined> {
  const { namespace, name, identity, durationSeconds, renewDeadlineSeconds } = settings;
  const sent = performance.now();
  const spec = { renewTime: microTime(), leaseDurationSeconds: durationSeconds };
  try {
    held.lease = await kube.patch(LEASES, held.lease.metadata, { spec }, { signal: limit });
    held.until = sent + renewDeadlineSeconds * 1000;
    return undefined;
  } catch (error) {
    if (!(error instanceof KubeError && (error.status === 409 || error.status === 404))) throw error;
    // Changed by another: or by this process, where an answer was lost.
    const now = await kube.get(LEASES, namespace, name, limit);
    if (now?.spec.holderIdentity !== identity) return now?.spec.holderIdentity ?? '';
    held.lease = now;
    throw error;
  }
}

/** So that others need not wait. */
async function released(kube: Kube, settings: Settings, held: Held): Promise<void> {
  const left = held.until - performance.now();
  if (left <= 0) return;
  const now = microTime();
  // As client-go gives one back: nobody holds it, for a second.
  const spec = { holderIdentity: '', leaseDurationSeconds: 1, acquireTime: now, renewTime: now };
  try {
    await kube.patch(LEASES, held.lease.metadata, { spec }, { signal: AbortSignal.timeout(Math.ceil(left)) });
  } catch (error) {
    settings.failed?.(error);
  }
}

/** RFC 3339 with microseconds, which Kubernetes' MicroTime is read from; the clock has milliseconds. */
function microTime(): string {
  return new Date().toISOString().replace(/Z$/, '000Z');
}

import type { Condition } from '../../api/meta.ts';

export interface Said {
  readonly status: Condition['status'];
  readonly reason?: string;
  readonly message?: string;
}

/** The condition as it is now: the time of transition moves with the status, the heartbeat with anything. */
export function conditionOf(before: Condition | undefined, type: string, said: Said, now: string): Condition {
  const { status, reason = '', message = '' } = said;
  const same = before?.status === status;
  if (same && (before.reason ?? '') === reason && (before.message ?? '') === message) return before;
  return {
    type,
    status,
    reason,
    message,
    lastTransitionTime: same ? (before.lastTransitionTime ?? now) : now,
    lastHeartbeatTime: now,
  };
}

/** Those of before, with what is said of some types in their places; types that are new come last. */
export function conditionsOf(
  before: readonly Condition[] | undefined,
  said: Readonly<Record<string, Said>>,
  now: string,
): Condition[] {
  const kept = (before ?? []).map((one) => {
    const of = said[one.type];
    return of ? conditionOf(one, one.type, of, now) : one;
  });
  const types = new Set(kept.map(({ type }) => type));
  const added = Object.entries(said).filter(([type]) => !types.has(type));
  return [...kept, ...added.map(([type, of]) => conditionOf(undefined, type, of, now))];
}

import type { Condition } from './meta.ts';

/** A condition that holds at `now` (RFC 3339), after what was said of it: each of its times moves with what it tells of. */
export function conditionAfter(
  previous: Condition | undefined,
  next: Omit<Condition, 'lastTransitionTime' | 'lastHeartbeatTime'>,
  now: string,
): Condition {
  const sameStatus = previous?.status === next.status;
  const same = sameStatus && previous.reason === next.reason && previous.message === next.message;
  return {
    ...next,
    lastTransitionTime: (sameStatus ? previous.lastTransitionTime : undefined) ?? now,
    lastHeartbeatTime: (same ? previous.lastHeartbeatTime : undefined) ?? now,
  };
}

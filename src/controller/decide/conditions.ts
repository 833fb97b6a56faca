import { conditionAfter } from '../../api/condition.ts';
import type { Condition } from '../../api/meta.ts';

export interface Said {
  readonly status: Condition['status'];
  readonly reason?: string;
  readonly message?: string;
}

/** Those of before, with what is said of some types in their places; types that are new come last. */
export function conditionsOf(
  before: readonly Condition[] | undefined,
  said: Readonly<Record<string, Said>>,
  now: string,
): Condition[] {
  const kept = (before ?? []).map((one) => {
    const of = said[one.type];
    return of ? conditionAfter(one, told(one.type, of), now) : one;
  });
  const types = new Set(kept.map(({ type }) => type));
  const added = Object.entries(said).filter(([type]) => !types.has(type));
  return [...kept, ...added.map(([type, of]) => conditionAfter(undefined, told(type, of), now))];
}

function told(
  type: string,
  { status, reason = '', message = '' }: Said,
): Pick<Condition, 'type' | 'status' | 'reason' | 'message'> {
  return { type, status, reason, message };
}

import type { Decision } from '../../src/controller/decision.ts';

/** Decisions in a word each, as tables compare them. */
export function words(decisions: readonly Decision[]): string[] {
  return decisions.map((one) => {
    if (one.act === 'create') return `create ${one.resource.kind} ${one.object.metadata?.name}`;
    if (one.act === 'delete') return `delete ${one.subject.resource.kind} ${one.subject.object.metadata.name}`;
    if (one.act === 'tell') return `tell ${one.type} ${one.reason}`;
    if (one.act === 'patch') return `patch ${one.subject.resource.kind}${one.part ? ` ${one.part}` : ''}`;
    return one.act;
  });
}

/** All patches of annotations together. */
export function annotations(decisions: readonly Decision[]): Record<string, string | null> {
  const patches = decisions.flatMap((one) => (one.act === 'patch' ? [one.patch] : []));
  return Object.assign(
    {},
    ...patches.map((one) => (one as { metadata?: { annotations?: object } }).metadata?.annotations),
  );
}

/** What is to be made of a kind. */
export function made<T>(decisions: readonly Decision[], kind: string): T | undefined {
  return decisions.flatMap((one) => (one.act === 'create' && one.resource.kind === kind ? [one.object as T] : []))[0];
}

/** The status that is patched. */
export function status<T>(decisions: readonly Decision[]): T | undefined {
  const [patch] = decisions.flatMap((one) => (one.act === 'patch' && one.part === 'status' ? [one.patch] : []));
  return (patch as { status?: T } | undefined)?.status;
}

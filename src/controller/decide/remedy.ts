/**
 * Sentences of Kubernetes that name what is wrong and stop there, and what can be done about it. They are no interface: one
 * that is worded otherwise goes without.
 */
const REMEDIES: readonly (readonly [said: RegExp, remedy: string])[] = [
  [/\b(secret|configmap) "[^"]+" not found/i, 'create it in namespace NAMESPACE'],
  [/couldn't find key \S+ in (secret|configmap) /i, 'add it'],
  [/\bstorageclass\S* "[^"]+" not found/, 'create it, or name another'],
  [
    /no persistent volumes available for this claim/,
    'create one that suits, or name a storage class that makes volumes',
  ],
  [/didn't find available persistent volumes to bind/, 'create one that suits, on a node where pods may run'],
  [/didn't match Pod's node affinity\/selector/, 'spec.workload of the CDI says on which nodes imports run'],
  [/had untolerated taint/, 'spec.workload of the CDI says which taints imports tolerate'],
  [/Insufficient (cpu|memory)/, 'make room, or ask for less in spec.config.podResourceRequirements of the CDI'],
];

/** What Kubernetes says, and the remedy behind it. */
export function withRemedy(message: string, namespace: string | undefined): string {
  const remedies = REMEDIES.filter(([said]) => said.test(message)).map(([, remedy]) => remedy);
  if (remedies.length === 0) return message;
  return `${message.replace(/[.\s]+$/, '')}: ${remedies.join('; ').replace('NAMESPACE', namespace ?? 'default')}`;
}

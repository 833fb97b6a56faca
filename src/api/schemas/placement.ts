import type {
  Affinity,
  NodeSelector,
  NodeSelectorRequirement,
  NodeSelectorTerm,
  PodAffinity,
  PodAffinityTerm,
  PreferredSchedulingTerm,
  Toleration,
  WeightedPodAffinityTerm,
} from 'kubernetes-types/core/v1.js';
import type { NodePlacement } from '../config.ts';
import { ATOMIC, labelSelector, labels } from './claim.ts';
import { type Fields, int32, int64, list, object, required, type Schema, text } from './schema.ts';

const nodeRequirements = (description: string): Schema<NodeSelectorRequirement[]> =>
  list(
    description,
    object<NodeSelectorRequirement>('What a value of a node must be.', {
      key: required(text('Key of the value.')),
      operator: required(text('In, NotIn, Exists, DoesNotExist, Gt or Lt.')),
      values: list('What the value is compared with: one number for Gt and Lt.', text('A value.')),
    }),
  );

const nodeTerm = object<NodeSelectorTerm>(
  'Requirements that must all hold.',
  {
    matchExpressions: nodeRequirements('Of the labels of the node.'),
    matchFields: nodeRequirements('Of the fields of the node.'),
  },
  ATOMIC,
);

const podTerm = object<PodAffinityTerm>('Pods, and how near they are meant to be.', {
  labelSelector: labelSelector('Labels of the pods.'),
  matchLabelKeys: list('Keys of labels that must be equal to those of the new pod.', text('A key.')),
  mismatchLabelKeys: list('Keys of labels that must not be equal to those of the new pod.', text('A key.')),
  namespaceSelector: labelSelector('Labels of namespaces in which the pods may be.'),
  namespaces: list('Namespaces in which the pods may be.', text('A namespace.')),
  topologyKey: required(text('A label of nodes: nodes that have the same value are one place.')),
});

const WEIGHT = 'How much it counts: 1 to 100.';

const nearPods = (description: string): Schema<PodAffinity> =>
  object<PodAffinity>(description, {
    preferredDuringSchedulingIgnoredDuringExecution: list(
      'What places are better.',
      object<WeightedPodAffinityTerm>('A term, and how much it counts.', {
        podAffinityTerm: required(podTerm),
        weight: required(int32(WEIGHT)),
      }),
    ),
    requiredDuringSchedulingIgnoredDuringExecution: list('What places will do.', podTerm),
  });

const affinity = object<Affinity>('Which nodes are better, or will do at all.', {
  nodeAffinity: object<NonNullable<Affinity['nodeAffinity']>>('By what the nodes are.', {
    preferredDuringSchedulingIgnoredDuringExecution: list(
      'Which nodes are better.',
      object<PreferredSchedulingTerm>('A term, and how much it counts.', {
        preference: required(nodeTerm),
        weight: required(int32(WEIGHT)),
      }),
    ),
    requiredDuringSchedulingIgnoredDuringExecution: object<NodeSelector>(
      'Which nodes will do.',
      { nodeSelectorTerms: required(list('One of them must hold.', nodeTerm)) },
      ATOMIC,
    ),
  }),
  podAffinity: nearPods('Near which pods.'),
  podAntiAffinity: nearPods('Far from which pods.'),
});

export const placement: Fields<NodePlacement> = {
  affinity,
  nodeSelector: labels('Labels that a node must have.'),
  tolerations: list(
    'Taints of nodes that do not matter.',
    object<Toleration>('A taint, or all of a kind.', {
      effect: text('NoSchedule, PreferNoSchedule or NoExecute; all where it is left out.'),
      key: text('Key of the taint; all where it is left out.'),
      operator: text('Exists or Equal. Left out: Equal.'),
      tolerationSeconds: int64('How long a taint of NoExecute does not matter; for ever where it is left out.'),
      value: text('Value of the taint.'),
    }),
  ),
};

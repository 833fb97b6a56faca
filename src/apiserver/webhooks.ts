import type {
  MutatingWebhookConfiguration,
  RuleWithOperations,
  ValidatingWebhookConfiguration,
} from 'kubernetes-types/admissionregistration/v1.js';
import { LABEL } from '../api/label.ts';
import {
  apiVersionOf,
  CDIS,
  CLAIMS,
  DATA_IMPORT_CRONS,
  DATA_VOLUMES,
  IMPORT_SOURCES,
  MUTATING_WEBHOOKS,
  OBJECT_TRANSFERS,
  type Resource,
  UPLOAD_SOURCES,
  VALIDATING_WEBHOOKS,
} from '../api/resource.ts';

export type WebhookConfiguration = ValidatingWebhookConfiguration | MutatingWebhookConfiguration;

/** Of what an API server asks before it stores, and where. Names and paths are CDI's: operators and users know them. */
export interface Webhook {
  /** Of the object that holds it, and nothing else. */
  readonly configuration: string;
  readonly kind: Resource<WebhookConfiguration>;
  readonly name: string;
  readonly path: string;
  readonly resources: readonly Resource<unknown>[];
  readonly operations: readonly ('CREATE' | 'UPDATE' | 'DELETE')[];
  /** Seconds. */
  readonly timeout: number;
  /** Name → what must hold of the object for the API server to ask (CEL). */
  readonly conditions?: Readonly<Record<string, string>>;
  readonly matchLabels?: Readonly<Record<string, string>>;
}

const BOTH = ['CREATE', 'UPDATE'] as const;

export const WEBHOOKS: readonly Webhook[] = [
  {
    configuration: 'cdi-api-datavolume-validate',
    kind: VALIDATING_WEBHOOKS,
    name: 'datavolume-validate.cdi.kubevirt.io',
    path: '/datavolume-validate',
    resources: [DATA_VOLUMES],
    operations: BOTH,
    timeout: 30,
  },
  {
    configuration: 'cdi-api-dataimportcron-validate',
    kind: VALIDATING_WEBHOOKS,
    name: 'dataimportcron-validate.cdi.kubevirt.io',
    path: '/dataimportcron-validate',
    resources: [DATA_IMPORT_CRONS],
    operations: BOTH,
    timeout: 30,
  },
  {
    configuration: 'cdi-api-populator-validate',
    kind: VALIDATING_WEBHOOKS,
    name: 'populator-validate.cdi.kubevirt.io',
    path: '/populator-validate',
    resources: [IMPORT_SOURCES, UPLOAD_SOURCES],
    operations: BOTH,
    timeout: 30,
  },
  {
    configuration: 'objecttransfer-api-validate',
    kind: VALIDATING_WEBHOOKS,
    name: 'objecttransfer-validate.cdi.kubevirt.io',
    path: '/objecttransfer-validate',
    resources: [OBJECT_TRANSFERS],
    operations: BOTH,
    timeout: 30,
  },
  {
    configuration: 'cdi-api-validate',
    kind: VALIDATING_WEBHOOKS,
    name: 'cdi-validate.cdi.kubevirt.io',
    path: '/cdi-validate',
    resources: [CDIS],
    operations: ['DELETE'],
    timeout: 30,
    // Nobody need answer where nothing is refused (isGuarded): an installation that did not come up can be taken down again.
    // CDI ignores failures until there is a certificate; who applies the configuration once more would bring that back.
    conditions: {
      guarded: "oldObject.?spec.?uninstallStrategy.orValue('') == 'BlockUninstallIfWorkloadsExist'",
      installed: "!(oldObject.?status.?phase.orValue('') in ['', 'Error'])",
    },
  },
  {
    configuration: 'cdi-api-pvc-mutate',
    kind: MUTATING_WEBHOOKS,
    name: 'pvc-mutate.cdi.kubevirt.io',
    path: '/pvc-mutate',
    resources: [CLAIMS],
    operations: ['CREATE'],
    timeout: 10,
    matchLabels: { [LABEL.applyStorageProfile]: 'true' },
  },
];

/** Name of the Service that webhooks are asked through. */
export const SERVICE = 'cdi-api';
const SERVICE_PORT = 443;

/**
 * What is told to the API server of a webhook. Whom it trusts is not in it: only who has made the certificate knows, and whoever
 * applies this again must not take it away.
 */
export function configurationOf(webhook: Webhook, namespace: string): WebhookConfiguration {
  const { configuration, kind, name, path, resources, operations, timeout, conditions, matchLabels } = webhook;
  const rules: RuleWithOperations[] = resources.map(({ group, version, plural }) => ({
    apiGroups: [group],
    apiVersions: [version],
    resources: [plural],
    operations: [...operations],
    scope: '*',
  }));
  const written = {
    apiVersion: apiVersionOf(kind),
    kind: kind.kind,
    metadata: { name: configuration, labels: { [LABEL.component]: '' } },
    webhooks: [
      {
        name,
        clientConfig: { service: { namespace, name: SERVICE, path, port: SERVICE_PORT } },
        rules,
        ...(matchLabels ? { objectSelector: { matchLabels } } : {}),
        ...(conditions
          ? { matchConditions: Object.entries(conditions).map(([name, expression]) => ({ name, expression })) }
          : {}),
        failurePolicy: 'Fail',
        // Also of an older version of the same object.
        matchPolicy: 'Equivalent',
        sideEffects: 'None',
        timeoutSeconds: timeout,
        admissionReviewVersions: ['v1'],
      },
    ],
  };
  return written as WebhookConfiguration;
}

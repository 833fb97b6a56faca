import type {
  Cdi,
  CdiSpec,
  CdiStatus,
  CertificateTimes,
  ComponentPatch,
  CustomizeComponents,
  Infrastructure,
  NodePlacement,
} from '../config.ts';
import { conditions } from './condition.ts';
import { configSpec } from './config.ts';
import { placement } from './placement.ts';
import { choice, int32, kindOf, list, map, object, required, type Schema, text } from './schema.ts';

const times = (description: string): Schema<CertificateTimes> =>
  object<CertificateTimes>(description, {
    duration: text('How long a new one is valid: 48h0m0s.'),
    renewBefore: text('How long before its end it is replaced: 24h0m0s.'),
  });

const flags = (program: string): Schema<Record<string, string>> =>
  map(`Of ${program}, in place of its own.`, text('Value of the argument.'));

const customizeComponents = object<CustomizeComponents>('What is to be changed in what an installation makes.', {
  flags: object<NonNullable<CustomizeComponents['flags']>>('Arguments of programs.', {
    api: flags('the API server'),
    controller: flags('the controllers'),
    uploadProxy: flags('the upload proxy'),
  }),
  patches: list(
    'Patches of objects.',
    object<ComponentPatch>('A patch of an object.', {
      patch: required(text('The patch, as JSON.')),
      resourceName: required(text('Name of the object; * is any.', { minLength: 1 })),
      resourceType: required(text('Kind of the object; * is any.', { minLength: 1 })),
      type: required(text('json, merge or strategic.')),
    }),
    { 'x-kubernetes-list-type': 'atomic' },
  ),
});

const spec = object<CdiSpec>('What the installation is to be like.', {
  certConfig: object<NonNullable<CdiSpec['certConfig']>>('How long certificates are valid.', {
    ca: times('Of authorities.'),
    client: times('Of clients.'),
    server: times('Of servers.'),
  }),
  cloneStrategyOverride: choice('How volumes are cloned, whatever StorageProfiles say.', [
    'copy',
    'snapshot',
    'csi-clone',
  ]),
  config: configSpec,
  customizeComponents,
  imagePullPolicy: choice('When images are pulled.', ['Always', 'IfNotPresent', 'Never']),
  infra: object<Infrastructure>('Where what serves the installation may run, and how often.', {
    ...placement,
    apiServerReplicas: int32('Pods of the API server.'),
    deploymentReplicas: int32('Pods of the controllers.'),
    uploadProxyReplicas: int32('Pods of the upload proxy.'),
  }),
  priorityClass: text('Priority class of what serves the installation.'),
  uninstallStrategy: choice('Whether the installation may be deleted while there are DataVolumes.', [
    'RemoveWorkloads',
    'BlockUninstallIfWorkloadsExist',
  ]),
  workload: object<NodePlacement>('Where pods that move data may run.', placement),
});

// How it and targetVersion begin is what `kubectl explain` is known to say.
const status = object<CdiStatus>('CDIStatus defines the status of the installation: how far it is.', {
  conditions: conditions('Available, Progressing, Degraded'),
  observedVersion: text('The version that is installed.'),
  operatorVersion: text('The version of what installs.'),
  phase: text('Deploying, Deployed, Upgrading, Deleting, Deleted or Error.'),
  targetVersion: text('The desired version of the resource.'),
});

export const cdi = kindOf<Cdi>('An installation.', { spec: required(spec), status });

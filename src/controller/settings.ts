import type { LocalObjectReference, ResourceRequirements } from 'kubernetes-types/core/v1.js';
import type { NodePlacement } from '../api/config.ts';
import type { TlsRules } from '../api/tls-rules.ts';

/** What the controller was started with. */
export interface Settings {
  /** Of the installation: its lease and configuration are there. */
  readonly namespace: string;
  readonly identity: string;
  readonly importerImage: string;
  readonly pullPolicy: string;
  /** Values of labels by which installers find what belongs to them. */
  readonly partOf?: string;
  readonly version?: string;
}

/** What the configuration says about pods that carry. */
export interface WorkerSettings {
  readonly placement: NodePlacement;
  readonly resources: ResourceRequirements;
  readonly pullSecrets: readonly LocalObjectReference[];
  readonly proxy: { readonly http: string; readonly https: string; readonly none: string };
  readonly verbosity: number;
  /** How their servers of metrics speak. */
  readonly tls: TlsRules;
}

/** Throws with the names of what is missing. */
export function settingsOf(env: NodeJS.ProcessEnv, namespace: string): Settings {
  const { IMPORTER_IMAGE: importerImage, PULL_POLICY, HOSTNAME, POD_NAME } = env;
  if (!importerImage) throw new Error('IMPORTER_IMAGE is not set: the image of the pods that import');
  return {
    namespace,
    identity: POD_NAME || HOSTNAME || `pid-${process.pid}`,
    importerImage,
    pullPolicy: PULL_POLICY || 'IfNotPresent',
    ...(env.INSTALLER_PART_OF_LABEL ? { partOf: env.INSTALLER_PART_OF_LABEL } : {}),
    ...(env.INSTALLER_VERSION_LABEL ? { version: env.INSTALLER_VERSION_LABEL } : {}),
  };
}

/** Labels that are recommended for everything of an application (Kubernetes, "Recommended Labels"). */
export function recommendedLabels(settings: Settings): Record<string, string> {
  return {
    'app.kubernetes.io/managed-by': 'cdi-controller',
    'app.kubernetes.io/component': 'storage',
    ...(settings.partOf ? { 'app.kubernetes.io/part-of': settings.partOf } : {}),
    ...(settings.version ? { 'app.kubernetes.io/version': settings.version } : {}),
  };
}

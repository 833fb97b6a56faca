import type { ResourceRequirements } from 'kubernetes-types/core/v1.js';
import type { StorageClass } from 'kubernetes-types/storage/v1.js';
import type { Cdi, CdiConfig, CdiConfigSpec, CdiConfigStatus, ImportProxy } from '../api/config.ts';
import { parseOverhead } from '../api/overhead.ts';
import { DEFAULT_OVERHEAD } from './overhead.ts';

/** Its presence on a CDI: the CDIConfig has no spec of its own any more. */
export const CONFIG_AUTHORITY = 'cdi.kubevirt.io/configAuthority';

/** Of pods that carry data, where nobody said anything else (CDI, pkg/common/common.go). */
const RESOURCES = {
  limits: { cpu: '750m', memory: '600M' },
  requests: { cpu: '100m', memory: '60M' },
} as const;

/** What is seen of the cluster. */
export interface Configured {
  readonly cdi?: Cdi | undefined;
  readonly cdiConfig?: CdiConfig | undefined;
  readonly storageClasses: readonly StorageClass[];
  /** Where the upload proxy is reached from outside, by an Ingress or a Route. */
  readonly uploadProxyURL?: string | undefined;
  /** PEM of the authorities of its certificate. */
  readonly uploadProxyCA?: string | undefined;
  /** Of the whole cluster, as OpenShift has one; holds while no proxy is configured. */
  readonly clusterProxy?: ImportProxy | undefined;
}

/** The CDIConfig as it is to be: the spec that its CDI has, if it has one, and what is in effect. */
export function configOf(seen: Configured): { readonly spec: CdiConfigSpec; readonly status: CdiConfigStatus } {
  const { cdi, cdiConfig } = seen;
  const handedOver = cdi?.metadata?.annotations?.[CONFIG_AUTHORITY] !== undefined;
  const spec = cdi?.spec?.config ?? (handedOver ? undefined : cdiConfig?.spec) ?? {};
  const names = seen.storageClasses.map((one) => one.metadata?.name ?? '').sort();
  const scratch = spec.scratchSpaceStorageClass;
  const importProxy = spec.importProxy ?? seen.clusterProxy;
  const url = spec.uploadProxyURLOverride ?? seen.uploadProxyURL;
  const status: CdiConfigStatus = {
    ...(url === undefined ? {} : { uploadProxyURL: url }),
    ...(seen.uploadProxyCA === undefined ? {} : { uploadProxyCA: seen.uploadProxyCA }),
    ...(importProxy === undefined ? {} : { importProxy }),
    // Empty: that of the claim for which the scratch space is.
    scratchSpaceStorageClass: scratch !== undefined && names.includes(scratch) ? scratch : '',
    defaultPodResourceRequirements: resourcesOf(spec.podResourceRequirements),
    filesystemOverhead: overheadsOf(spec, names),
    preallocation: spec.preallocation ?? false,
    imagePullSecrets: spec.imagePullSecrets ?? [],
  };
  return { spec, status };
}

/** Of each of the four its own, or the default. Others than cpu and memory are left out. */
function resourcesOf(asked: ResourceRequirements | undefined): ResourceRequirements {
  const of = (which: 'limits' | 'requests'): { cpu: string; memory: string } => ({
    cpu: asked?.[which]?.cpu ?? RESOURCES[which].cpu,
    memory: asked?.[which]?.memory ?? RESOURCES[which].memory,
  });
  return { limits: of('limits'), requests: of('requests') };
}

function overheadsOf(
  spec: CdiConfigSpec,
  names: readonly string[],
): NonNullable<CdiConfigStatus['filesystemOverhead']> {
  const asked = spec.filesystemOverhead;
  const valid = (text: string | undefined, otherwise: string): string =>
    text !== undefined && parseOverhead(text) !== undefined ? text : otherwise;
  const global = valid(asked?.global, DEFAULT_OVERHEAD);
  const storageClass = Object.fromEntries(names.map((name) => [name, valid(asked?.storageClass?.[name], global)]));
  return { global, storageClass };
}

/** Whether a feature gate is on: `HonorWaitForFirstConsumer`, `DataVolumeClaimAdoption`. */
export function hasGate(config: CdiConfig | undefined, name: string): boolean {
  return config?.spec?.featureGates?.includes(name) ?? false;
}

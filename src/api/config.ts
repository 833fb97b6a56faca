import type { Affinity, LocalObjectReference, ResourceRequirements, Toleration } from 'kubernetes-types/core/v1.js';
import type { ObjectMeta } from 'kubernetes-types/meta/v1.js';
import type { Condition } from './meta.ts';

/** CDI's CDIConfig, of which there is one, named `config`: the configuration as it is in effect. */
export interface CdiConfig {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  readonly spec?: CdiConfigSpec;
  readonly status?: CdiConfigStatus;
}

export interface ImportProxy {
  readonly HTTPProxy?: string;
  readonly HTTPSProxy?: string;
  readonly noProxy?: string;
  /** A ConfigMap in the namespace of the installation. */
  readonly trustedCAProxy?: string;
}

/** Parts of a volume that a file system needs for itself, as decimal fractions: `0.06`. */
export interface FilesystemOverhead {
  readonly global?: string;
  readonly storageClass?: Readonly<Record<string, string>>;
}

export interface TlsSecurityProfile {
  readonly type?: string;
  readonly old?: object;
  readonly intermediate?: object;
  readonly modern?: object;
  readonly custom?: { readonly ciphers?: readonly string[]; readonly minTLSVersion?: string };
}

export interface CdiConfigSpec {
  readonly uploadProxyURLOverride?: string;
  readonly importProxy?: ImportProxy;
  readonly scratchSpaceStorageClass?: string;
  readonly podResourceRequirements?: ResourceRequirements;
  readonly featureGates?: readonly string[];
  readonly webhookPvcRendering?: string;
  readonly filesystemOverhead?: FilesystemOverhead;
  readonly preallocation?: boolean;
  readonly insecureRegistries?: readonly string[];
  readonly dataVolumeTTLSeconds?: number;
  readonly tlsSecurityProfile?: TlsSecurityProfile;
  readonly imagePullSecrets?: readonly LocalObjectReference[];
  readonly logVerbosity?: number;
}

export interface CdiConfigStatus {
  readonly uploadProxyURL?: string;
  readonly uploadProxyCA?: string;
  readonly importProxy?: ImportProxy;
  readonly scratchSpaceStorageClass?: string;
  readonly defaultPodResourceRequirements?: ResourceRequirements;
  readonly filesystemOverhead?: FilesystemOverhead;
  readonly preallocation?: boolean;
  readonly imagePullSecrets?: readonly LocalObjectReference[];
}

/** Where pods may run. */
export interface NodePlacement {
  readonly nodeSelector?: Readonly<Record<string, string>>;
  readonly affinity?: Affinity;
  readonly tolerations?: readonly Toleration[];
}

/** Of what serves the installation itself. */
export interface Infrastructure extends NodePlacement {
  readonly deploymentReplicas?: number;
  readonly apiServerReplicas?: number;
  readonly uploadProxyReplicas?: number;
}

/** CDI's CDI: an installation. */
export interface Cdi {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  readonly spec?: CdiSpec;
  readonly status?: CdiStatus;
}

export interface CdiSpec {
  readonly imagePullPolicy?: string;
  readonly uninstallStrategy?: string;
  readonly infra?: Infrastructure;
  readonly workload?: NodePlacement;
  readonly customizeComponents?: CustomizeComponents;
  readonly cloneStrategyOverride?: string;
  readonly config?: CdiConfigSpec;
  readonly certConfig?: {
    readonly ca?: CertificateTimes;
    readonly server?: CertificateTimes;
    readonly client?: CertificateTimes;
  };
  readonly priorityClass?: string;
}

/** Durations as Go writes them: `48h0m0s`. */
export interface CertificateTimes {
  readonly duration?: string;
  readonly renewBefore?: string;
}

export interface CustomizeComponents {
  readonly patches?: readonly ComponentPatch[];
  /** Arguments of programs, by name. */
  readonly flags?: {
    readonly api?: Readonly<Record<string, string>>;
    readonly controller?: Readonly<Record<string, string>>;
    readonly uploadProxy?: Readonly<Record<string, string>>;
  };
}

export interface ComponentPatch {
  readonly resourceName: string;
  readonly resourceType: string;
  readonly patch: string;
  /** `json`, `merge` or `strategic`. */
  readonly type: string;
}

export interface CdiStatus {
  readonly phase?: string;
  readonly conditions?: readonly Condition[];
  readonly operatorVersion?: string;
  readonly targetVersion?: string;
  readonly observedVersion?: string;
}

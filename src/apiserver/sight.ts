import type { PersistentVolume, PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import type { StorageClass } from 'kubernetes-types/storage/v1.js';
import type { Cdi, CdiConfig } from '../api/config.ts';
import { keyOf, type Stored } from '../api/meta.ts';
import {
  CDI_CONFIGS,
  CDIS,
  CLAIMS,
  DATA_VOLUMES,
  type Resource,
  STORAGE_CLASSES,
  STORAGE_PROFILES,
  VOLUMES,
} from '../api/resource.ts';
import type { StorageProfile } from '../api/storage-profile.ts';
import { Cache } from '../kube/cache.ts';
import type { Kube, Written } from '../kube/client.ts';
import { Reflector, type ReflectorOptions } from '../kube/reflector.ts';
import type { Seen } from '../profile/render.ts';
import { CRON_LABEL, LOOKED_FOR } from './admission/cdi.ts';

/** Name of the one CDIConfig. */
const CONFIG = 'config';

/**
 * What admission sees of the cluster: what is configured is watched; of claims and DataVolumes, which are many, the one that a
 * request is about is asked for.
 */
export class Sight {
  readonly #kube: Kube;
  readonly #storageClasses = new Cache<StorageClass>();
  readonly #profiles = new Cache<StorageProfile>();
  readonly #volumes = new Cache<PersistentVolume>();
  readonly #configs = new Cache<CdiConfig>();
  readonly #installations = new Cache<Cdi>();

  constructor(kube: Kube) {
    this.#kube = kube;
  }

  /** Watches until it is aborted. `failed` is told of each failure; it goes on. */
  async run(signal: AbortSignal, failed: (error: unknown) => void): Promise<void> {
    const watch = <T extends Written>(
      resource: Resource<T>,
      cache: Cache<T>,
      options: ReflectorOptions<T> = {},
    ): Promise<void> => new Reflector(this.#kube, resource, cache, { failed, ...options }).run(signal);
    await Promise.all([
      watch(STORAGE_CLASSES, this.#storageClasses),
      watch(STORAGE_PROFILES, this.#profiles),
      watch(VOLUMES, this.#volumes, { keep: shortened }),
      watch(CDI_CONFIGS, this.#configs),
      watch(CDIS, this.#installations),
    ]);
  }

  /** Whether all that is watched was seen once. */
  get isSynced(): boolean {
    return this.#caches.every((cache) => cache.isSynced);
  }

  /** When it was. */
  async synced(): Promise<void> {
    await Promise.all(this.#caches.map((cache) => cache.synced));
  }

  get #caches(): readonly { readonly isSynced: boolean; readonly synced: Promise<void> }[] {
    return [this.#storageClasses, this.#profiles, this.#volumes, this.#configs, this.#installations];
  }

  /** `changed` is told of each change of the configuration. */
  watchConfig(changed: () => void): void {
    this.#configs.watch(changed);
  }

  get config(): Stored<CdiConfig> | undefined {
    return this.#configs.get(CONFIG);
  }

  /** The installation that is in effect: of several, all but one are in phase Error. */
  get installation(): Stored<Cdi> | undefined {
    return [...this.#installations.list()].find((one) => one.status?.phase !== 'Error');
  }

  /** What claims are rendered from. */
  get storage(): Seen {
    return {
      storageClasses: [...this.#storageClasses.list()],
      profiles: [...this.#profiles.list()],
      volumes: [...this.#volumes.list()],
      config: this.config,
    };
  }

  claim(namespace: string, name: string, signal: AbortSignal): Promise<Stored<PersistentVolumeClaim> | undefined> {
    return this.#kube.get(CLAIMS, namespace, name, signal);
  }

  /** Whether there is a DataVolume, or else a claim, of that name. */
  async has(
    kind: string | undefined,
    { namespace, name }: { readonly namespace: string; readonly name: string },
    signal: AbortSignal,
  ): Promise<boolean> {
    const resource: Resource<Written> = kind === DATA_VOLUMES.kind ? DATA_VOLUMES : CLAIMS;
    return (await this.#kube.get(resource, namespace, name, signal)) !== undefined;
  }

  /** The first DataVolumes that no DataImportCron makes, as `namespace/name`. */
  async workloads(signal: AbortSignal): Promise<readonly string[]> {
    const selection = { labelSelector: `!${CRON_LABEL}` };
    const { items } = await this.#kube.list(DATA_VOLUMES, selection, { limit: LOOKED_FOR }, signal);
    return items.map(keyOf);
  }
}

/** Of volumes, what claims are compared with: a cluster has thousands. */
function shortened({ metadata, spec, status }: Stored<PersistentVolume>): Stored<PersistentVolume> {
  const { name, uid, resourceVersion, labels, deletionTimestamp } = metadata;
  const { accessModes, capacity, claimRef, storageClassName, volumeMode } = spec;
  return {
    metadata: {
      ...{ name, uid, resourceVersion },
      ...(labels ? { labels } : {}),
      ...(deletionTimestamp ? { deletionTimestamp } : {}),
    },
    spec: {
      ...(accessModes ? { accessModes } : {}),
      ...(capacity ? { capacity } : {}),
      ...(claimRef?.name ? { claimRef: { namespace: claimRef.namespace ?? '', name: claimRef.name } } : {}),
      ...(storageClassName === undefined ? {} : { storageClassName }),
      ...(volumeMode ? { volumeMode } : {}),
    },
    ...(status?.phase ? { status: { phase: status.phase } } : {}),
  };
}

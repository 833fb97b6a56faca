import type { Container, Event, PersistentVolume, PersistentVolumeClaim, Pod } from 'kubernetes-types/core/v1.js';
import type { CSIDriver, StorageClass } from 'kubernetes-types/storage/v1.js';
import type { Cdi, CdiConfig } from '../api/config.ts';
import type { DataImportCron } from '../api/data-import-cron.ts';
import type { DataSource } from '../api/datasource.ts';
import type { DataVolume } from '../api/datavolume.ts';
import { controllerOf, type Stored } from '../api/meta.ts';
import type { ObjectTransfer } from '../api/object-transfer.ts';
import type { VolumeImportSource } from '../api/populators.ts';
import {
  CDI_CONFIGS,
  CDIS,
  CLAIMS,
  CSI_DRIVERS,
  DATA_IMPORT_CRONS,
  DATA_SOURCES,
  DATA_VOLUMES,
  EVENTS,
  IMPORT_SOURCES,
  OBJECT_TRANSFERS,
  PODS,
  type Resource,
  SNAPSHOT_CLASSES,
  STORAGE_CLASSES,
  STORAGE_PROFILES,
  VOLUMES,
} from '../api/resource.ts';
import type { SnapshotClass } from '../api/snapshot-class.ts';
import type { StorageProfile } from '../api/storage-profile.ts';
import { Cache } from '../kube/cache.ts';
import type { Kube, Written } from '../kube/client.ts';
import { type Counters, Reflector, type ReflectorOptions } from '../kube/reflector.ts';
import { isImport, isOver } from './decide/import.ts';
import { importSourceOf } from './decide/population.ts';
import { importOf } from './import-pod.ts';

/** A kind, what is known of it, and what of it is watched. */
interface Watched<T extends Written> {
  readonly resource: Resource<T>;
  readonly cache: Cache<T>;
  readonly options?: ReflectorOptions<T>;
}

/** The value of the index `importing`. */
export const IMPORTING = '';

/** All that is seen of the cluster: one cache a kind, kept in step by a watch. */
export class World {
  readonly dataVolumes = new Cache<DataVolume>();
  readonly claims = new Cache<PersistentVolumeClaim>({
    /** Claims that are to be filled from a VolumeImportSource, by `namespace/name` of that. */
    source: (claim) => {
      const name = importSourceOf(claim);
      return name === undefined ? [] : [`${claim.metadata.namespace}/${name}`];
    },
    /** All that are to be filled by an import and are not yet, by one value: of most it is long over. */
    importing: (claim) => (isImport(claim) && !isOver(claim) ? [IMPORTING] : []),
  });
  readonly pods = new Cache<Pod>({
    /** By `namespace/name` of each claim that they have. */
    claim: (pod) => claimsOf(pod).map((name) => `${pod.metadata.namespace}/${name}`),
  });
  readonly volumes = new Cache<PersistentVolume>({
    /** By `namespace/name` of the claim that they are for. */
    claim: ({ spec: { claimRef } }) => (claimRef ? [`${claimRef.namespace}/${claimRef.name}`] : []),
  });
  readonly storageClasses = new Cache<StorageClass>();
  readonly csiDrivers = new Cache<CSIDriver>();
  readonly snapshotClasses = new Cache<SnapshotClass>();
  readonly importSources = new Cache<VolumeImportSource>();
  readonly dataImportCrons = new Cache<DataImportCron>();
  readonly dataSources = new Cache<DataSource>();
  readonly transfers = new Cache<ObjectTransfer>();
  readonly profiles = new Cache<StorageProfile>();
  readonly configs = new Cache<CdiConfig>();
  readonly installations = new Cache<Cdi>();
  /** All about claims, and warnings about our pods; only the newest about each object is of interest. */
  readonly claimEvents = new Cache<Event>({ about: aboutOf });
  readonly podEvents = new Cache<Event>({ about: aboutOf });

  /** What was done to see it. */
  readonly watches: { readonly kind: string; readonly counters: Counters }[] = [];

  readonly #kube: Kube;
  readonly #watched: readonly Watched<Written>[];
  readonly #failed: (kind: string, error: unknown) => void;

  /** `failed` is told of each watch that did not go on, which is begun anew. */
  constructor(kube: Kube, failed: (kind: string, error: unknown) => void) {
    this.#kube = kube;
    this.#failed = failed;
    const one = <T extends Written>(resource: Resource<T>, cache: Cache<T>, options?: ReflectorOptions<T>) =>
      ({ resource, cache, ...(options ? { options } : {}) }) as unknown as Watched<Written>;
    this.#watched = [
      one(DATA_VOLUMES, this.dataVolumes),
      one(CLAIMS, this.claims),
      one(PODS, this.pods, { keep: withClaims }),
      one(VOLUMES, this.volumes),
      one(STORAGE_CLASSES, this.storageClasses),
      one(CSI_DRIVERS, this.csiDrivers),
      one(IMPORT_SOURCES, this.importSources),
      one(DATA_IMPORT_CRONS, this.dataImportCrons),
      one(DATA_SOURCES, this.dataSources),
      one(OBJECT_TRANSFERS, this.transfers),
      one(STORAGE_PROFILES, this.profiles),
      one(CDI_CONFIGS, this.configs),
      one(CDIS, this.installations),
      one(EVENTS, this.claimEvents, { fieldSelector: 'involvedObject.kind=PersistentVolumeClaim', keep: others }),
      one(EVENTS, this.podEvents, { fieldSelector: 'involvedObject.kind=Pod,type=Warning', keep: this.#ours }),
      // A cluster may not have this kind at all: it is not waited for.
      one(SNAPSHOT_CLASSES, this.snapshotClasses),
    ];
  }

  /** Watches until it is aborted. */
  async run(signal: AbortSignal): Promise<void> {
    const reflectors = this.#watched.map(({ resource, cache, options }) => {
      const failed = (error: unknown): void => this.#failed(resource.plural, error);
      const reflector = new Reflector(this.#kube, resource, cache, { failed, ...options });
      this.watches.push({ kind: resource.plural, counters: reflector.counters });
      return reflector;
    });
    await Promise.all(reflectors.map((one) => one.run(signal)));
  }

  /** When everything was seen once that decisions rest on. */
  async synced(): Promise<void> {
    const needed = this.#watched.filter(({ resource }) => resource.plural !== SNAPSHOT_CLASSES.plural);
    await Promise.all(needed.map(({ cache }) => cache.synced));
  }

  /** What the API server answered to a write, which the watch will tell later. */
  learn(resource: Resource<Written>, object: Stored<Written>): void {
    if (resource.plural === EVENTS.plural) return;
    this.#watched.find((one) => one.resource.plural === resource.plural)?.cache.learn(object);
  }

  /** The newest event about an object. */
  eventAbout(cache: Cache<Event>, uid: string): Stored<Event> | undefined {
    const time = (event: Stored<Event>): string => event.lastTimestamp ?? event.eventTime ?? '';
    return cache
      .by('about', uid)
      .reduce<Stored<Event> | undefined>((best, one) => (best && time(best) > time(one) ? best : one), undefined);
  }

  /** Of warnings about pods, those about pods that have claims. */
  readonly #ours = (event: Stored<Event>): Stored<Event> | undefined =>
    this.pods.get(`${event.involvedObject.namespace}/${event.involvedObject.name}`) ? shortened(event) : undefined;
}

function aboutOf({ involvedObject: { uid = '' } }: Stored<Event>): string[] {
  return [uid];
}

function claimsOf(pod: Stored<Pod>): string[] {
  return (pod.spec.volumes ?? []).flatMap(({ persistentVolumeClaim }) => persistentVolumeClaim?.claimName ?? []);
}

/** Pods with claims, and of them what is looked at: a large cluster has many, and large ones. */
function withClaims(pod: Stored<Pod>): Stored<Pod> | undefined {
  if (claimsOf(pod).length === 0) return undefined;
  const { name, namespace, uid, resourceVersion, ownerReferences, annotations, labels } = pod.metadata;
  const { creationTimestamp, deletionTimestamp } = pod.metadata;
  const { phase, reason, message, podIP, conditions, containerStatuses, initContainerStatuses } = pod.status ?? {};
  const ours = importOf(pod) !== undefined;
  const images = (containers: readonly Container[]): Container[] =>
    containers.map(({ name, image = '' }) => ({ name, image }));
  return {
    metadata: {
      ...{ name, uid, resourceVersion },
      ...(namespace ? { namespace } : {}),
      ...(ownerReferences ? { ownerReferences } : {}),
      ...(deletionTimestamp ? { deletionTimestamp } : {}),
      ...(ours && creationTimestamp ? { creationTimestamp } : {}),
      ...(ours && labels ? { labels } : {}),
      ...(annotations ? { annotations: ours ? annotations : provisioning(annotations) } : {}),
    },
    spec: {
      ...(ours && pod.spec.initContainers ? { initContainers: images(pod.spec.initContainers) } : {}),
      containers: ours ? images(pod.spec.containers) : [],
      volumes: (pod.spec.volumes ?? []).filter(({ persistentVolumeClaim }) => persistentVolumeClaim),
      ...(pod.spec.nodeName ? { nodeName: pod.spec.nodeName } : {}),
    },
    status: {
      ...(phase ? { phase } : {}),
      ...(ours && reason ? { reason } : {}),
      ...(ours && message ? { message } : {}),
      ...(ours && podIP ? { podIP } : {}),
      ...(ours && conditions ? { conditions } : {}),
      ...(ours && containerStatuses ? { containerStatuses } : {}),
      ...(ours && initContainerStatuses ? { initContainerStatuses } : {}),
    },
  };
}

/** Who events are told by. */
export const COMPONENT = 'cdi-controller';

/** On the pod by which KubeVirt makes the storage choose a node before the machine starts (kubevirt, api: EphemeralProvisioningObject). */
const PROVISIONING = 'kubevirt.io/ephemeral-provisioning';

function provisioning(annotations: Readonly<Record<string, string>>): Record<string, string> {
  return PROVISIONING in annotations ? { [PROVISIONING]: annotations[PROVISIONING] as string } : {};
}

/** Whether a pod keeps others from writing the claim: one that has ended does not, nor one that only makes it be bound. */
export function isUsing(pod: Stored<Pod>): boolean {
  const over = pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed';
  return !over && pod.metadata.annotations?.[PROVISIONING] === undefined;
}

/** Events that we told are no news. */
function others(event: Stored<Event>): Stored<Event> | undefined {
  return event.source?.component === COMPONENT ? undefined : shortened(event);
}

function shortened(event: Stored<Event>): Stored<Event> {
  const { name, namespace, uid, resourceVersion } = event.metadata;
  const { involvedObject, reason, message, type, firstTimestamp, lastTimestamp, eventTime } = event;
  return {
    metadata: { ...{ name, uid, resourceVersion }, ...(namespace ? { namespace } : {}) },
    involvedObject,
    ...(reason ? { reason } : {}),
    ...(message ? { message } : {}),
    ...(type ? { type } : {}),
    ...(firstTimestamp ? { firstTimestamp } : {}),
    ...(lastTimestamp ? { lastTimestamp } : {}),
    ...(eventTime ? { eventTime } : {}),
  };
}

/** The claim that another one is filled in the place of; undefined where it is no such claim. */
export function targetOf(claim: Stored<PersistentVolumeClaim>): string | undefined {
  const owner = controllerOf(claim);
  return owner?.kind === 'PersistentVolumeClaim' ? `${claim.metadata.namespace}/${owner.name}` : undefined;
}

import type { Event, PersistentVolumeClaim, Pod } from 'kubernetes-types/core/v1.js';
import type { StorageClass } from 'kubernetes-types/storage/v1.js';
import { ANNOTATION } from '../api/claim.ts';
import type { Cdi, CdiConfig } from '../api/config.ts';
import type { DataVolume } from '../api/datavolume.ts';
import { controllerOf, keyOf, type Stored } from '../api/meta.ts';
import { resourceName } from '../api/names.ts';
import type { TlsRules } from '../api/tls-rules.ts';
import { classFor, classOf, hasCsiDriver, waitsForConsumer } from '../profile/classes.ts';
import { configOf, hasGate } from '../profile/config.ts';
import { overheadOf } from '../profile/overhead.ts';
import { type Rendered, renderClaim } from '../profile/render.ts';
import { tlsRules } from '../profile/tls-profile.ts';
import { ofDataVolume } from '../profile/wanted.ts';
import { correlationOf } from './correlation.ts';
import { CONFIG, type ConfigSeen } from './decide/config.ts';
import { type ImportSeen, isBeingScheduled, isBound, isImport, wantsPod } from './decide/import.ts';
import type { InstallationSeen } from './decide/installation.ts';
import { importSourceName, importSourceOf, type PopulationSeen, primeName } from './decide/population.ts';
import type { ProfileSeen } from './decide/profile.ts';
import type { DataVolumeSeen } from './decide/seen.ts';
import { type Import, nodeOf, type Turn, turnsOf } from './decide/turn.ts';
import type { Refusal } from './decision.ts';
import { importPodName } from './import-pod.ts';
import { scratchName } from './scratch-claim.ts';
import type { Settings, WorkerSettings } from './settings.ts';
import { IMPORTING, isUsing, targetOf, type World } from './world.ts';

/** Imports at a time: on one node, whose disks and network they share, and from one host (docs/datavolumes.md). */
const LIMITS = { perNode: 10, perHost: 20 };

/** Milliseconds after which a step that did not go on is told: most are over by then. */
export const LASTING = 5000;

/** What deciders are shown, put together from what is seen of the cluster. */
export class Views {
  readonly #world: World;
  readonly #settings: Settings;
  /** Percents by UID of the pod. */
  readonly #progress: (pod: string) => number | undefined;
  /** Claims for which a pod is being made at this moment. */
  readonly #starting = new Set<string>();
  /** Until something changes that they rest on: many ask for them, and each would look at all imports. */
  #turns: ReadonlyMap<string, Turn> | undefined;

  constructor(world: World, settings: Settings, progress: (pod: string) => number | undefined) {
    this.#world = world;
    this.#settings = settings;
    this.#progress = progress;
    const forget = (): void => {
      this.#turns = undefined;
    };
    const { claims, pods, volumes, configs, installations, storageClasses } = world;
    for (const cache of [claims, pods, volumes, configs, installations, storageClasses]) cache.watch(forget);
  }

  /** A pod is being made for a claim, by its key, until it `isStarted` or failed. */
  starts(claim: string): void {
    this.#starting.add(claim);
    this.#turns = undefined;
  }

  isStarted(claim: string): void {
    this.#starting.delete(claim);
    this.#turns = undefined;
  }

  /** As it is in effect, whether or not it is written already. */
  get config(): CdiConfig {
    return configOf(this.configuration());
  }

  get #classes(): readonly Stored<StorageClass>[] {
    return [...this.#world.storageClasses.list()];
  }

  get #honors(): boolean {
    return hasGate(this.config, 'HonorWaitForFirstConsumer');
  }

  dataVolume(dv: Stored<DataVolume>, now: string, refused?: Refusal): DataVolumeSeen {
    const world = this.#world;
    const key = keyOf(dv);
    const { namespace, uid } = dv.metadata;
    const claim = world.claims.get(key);
    const prime = claim && world.claims.get(`${namespace}/${primeName(claim)}`);
    const source = world.importSources.get(`${namespace}/${importSourceName(uid)}`);
    const rendered = claim ? { spec: claim.spec } : this.#rendered(dv);
    const named = claim ? claim.spec.storageClassName : 'spec' in rendered ? rendered.spec.storageClassName : undefined;
    const storageClass = claim ? classOf(named, this.#classes) : classFor(named, this.#classes, dv.spec.contentType);
    const event = claim && this.#eventAbout(claim, now);
    const progress = this.#percent(claim);
    return {
      dv,
      ...(claim ? { claim } : {}),
      ...(prime ? { prime } : {}),
      ...(source ? { source } : {}),
      rendered,
      ...(storageClass ? { storageClass: storageClass as Stored<StorageClass> } : {}),
      csi: hasCsiDriver(storageClass, [...world.csiDrivers.list()]),
      gates: { honorsConsumers: this.#honors, adoptsClaims: hasGate(this.config, 'DataVolumeClaimAdoption') },
      reserved: world.volumes.by('claim', key).filter((one) => one.status?.phase === 'Available'),
      ...(progress === undefined ? {} : { progress }),
      ...(event ? { event } : {}),
      ...(refused ? { refused } : {}),
      now,
    };
  }

  #rendered(dv: Stored<DataVolume>): Rendered {
    const { profiles, volumes } = this.#world;
    return renderClaim(ofDataVolume(dv, this.config), {
      storageClasses: this.#classes,
      profiles: [...profiles.list()],
      volumes: [...volumes.list()],
      config: this.config,
    });
  }

  /** Of the name that a claim's import pod has. */
  importPod(claim: Stored<PersistentVolumeClaim>): Stored<Pod> | undefined {
    return this.#world.pods.get(`${claim.metadata.namespace}/${importPodName(claim)}`);
  }

  /** Of the DataVolume or claim of a key, where it is of one. */
  correlation(key: string): string | undefined {
    const { dataVolumes, claims } = this.#world;
    const claim = claims.get(key);
    if (claim) return correlationOf(claims.get(targetOf(claim) ?? '') ?? claim);
    return dataVolumes.get(key)?.metadata.uid;
  }

  /** Undefined for a claim that is not to be filled by an import. */
  import(
    claim: Stored<PersistentVolumeClaim>,
    now: string,
    proxyCertificates?: Readonly<Record<string, string>>,
    refused?: Refusal,
  ): ImportSeen | undefined {
    if (!isImport(claim)) return undefined;
    const world = this.#world;
    const { namespace } = claim.metadata;
    const key = keyOf(claim);
    const pod = this.importPod(claim);
    const target = world.claims.get(targetOf(claim) ?? '') ?? claim;
    const event = pod && world.eventAbout(world.podEvents, pod.metadata.uid);
    const turn = pod ? undefined : this.turns.get(key);
    const scratch = world.claims.get(`${namespace}/${scratchName(claim)}`);
    const scratchClass = this.config.status?.scratchSpaceStorageClass || undefined;
    const block = claim.spec.volumeMode === 'Block';
    return {
      claim,
      target,
      ...(pod ? { pod } : {}),
      users: world.pods.by('claim', key).filter((one) => one.metadata.uid !== pod?.metadata.uid && isUsing(one)),
      ...(event ? { event } : {}),
      mayConsumeFirst: this.#mayConsumeFirst(claim),
      ...(turn ? { turn } : {}),
      ...(scratch ? { scratch } : {}),
      scratchSettings: {
        ...(scratchClass ? { storageClass: scratchClass } : {}),
        overhead: overheadOf(scratchClass ?? claim.spec.storageClassName, this.#classes, this.config),
      },
      ...(proxyCertificates ? { proxyCertificates } : {}),
      ...(refused ? { refused } : {}),
      pods: {
        owner: controllerOf(claim)?.uid ?? claim.metadata.uid,
        overhead: block ? '0' : String(overheadOf(claim.spec.storageClassName, this.#classes, this.config)),
        insecure: this.#insecure(claim),
        ...(this.proxyAuthorities ? { proxyCertificates: resourceName('import-proxy-cm', claim.metadata.name) } : {}),
      },
      settings: this.#settings,
      workers: this.workers,
      now,
    };
  }

  /** Undefined for a claim that is not to be filled from a VolumeImportSource. */
  population(target: Stored<PersistentVolumeClaim>, now: string, refused?: Refusal): PopulationSeen | undefined {
    const name = importSourceOf(target);
    if (name === undefined) return undefined;
    const world = this.#world;
    const { namespace } = target.metadata;
    const source = world.importSources.get(`${namespace}/${name}`);
    const prime = world.claims.get(`${namespace}/${primeName(target)}`);
    const volume = prime?.spec.volumeName ? world.volumes.get(prime.spec.volumeName) : undefined;
    const event = prime && this.#eventAbout(prime, now);
    const storageClass = world.storageClasses.get(target.spec.storageClassName ?? '');
    const progress = this.#percent(prime);
    return {
      target,
      ...(source ? { source } : {}),
      ...(storageClass ? { storageClass } : {}),
      ...(prime ? { prime } : {}),
      ...(volume ? { volume } : {}),
      ...(event ? { event } : {}),
      ...(progress === undefined ? {} : { progress }),
      ...(refused ? { refused } : {}),
    };
  }

  /** The ConfigMap of the installation with the certificates of the proxy, where there is one. */
  get proxyAuthorities(): string | undefined {
    return this.config.status?.importProxy?.trustedCAProxy || undefined;
  }

  configuration(): ConfigSeen {
    const cdi = this.#first();
    const cdiConfig = this.#world.configs.get(CONFIG);
    return { ...(cdi ? { cdi } : {}), ...(cdiConfig ? { cdiConfig } : {}), storageClasses: this.#classes };
  }

  installation(name: string, now: string): InstallationSeen {
    const [cdi, first] = [this.#world.installations.get(name), this.#first()];
    const { version = 'unknown' } = this.#settings;
    return { ...(cdi ? { cdi } : {}), ...(first ? { first } : {}), version, now };
  }

  profile(name: string, now: string): ProfileSeen {
    const { storageClasses, profiles, snapshotClasses, volumes } = this.#world;
    const [storageClass, profile] = [storageClasses.get(name), profiles.get(name)];
    return {
      name,
      ...(storageClass ? { storageClass } : {}),
      ...(profile ? { profile } : {}),
      snapshotClasses: snapshotClasses.isSynced ? [...snapshotClasses.list()] : undefined,
      volumes: [...volumes.list()],
      now,
    };
  }

  /** The CDI that was made first. */
  #first(): Stored<Cdi> | undefined {
    const age = ({ metadata: { creationTimestamp = '', uid } }: Stored<Cdi>): string => `${creationTimestamp} ${uid}`;
    return [...this.#world.installations.list()].sort((a, b) => (age(a) < age(b) ? -1 : 1))[0];
  }

  /** The last that keeps a claim from being bound: a warning, or what has been going on for a while. */
  #eventAbout(claim: Stored<PersistentVolumeClaim>, now: string): Stored<Event> | undefined {
    const event = this.#world.eventAbout(this.#world.claimEvents, claim.metadata.uid);
    // It is told again and again while it goes on: since when, says the first time.
    const since = Date.parse(event?.firstTimestamp ?? event?.eventTime ?? now);
    return event?.type === 'Warning' || Date.parse(now) - since >= LASTING ? event : undefined;
  }

  get workers(): WorkerSettings {
    const { status = {}, spec = {} } = this.config;
    const installation = this.#first();
    const { HTTPProxy = '', HTTPSProxy = '', noProxy = '' } = status.importProxy ?? {};
    return {
      placement: installation?.spec?.workload ?? {},
      resources: status.defaultPodResourceRequirements ?? {},
      pullSecrets: status.imagePullSecrets ?? [],
      proxy: { http: HTTPProxy, https: HTTPSProxy, none: noProxy },
      verbosity: spec.logVerbosity ?? 1,
      tls: this.tls,
    };
  }

  /** How servers of the installation speak. */
  get tls(): TlsRules {
    return tlsRules(this.config.spec?.tlsSecurityProfile);
  }

  /** A claim that is bound needs no consumer; one whose class waits for one gets it where nobody else is to be waited for. */
  #mayConsumeFirst(claim: Stored<PersistentVolumeClaim>): boolean {
    const immediate = claim.metadata.annotations?.[ANNOTATION.immediate] !== undefined || !this.#honors;
    return immediate && waitsForConsumer(classOf(claim.spec.storageClassName, this.#classes));
  }

  #insecure(claim: Stored<PersistentVolumeClaim>): boolean {
    const host = hostOf(claim);
    return this.config.spec?.insecureRegistries?.some((one) => one === host) ?? false;
  }

  #percent(claim: Stored<PersistentVolumeClaim> | undefined): string | undefined {
    const pod = claim && this.importPod(claim);
    const percent = pod && this.#progress(pod.metadata.uid);
    return percent === undefined ? undefined : `${percent.toFixed(2)}%`;
  }

  /** What those wait for that may not have a pod yet, by the key of their claim. */
  get turns(): ReadonlyMap<string, Turn> {
    this.#turns ??= turnsOf(
      this.#world.claims.by('importing', IMPORTING).flatMap((claim) => this.#importOf(claim) ?? []),
      LIMITS,
    );
    return this.#turns;
  }

  #importOf(claim: Stored<PersistentVolumeClaim>): Import | undefined {
    const key = keyOf(claim);
    const pod = this.importPod(claim);
    const running = pod !== undefined || this.#starting.has(key);
    if (!running && !wantsPod(claim, isBound(claim) || this.#mayConsumeFirst(claim))) return undefined;
    return {
      key,
      namespace: claim.metadata.namespace ?? '',
      since: claim.metadata.creationTimestamp ?? '',
      host: hostOf(claim),
      node: nodeOf(this.#world.volumes.get(claim.spec.volumeName ?? '')) ?? chosenFor(claim, pod),
      running,
      homeless: pod !== undefined && pod.spec.nodeName === undefined && !isBeingScheduled(pod),
    };
  }
}

/** Where it comes from, with the port; empty where that is no host. */
function hostOf(claim: Stored<PersistentVolumeClaim>): string {
  const endpoint = claim.metadata.annotations?.[ANNOTATION.endpoint] ?? '';
  // Of a scheme that URL does not know, it takes no host.
  return URL.parse(endpoint.replace(/^[a-z0-9+-]+:\/\//i, 'http://'))?.host ?? '';
}

/** By the scheduler; empty before. */
function chosenFor(claim: Stored<PersistentVolumeClaim>, pod: Stored<Pod> | undefined): string {
  return pod?.spec.nodeName ?? claim.metadata.annotations?.[ANNOTATION.selectedNode] ?? '';
}

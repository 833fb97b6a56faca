import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { keyOf, type Stored } from '../api/meta.ts';
import { CONFIG_MAPS } from '../api/resource.ts';
import { type Kube, KubeError } from '../kube/client.ts';
import type { Log } from '../kube/log.ts';
import { Queue } from '../kube/queue.ts';
import type { Actor } from './act.ts';
import { decideConfig } from './decide/config.ts';
import { decideDataVolume } from './decide/datavolume.ts';
import { decideImport, isBeingScheduled, isImport, isOver } from './decide/import.ts';
import { decideInstallation } from './decide/installation.ts';
import { decidePopulation, importSourceOf } from './decide/population.ts';
import { decideProfile } from './decide/profile.ts';
import { waitsFor } from './decide/turn.ts';
import { decideCron, decideDataSource, decideTransfer, decideUnfilled, unfilledBy } from './decide/unserved.ts';
import type { Decision, Refusal } from './decision.ts';
import { LASTING, type Views } from './views.ts';
import { targetOf, type World } from './world.ts';

/** Keys that are handled at a time: most of it is waiting for the API server. */
const WORKERS = 8;
/** Milliseconds from one that ended to those that wait for their turn: several that end together are one. */
const SOON = 200;

type Kind =
  | 'dv'
  | 'import'
  | 'population'
  | 'unfilled'
  | 'cron'
  | 'datasource'
  | 'transfer'
  | 'profile'
  | 'config'
  | 'cdi'
  | 'turns';

/** Decides anew for whatever a change touches, and carries it out: one queue for all kinds, one worker a key. */
export class Controller {
  readonly #world: World;
  readonly #views: Views;
  readonly #actor: Actor;
  readonly #log: Log;
  readonly queue = new Queue();
  /** What was refused last, by key: the state says it, and it is tried again. */
  readonly #refused = new Map<string, Refusal>();
  /** Claims that wait for their turn, and what is said of that. */
  readonly #waiting = new Map<string, string>();
  /** UIDs of pods that have been given the certificates of the proxy. */
  readonly #copied = new Set<string>();
  readonly #kube: Kube;
  /** Of the installation. */
  readonly #namespace: string;

  constructor(kube: Kube, namespace: string, world: World, views: Views, actor: Actor, log: Log) {
    this.#kube = kube;
    this.#namespace = namespace;
    this.#world = world;
    this.#views = views;
    this.#actor = actor;
    this.#log = log;
    this.#listen();
  }

  /** Until it is aborted. */
  async run(signal: AbortSignal): Promise<void> {
    this.#all();
    await this.queue.run(WORKERS, (key) => this.#handle(key), signal);
  }

  /** Progress of a pod has been read. */
  moved(claim: string): void {
    this.#add('dv', claim);
    const found = this.#world.claims.get(claim);
    // It may be gone by now.
    const target = found && targetOf(found);
    if (target) this.#add('population', target);
  }

  #add(kind: Kind, key: string): void {
    this.queue.add(`${kind} ${key}`);
  }

  #listen(): void {
    const { dataVolumes, claims, pods, volumes, importSources, storageClasses, profiles, configs, installations } =
      this.#world;
    dataVolumes.watch(({ before, after }) => this.#add('dv', keyOf((after ?? before) as never)));
    claims.watch(({ before, after }) => {
      this.#touched((after ?? before) as Stored<PersistentVolumeClaim>);
      // It may have been one that was let begin, and could not.
      if (!after) this.#turn();
    });
    pods.watch(({ before, after }) => {
      const pod = after ?? before;
      for (const { persistentVolumeClaim: claim } of pod?.spec.volumes ?? [])
        if (claim) this.#add('import', `${pod?.metadata.namespace}/${claim.claimName}`);
      if (!after) this.#copied.delete(pod?.metadata.uid ?? '');
      // It has ended, or the scheduler has decided.
      if (!after || (before && isBeingScheduled(before) && !isBeingScheduled(after))) this.#turn();
    });
    volumes.watch(({ before, after }) => {
      for (const { spec } of [before, after].filter((one) => one !== undefined)) {
        if (!spec.claimRef) continue;
        const claim = `${spec.claimRef.namespace}/${spec.claimRef.name}`;
        const found = claims.get(claim);
        if (found) this.#touched(found);
        else this.#add('dv', claim);
      }
      // One that is there now may be what a DataVolume without a claim waits for.
      if (!before || !after) this.#claimless();
    });
    importSources.watch(({ before, after }) => {
      const key = keyOf((after ?? before) as never);
      for (const claim of claims.by('source', key)) this.#touched(claim);
    });
    this.#world.dataImportCrons.watch(({ before, after }) => this.#add('cron', keyOf((after ?? before) as never)));
    this.#world.dataSources.watch(({ before, after }) => this.#add('datasource', keyOf((after ?? before) as never)));
    this.#world.transfers.watch(({ before, after }) => this.#add('transfer', keyOf((after ?? before) as never)));
    this.#world.podEvents.watch(({ after }) => {
      const { namespace, name } = after?.involvedObject ?? {};
      for (const { persistentVolumeClaim: claim } of pods.get(`${namespace}/${name}`)?.spec.volumes ?? [])
        if (claim) this.#add('import', `${namespace}/${claim.claimName}`);
    });
    this.#world.claimEvents.watch(({ after }) => {
      const { namespace, name } = after?.involvedObject ?? {};
      const claim = claims.get(`${namespace}/${name}`);
      if (claim) this.#waits(claim, after?.type === 'Warning' ? 0 : LASTING + 1000);
    });
    storageClasses.watch(({ before, after }) => {
      this.#add('profile', keyOf((after ?? before) as never));
      this.#add('config', '');
      this.#later('dv', 'population');
    });
    profiles.watch(({ before, after }) => {
      this.#add('profile', keyOf((after ?? before) as never));
      this.#later('dv');
    });
    this.#world.snapshotClasses.watch(() => {
      for (const one of storageClasses.list()) this.#add('profile', keyOf(one));
    });
    configs.watch(() => {
      this.#add('config', '');
      this.#later('dv', 'import');
    });
    installations.watch(({ before, after }) => {
      this.#add('config', '');
      this.#add('cdi', keyOf((after ?? before) as never));
    });
  }

  /** Whatever rests on a claim. */
  #touched(claim: Stored<PersistentVolumeClaim>): void {
    const key = keyOf(claim);
    if (this.#world.dataVolumes.get(key)) this.#add('dv', key);
    if (isImport(claim)) this.#add('import', key);
    if (importSourceOf(claim) !== undefined) this.#add('population', key);
    if (unfilledBy(claim) !== undefined) this.#add('unfilled', key);
    const target = targetOf(claim);
    if (target) this.#add('population', target);
    if (target) this.#add('dv', target);
    if (isOver(claim)) this.#turn();
  }

  /** Something about a claim is to be told, if it lasts so many milliseconds. */
  #waits(claim: Stored<PersistentVolumeClaim>, milliseconds: number): void {
    const target = targetOf(claim);
    const keys = target ? [`population ${target}`, `dv ${target}`] : [`dv ${keyOf(claim)}`];
    for (const key of keys) this.queue.addAfter(key, milliseconds);
  }

  /** DataVolumes that have no claim yet. */
  #claimless(): void {
    for (const dv of this.#world.dataVolumes.list()) if (!dv.status?.claimName) this.#add('dv', keyOf(dv));
  }

  /** Those that are not done: what they wait for may have come. */
  #later(...kinds: readonly ('dv' | 'import' | 'population')[]): void {
    const { dataVolumes, claims } = this.#world;
    if (kinds.includes('dv'))
      for (const dv of dataVolumes.list()) if (dv.status?.phase !== 'Succeeded') this.#add('dv', keyOf(dv));
    for (const claim of claims.list()) {
      if (kinds.includes('import') && isImport(claim) && !isOver(claim)) this.#add('import', keyOf(claim));
      if (kinds.includes('population') && importSourceOf(claim) && !claim.spec.volumeName)
        this.#add('population', keyOf(claim));
    }
  }

  #all(): void {
    const { dataVolumes, claims, storageClasses, profiles, installations, dataImportCrons, dataSources } = this.#world;
    for (const one of dataVolumes.list()) this.#add('dv', keyOf(one));
    for (const one of dataImportCrons.list()) this.#add('cron', keyOf(one));
    for (const one of dataSources.list()) this.#add('datasource', keyOf(one));
    for (const one of this.#world.transfers.list()) this.#add('transfer', keyOf(one));
    for (const one of claims.list()) this.#touched(one);
    for (const one of [...storageClasses.list(), ...profiles.list()]) this.#add('profile', keyOf(one));
    for (const one of installations.list()) this.#add('cdi', keyOf(one));
    this.#add('config', '');
  }

  /** Somebody else may begin. */
  #turn(): void {
    if (this.#waiting.size > 0) this.queue.addAfter('turns ', SOON);
  }

  /** Of those that wait, only those are looked at that need not any more, or of which something else is to be said. */
  #callWhoseTurnItIs(): void {
    const { turns } = this.#views;
    for (const [key, said] of this.#waiting) {
      const turn = turns.get(key);
      if (!turn || waitsFor(turn) !== said) this.#add('import', key);
    }
  }

  async #handle(text: string): Promise<void> {
    const [kind, key] = [text.slice(0, text.indexOf(' ')) as Kind, text.slice(text.indexOf(' ') + 1)];
    try {
      await this.#decided(text, await this.#deciderOf(kind, key));
    } catch (error) {
      // Somebody was quicker: what they did comes by the watch, and the key with it.
      const conflict = error instanceof KubeError && (error.status === 409 || error.status === 404);
      this.#say(conflict ? 'debug' : 'warn', key, `${text}: ${error instanceof Error ? error.message : String(error)}`);
      throw error;
    }
  }

  #say(level: 'debug' | 'info' | 'warn', key: string, message: string): void {
    const id = this.#views.correlation(key);
    this.#log(level, message, { key, ...(id ? { id } : {}) });
  }

  /** What is decided for a key, again with what was refused of it. */
  async #deciderOf(kind: Kind, key: string): Promise<(refused?: Refusal) => readonly Decision[]> {
    const world = this.#world;
    const now = (): string => new Date().toISOString().replace(/\.\d+Z$/, 'Z');
    switch (kind) {
      case 'dv':
        return (refused) => {
          const dv = world.dataVolumes.get(key);
          return dv ? decideDataVolume(this.#views.dataVolume(dv, now(), refused)) : [];
        };
      case 'import': {
        const certificates = await this.#certificatesFor(key);
        return (refused) => this.#import(key, now(), certificates, refused);
      }
      case 'population':
        return (refused) => {
          const claim = world.claims.get(key);
          const seen = claim && this.#views.population(claim, now(), refused);
          return seen ? decidePopulation(seen) : [];
        };
      case 'unfilled': {
        const claim = world.claims.get(key);
        return () => (claim ? decideUnfilled(claim) : []);
      }
      case 'cron': {
        const cron = world.dataImportCrons.get(key);
        return () => (cron ? decideCron(cron, now()) : []);
      }
      case 'datasource': {
        const source = world.dataSources.get(key);
        return () => (source ? decideDataSource(source, now()) : []);
      }
      case 'transfer': {
        const transfer = world.transfers.get(key);
        return () => (transfer ? decideTransfer(transfer, now()) : []);
      }
      case 'profile':
        return () => decideProfile(this.#views.profile(key, now()));
      case 'config':
        return () => decideConfig(this.#views.configuration());
      case 'turns':
        this.#callWhoseTurnItIs();
        return () => [];
      case 'cdi':
        return () => decideInstallation(this.#views.installation(key, now()));
    }
  }

  /** Those of the proxy, for a pod that waits for them; once for each. */
  async #certificatesFor(key: string): Promise<Record<string, string> | undefined> {
    const claim = this.#world.claims.get(key);
    const pod = claim && this.#views.importPod(claim);
    const from = this.#views.proxyAuthorities;
    if (!pod || !from || pod.status?.phase !== 'Pending' || this.#copied.has(pod.metadata.uid)) return undefined;
    return (await this.#kube.get(CONFIG_MAPS, this.#namespace, from))?.data;
  }

  #import(
    key: string,
    now: string,
    certificates: Readonly<Record<string, string>> | undefined,
    refused: Refusal | undefined,
  ): readonly Decision[] {
    const claim = this.#world.claims.get(key);
    const seen = claim && this.#views.import(claim, now, certificates, refused);
    if (seen?.turn) this.#waiting.set(key, waitsFor(seen.turn));
    else this.#waiting.delete(key);
    return seen ? decideImport(seen) : [];
  }

  async #decided(text: string, decide: (refused?: Refusal) => readonly Decision[]): Promise<void> {
    const before = this.#refused.get(text);
    const claim = text.startsWith('import ') ? text.slice('import '.length) : undefined;
    const say = (message: string): void => this.#say('info', text.slice(text.indexOf(' ') + 1), message);
    let decisions = decide(before);
    const starts = claim !== undefined && decisions.some(({ act }) => act === 'create');
    if (starts) this.#views.starts(claim);
    try {
      let carried = await this.#actor.carryOut(decisions, say);
      if (carried.refused && carried.refused.message !== before?.message) {
        this.#refused.set(text, carried.refused);
        decisions = decide(carried.refused);
        carried = await this.#actor.carryOut(decisions, say);
      }
      if (!carried.refused) this.#refused.delete(text);
      // Not where it failed: what has the name goes with the pod before, and then it is made.
      for (const one of carried.refused ? [] : decisions)
        if (one.act === 'create' && one.resource === CONFIG_MAPS && one.owner)
          this.#copied.add(one.owner.object.metadata.uid);
      const again = decisions.find((one) => one.act === 'again')?.seconds;
      if (carried.refused || carried.again !== undefined)
        this.queue.addAfter(text, (carried.again ?? again ?? 15) * 1000);
    } finally {
      if (starts) this.#views.isStarted(claim);
    }
  }
}

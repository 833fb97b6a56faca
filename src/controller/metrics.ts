import { Gauge, Registry } from '@prometheus-io/client';
import { PHASES } from '../api/datavolume.ts';
import type { Queue } from '../kube/queue.ts';
import { profileLabels } from '../profile/info.ts';
import type { World } from './world.ts';

const LABELS = ['storageclass', 'provisioner', 'complete', 'default', 'virtdefault', 'rwx', 'smartclone', 'degraded'];

/** What the controller tells Prometheus: looked at when somebody asks. CDI's names, and ours for what it does not have. */
export class Metrics {
  /** While this process acts. */
  queue: Queue | undefined;
  readonly #world: World;
  readonly #registry = new Registry();

  readonly #pending = this.#gauge(
    'kubevirt_cdi_datavolume_pending',
    'DataVolumes that wait for a default storage class.',
  );
  readonly #profiles = this.#gauge('kubevirt_cdi_storageprofile_info', 'What is known of storage classes.', LABELS);
  readonly #ready = this.#gauge('kubevirt_cdi_cr_ready', 'Whether the installation is available.');
  readonly #phases = this.#gauge('diskferry_datavolumes', 'DataVolumes, by phase.', ['phase']);
  readonly #leads = this.#gauge('diskferry_controller_leads', 'Whether this process is the one that acts.');
  readonly #keys = this.#gauge('diskferry_controller_queue', 'Objects to be looked at, by what they wait for.', [
    'state',
  ]);
  readonly #lists = this.#gauge('diskferry_controller_lists', 'Times that all objects of a kind were listed.', [
    'kind',
  ]);
  readonly #restarts = this.#gauge('diskferry_controller_watch_restarts', 'Watches that were begun anew.', ['kind']);

  constructor(world: World) {
    this.#world = world;
  }

  /** Prometheus' text format. */
  async page(): Promise<string> {
    const { dataVolumes, storageClasses, profiles, snapshotClasses, csiDrivers, installations, watches } = this.#world;
    const phases = new Map<string, number>(PHASES.map((phase) => [phase, 0]));
    let pending = 0;
    for (const { spec, status } of dataVolumes.list()) {
      const phase = status?.phase ?? '';
      phases.set(phase, (phases.get(phase) ?? 0) + 1);
      const named = spec.pvc?.storageClassName ?? spec.storage?.storageClassName;
      if ((phase === '' || phase === 'Pending') && named === undefined) pending += 1;
    }
    this.#pending.set(pending);
    for (const [phase, count] of phases) this.#phases.set({ phase }, count);
    this.#profiles.reset();
    for (const profile of profiles.list()) {
      const storageClass = storageClasses.get(profile.metadata.name);
      if (!storageClass) continue;
      const seen = {
        storageClass,
        profile,
        snapshotClasses: [...snapshotClasses.list()],
        csiDrivers: [...csiDrivers.list()],
      };
      this.#profiles.set({ ...profileLabels({ ...seen, singleNode: false }) }, 1);
    }
    const available = [...installations.list()].some((one) =>
      one.status?.conditions?.some(({ type, status }) => type === 'Available' && status === 'True'),
    );
    this.#ready.set(Number(available));
    this.#leads.set(Number(this.queue !== undefined));
    for (const state of ['waiting', 'active', 'later', 'failing'] as const)
      this.#keys.set({ state }, this.queue?.[state] ?? 0);
    for (const { kind, counters } of watches) {
      this.#lists.set({ kind }, counters.lists);
      this.#restarts.set({ kind }, counters.restarts);
    }
    return this.#registry.metrics();
  }

  #gauge(name: string, help: string, labelNames: string[] = []): Gauge<string> {
    return new Gauge<string>({ name, help, labelNames, registers: [this.#registry] });
  }
}

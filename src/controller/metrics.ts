import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Counter, Gauge, Registry } from '@prometheus-io/client';
import type { Pod } from 'kubernetes-types/core/v1.js';
import { PHASES } from '../api/datavolume.ts';
import type { Stored } from '../api/meta.ts';
import type { Asked } from '../kube/connection.ts';
import type { Queue } from '../kube/queue.ts';
import { profileLabels } from '../profile/info.ts';
import { restartsOf } from './decide/pod-state.ts';
import { importOf } from './import-pod.ts';
import type { World } from './world.ts';

const LABELS = ['storageclass', 'provisioner', 'complete', 'default', 'virtdefault', 'rwx', 'smartclone', 'degraded'];
/** Milliseconds between two looks at how late timers are. */
const RESOLUTION = 20;

/** What the controller tells Prometheus: looked at when somebody asks. CDI's names, and ours for what it does not have. */
export class Metrics {
  /** While this process acts. */
  queue: Queue | undefined;
  readonly #world: World;
  readonly #delay = monitorEventLoopDelay({ resolution: RESOLUTION });
  /** Of the cluster, and not of this process: told by the one that acts, since what two tell would be added up. */
  readonly #cluster = new Registry();
  readonly #own = new Registry();

  readonly #pending = gauge(
    this.#cluster,
    'kubevirt_cdi_datavolume_pending',
    'DataVolumes that wait for a default storage class.',
  );
  readonly #profiles = gauge(
    this.#cluster,
    'kubevirt_cdi_storageprofile_info',
    'What is known of storage classes.',
    LABELS,
  );
  readonly #ready = gauge(this.#cluster, 'kubevirt_cdi_cr_ready', 'Whether the installation is available.');
  readonly #phases = gauge(this.#cluster, 'diskferry_datavolumes', 'DataVolumes, by phase.', ['phase']);
  readonly #restarts = counter(
    this.#cluster,
    'diskferry_import_restarts_total',
    'Times that containers of import pods were started again.',
  );

  readonly #leads = gauge(this.#own, 'diskferry_controller_leads', 'Whether this process is the one that acts.');
  readonly #keys = gauge(this.#own, 'diskferry_controller_queue', 'Objects to be looked at, by what they wait for.', [
    'state',
  ]);
  readonly #retries = counter(
    this.#own,
    'diskferry_controller_retries_total',
    'Times that an object is looked at again since what was to be done failed.',
  );
  readonly #requests = counter(
    this.#own,
    'diskferry_api_requests_total',
    'Requests to the API server, by the status of HTTP; none where there was no answer.',
    ['verb', 'resource', 'code'],
  );
  readonly #lists = counter(
    this.#own,
    'diskferry_controller_lists_total',
    'Times that all objects of a kind were listed.',
    ['kind'],
  );
  readonly #watchRestarts = counter(
    this.#own,
    'diskferry_controller_watch_restarts_total',
    'Watches that did not end in order.',
    ['kind'],
  );
  readonly #lag = gauge(
    this.#own,
    'diskferry_event_loop_lag_seconds',
    'How late the latest timer was since this was asked for last.',
  );
  readonly #resident = gauge(this.#own, 'process_resident_memory_bytes', 'Resident memory of the process, bytes.');
  readonly #cpu = counter(this.#own, 'process_cpu_seconds_total', 'Seconds of user and system time of the process.');
  readonly #start = gauge(this.#own, 'process_start_time_seconds', 'When the process began, seconds since 1970.');

  constructor(world: World) {
    this.#world = world;
    this.#start.set(Date.now() / 1000 - process.uptime());
    this.#delay.enable();
    // Those from before a pod was seen are another process's to count.
    world.pods.watch(({ before, after }) => {
      const more = before && after ? startsOf(after) - startsOf(before) : 0;
      if (more > 0) this.#restarts.inc(more);
    });
  }

  /** Counts the requests of a client: its `asked`. */
  readonly asked: Asked = ({ verb, resource }, status) => {
    this.#requests.inc({ verb, resource, code: status === undefined ? 'none' : String(status) });
  };

  /** Prometheus' text format. */
  async page(): Promise<string> {
    this.#lookAtProcess();
    const own = await this.#own.metrics();
    if (!this.queue) return own;
    this.#lookAtCluster();
    return `${await this.#cluster.metrics()}\n${own}`;
  }

  #lookAtCluster(): void {
    const { dataVolumes, storageClasses, profiles, snapshotClasses, csiDrivers, installations } = this.#world;
    this.#phases.reset();
    for (const phase of PHASES) this.#phases.set({ phase }, 0);
    this.#pending.set(0);
    for (const { spec, status } of dataVolumes.list()) {
      const phase = status?.phase ?? '';
      this.#phases.inc({ phase });
      const named = spec.pvc?.storageClassName ?? spec.storage?.storageClassName;
      if ((phase === '' || phase === 'Pending') && named === undefined) this.#pending.inc();
    }
    const seen = { snapshotClasses: [...snapshotClasses.list()], csiDrivers: [...csiDrivers.list()] };
    this.#profiles.reset();
    for (const profile of profiles.list()) {
      const storageClass = storageClasses.get(profile.metadata.name);
      if (storageClass)
        this.#profiles.set({ ...profileLabels({ storageClass, profile, ...seen, singleNode: false }) }, 1);
    }
    const available = [...installations.list()].some((one) =>
      one.status?.conditions?.some(({ type, status }) => type === 'Available' && status === 'True'),
    );
    this.#ready.set(Number(available));
  }

  #lookAtProcess(): void {
    this.#leads.set(Number(this.queue !== undefined));
    for (const state of ['waiting', 'active', 'later', 'failing'] as const)
      this.#keys.set({ state }, this.queue?.[state] ?? 0);
    // What is counted elsewhere.
    for (const one of [this.#retries, this.#lists, this.#watchRestarts, this.#cpu]) one.reset();
    this.#retries.inc(this.queue?.retries ?? 0);
    // Of a kind there may be several.
    for (const { kind, counters } of this.#world.watches) {
      this.#lists.inc({ kind }, counters.lists);
      this.#watchRestarts.inc({ kind }, counters.restarts);
    }
    const { user, system } = process.cpuUsage();
    this.#cpu.inc((user + system) / 1e6);
    this.#resident.set(process.memoryUsage.rss());
    // Nanoseconds from one look to the next.
    this.#lag.set(Math.max(0, this.#delay.max / 1e9 - RESOLUTION / 1000));
    this.#delay.reset();
  }
}

function gauge(registry: Registry, name: string, help: string, labelNames: string[] = []): Gauge<string> {
  return new Gauge<string>({ name, help, labelNames, registers: [registry] });
}

function counter(registry: Registry, name: string, help: string, labelNames: string[] = []): Counter<string> {
  return new Counter<string>({ name, help, labelNames, registers: [registry] });
}

/** How often the containers of an import pod were started again. */
function startsOf(pod: Stored<Pod>): number {
  return importOf(pod) ? restartsOf(pod) : 0;
}

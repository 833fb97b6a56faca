import { Counter, Gauge, Histogram, Registry } from '@prometheus-io/client';
import type { FerryError } from '../dataplane/errors.ts';
import type { Filling } from '../store/filling.ts';
import type { Store } from '../store/store.ts';
import { STATES } from '../store/volume.ts';
import type { Over } from './log.ts';

/** Protocols of uploads. */
const UPLOADS = ['plain', 'tus', 'ietf', 'ranges'] as const;
const KINDS = [...UPLOADS, 'import', 'blank'] as const;
/** How a volume is filled. */
export type Kind = (typeof KINDS)[number];

/** Methods that have a label of their own: there are others, and whoever asks chooses. */
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];
/** Seconds: from a small image on a fast network to a large one that somebody goes on with for a day. */
const TRANSFERS = [0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400];
/** Seconds: from a look at a volume to an image in one request. */
const REQUESTS = [0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300, 1800, 7200];

/** A volume that is being filled, and what was counted of it so far, bytes. */
interface Followed {
  readonly kind: Kind;
  readonly filling: Filling;
  received: number;
  written: number;
}

/** What a server tells Prometheus of itself (docs/serve.md). What is under way is looked at when somebody asks. */
export class Metrics {
  readonly #store: Store;
  readonly #registry = new Registry();
  readonly #followed = new Set<Followed>();

  readonly #volumes = this.#gauge('diskferry_volumes', 'Volumes in the directory, by state.', ['state']);
  readonly #free = this.#gauge('diskferry_free_bytes', 'Bytes that the directory has room for.');
  readonly #active = this.#gauge('diskferry_transfers_active', 'Volumes that are being filled.', ['kind']);
  readonly #waiting = this.#gauge('diskferry_transfers_waiting', 'Volumes that wait to be filled.', ['kind']);
  readonly #received = this.#counter(
    'diskferry_upload_received_bytes_total',
    'Bytes of images that senders of uploads sent.',
    ['kind'],
  );
  readonly #written = this.#counter('diskferry_written_bytes_total', 'Bytes written into volumes, without zeros.', [
    'kind',
  ]);
  readonly #transfers = this.#counter(
    'diskferry_transfers_total',
    'Transfers into volumes that ended: ok, or with the code of an error.',
    ['kind', 'outcome'],
  );
  readonly #durations = this.#histogram(
    'diskferry_transfer_duration_seconds',
    'Seconds from the beginning of a transfer to the whole volume, of those that ended well.',
    ['kind'],
    TRANSFERS,
  );
  readonly #resumed = this.#counter(
    'diskferry_uploads_resumed_total',
    'Times that an upload was gone on with after its sender or the server had gone.',
  );
  readonly #expired = this.#counter(
    'diskferry_uploads_expired_total',
    'Unfinished volumes that were dropped because nobody went on with them.',
  );
  readonly #requests = this.#counter(
    'diskferry_http_requests_total',
    'Requests that are over, by the pattern of their path; status 499 where the client went before the answer.',
    ['method', 'route', 'status'],
  );
  readonly #answers = this.#histogram(
    'diskferry_http_request_duration_seconds',
    'Seconds from the header of a request to the end of its answer, or to its refusal.',
    ['method', 'route'],
    REQUESTS,
  );
  readonly #connections = this.#gauge('diskferry_http_connections', 'Connections that are open.');
  readonly #resident = this.#gauge('process_resident_memory_bytes', 'Resident memory of the process, bytes.');
  readonly #cpu = this.#counter('process_cpu_seconds_total', 'Seconds of user and system time of the process.');
  readonly #start = this.#gauge('process_start_time_seconds', 'When the process began, seconds since 1970.');
  /** As CDI's importer has it, whose label is the owner of a claim: here a volume has a name alone. */
  readonly #progress = this.#counter('kubevirt_cdi_import_progress_total', 'The import progress in percentage', [
    'ownerUID',
  ]);

  constructor(store: Store) {
    this.#store = store;
    this.#start.set(Date.now() / 1000 - process.uptime());
    // Who asks for a rate wants to have seen them at nothing.
    for (const kind of KINDS) {
      this.#written.inc({ kind }, 0);
      this.#transfers.inc({ kind, outcome: 'ok' }, 0);
    }
    for (const kind of UPLOADS) this.#received.inc({ kind }, 0);
  }

  #gauge<T extends string = never>(name: string, help: string, labelNames: readonly T[] = []): Gauge<T> {
    return new Gauge({ name, help, labelNames, registers: [this.#registry] });
  }

  #counter<T extends string = never>(name: string, help: string, labelNames: readonly T[] = []): Counter<T> {
    return new Counter({ name, help, labelNames, registers: [this.#registry] });
  }

  #histogram<T extends string>(name: string, help: string, labelNames: readonly T[], buckets: number[]): Histogram<T> {
    return new Histogram({ name, help, labelNames, buckets, registers: [this.#registry] });
  }

  /** Counts what comes into a volume, and how it ends. Gives it back. */
  follow(kind: Kind, filling: Filling): Filling {
    const one: Followed = { kind, filling, received: 0, written: 0 };
    const began = performance.now();
    this.#followed.add(one);
    filling.over = (end) => {
      if (!this.#followed.delete(one) || end === undefined) return;
      this.#count(one);
      this.#transfers.inc({ kind, outcome: outcomeOf(end) });
      if (end === 'whole') this.#durations.observe({ kind }, (performance.now() - began) / 1000);
    };
    return filling;
  }

  /** An upload goes on that had been cut. */
  resumed(): void {
    this.#resumed.inc();
  }

  /** So many unfinished volumes were dropped. */
  expired(count: number): void {
    this.#expired.inc(count);
  }

  requested({ method, route = 'unknown', status, seconds }: Over): void {
    const labels = { method: METHODS.includes(method) ? method : 'other', route };
    this.#requests.inc({ ...labels, status });
    this.#answers.observe(labels, seconds);
  }

  #count(one: Followed): void {
    const { kind, filling } = one;
    const [received, written] = [filling.received(), filling.written];
    if (received > one.received) this.#received.inc({ kind }, received - one.received);
    if (written > one.written) this.#written.inc({ kind }, written - one.written);
    Object.assign(one, { received, written });
  }

  get type(): string {
    return this.#registry.contentType;
  }

  /** The page, in Prometheus' text format, version 0.0.4. */
  async page(connections: number): Promise<string> {
    const [volumes, free] = await Promise.all([this.#store.list(), this.#store.free()]);
    for (const state of STATES) this.#volumes.set({ state }, volumes.filter((one) => one.state === state).length);
    this.#free.set(free);
    for (const kind of KINDS) for (const gauge of [this.#active, this.#waiting]) gauge.set({ kind }, 0);
    this.#progress.reset();
    for (const one of this.#followed) {
      this.#count(one);
      const { kind, filling } = one;
      (filling.begun ? this.#active : this.#waiting).inc({ kind });
      if (kind === 'import' && filling.begun) this.#progress.inc({ ownerUID: filling.name }, percentOf(filling));
    }
    this.#connections.set(connections);
    this.#resident.set(process.memoryUsage.rss());
    const { user, system } = process.cpuUsage();
    this.#cpu.reset();
    this.#cpu.inc((user + system) / 1e6);
    return this.#registry.metrics();
  }
}

function outcomeOf(end: 'whole' | FerryError): string {
  return end === 'whole' ? 'ok' : end.code;
}

/** Of the source, whole percent; 100 is for what is whole, and that is no longer under way. */
function percentOf({ volume: { progress } }: Filling): number {
  if (!progress?.length) return 0;
  return Math.min(99, Math.floor((100 * progress.bytes) / progress.length));
}

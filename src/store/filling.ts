import type { Log } from '../dataplane/context.ts';
import { asFerryError, type Code, FerryError } from '../dataplane/errors.ts';
import { type Snapshot, type TransferOptions, type TransferReport, transfer } from '../dataplane/transfer.ts';
import type { Progress, Volume } from './volume.ts';

/** A disk that is whole. */
export type Made = Pick<TransferReport, 'diskDigest' | 'virtualSize'>;

/** Beside the disk: where what has no place yet may wait, and what must be remembered of a source is kept. */
export interface Places {
  readonly spill?: string;
  readonly kept?: string;
}

interface Ends {
  readonly publish: (disk: Made) => Promise<void>;
  readonly discard: () => Promise<void>;
  readonly failed: (error: FerryError) => void;
  readonly over: () => void;
}

const WRONG: readonly Code[] = ['CORRUPT', 'DIGEST_MISMATCH'];

/** The image is what is wrong: what came of it is worth nothing, another try begins anew. */
function isOfImage({ code, stage, retryable }: FerryError): boolean {
  return WRONG.includes(code) || (!retryable && (stage === 'decode' || stage === 'format'));
}

/** A volume that a disk is on its way into; nobody else can fill it meanwhile. */
export class Filling {
  readonly name: string;
  /** File that it is put into until it is whole. */
  readonly path: string;
  /** File for what must be remembered of a source that cannot be read again. */
  readonly kept: string | undefined;
  /** Bytes that the disk is to have, of a volume that was made blank. */
  readonly size: number | undefined;
  readonly #spill: string | undefined;
  readonly #ends: Ends;
  readonly #stop = new AbortController();
  #seen: Snapshot | undefined;
  #running: Promise<unknown> | undefined;
  /** The volume is another's then: who has waited for a turn meanwhile comes too late. */
  #over = false;
  /** Nobody will go on with it when it ends otherwise. */
  lost = false;
  /** Who wants to know how far it is. */
  watch: (snapshot: Snapshot) => void = () => undefined;
  /** Who wants to know that it is over: whole, or why not; undefined where nothing was begun. */
  over: (end: 'whole' | FerryError | undefined) => void = () => undefined;
  /** Bytes that this process wrote into it. */
  written = 0;
  /** Bytes that senders sent to this process; who takes them tells. */
  received: () => number = () => 0;

  constructor(name: string, path: string, places: Places, size: number | undefined, ends: Ends) {
    this.#spill = places.spill;
    this.name = name;
    this.path = path;
    this.kept = places.kept;
    this.size = size;
    this.#ends = ends;
  }

  get volume(): Volume {
    return { name: this.name, state: 'receiving', ...this.#sized(), progress: progressOf(this.#seen) };
  }

  /** It is no longer waited for its turn. */
  get begun(): boolean {
    return this.#running !== undefined;
  }

  #sized(): { size?: number } {
    const size = this.size ?? this.#seen?.disk.length;
    return size === undefined ? {} : { size };
  }

  /** Carries the disk, and puts the volume in its place when it is whole and verified. To be called once. */
  carry(options: Omit<TransferOptions, 'target'>, log: Log): Promise<TransferReport> {
    const spill = this.#spill === undefined ? {} : { spill: this.#spill };
    return this.fill((signal) => this.#carry({ ...options, target: this.path, ...spill }, signal, log));
  }

  /** Whatever makes a whole disk of the file. To be called once; `watch` is not told of it. */
  fill<T extends Made>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const running = this.#over ? Promise.reject(this.#gone()) : this.#fill(work);
    running.catch(() => undefined); // told to who asked
    this.#running = running;
    return running;
  }

  async #carry(options: TransferOptions, signal: AbortSignal, log: Log): Promise<TransferReport> {
    const size = options.size ?? this.size;
    // The engine goes on counting where an earlier run stopped.
    let before: number | undefined;
    const wrote = (bytes: number): void => {
      before ??= bytes;
      this.written = bytes - before;
    };
    const seen = (snapshot: Snapshot): void => {
      this.#seen = snapshot;
      if (snapshot.disk.written !== undefined) wrote(snapshot.disk.written);
      this.watch(snapshot);
    };
    const sized = { ...options, ...(size === undefined ? {} : { size }) };
    const report = await transfer(sized, signal, seen, log);
    // With the ends of the disk, which come last.
    wrote(report.written);
    return report;
  }

  async #fill<T extends Made>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    let end: 'whole' | FerryError = 'whole';
    try {
      const made = await work(this.#stop.signal);
      await this.#ends.publish(made);
      return made;
    } catch (thrown) {
      const error = asFerryError(thrown, 'target');
      end = error;
      if (this.lost || isOfImage(error)) await this.#ends.discard();
      this.#ends.failed(error);
      throw error;
    } finally {
      this.#end(end);
    }
  }

  #gone(): Error {
    const error = new FerryError('the volume was given up', { code: 'ABORTED', stage: 'target' });
    return (this.#stop.signal.reason as Error | undefined) ?? error;
  }

  #end(end: 'whole' | FerryError | undefined): void {
    if (this.#over) return;
    this.#over = true;
    this.#ends.over();
    this.over(end);
  }

  /** Nothing was carried, and nothing will be. */
  release(): void {
    if (!this.#running) this.#end(undefined);
  }

  /** Ends the transfer, and waits until it has. */
  async stop(why: string): Promise<void> {
    this.#stop.abort(new FerryError(why, { code: 'ABORTED', stage: 'source' }));
    this.release();
    await this.#running?.catch(() => undefined);
  }
}

function progressOf(seen: Snapshot | undefined): Progress {
  const { source, rate = 0, secondsLeft, phase = 'opening' } = seen ?? {};
  return {
    bytes: source?.bytes ?? 0,
    ...(source?.length === undefined ? {} : { length: source.length }),
    rate,
    ...(secondsLeft === undefined ? {} : { secondsLeft }),
    phase,
  };
}

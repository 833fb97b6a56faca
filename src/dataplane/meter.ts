import { type Bottleneck, bottleneck } from './bottleneck.ts';
import type { Context } from './context.ts';
import type { Intake, Progress } from './native.ts';

export type Phase = 'opening' | 'planning' | 'scanning' | 'moving' | 'verifying' | 'finishing' | 'done';

/** One look at a transfer under way. Bytes, seconds, bytes a second. */
export interface Snapshot {
  readonly phase: Phase;
  readonly source: { readonly bytes: number; readonly length?: number };
  readonly disk: { readonly bytes: number; readonly length?: number; readonly written?: number };
  readonly rate: number;
  readonly secondsLeft?: number;
  readonly bottleneck: Bottleneck;
  readonly retries: number;
  readonly resumes: number;
}

/** Milliseconds between two looks. */
const INTERVAL = 200;
/** Weight of the newest rate in the smoothed one: about three seconds of memory. */
const SMOOTHING = 0.07;

/** Looks at a transfer five times a second and says what it saw. */
export class Meter implements Disposable {
  #phase: Phase = 'opening';
  #intake: Pick<Intake, 'progress'> | undefined;
  #last: { at: number; progress: Progress } | undefined;
  #rate = 0;
  #resumes = 0;
  #sourceLength: number | undefined;
  #diskLength: number | undefined;
  readonly #timer: NodeJS.Timeout;
  readonly #watch: (snapshot: Snapshot) => void;
  readonly #context: Context;

  constructor(watch: (snapshot: Snapshot) => void, context: Context) {
    this.#watch = watch;
    this.#context = context;
    this.#timer = setInterval(() => this.look(), INTERVAL);
    this.#timer.unref();
  }

  phase(phase: Phase): void {
    this.#phase = phase;
    this.look();
  }

  measures(intake: Pick<Intake, 'progress'>, lengths: { source?: number; disk?: number }, resumes: number): void {
    this.#intake = intake;
    this.#sourceLength = lengths.source;
    this.#diskLength = lengths.disk;
    this.#resumes = resumes;
  }

  look(): void {
    const progress = this.#intake?.progress();
    const now = performance.now();
    const before = this.#last;
    let stage: Bottleneck = 'none';
    if (progress && before && now > before.at) {
      const seconds = (now - before.at) / 1000;
      const rate = (progress.sourceBytes - before.progress.sourceBytes) / seconds;
      this.#rate = this.#rate === 0 ? rate : this.#rate + (rate - this.#rate) * Math.min(1, SMOOTHING * seconds * 5);
      stage = bottleneck(before.progress, progress, seconds * 1e9);
    }
    if (progress) this.#last = { at: now, progress };
    const sourceBytes = progress ? progress.resumedAt + progress.sourceBytes : 0;
    const length = this.#sourceLength;
    const left = length !== undefined && this.#rate > 0 ? Math.max(0, (length - sourceBytes) / this.#rate) : undefined;
    this.#watch({
      phase: this.#phase,
      source: {
        bytes: length === undefined ? sourceBytes : Math.min(sourceBytes, length),
        ...(length === undefined ? {} : { length }),
      },
      disk: {
        bytes: progress?.diskBytes ?? 0,
        ...(this.#diskLength === undefined ? {} : { length: this.#diskLength }),
        ...(progress ? { written: progress.written } : {}),
      },
      rate: this.#rate,
      ...(left === undefined ? {} : { secondsLeft: left }),
      bottleneck: stage,
      retries: this.#context.counters.retries,
      resumes: this.#resumes,
    });
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

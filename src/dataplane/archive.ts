import { setTimeout } from 'node:timers/promises';
import type { Log } from './context.ts';
import { contextOf } from './context.ts';
import { formatDigest, isStrong } from './digests.ts';
import { asFerryError, FerryError } from './errors.ts';
import { feed } from './feed.ts';
import type { Guard } from './guard.ts';
import { decoderLimits } from './memory-budget.ts';
import { Meter, type Snapshot } from './meter.ts';
import { fromEngine, native, tellConfinement, type Unpacked } from './native.ts';
import type { Digest, Source, SourceOptions } from './source.ts';
import { openSource } from './sources/index.ts';
import { stackFilters } from './stack.ts';

export interface ArchiveOptions {
  readonly source: string;
  /** A directory, which is made if it does not exist. */
  readonly target: string;
  readonly sourceOptions: SourceOptions;
  /** What is in the directory goes. */
  readonly replace: boolean;
  readonly digest?: Digest;
  /** Bytes a second. */
  readonly rate?: number;
  readonly connections: number;
  /** Bytes that the whole process may use; default 160 MiB. */
  readonly memory?: number;
  /** Milliseconds; see TransportLimits. */
  readonly stall?: number;
  readonly patience?: number;
  /** Which addresses may be connected to. Absent = all. */
  readonly guard?: Guard;
  /** The source, already opened: for what is not at an address. */
  readonly stream?: Source;
}

export interface ArchiveReport extends Unpacked {
  readonly outcome: 'done';
  readonly source: string;
  readonly target: string;
  /** Bytes that came from the source, retries included. */
  readonly receivedBytes: number;
  readonly seconds: number;
  /** Bytes received a second, on average. */
  readonly rate: number;
  readonly retries: number;
}

/** Milliseconds that a stop waits for the engine's threads. */
const ABORT_WAIT = 700;

/** Unpacks a tar archive, behind any codec, into a directory: all of it, or nothing. */
export async function unpack(
  options: ArchiveOptions,
  signal: AbortSignal,
  watch: (snapshot: Snapshot) => void,
  log: Log,
): Promise<ArchiveReport> {
  const started = performance.now();
  const context = contextOf(options, signal, log);
  using meter = new Meter(watch, context);
  try {
    await using opened = options.stream ?? (await openSource(options.source, options.sourceOptions, context));
    meter.phase('planning');
    const digest = options.digest ?? opened.facts.digest;
    const source = stackFilters(opened, context, { verified: isStrong(digest) });
    const { length, codecs } = opened.facts;
    const unpacking = await native().startUnpacking({
      target: options.target,
      replace: options.replace,
      limits: decoderLimits(options.memory),
      ...(length === undefined ? {} : { sourceLength: length }),
      ...(codecs === undefined ? {} : { codecs }),
      ...(digest === undefined ? {} : { digest: formatDigest(digest) }),
    });
    tellConfinement(log);
    meter.measures(unpacking, length === undefined ? {} : { source: length }, 0);
    meter.phase('moving');
    const abort = (): void => void unpacking.abort();
    signal.addEventListener('abort', abort, { once: true });
    try {
      await feed(unpacking, source, options.connections, signal);
      meter.phase('verifying');
      const unpacked = await unpacking.finish();
      meter.phase('done');
      const seconds = (performance.now() - started) / 1000;
      return {
        outcome: 'done',
        source: source.name,
        target: options.target,
        receivedBytes: context.counters.received,
        seconds,
        rate: context.counters.received / seconds,
        retries: context.counters.retries,
        ...unpacked,
      };
    } catch (thrown) {
      await Promise.race([unpacking.abort(), setTimeout(ABORT_WAIT, undefined, { ref: false })]);
      throw thrown;
    } finally {
      signal.removeEventListener('abort', abort);
    }
  } catch (thrown) {
    if (signal.aborted)
      throw new FerryError('the unpacking was stopped', { code: 'ABORTED', stage: 'source', cause: thrown });
    throw asFerryError(fromEngine(thrown), 'source');
  }
}

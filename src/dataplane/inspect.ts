import { type Context, DEFAULT_LIMITS, type Log } from './context.ts';
import { isStrong } from './digests.ts';
import { readDiskDigest } from './disk-digest.ts';
import { asFerryError, FerryError } from './errors.ts';
import { extentsOf } from './extents.ts';
import { hostKey } from './hostkey.ts';
import { decoderLimits, transferLimits } from './memory-budget.ts';
import { fromEngine, native, type Recovered, type Sniffed, type TargetFacts } from './native.ts';
import { type Plan, plan, takesExtents } from './plan.ts';
import { look, toldOf } from './sniff.ts';
import type { SourceDetails, SourceOptions } from './source.ts';
import { openSource } from './sources/index.ts';
import { stackFilters } from './stack.ts';

export interface Inspection {
  readonly source: {
    readonly name: string;
    readonly length?: number;
    readonly ranges: boolean;
    readonly validator?: string;
    readonly details: SourceDetails;
  };
  readonly image: Sniffed;
  readonly plan: Plan;
  /** Bytes that were fetched to learn this. */
  readonly traffic: number;
  /** Bytes a second at which they came. */
  readonly rate?: number;
}

/** What an image is, whether it fits, how it would be imported: at most 1 MiB of traffic, nothing written. */
export async function inspectSource(
  text: string,
  options: SourceOptions,
  target: { path: string; stateDirectory: string } | undefined,
  signal: AbortSignal,
  log: Log,
): Promise<Inspection> {
  const context: Context = { signal, log, limits: DEFAULT_LIMITS, counters: { received: 0, retries: 0, opened: 0 } };
  try {
    await using opened = await openSource(text, options, context);
    const began = performance.now();
    const source = stackFilters(opened, context);
    const { head, sniffed: image } = await look(source, decoderLimits(), toldOf(source.facts, options), signal);
    const seconds = (performance.now() - began) / 1000;
    const { length, ranges, validator } = source.facts;
    const digest = isStrong(source.facts.digest);
    const extents = takesExtents(source.facts, image, digest, undefined) ? await extentsOf(source, signal) : undefined;
    const facts = target === undefined ? undefined : (await inspectTarget(target.path, target.stateDirectory)).facts;
    return {
      source: {
        name: source.name,
        ranges,
        details: source.details,
        ...(length === undefined ? {} : { length }),
        ...(validator === undefined ? {} : { validator }),
      },
      image,
      plan: plan({
        facts: source.facts,
        sniffed: image,
        holdBack: transferLimits(image).holdBack ?? 0,
        digest,
        identified: digest,
        ...(extents === undefined ? {} : { data: extents.bytes }),
        ...(facts === undefined ? {} : { target: facts }),
      }),
      traffic: Math.max(context.counters.received, head.length),
      ...(seconds > 0.05 ? { rate: head.length / seconds } : {}),
    };
  } catch (thrown) {
    throw asFerryError(fromEngine(thrown), 'source');
  }
}

export interface TargetInspection {
  readonly path: string;
  readonly kind: TargetFacts['kind'];
  readonly length: number;
  readonly foreign?: string;
  readonly recovered: Recovered;
  readonly facts: TargetFacts;
}

export async function inspectTarget(path: string, stateDirectory: string): Promise<TargetInspection> {
  try {
    const target = await native().openTarget({ path, key: await hostKey(stateDirectory) });
    try {
      const { facts, recovered } = target;
      const foreign = recovered.kind === 'nothing' ? facts.foreign : undefined;
      return {
        path,
        kind: facts.kind,
        length: facts.length,
        recovered,
        facts,
        ...(foreign === undefined ? {} : { foreign }),
      };
    } finally {
      await target.close();
    }
  } catch (thrown) {
    throw asFerryError(fromEngine(thrown), 'target');
  }
}

/** Drops an unfinished transfer. Answers what was done, as a sentence. */
export async function forget(path: string, stateDirectory: string): Promise<string> {
  try {
    const target = await native().openTarget({ path, key: await hostKey(stateDirectory) });
    try {
      const { kind } = target.recovered;
      if (kind !== 'checkpoint' && kind !== 'finishing') {
        throw new FerryError(`${path} holds no unfinished transfer of this host: there is nothing to forget`, {
          code: 'NOT_FOUND',
          stage: 'target',
        });
      }
      await target.forget();
      return `the unfinished transfer on ${path} is forgotten; what it had written beyond the first MiB is still there`;
    } finally {
      await target.close();
    }
  } catch (thrown) {
    throw asFerryError(fromEngine(thrown), 'target');
  }
}

export interface Verification {
  readonly diskDigest: string;
  /** Absent when no digest was given to compare with. */
  readonly matches?: boolean;
  readonly bytes: number;
}

/** Computes the disk digest of a file or device and compares it. */
export async function verify(
  path: string,
  diskDigest: string | undefined,
  length: number | undefined,
  onProgress: (done: number, total: number) => void,
  signal: AbortSignal,
): Promise<Verification> {
  try {
    const found = await readDiskDigest(path, length, onProgress, signal);
    return { ...found, ...(diskDigest === undefined ? {} : { matches: found.diskDigest === diskDigest }) };
  } catch (thrown) {
    throw asFerryError(fromEngine(thrown), 'verify');
  }
}

import type { Refusal, Sniffed, TargetFacts } from './native.ts';
import type { SourceFacts } from './source.ts';

export type Way = 'stream' | 'seek' | 'spill';

export interface PlanRequest {
  readonly facts: SourceFacts;
  readonly sniffed: Sniffed;
  /** Absent when no target was named (inspect). */
  readonly target?: Pick<TargetFacts, 'kind' | 'capacity'>;
  /** Exact length that the disk is to have. */
  readonly size?: number;
  /** A digest of the source is demanded, so all of it must be read. */
  readonly digest: boolean;
  readonly way?: Way;
  readonly spill?: string;
  /** All space of the disk is reserved at the start. */
  readonly preallocate?: boolean;
}

export interface Plan {
  readonly way: Way | 'refuse';
  /** One sentence for people. */
  readonly why: string;
  /** Ranges may be read apart from each other and put together. */
  readonly seekable: boolean;
  /** Read every byte, so that the source's digest is known. */
  readonly wholeSource: boolean;
  /** Whether an interrupted transfer goes on without reading everything again, and why. */
  readonly resumable: boolean;
  readonly resumeWhy: string;
  readonly refusal?: Refusal;
}

/** Whether pieces of the source that are read at different times are known to belong together. */
export function isPinned(facts: SourceFacts, digest: boolean): boolean {
  return facts.ranges && (facts.validator !== undefined || digest);
}

function resumability(request: PlanRequest, seekable: boolean): { resumable: boolean; resumeWhy: string } {
  const { facts, sniffed } = request;
  if (!facts.ranges) {
    return {
      resumable: false,
      resumeWhy: 'the source has no ranges: a second run reads it again and compares, but writes only what is missing',
    };
  }
  if (!seekable) {
    return {
      resumable: false,
      resumeWhy:
        'the source has no strong validator (a weak or missing ETag): a second run reads it again and compares',
    };
  }
  if (sniffed.codecs.length > 0 && sniffed.format !== 'raw') {
    return {
      resumable: false,
      resumeWhy: `${sniffed.format} inside ${sniffed.codecs.join(' inside ')} is decoded again from its beginning; what is on the target is not written again`,
    };
  }
  if (sniffed.codecs.length > 1) {
    return {
      resumable: false,
      resumeWhy: 'nested compression is decoded again from its beginning; what is on the target is not written again',
    };
  }
  const where = { gzip: 'a deflate block', zstd: 'a frame', xz: 'a block', lz4: 'a block', bzip2: 'a block' }[
    sniffed.codecs[0] ?? ''
  ];
  return {
    resumable: true,
    resumeWhy:
      where === undefined
        ? 'at the first byte that is missing'
        : `at the last ${where.slice(2)} boundary that a checkpoint holds`,
  };
}

function room(request: PlanRequest): Refusal | undefined {
  const { sniffed, target, size } = request;
  const image = sniffed.virtualSize;
  if (size !== undefined && image !== undefined && image > size) {
    return {
      code: 'TOO_LARGE',
      stage: 'plan',
      message: `the image needs ${image} bytes, --size gives the disk ${size}; give at least --size ${image}`,
    };
  }
  const disk = size ?? image;
  if (target === undefined || disk === undefined || disk <= target.capacity) return undefined;
  if (target.kind === 'block') {
    return {
      code: 'TOO_LARGE',
      stage: 'plan',
      message: `the image needs ${disk} bytes, the device has ${target.capacity}; use a larger device`,
    };
  }
  // Holes cost nothing, so a sparse file may be longer than what is free.
  if (target.kind !== 'file' || request.preallocate !== true) return undefined;
  return {
    code: 'NO_SPACE',
    stage: 'plan',
    message: `--preallocate needs ${disk} bytes, the file system has ${target.capacity} free; free some, or leave holes`,
  };
}

/** Pure: decides from what is known before the first byte is written. */
export function plan(request: PlanRequest): Plan {
  const { facts, sniffed } = request;
  const seekable = isPinned(facts, request.digest) && sniffed.codecs.length === 0;
  const base = { ...resumability(request, isPinned(facts, request.digest)), seekable: isPinned(facts, request.digest) };
  const refusal = sniffed.refusal ?? room(request);
  if (refusal) return { ...base, way: 'refuse', why: refusal.message, wholeSource: false, refusal };
  const wanted = request.way;
  if (wanted === 'seek' && !seekable) {
    const message =
      'the way "seek" needs a source with ranges and a strong validator, and an image without compression around it';
    return {
      ...base,
      way: 'refuse',
      why: message,
      wholeSource: false,
      refusal: { code: 'BAD_SPEC', stage: 'plan', message },
    };
  }
  if (wanted !== undefined) {
    return { ...base, way: wanted, why: 'asked for', wholeSource: wanted !== 'seek' || request.digest };
  }
  if (sniffed.order === 'stream') {
    const why =
      sniffed.format === 'raw'
        ? 'a raw image goes straight to its place as it comes'
        : `the ${sniffed.format} image has its tables before its data, so it is decoded as it comes`;
    return { ...base, way: 'stream', why, wholeSource: true };
  }
  if (seekable) {
    return {
      ...base,
      way: 'seek',
      why: `the ${sniffed.format} image keeps tables behind its data: they are read first by ranges, then the data in order`,
      wholeSource: request.digest,
    };
  }
  return {
    ...base,
    way: 'spill',
    why: `the ${sniffed.format} image keeps tables behind its data and the source cannot seek: what has no place yet waits in ${request.spill === undefined ? 'memory (at most 64 MiB)' : `a spill file in ${request.spill}`}`,
    wholeSource: true,
  };
}

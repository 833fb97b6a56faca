import type { Refusal, Sniffed, TargetFacts } from './native.ts';
import { formatSize } from './sizes.ts';
import type { SourceFacts } from './source.ts';

export type Way = 'stream' | 'seek' | 'spill';

export interface PlanRequest {
  readonly facts: SourceFacts;
  readonly sniffed: Sniffed;
  /** Bytes of the image that may wait in memory for their place. */
  readonly holdBack: number;
  /** Absent when no target was named (inspect). */
  readonly target?: Pick<TargetFacts, 'kind' | 'capacity'>;
  /** Exact length that the disk is to have. */
  readonly size?: number;
  /** A digest of the source is demanded, so all of it must be read. */
  readonly digest: boolean;
  /** It is one that tells what the source is. */
  readonly identified: boolean;
  /** A digest of the disk is demanded. */
  readonly diskDigest?: boolean;
  readonly way?: Way;
  readonly spill?: string;
  /** Bytes of the source that can be other than zero, as it says; absent = not known. */
  readonly data?: number;
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
  /** An interrupted transfer can only begin anew: what is on the target cannot be compared. */
  readonly anew: boolean;
  /** Only where the source has data it is read. */
  readonly extents: boolean;
  /** Worth knowing before and after; sentences for people. */
  readonly notes: readonly string[];
  readonly refusal?: Refusal;
}

/** What each codec's data consists of: a cut between two of these is a lawful end. */
const UNITS: Readonly<Record<string, string>> = { gzip: 'members', zstd: 'frames', xz: 'streams', snappy: 'chunks' };

/**
 * Whether a transfer that was cut could pass for a whole one. A qcow2 tells: its tables name every byte of a disk whose
 * size the header has, and the engine fails (TRUNCATED) while one of them is missing. A codec tells inside its units,
 * each of which says where it ends (gzip's check and length, RFC 1952 section 2.3.1; zstd's last block, RFC 8878 section
 * 3.1.1.2; xz' index and footer, xz-file-format.txt section 2.1.2; the length of snappy's chunk, framing_format.txt section 1), but not how many of them there are. A raw disk tells
 * nothing. A digest tells everything, of the source or of the disk.
 */
function notesOf({ facts, sniffed, digest, diskDigest }: PlanRequest): string[] {
  if (!facts.openEnded || digest || diskDigest || sniffed.format !== 'raw') return [];
  const units = UNITS[sniffed.codecs[0] ?? ''];
  return units === undefined
    ? ['the server does not say how long the image is: only --digest can tell a cut transfer from a whole one']
    : [
        `the server does not say how long the image is: only --digest can tell a transfer that was cut between two ${sniffed.codecs[0]} ${units} from a whole one`,
      ];
}

/** Whether pieces of the source that are read at different times are known to belong together. */
export function isPinned(facts: SourceFacts, digest: boolean): boolean {
  return facts.ranges && (facts.validator !== undefined || digest);
}

/** Whether only the data of the source is to be read. Without a validator too: a pass over all of it is no more at one time. */
function byExtents({ facts, sniffed, digest, data, way }: PlanRequest): boolean {
  if (!takesExtents(facts, sniffed, digest, way)) return false;
  if (facts.changedSince !== undefined) return true;
  return data !== undefined && facts.length !== undefined && data < facts.length;
}

/** Whether it is worth to ask a source for its extents. */
export function takesExtents(facts: SourceFacts, sniffed: Sniffed, digest: boolean, way: Way | undefined): boolean {
  const raw = sniffed.format === 'raw' && sniffed.codecs.length === 0 && sniffed.refusal === undefined;
  return raw && facts.ranges && facts.length !== undefined && !digest && (way === undefined || way === 'seek');
}

function resumability(request: PlanRequest, seekable: boolean): { resumable: boolean; resumeWhy: string } {
  const { facts, sniffed } = request;
  if (!seekable && facts.ranges && byExtents(request)) {
    return {
      resumable: false,
      resumeWhy: `${facts.unidentified ?? 'the source has nothing that identifies it'}: a second run starts over`,
    };
  }
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
  const where = {
    gzip: 'a deflate block',
    zstd: 'a frame',
    xz: 'a block',
    lz4: 'a block',
    bzip2: 'a block',
    snappy: 'a chunk',
    tar: 'a byte',
  }[sniffed.codecs[0] ?? ''];
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
  const pinned = isPinned(facts, request.identified);
  const extents = byExtents(request);
  const seekable = (pinned && sniffed.codecs.length === 0) || extents;
  const base = {
    ...resumability(request, pinned),
    seekable: pinned || extents,
    anew: extents && !pinned,
    extents,
    notes: notesOf(request),
  };
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
  if (facts.changedSince !== undefined) {
    if (extents) {
      const why = `${request.data} of ${facts.length} bytes have changed since ${facts.changedSince}: only they are read, the rest stays`;
      return { ...base, way: 'seek', why, wholeSource: false };
    }
    const message =
      'what has changed of a disk is read by ranges: --changed-since goes with no digest of the source, and with raw disks only';
    const refusal = { code: 'BAD_SPEC', stage: 'plan', message } as const;
    return { ...base, way: 'refuse', why: message, wholeSource: false, refusal };
  }
  if (extents) {
    const why = `the source says where its data lies: ${request.data} of ${facts.length} bytes are read, the rest is zeros`;
    return { ...base, way: 'seek', why, wholeSource: false };
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
    why: `the ${sniffed.format} image keeps tables behind its data and the source cannot seek: what has no place yet waits in ${request.spill === undefined ? `memory (at most ${formatSize(request.holdBack)}; more with --spill or --memory)` : `memory and a spill file in ${request.spill}`}`,
    wholeSource: true,
  };
}

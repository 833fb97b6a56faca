import { FerryError } from './errors.ts';
import { HEAD, type HeadSource } from './filters/head.ts';
import { fromEngine, type Limits, native, type Probe, type Sniffed, type Told } from './native.ts';
import type { SourceFacts, SourceOptions } from './source.ts';

/** What a person and the source itself say. Throws BAD_SPEC where the disk is named twice. */
export function toldOf(facts: SourceFacts, { path, disk, format = facts.format }: SourceOptions): Told {
  if (disk !== undefined && (path !== undefined || facts.disk !== undefined)) {
    throw new FerryError(
      path === undefined
        ? '--disk is for archives: of a container image, --path names the disk'
        : '--disk and --path both name the disk: give one of them',
      { code: 'BAD_SPEC', stage: 'plan' },
    );
  }
  return {
    ...(facts.disk ?? (path === undefined ? {} : { path })),
    ...(disk === undefined ? {} : { disk }),
    ...(format === undefined ? {} : { format }),
    ...(facts.codecs === undefined ? {} : { codecs: facts.codecs }),
  };
}

export interface Found {
  /** What was looked at. */
  readonly head: Uint8Array;
  readonly sniffed: Sniffed;
  /** Where the disk lies behind the head, what the engine must be told of it. */
  readonly probe?: Probe;
}

/**
 * Bytes that say enough of most images. Of a source that can be read once no more is taken at first: who sends it should not
 * send much of what is then refused. Less than one read of a socket (64 KiB: libuv, uv__alloc_cb), which has a header in it.
 */
const FIRST = 48 * 1024;

/** What the head of a source says; more of it is looked at where its format wants that. */
export async function look(source: HeadSource, limits: Limits, told: Told, signal: AbortSignal): Promise<Found> {
  let head = await source.head(signal, source.facts.ranges ? HEAD : FIRST);
  for (;;) {
    const sniffed = native().sniff(head, source.facts.length, limits, told);
    // A block of a codec may be longer than what was looked at, and the disk in an archive lie behind it.
    const little = head.length < HEAD && sniffed.codecs.length > 0 && (sniffed.format === 'raw' || sniffed.unseen);
    const wanted = Math.max(sniffed.wanted ?? 0, little ? HEAD : 0);
    if (wanted <= head.length) return { head, sniffed };
    const more = await source.head(signal, wanted);
    // The source has no more: what is wanted is refused as it is.
    const ended = more.length === head.length;
    head = more;
    if (ended) return { head, sniffed };
  }
}

/**
 * What the source is, from its head; where the disk lies in an archive behind it, the archive is read up to there. The
 * source must then be able to be read again. Throws UNSUPPORTED when it is not, NOT_FOUND when the archive has no such
 * member.
 */
export async function sniff(source: HeadSource, limits: Limits, told: Told, signal: AbortSignal): Promise<Found> {
  const { head, sniffed } = await look(source, limits, told, signal);
  if (!sniffed.unseen || sniffed.refusal !== undefined) return { head, sniffed };
  if (!source.facts.ranges) {
    throw new FerryError(
      `the disk lies in the archive behind the first ${head.length} bytes, and this source can be read once only: save the archive first, or put the disk at its beginning`,
      { code: 'UNSUPPORTED', stage: 'plan' },
    );
  }
  const found = await probed(source, head, limits, told, signal);
  if (found.missing) throw found.missing;
  return found;
}

/**
 * Reads an archive up to its disk. Without `probe` it has no such disk: `missing` says so, and `hides` whether it takes
 * the disk away from the layers below it. `seen` is given every byte that was read.
 */
export async function probed(
  source: HeadSource,
  head: Uint8Array,
  limits: Limits,
  told: Told | undefined,
  signal: AbortSignal,
  seen?: (chunk: Uint8Array) => void,
): Promise<Found & { readonly missing?: FerryError; readonly hides?: boolean }> {
  const probe = new (native().Probe)(head, limits, told);
  let hides = false;
  try {
    for await (const batch of source.read({ from: 0 }, signal)) {
      for (const chunk of batch) {
        seen?.(chunk);
        if (probe.push(chunk)) return { head, sniffed: probe.finish(false), probe };
      }
    }
    ({ hides } = probe);
    return { head, sniffed: probe.finish(true), probe };
  } catch (thrown) {
    const error = fromEngine(thrown);
    if (error instanceof FerryError && error.code === 'NOT_FOUND' && error.stage === 'decode') {
      return { head, sniffed: native().sniff(head, source.facts.length, limits, told), missing: error, hides };
    }
    throw error;
  }
}

import { Extents } from '../../dataplane/extents.ts';
import { decoderLimits } from '../../dataplane/memory-budget.ts';
import { native } from '../../dataplane/native.ts';
import type { Extent, Source } from '../../dataplane/source.ts';

/** Bytes that tell what an image is. */
const HEAD = 1024 * 1024;
/** Bytes of the smallest piece that is left out: a cluster of the qcow2 that is sent, a leaf of the disk digest. */
const GRAIN = 64 * 1024;
/** Bytes that are looked at in one go: progress is as fine, and a stop waits for no more. */
const WINDOW = 64 * 1024 * 1024;
/** Bytes of a hole that are looked at along with what lies around it: to leave it out costs more. */
const NEAR = 1024 * 1024;
/**
 * Grains that are looked at before all are. A disk full of data would pay for the look and save nothing: on loopback a fifth of
 * the upload's time (1 GiB of random data: 1.0 s of 5.9), on a line of 1 Gbit/s what the disk takes to be read twice. A
 * disk of zeros goes ten times as fast as without. Where a twentieth is zeros, which is what a qcow2 is made for (packed.ts),
 * none of 128 are found zero once in 700 times, and what that costs is the sending of them.
 */
const SAMPLES = 128;
/** Fraction of the golden ratio: its multiples are spread evenly and have no period that a disk could have too. */
const GOLDEN = 0.6180339887498949;
/** Extents that are kept, some 50 bytes each; with more of them, gaps are sent. */
const MOST = 1 << 18;

/** Whether a source of `length` bytes is a disk as it lies, and tells where it has data. */
export async function isRawDisk(source: Source, length: number, signal: AbortSignal): Promise<boolean> {
  if (source.extents === undefined || source.nonzero === undefined) return false;
  const chunks: Uint8Array[] = [];
  for await (const batch of source.read({ from: 0, to: Math.min(HEAD, length) }, signal)) chunks.push(...batch);
  const sniffed = native().sniff(Buffer.concat(chunks), length, decoderLimits());
  return sniffed.format === 'raw' && sniffed.codecs.length === 0 && sniffed.refusal === undefined;
}

/**
 * Where a raw disk of `length` bytes has data: neither holes of the file system nor zeros that are written out, unless these
 * seem to be none or few. The same for the same disk. `watch` gets the bytes that were looked at, and all. Errors of `read`.
 */
export async function dataOf(
  source: Source,
  length: number,
  watch: (done: number, all: number) => void,
  signal: AbortSignal,
): Promise<Extents> {
  const allocated = new Extents(length, GRAIN, MOST);
  for await (const batch of source.extents?.(signal) ?? []) for (const extent of batch) allocated.add(extent);
  if (!(await seemsToHaveZeros(source, allocated, signal))) return allocated;
  const data = new Extents(length, GRAIN, MOST);
  let all = 0;
  for (const { from, to } of windows(allocated)) all += to - from;
  let done = 0;
  for (const { from, to } of windows(allocated)) {
    watch(done, all);
    for (const extent of await nonzero(source, { from, to }, signal)) data.add(extent);
    done += to - from;
  }
  return data;
}

async function nonzero(source: Source, range: Extent, signal: AbortSignal): Promise<readonly Extent[]> {
  return (await source.nonzero?.(range, GRAIN, signal)) ?? [range];
}

async function seemsToHaveZeros(source: Source, allocated: Extents, signal: AbortSignal): Promise<boolean> {
  const grains = Math.ceil(allocated.bytes / GRAIN);
  if (grains <= 4 * SAMPLES) return true;
  const wanted = Array.from({ length: SAMPLES }, (_, n) => Math.floor(((n * GOLDEN) % 1) * grains)).sort(
    (a, b) => a - b,
  );
  let before = 0;
  for (const { from, to } of allocated) {
    const here = Math.ceil((to - from) / GRAIN);
    for (; wanted[0] !== undefined && wanted[0] < before + here; wanted.shift()) {
      const at = from + (wanted[0] - before) * GRAIN;
      const found = await nonzero(source, { from: at, to: Math.min(at + GRAIN, to) }, signal);
      if (found.length === 0) return true;
    }
    before += here;
  }
  return false;
}

/** What is looked at in one go: extents that lie near, holes between them included, or a part of a long one. */
function* windows(extents: Iterable<Extent>): Iterable<Extent> {
  let window: Extent | undefined;
  for (const { from, to } of extents) {
    if (window && from - window.to < NEAR && to - window.from <= WINDOW) {
      window = { from: window.from, to };
      continue;
    }
    if (window) yield window;
    let at = from;
    for (; to - at > WINDOW; at += WINDOW) yield { from: at, to: at + WINDOW };
    window = { from: at, to };
  }
  if (window) yield window;
}

import { FerryError } from '../../dataplane/errors.ts';
import { formatSize } from '../../dataplane/sizes.ts';
import type { Extent, Source } from '../../dataplane/source.ts';
import type { Made } from './answers.ts';
import { Content } from './content.ts';
import { IETF, TUS } from './dialects.ts';
import { Line, type LineOptions } from './line.ts';
import type { Known, Memory } from './memory.ts';
import { type Offer, offerOf } from './offer.ts';
import { SECTOR } from './packed.ts';
import { rangesOf, sendRanges } from './ranges.ts';
import { goOn, sendAtOnce } from './serial.ts';
import { dataOf, isRawDisk } from './zeros.ts';

export interface SendOptions extends LineOptions {
  readonly memory: Memory;
  /** Begin anew, whatever the memory has. */
  readonly fresh: boolean;
  /** That ranges of a raw disk are sent by, where the server takes them. */
  readonly connections: number;
  /** `scanning`: bytes in which zeros were looked for; `moving`: bytes that were sent and taken, retries counted once. */
  readonly watch: (phase: 'scanning' | 'moving', bytes: number, length: number, retries: number) => void;
}

export interface Sent extends Made {
  /** Bytes of what was sent. */
  readonly sent: number;
  /** Bytes of the disk that were not, because they are zeros. */
  readonly spared: number;
  readonly resumedAt: number;
  readonly retries: number;
}

/** One upload, as far as it is decided. */
interface Job {
  readonly line: Line;
  readonly source: Source;
  readonly length: number;
  readonly offer: Offer;
  /** Where a raw disk has data, when it may be sent without the rest. */
  readonly data?: Iterable<Extent>;
  /** What the source is; undefined = nothing tells whether it is still what it was. */
  readonly identity?: string;
  readonly options: SendOptions;
}

/**
 * Brings all of an image to a server, whatever the line does, in the best way that the server offers. UNSUPPORTED for what can
 * be read once only; TOO_LARGE; errors of the source, of the line and of the server.
 */
export async function send(source: Source, options: SendOptions, signal: AbortSignal): Promise<Sent> {
  const { length, ranges, validator } = source.facts;
  if (length === undefined || !ranges) {
    throw new FerryError(`${source.name} can be read once only: save it to a file, and upload that`, {
      code: 'UNSUPPORTED',
      stage: 'source',
    });
  }
  await using line = new Line(options, signal);
  const offer = await line.persistently(() => offerOf(line));
  const raw = await isRawDisk(source, length, signal);
  const alone = options.connections > 1 ? whyAlone(offer, raw, length, options.url) : '';
  if (alone) options.log.warn(`${alone}: one connection sends it`);
  const images = options.connections > 1 && !alone ? offer.images : undefined;
  const scanned = (done: number, all: number): void => options.watch('scanning', done, all, line.retries);
  const sparse = raw && (images || (offer.qcow2 && length % SECTOR === 0));
  const data = sparse ? await dataOf(source, length, scanned, signal) : undefined;
  const job: Job = {
    line,
    source,
    length,
    offer,
    options,
    ...(data ? { data } : {}),
    ...(validator === undefined ? {} : { identity: validator }),
  };
  const sent = images && data ? await inRanges(job, images, data) : await inOrder(job);
  await options.memory.forget();
  return { ...sent, retries: line.retries };
}

async function inRanges(job: Job, images: URL, data: Iterable<Extent>): Promise<Omit<Sent, 'retries'>> {
  const { line, source, length, identity, options } = job;
  const ranges = rangesOf(length, data);
  const spared = tell(length - ranges.bytes, options);
  // Of what nothing identifies, what was zeros when it was sent may not be any more.
  await settle(job, identity === undefined ? undefined : { way: 'ranges', of: identity });
  const to = { images, size: length, of: identity ?? '', connections: options.connections, memory: options.memory };
  const came = (bytes: number): void => options.watch('moving', bytes, ranges.bytes, line.retries);
  return { ...(await sendRanges(line, source, ranges, to, came)), sent: ranges.bytes, spared };
}

async function inOrder(job: Job): Promise<Omit<Sent, 'retries'>> {
  const { line, source, length, offer, identity, options } = job;
  const content = new Content(source, length, job.data);
  const spared = tell(length - content.length, options);
  if (content.length > (offer.most ?? content.length)) {
    const message = `the server takes uploads of at most ${offer.most} bytes, and these are ${content.length}`;
    throw new FerryError(message, { code: 'TOO_LARGE', stage: 'plan' });
  }
  const came = (offset: number): void => options.watch('moving', offset, content.length, line.retries);
  const told = { sent: content.length, spared };
  if (offer.way === 'plain') return { ...(await sendAtOnce(line, content, came)), ...told, resumedAt: 0 };
  // What nothing identifies has its digest compared at the end.
  const of = `${identity ?? ''} ${content.shape}`;
  await settle(job, { way: offer.way, of });
  const from = { name: source.name, of, memory: options.memory };
  return { ...(await goOn(line, content, offer.way === 'tus' ? TUS : IETF, from, came)), ...told };
}

/** Why more than one connection is of no use, as a sentence; empty where it is. */
function whyAlone({ images }: Offer, raw: boolean, length: number, url: URL): string {
  if (!raw) return 'the image is no raw disk, whose ranges could come in any order';
  if (!images) return 'the server does not offer to take ranges';
  const size = url.searchParams.get('size');
  return size === null || Number(size) === length
    ? ''
    : `the disk is to have ${size} bytes, and the file has ${length}`;
}

function tell(spared: number, { log }: SendOptions): number {
  if (spared > 0) log.info(`${formatSize(spared)} of zeros are not sent`);
  return spared;
}

/** Gives up what an earlier process began otherwise, so that the volume is free for this one. */
async function settle({ line, options }: Job, wanted: Pick<Known, 'way' | 'of'> | undefined): Promise<void> {
  const { memory, fresh, url } = options;
  const { known } = memory;
  if (known === undefined || (!fresh && known.way === wanted?.way && known.of === wanted.of)) return;
  // A tus server may have it as a file that is whole, and takes another beside it.
  if (known.way !== 'tus') await line.ask('DELETE', new URL(known.place, url)).catch(() => undefined);
  await memory.forget();
}

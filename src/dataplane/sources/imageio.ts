import { createHash } from 'node:crypto';
import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import type { HttpSpec } from '../http/client.ts';
import type { Extent, Source, SourceDriver, SourceOptions } from '../source.ts';
import { http, openHttp } from './http.ts';
import { whole } from './whole.ts';

/** A list of extents longer than this is not taken, bytes: some 60 an extent, and all are in memory at once. */
const LONGEST = 8 * 1024 * 1024;

export interface ImageioSpec {
  readonly http: HttpSpec;
  /** The ticket is of an incremental backup: what it shows as changed since. */
  readonly changedSince?: string;
}

/** A disk that oVirt's image service shows for a transfer (https://ovirt.github.io/ovirt-imageio/images.html). */
export const imageio: SourceDriver<ImageioSpec> = {
  schemes: ['imageio+https', 'imageio+http'],

  parse(text: string, options: SourceOptions): ImageioSpec {
    const spec = http.parse(text.replace(/^imageio\+/i, ''), options) as HttpSpec;
    const ticket = /^\/images\/([^/]+)$/.exec(spec.url.pathname)?.[1];
    if (ticket === undefined) {
      throw new FerryError('the source is not of the form imageio+https://host:54322/images/TICKET', {
        code: 'BAD_SPEC',
        stage: 'plan',
      });
    }
    // Whoever knows a ticket may read the disk.
    const hash = createHash('sha256').update(ticket).digest('hex').slice(0, 16);
    const { changedSince } = options;
    return {
      http: { ...spec, name: `imageio+${spec.url.origin}/images/${hash}` },
      ...(changedSince === undefined ? {} : { changedSince }),
    };
  },

  async open({ http: spec, changedSince }: ImageioSpec, context: Context): Promise<Source> {
    const disk = await openHttp(spec, context);
    const { length } = disk.facts;
    const map = changedSince === undefined ? 'zero' : 'dirty';
    return {
      facts: {
        ...disk.facts,
        ...(changedSince === undefined ? {} : { changedSince, format: 'raw' as const }),
        unidentified:
          'the service tells nothing that identifies a disk (give --source-unchanged if nobody writes to it)',
      },
      details: { ...disk.details, kind: "oVirt's image service" },
      name: disk.name,
      read: (range, signal) => disk.read(range, signal),
      ...(length === undefined
        ? {}
        : { extents: (signal: AbortSignal) => extents(spec, length, map, context, signal) }),
      [Symbol.asyncDispose]: () => disk[Symbol.asyncDispose](),
    };
  },
};

/** What of a list of extents is wanted: data; what changed since the last backup; what an image has of its own. */
export type Wanted = 'zero' | 'dirty' | 'own';

/**
 * What `/extents` answers: `[{"start": 0, "length": 65536, "zero": false, "hole": false}, …]`, for an incremental backup
 * with `dirty` in place of `hole`. A hole is what a snapshot that is shown alone leaves to those below it.
 */
export async function* extents(
  spec: HttpSpec,
  length: number,
  wanted: Wanted,
  context: Context,
  signal: AbortSignal,
): AsyncIterable<readonly Extent[]> {
  const url = new URL(spec.url);
  url.pathname += '/extents';
  if (wanted === 'dirty') url.search = 'context=dirty';
  await using answer = await openHttp({ ...spec, url, accept: 'application/json' }, context);
  const text = (await whole(answer, LONGEST, 'the list of extents', signal)).toString('utf8');
  yield wantedOf(text, length, wanted);
}

/** The extents that are wanted. Throws CORRUPT when all are not, one behind another, a disk of `length` bytes. */
export function wantedOf(text: string, length: number, wanted: Wanted): Extent[] {
  const broken = (): FerryError =>
    new FerryError(`the image service's list of extents does not describe a disk of ${length} bytes`, {
      code: 'CORRUPT',
      stage: 'source',
    });
  let list: unknown;
  try {
    list = JSON.parse(text);
  } catch {
    throw broken();
  }
  if (!Array.isArray(list)) throw broken();
  const found: Extent[] = [];
  let at = 0;
  for (const one of list as unknown[]) {
    const { start, length: bytes, ...flags } = (one ?? {}) as Record<string, unknown>;
    if (start !== at || typeof bytes !== 'number' || !Number.isSafeInteger(bytes) || bytes <= 0) throw broken();
    const flag = flags[wanted === 'own' ? 'hole' : wanted];
    if (typeof flag !== 'boolean') throw broken();
    at += bytes;
    if (flag === (wanted === 'dirty')) found.push({ from: start, to: at });
  }
  if (at !== length) throw broken();
  return found;
}

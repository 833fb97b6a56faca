import { createHash } from 'node:crypto';
import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import type { HttpSpec } from '../http/client.ts';
import type { Extent, Source, SourceDriver, SourceOptions } from '../source.ts';
import { http, openHttp } from './http.ts';
import { whole } from './whole.ts';

/** A list of extents longer than this is not taken, bytes: some 60 an extent, and all are in memory at once. */
const LONGEST = 8 * 1024 * 1024;

/** A disk that oVirt's image service shows for a transfer (https://ovirt.github.io/ovirt-imageio/images.html). */
export const imageio: SourceDriver<HttpSpec> = {
  schemes: ['imageio+https', 'imageio+http'],

  parse(text: string, options: SourceOptions): HttpSpec {
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
    return { ...spec, name: `imageio+${spec.url.origin}/images/${hash}` };
  },

  async open(spec: HttpSpec, context: Context): Promise<Source> {
    const disk = await openHttp(spec, context);
    const { length } = disk.facts;
    return {
      facts: {
        ...disk.facts,
        unidentified:
          'the service tells nothing that identifies a disk (give --source-unchanged if nobody writes to it)',
      },
      details: { ...disk.details, kind: "oVirt's image service" },
      name: disk.name,
      read: (range, signal) => disk.read(range, signal),
      ...(length === undefined ? {} : { extents: (signal: AbortSignal) => extents(spec, length, context, signal) }),
      [Symbol.asyncDispose]: () => disk[Symbol.asyncDispose](),
    };
  },
};

/** What `/extents` answers: `[{"start": 0, "length": 65536, "zero": false, "hole": false}, …]`. */
async function* extents(
  spec: HttpSpec,
  length: number,
  context: Context,
  signal: AbortSignal,
): AsyncIterable<readonly Extent[]> {
  const url = new URL(spec.url);
  url.pathname += '/extents';
  await using answer = await openHttp({ ...spec, url, accept: 'application/json' }, context);
  const text = (await whole(answer, LONGEST, 'the list of extents', signal)).toString('utf8');
  yield dataOf(text, length);
}

/** The extents that are not zeros. Throws CORRUPT when they are not, one behind another, a disk of `length` bytes. */
export function dataOf(text: string, length: number): Extent[] {
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
    const { start, length: bytes, zero } = (one ?? {}) as Record<string, unknown>;
    if (start !== at || typeof bytes !== 'number' || !Number.isSafeInteger(bytes) || bytes <= 0) throw broken();
    if (typeof zero !== 'boolean') throw broken();
    at += bytes;
    if (!zero) found.push({ from: start, to: at });
  }
  if (at !== length) throw broken();
  return found;
}

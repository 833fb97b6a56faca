import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import { Engine, type Place, type Snapshot } from '../ovirt/engine.ts';
import type { Extent, Source, SourceDriver, SourceOptions } from '../source.ts';
import { http } from './http.ts';
import { extents, type ImageioSpec, imageio } from './imageio.ts';

/** Ids of disks and of their snapshots are UUIDs. */
const ID = '[0-9A-Fa-f-]{36}';

/** A disk that an oVirt engine is asked for: it opens a transfer, which ends with the source. */
export interface OvirtSpec {
  readonly place: Place;
  /** The disk as it was then; else as it is. */
  readonly snapshot?: string;
  readonly options: SourceOptions;
}

/** https://ovirt.github.io/ovirt-engine-api-model/master/#services/image_transfers */
export const ovirt: SourceDriver<OvirtSpec> = {
  schemes: ['ovirt+https', 'ovirt+http'],

  parse(text: string, options: SourceOptions): OvirtSpec {
    const wrong = (message: string): FerryError => new FerryError(message, { code: 'BAD_SPEC', stage: 'plan' });
    const spec = http.parse(text.replace(/^ovirt\+/i, ''), options) as Place['http'];
    const [, path, disk] = new RegExp(`^(.*)/disks/(${ID})$`).exec(spec.url.pathname) ?? [];
    const snapshot = spec.url.searchParams.get('snapshot') ?? undefined;
    if (path === undefined || disk === undefined || !new RegExp(`^(${ID})?$`).test(snapshot ?? '')) {
      throw wrong('the source is not of the form ovirt+https://ENGINE/ovirt-engine/api/disks/ID[?snapshot=ID]');
    }
    const { credentials, changedSince } = options;
    if (credentials === undefined) {
      throw new FerryError('an oVirt engine wants a user and a password: give --credentials-file', {
        code: 'DENIED',
        stage: 'source',
      });
    }
    if (changedSince !== undefined && snapshot === undefined) {
      throw wrong('what has changed is told from one snapshot to the next: add ?snapshot=ID to the address');
    }
    const place = { http: spec, api: spec.url.origin + path, disk, credentials };
    return { place, ...(snapshot === undefined ? {} : { snapshot }), options };
  },

  async open({ place, snapshot: wanted, options }: OvirtSpec, context: Context): Promise<Source> {
    const { changedSince } = options;
    const engine = new Engine(place, context);
    try {
      await engine.logIn();
      const snapshot = wanted === undefined ? undefined : await engine.snapshot(wanted);
      const changed =
        snapshot === undefined || changedSince === undefined
          ? undefined
          : await changesOf(engine, snapshot, changedSince, options, context);
      const transfer = await engine.begin(snapshot);
      try {
        const disk = await imageio.open(imageOf(await engine.ready(transfer), options), context);
        const told = changed === undefined ? disk.extents?.bind(disk) : () => listed(changed);
        return {
          facts: {
            ...disk.facts,
            format: 'raw',
            // By the engine, until the transfer is given back.
            locked: true,
            ...(snapshot === undefined ? {} : { state: snapshot.id }),
            // A snapshot stays what it is; what is written to at the moment does not.
            ...(snapshot === undefined || snapshot.active ? {} : { validator: snapshot.id }),
            ...(changedSince === undefined ? {} : { changedSince }),
          },
          details: { ...disk.details, kind: 'disk of an oVirt engine' },
          name: `ovirt+${place.api}/disks/${place.disk}`,
          read: (range, signal) => disk.read(range, signal),
          ...(told === undefined ? {} : { extents: told }),
          [Symbol.asyncDispose]: async () => {
            await disk[Symbol.asyncDispose]();
            await engine.end(transfer);
            await engine[Symbol.asyncDispose]();
          },
        };
      } catch (error) {
        await engine.end(transfer);
        throw error;
      }
    } catch (error) {
      await engine[Symbol.asyncDispose]();
      throw error;
    }
  },
};

/** What a transfer shows. The engine's credentials are not the image service's. */
function imageOf(url: string, { credentials: _, headers: __, changedSince: ___, ...rest }: SourceOptions): ImageioSpec {
  return imageio.parse(`imageio+${url}`, rest);
}

async function* listed(changed: readonly Extent[]): AsyncIterable<readonly Extent[]> {
  yield changed;
}

/**
 * What has changed from one snapshot to the next: what the next has of its own when it is shown alone. It is asked for in
 * a transfer before the one that is read, in which all of the disk can be read.
 */
async function changesOf(
  engine: Engine,
  snapshot: Snapshot,
  since: string,
  options: SourceOptions,
  context: Context,
): Promise<Extent[]> {
  if (snapshot.parent !== since) {
    const before = snapshot.parent === undefined ? 'none' : `the snapshot ${snapshot.parent}`;
    throw new FerryError(
      `before the snapshot ${snapshot.id} is ${before} at the engine, not ${since}: import the disk whole, or one snapshot after the other`,
      { code: 'CHANGED', stage: 'source' },
    );
  }
  const transfer = await engine.begin(snapshot, true);
  try {
    const spec = imageOf(await engine.ready(transfer), options);
    await using alone = await imageio.open(spec, context);
    const changed: Extent[] = [];
    const list = extents(spec.http, alone.facts.length ?? 0, 'own', context, context.signal);
    for await (const batch of list) changed.push(...batch);
    context.log.info(`${changed.length} parts of the disk have changed since ${since}`);
    return changed;
  } finally {
    await engine.end(transfer);
  }
}

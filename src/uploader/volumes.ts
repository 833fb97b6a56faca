import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import type { FastifyPluginAsync, FastifyRequest } from 'fastify';
import { parseDigest } from '../dataplane/digests.ts';
import { FerryError } from '../dataplane/errors.ts';
import { native } from '../dataplane/native.ts';
import { parseSize } from '../dataplane/sizes.ts';
import { schemeOf } from '../dataplane/sources/index.ts';
import { json as jsonOf } from './body.ts';
import type { Service } from './service.ts';
import { OPERATIONS, type Operation } from './tokens.ts';
import { overview } from './web.ts';

/** Where a server imports from: no files and no programs of its own machine. */
const SCHEMES = ['http', 'https', 's3', 'gs', 'az', 'docker', 'nbd', 'nbds'];
/** Bytes of a request that is JSON. */
const LONGEST_JSON = 64 * 1024;
/** Bytes of one read of a volume that is downloaded. */
const READ = 1024 * 1024;
/** Extents that one answer has at most. */
const MOST_EXTENTS = 65_536;

/** Seconds that a token is good, where nothing else is asked for, and at most: an hour, a week. */
const TOKEN = 3600;
const LONGEST_TOKEN = 7 * 24 * 3600;

interface Named {
  readonly Params: { readonly name: string };
}

interface Import {
  readonly url: string;
  readonly digest?: string;
  readonly size?: string;
  readonly format?: string;
  readonly path?: string;
  readonly disk?: string;
  readonly replace?: boolean;
}

const NAMED = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] } as const;
const IMPORT = {
  type: 'object',
  properties: {
    url: { type: 'string', description: `An address: ${SCHEMES.join(', ')}` },
    digest: { type: 'string', description: 'sha256:<hex> or sha512:<hex> of the image' },
    size: { type: 'string', description: 'Exact size of the disk, such as 20Gi' },
    format: { type: 'string', description: 'Accept nothing else' },
    path: { type: 'string', description: 'Of the disk in an archive or container image' },
    disk: { type: 'string', description: 'Name or number of the disk in an archive' },
    replace: { type: 'boolean', description: 'Put it in the place of a disk' },
  },
  required: ['url'],
  additionalProperties: false,
} as const;
const RENAME = {
  type: 'object',
  properties: { name: { type: 'string' } },
  required: ['name'],
  additionalProperties: false,
} as const;

const TOKENS = {
  summary: 'A token for one operation on this volume alone: sent as bearer token or password in place of the secret',
  params: NAMED,
  querystring: {
    type: 'object',
    properties: {
      operation: { type: 'string', enum: OPERATIONS },
      seconds: { type: 'string', pattern: '^[0-9]{1,6}$', description: `Until it expires: ${TOKEN}` },
    },
    required: ['operation'],
    additionalProperties: false,
  },
} as const;

/** What there is, what becomes of it, and what is in it. */
export const volumes: FastifyPluginAsync<Service> = async (app, service) => {
  const { store } = service;

  app.get('/volumes', { schema: { summary: 'All volumes' } }, async () => overview(service));

  const errand = { operation: 'download' } as const;
  app.get<Named>(
    '/volumes/:name',
    { schema: { summary: 'One volume', params: NAMED }, config: { errand } },
    ({ params }) => store.show(params.name),
  );

  app.delete<Named>(
    '/volumes/:name',
    { schema: { summary: 'Deletes a volume, and stops what is on its way into it', params: NAMED } },
    async ({ params }, reply) => {
      await store.remove(params.name);
      return reply.code(204).send();
    },
  );

  app.post<Named & { Querystring: { operation: Operation; seconds?: string } }>(
    '/volumes/:name/tokens',
    { schema: TOKENS },
    async ({ params, query }, reply) => {
      const seconds = Number(query.seconds ?? TOKEN);
      if (seconds < 1 || seconds > LONGEST_TOKEN) {
        const message = `a token is good for 1 to ${LONGEST_TOKEN} seconds`;
        throw new FerryError(message, { code: 'BAD_SPEC', stage: 'plan' });
      }
      const issued = await service.tokens.issue(query.operation, params.name, seconds);
      return reply.code(201).header('cache-control', 'no-store').send(issued);
    },
  );

  await app.register(async (json) => {
    json.removeAllContentTypeParsers();
    json.addContentTypeParser('*', (request: FastifyRequest) => jsonOf(request.raw, LONGEST_JSON, service.stall));

    json.post<Named & { Body: { name: string } }>(
      '/volumes/:name/rename',
      { schema: { summary: 'Gives a volume another name', params: NAMED, body: RENAME } },
      ({ params, body }) => store.rename(params.name, body.name),
    );

    json.post<Named & { Body: Import }>(
      '/volumes/:name/import',
      {
        schema: {
          summary: 'Begins to import an image from an address; the volume tells how far it is',
          params: NAMED,
          body: IMPORT,
        },
      },
      async ({ params, body }, reply) => {
        await begin(service, params.name, body);
        return reply
          .code(202)
          .header('location', `/volumes/${params.name}`)
          .send(await store.show(params.name));
      },
    );
  });

  app.route<Named>({
    method: ['GET', 'HEAD'],
    url: '/volumes/:name/disk',
    schema: { summary: 'The disk, raw; by ranges too', params: NAMED },
    config: { errand },
    handler: async (request, reply) => {
      const { diskDigest } = await whole(service, request.params.name);
      const path = store.path(request.params.name);
      const { size } = await stat(path);
      const tag = diskDigest === undefined ? undefined : `"${diskDigest}"`;
      reply.header('accept-ranges', 'bytes').type('application/octet-stream');
      if (tag !== undefined) reply.header('etag', tag);
      const range = rangeOf(request, size, tag);
      if (range === 'beyond') return reply.code(416).header('content-range', `bytes */${size}`).send();
      const { from, to } = range ?? { from: 0, to: size };
      reply.header('content-length', to - from);
      if (range) reply.code(206).header('content-range', `bytes ${from}-${to - 1}/${size}`);
      if (request.method === 'HEAD' || to === from) return reply.send();
      return reply.send(createReadStream(path, { start: from, end: to - 1, highWaterMark: READ }));
    },
  });

  app.get<Named & { Querystring: { from?: string } }>(
    '/volumes/:name/extents',
    {
      schema: {
        summary: `Where the disk has data, [from, to) each, at most ${MOST_EXTENTS}; all else is zeros`,
        params: NAMED,
        querystring: { type: 'object', properties: { from: { type: 'string', pattern: '^[0-9]{1,15}$' } } },
      },
      config: { errand },
    },
    async ({ params, query }) => {
      await whole(service, params.name);
      await using file = await open(store.path(params.name), 'r');
      const { size } = await file.stat();
      const from = Math.min(Number(query.from ?? 0), size);
      const pairs = [...(await native().fileExtents(file.fd, from, size, MOST_EXTENTS))];
      const extents = Array.from({ length: pairs.length / 2 }, (_, n) => pairs.slice(2 * n, 2 * n + 2));
      const next = extents.length < MOST_EXTENTS ? undefined : extents.at(-1)?.[1];
      return { size, extents, ...(next === undefined ? {} : { next }) };
    },
  );
};

/** A volume that can be read. BUSY while something is on its way into it. */
async function whole({ store }: Service, name: string): ReturnType<Service['store']['show']> {
  const volume = await store.show(name);
  if (volume.state === 'ready' || volume.state === 'blank' || volume.state === 'busy') return volume;
  throw new FerryError(`${name} is ${volume.state}: it can be read when it is whole`, {
    code: 'BUSY',
    stage: 'target',
  });
}

/** One range (RFC 9110 section 14.2); what is several, or of another version, is all of it. */
function rangeOf(
  { headers }: FastifyRequest,
  size: number,
  tag: string | undefined,
): { from: number; to: number } | 'beyond' | undefined {
  const [, first = '', last = ''] = /^bytes=(\d*)-(\d*)$/.exec(headers.range ?? '') ?? [];
  if (first === '' && last === '') return undefined;
  if (headers['if-range'] !== undefined && headers['if-range'] !== tag) return undefined;
  const from = first === '' ? Math.max(0, size - Number(last)) : Number(first);
  const to = first === '' || last === '' ? size : Math.min(Number(last) + 1, size);
  return from >= size || to <= from ? 'beyond' : { from, to };
}

/** Resolves when the import has its volume; what becomes of it the volume tells. */
async function begin(service: Service, name: string, wanted: Import): Promise<void> {
  const { store, uploads, queue, log, guard, rate, memory } = service;
  if (!SCHEMES.includes(schemeOf(wanted.url))) {
    const known = SCHEMES.map((scheme) => `${scheme}://`).join(', ');
    throw new FerryError(`a server imports from ${known} addresses`, { code: 'BAD_SPEC', stage: 'plan' });
  }
  const { url, path, disk, format } = wanted;
  const digest = wanted.digest === undefined ? undefined : parseDigest(wanted.digest);
  const size = wanted.size === undefined ? undefined : parseSize(wanted.size);
  const filling = await uploads.claim('import', name, wanted.replace === true);
  const carried = queue.add(() =>
    filling.carry(
      {
        source: url,
        sourceOptions: {
          // Nothing of this machine is lent to whoever asks for an import.
          anonymous: true,
          instanceMetadata: false,
          environment: {},
          ...(path === undefined ? {} : { path }),
          ...(disk === undefined ? {} : { disk }),
          ...(format === undefined ? {} : { format }),
        },
        connections: 4,
        fresh: false,
        force: false,
        replace: true,
        preallocate: false,
        guard,
        journalKey: { stateDirectory: store.stateDirectory },
        memory,
        ...(rate === undefined ? {} : { rate }),
        ...(digest === undefined ? {} : { digest }),
        ...(size === undefined ? {} : { size }),
      },
      log,
    ),
  );
  // The volume tells.
  carried.catch(() => filling.release());
}

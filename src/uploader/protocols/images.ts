import { createHash } from 'node:crypto';
import type { FastifyPluginAsync, FastifyRequest } from 'fastify';
import { FerryError } from '../../dataplane/errors.ts';
import { promisedDigest } from '../../dataplane/http/fields.ts';
import { parseSize } from '../../dataplane/sizes.ts';
import { Assembly } from '../assembly.ts';
import { chunks, json } from '../body.ts';
import { letSend } from '../continue.ts';
import type { Service } from '../service.ts';

/** Bytes that are written at once. */
const PIECE = 1024 * 1024;
/** Connections that may write at once. */
const WRITERS = 8;
/** Bytes of a request that is JSON. */
const LONGEST_JSON = 4096;
/** Milliseconds between two looks for what nobody goes on with. */
const LOOK = 10_000;

interface Named {
  readonly Params: { readonly name: string };
  readonly Querystring: { readonly size: string; readonly replace?: string };
}

interface Known {
  readonly Params: { readonly id: string };
  readonly Querystring: { readonly context?: string; readonly flush?: string; readonly digest?: string };
}

const BEGIN = {
  summary:
    'Begins a volume of `size` that is written in ranges, in any order: the address is that of an image of ovirt-imageio',
  params: { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] },
  querystring: {
    type: 'object',
    properties: { size: { type: 'string' }, replace: { type: 'string', enum: ['true', 'false'] } },
    required: ['size'],
    additionalProperties: false,
  },
} as const;

/**
 * Random access to a raw disk, as ovirt-imageio has it (https://ovirt.github.io/ovirt-imageio/images.html), so that its
 * client works unmodified. Its transfers are begun and finished by an engine: here by two requests of ours.
 */
export const images: FastifyPluginAsync<Service> = async (app, service) => {
  const known = new Map<string, Assembly>();
  const find = (id: string): Assembly => {
    const found = known.get(id);
    if (found) return found;
    throw new FerryError('there is no such image, or it has expired: begin anew', {
      code: 'NOT_FOUND',
      stage: 'source',
    });
  };
  const timer = setInterval(() => {
    for (const one of known.values()) {
      if (one.finishing || Date.now() - one.active <= service.expiry) continue;
      void one.giveUp(`nobody went on with it for ${service.expiry / 1000} s`);
      service.metrics.expired(1);
    }
  }, LOOK);
  timer.unref();
  app.addHook('onClose', async () => {
    clearInterval(timer);
    await Promise.all([...known.values()].map((one) => one.giveUp('the server was stopped')));
  });

  app.post<Named>(
    '/volumes/:name/images',
    { schema: BEGIN, config: { errand: { operation: 'upload' } } },
    async ({ params, query }, reply) => {
      const size = parseSize(query.size);
      if (known.size >= service.transfers) {
        const message = `${known.size} images are being written, which is as many as may be: try again`;
        throw new FerryError(message, { code: 'BUSY', stage: 'plan', retryable: true, retryAfter: 5 });
      }
      const filling = await service.uploads.claim('ranges', params.name, query.replace === 'true');
      const assembly = await Assembly.begin(filling, size, service.store.stateDirectory);
      known.set(assembly.id, assembly);
      void assembly.over().then(() => known.delete(assembly.id));
      const image = `/images/${assembly.id}`;
      return reply.code(201).header('location', image).send({ image, name: params.name, size });
    },
  );

  const open = { config: { open: true }, schema: { hide: true } };
  app.options<Known>('/images/:id', open, async ({ params }) => {
    find(params.id);
    return { features: ['extents', 'zero', 'flush'], max_readers: 1, max_writers: WRITERS };
  });

  app.get<Known>('/images/:id/extents', open, async ({ params, query }) => {
    const assembly = find(params.id);
    if (query.context === 'dirty') {
      throw new FerryError('what is written has no changes to tell', { code: 'NOT_FOUND', stage: 'source' });
    }
    const pairs = await assembly.act((patch) => patch.extents());
    const list: { start: number; length: number; zero: boolean; hole: boolean }[] = [];
    let at = 0;
    const add = (to: number, zero: boolean): void => {
      if (to > at) list.push({ start: at, length: to - at, zero, hole: false });
      at = Math.max(at, to);
    };
    for (let n = 0; n < pairs.length; n += 2) {
      add(pairs[n] ?? 0, true);
      add(pairs[n + 1] ?? 0, false);
    }
    add(assembly.size, true);
    return list;
  });

  app.put<Known>('/images/:id', open, async (request, reply) => {
    const assembly = find(request.params.id);
    const { from, length } = placeOf(request, assembly.size);
    letSend(request.raw, reply.raw);
    await assembly.writing(() => written(assembly, request, from, length, service));
    if (request.query.flush !== 'n') await assembly.act((patch) => patch.flush());
    return reply.code(200).send();
  });

  app.patch<Known>('/images/:id', open, async (request, reply) => {
    const assembly = find(request.params.id);
    const { op, offset = 0, size, flush } = await operationOf(request, service.stall);
    if (op === 'zero') {
      if (!isOffset(offset) || !isOffset(size)) throw bad("'zero' wants offset and size, in bytes");
      await assembly.writing(() => assembly.act((patch) => patch.zero(offset, size)));
    } else if (op !== 'flush') throw bad("the operation is none of 'zero' and 'flush'");
    if (op === 'flush' || flush === true) await assembly.act((patch) => patch.flush());
    return reply.code(200).send();
  });

  app.post<Known>(
    '/images/:id/finalize',
    {
      config: { open: true },
      schema: {
        summary:
          'All was written: makes the volume, if it is the disk of this digest where one is told, and answers its digest',
        querystring: {
          type: 'object',
          properties: { digest: { type: 'string', pattern: '^dd1:[0-9a-f]{64}$' } },
          additionalProperties: false,
        },
      },
    },
    async ({ params, query }) => {
      const assembly = find(params.id);
      const { diskDigest, virtualSize } = await assembly.finish(query.digest);
      return { name: assembly.volume, state: 'ready', size: virtualSize, diskDigest };
    },
  );

  app.delete<Known>('/images/:id', open, async ({ params }, reply) => {
    await find(params.id).giveUp('its sender gave it up');
    return reply.code(204).send();
  });
};

/** Writes a body as it comes; a digest of it that is declared is compared at its end: what was written is then void. */
async function written(
  assembly: Assembly,
  { raw, headers }: FastifyRequest,
  from: number,
  length: number,
  { stall, rate }: Service,
): Promise<void> {
  const expected = promisedDigest(headers, true);
  const hash = expected && createHash(expected.algorithm);
  let at = from;
  let waiting: Buffer[] = [];
  let bytes = 0;
  const write = async (): Promise<void> => {
    const piece = waiting.length === 1 ? (waiting[0] as Buffer) : Buffer.concat(waiting);
    waiting = [];
    bytes = 0;
    hash?.update(piece);
    await rate?.pass(piece.length);
    await assembly.write(at, piece);
    at += piece.length;
  };
  for await (const chunk of chunks(raw, stall)) {
    assembly.received += chunk.length;
    waiting.push(chunk);
    bytes += chunk.length;
    if (bytes >= PIECE) await write();
  }
  if (bytes > 0) await write();
  if (at !== from + length) {
    throw new FerryError(`of ${length} bytes ${at - from} came`, { code: 'TRUNCATED', stage: 'source' });
  }
  if (expected && hash?.digest('hex') !== expected.hex) {
    throw new FerryError('the bytes are not what their digest says: send them again', {
      code: 'DIGEST_MISMATCH',
      stage: 'verify',
    });
  }
}

/** Where the body goes: the service looks at the beginning alone, and at the length. */
function placeOf({ headers }: FastifyRequest, size: number): { from: number; length: number } {
  const [, start] = /^bytes (\d{1,15})-/.exec(headers['content-range'] ?? 'bytes 0-') ?? [];
  const length = Number(headers['content-length'] ?? Number.NaN);
  if (start === undefined || !isOffset(length))
    throw bad('Content-Range is "bytes FROM-TO/*", and Content-Length is wanted');
  const from = Number(start);
  if (from + length > size) {
    throw new FerryError(`bytes ${from} to ${from + length} are not of a disk of ${size}`, {
      code: 'TOO_LARGE',
      stage: 'plan',
    });
  }
  return { from, length };
}

interface Operation {
  readonly op?: unknown;
  readonly offset?: unknown;
  readonly size?: unknown;
  readonly flush?: unknown;
}

async function operationOf({ raw }: FastifyRequest, stall: number): Promise<Operation> {
  const value = await json(raw, LONGEST_JSON, stall);
  if (typeof value === 'object' && value !== null) return value;
  throw bad('the operation is no JSON object');
}

function isOffset(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function bad(message: string): FerryError {
  return new FerryError(message, { code: 'BAD_SPEC', stage: 'plan' });
}

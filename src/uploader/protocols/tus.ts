import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify';
import { parseDigest } from '../../dataplane/digests.ts';
import { FerryError } from '../../dataplane/errors.ts';
import { parseSize } from '../../dataplane/sizes.ts';
import { whole } from '../body.ts';
import { letSend } from '../continue.ts';
import type { Service } from '../service.ts';
import type { Upload } from '../upload.ts';

/** https://tus.io/protocols/resumable-upload, version 1.0.0. */
const VERSION = '1.0.0';
const EXTENSIONS = 'creation,creation-with-upload,termination,checksum,expiration';
const ALGORITHMS = ['sha1', 'sha256', 'sha512', 'md5'];
/** Type of a body that is a part of an upload. */
const PART = 'application/offset+octet-stream';
/** Bytes of a part with a checksum of its own: what is in the engine cannot be taken back, so it waits until it is compared. */
const LONGEST_CHECKED = 8 * 1024 * 1024;
/** "Checksum Mismatch". */
const MISMATCH = 460;

interface Query {
  readonly volume?: string;
  readonly replace?: string;
}

interface Known {
  readonly Params: { readonly id: string };
}

/**
 * tus 1.0. The volume is named in `Upload-Metadata` (`volume`, else `filename`) or as `?volume=`. The parts of an upload are
 * sent under its id, which nobody else knows, and need no secret: one that expires meanwhile does no harm.
 */
export const tus: FastifyPluginAsync<Service> = async (app, service) => {
  const { uploads } = service;
  app.addHook('onRequest', async (request, reply) => {
    reply.header('tus-resumable', VERSION).header('cache-control', 'no-store');
    if (request.method === 'OPTIONS' || request.headers['tus-resumable'] === VERSION) return;
    reply.header('tus-version', VERSION);
    await reply.code(412).send({ error: { message: `this server speaks tus ${VERSION}` } });
  });

  app.options('/tus', { config: { open: true }, schema: { hide: true } }, async (_request, reply) =>
    reply
      .code(204)
      .headers({ 'tus-version': VERSION, 'tus-extension': EXTENSIONS, 'tus-checksum-algorithm': ALGORITHMS.join(',') })
      .send(),
  );

  app.post<{ Querystring: Query }>(
    '/tus',
    {
      schema: { summary: 'tus: begins an upload; Upload-Length and Upload-Metadata say what comes' },
      config: { errand: { operation: 'upload', volume: volumeOf } },
    },
    async (request, reply) => {
      const told = metadataOf(request.headers['upload-metadata']);
      const name = volumeOf(request);
      const length = wholeNumber(request.headers['upload-length'], 'Upload-Length');
      const replace = (request.query.replace ?? told.get('replace')) === 'true';
      const [size, digest, label] = [told.get('size'), told.get('digest'), told.get('filename')];
      const declared = {
        length,
        ...(size === undefined ? {} : { size: parseSize(size) }),
        ...(digest === undefined ? {} : { digest: parseDigest(digest) }),
        ...(label === undefined ? {} : { label }),
      };
      const upload = await uploads.begin(await uploads.claim('tus', name, replace), declared);
      reply.header('location', `/tus/${upload.id}`);
      if (request.headers['content-type'] === PART) {
        letSend(request.raw, reply.raw);
        await part(upload, request.raw);
      }
      return told204(reply.code(201), service, upload).send();
    },
  );

  const open = { config: { open: true } };
  app.head<Known>('/tus/:id', { ...open, schema: { hide: true } }, async ({ params }, reply) => {
    const upload = await uploads.find(params.id, 'tus');
    // All has come, and what became of it is not known to the sender.
    if (upload.complete) await upload.finish();
    upload.settle();
    return told204(reply.code(200), service, upload)
      .header('upload-length', upload.declared.length ?? 0)
      .send();
  });

  app.patch<Known>(
    '/tus/:id',
    { ...open, schema: { summary: 'tus: goes on with an upload at Upload-Offset' } },
    async (request, reply) => {
      const upload = await uploads.find(request.params.id, 'tus');
      if (request.headers['content-type'] !== PART) {
        throw new FerryError(`a part of an upload has the type ${PART}`, { code: 'UNSUPPORTED', stage: 'plan' });
      }
      const offset = wholeNumber(request.headers['upload-offset'], 'Upload-Offset');
      const body = await checked(request, reply, service.stall);
      if (body === undefined) return reply;
      letSend(request.raw, reply.raw);
      await part(upload, body, offset);
      return told204(reply.code(204), service, upload).send();
    },
  );

  app.delete<Known>(
    '/tus/:id',
    { ...open, schema: { summary: 'tus: gives an upload up' } },
    async ({ params }, reply) => {
      await uploads.drop(await uploads.find(params.id, 'tus'), 'its sender gave it up');
      return reply.code(204).send();
    },
  );
};

/** Takes a part; with the last one the disk is whole when this resolves. */
async function part(upload: Upload, body: Readable, offset?: number): Promise<void> {
  await upload.take(body, offset);
  if (upload.complete) await upload.finish();
}

function told204(reply: FastifyReply, { uploads }: Service, upload: Upload): FastifyReply {
  return reply.headers({
    'upload-offset': upload.offset,
    'upload-expires': new Date(uploads.expires(upload)).toUTCString(),
  });
}

/** The body; one with a checksum is compared first. Undefined where that was answered. */
async function checked(request: FastifyRequest, reply: FastifyReply, stall: number): Promise<Readable | undefined> {
  const text = request.headers['upload-checksum'];
  if (text === undefined) return request.raw;
  const [algorithm = '', expected = ''] = String(text).split(' ');
  if (!ALGORITHMS.includes(algorithm)) {
    throw new FerryError(`Upload-Checksum is one of ${ALGORITHMS.join(', ')}`, { code: 'BAD_SPEC', stage: 'plan' });
  }
  if (!(Number(request.headers['content-length'] ?? LONGEST_CHECKED + 1) <= LONGEST_CHECKED)) {
    throw new FerryError(`a part with a checksum of its own has at most ${LONGEST_CHECKED} bytes: send smaller ones`, {
      code: 'TOO_LARGE',
      stage: 'plan',
    });
  }
  letSend(request.raw, reply.raw);
  const bytes = await whole(request.raw, LONGEST_CHECKED, stall);
  if (createHash(algorithm).update(bytes).digest('base64') === expected)
    return Readable.from([bytes], { objectMode: false });
  await reply
    .code(MISMATCH)
    .send({ error: { code: 'DIGEST_MISMATCH', message: 'the part is not what its checksum says' } });
  return undefined;
}

/** The volume that an upload is to begin in. */
function volumeOf({ query, headers }: FastifyRequest): string {
  const told = metadataOf(headers['upload-metadata']);
  return (query as Query).volume ?? told.get('volume') ?? told.get('filename')?.replace(/\..*$/, '') ?? '';
}

/** `key base64,key base64` (Upload-Metadata). */
function metadataOf(text: string | string[] | undefined): Map<string, string> {
  const pairs = String(text ?? '')
    .split(',')
    .map((pair) => pair.trim().split(' '));
  return new Map(pairs.map(([key = '', value = '']) => [key, Buffer.from(value, 'base64').toString('utf8')]));
}

function wholeNumber(text: string | string[] | undefined, name: string): number {
  if (typeof text === 'string' && /^\d{1,15}$/.test(text)) return Number(text);
  throw new FerryError(`${name} is a number of bytes`, { code: 'BAD_SPEC', stage: 'plan' });
}

import type { Readable } from 'node:stream';
import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify';
import { FerryError } from '../../dataplane/errors.ts';
import { promisedDigest } from '../../dataplane/http/fields.ts';
import { parseSize } from '../../dataplane/sizes.ts';
import type { Digest } from '../../dataplane/source.ts';
import type { TransferReport } from '../../dataplane/transfer.ts';
import type { Filling } from '../../store/filling.ts';
import { letSend } from '../continue.ts';
import type { Service } from '../service.ts';
import type { Declared, Upload } from '../upload.ts';
import { beginResumable, wantsToResume } from './ietf.ts';
import { reported } from './report.ts';

interface Query {
  readonly size?: string;
  readonly replace?: 'true' | 'false';
  readonly format?: string;
}

const SCHEMA = {
  summary: 'Makes a volume of the image that is sent, or an empty one of `size` where the body is empty',
  description:
    'Raw, qcow2, VMDK, VHD, VDI and more, in any compression. Answered when the disk is whole and verified. `Repr-Digest`, `Digest` or `X-Checksum-Sha256` are demanded.',
  params: { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] },
  querystring: {
    type: 'object',
    properties: {
      size: { type: 'string', description: 'Exact size of the disk, such as 20Gi' },
      replace: { type: 'string', enum: ['true', 'false'], description: 'Put it in the place of a disk' },
      format: { type: 'string', description: 'Accept nothing else' },
    },
    additionalProperties: false,
  },
} as const;

/** The image as the body of one request: `curl -T image.qcow2 URL`. */
export const plain: FastifyPluginAsync<Service> = async (app, service) => {
  type Put = FastifyRequest<{ Params: { name: string }; Querystring: Query }>;
  const handler = async (request: Put, reply: FastifyReply): Promise<unknown> => {
    const { name } = request.params;
    const resumable = wantsToResume(request);
    const { replace, format } = request.query;
    const size = request.query.size === undefined ? undefined : parseSize(request.query.size);
    const declared = declaredOf(request, { ...(size === undefined ? {} : { size }), ...(format ? { format } : {}) });
    const kind = resumable ? 'ietf' : declared.length === 0 ? 'blank' : 'plain';
    const filling = await service.uploads.claim(kind, name, replace === 'true');
    if (resumable) return beginResumable(service, filling, declared, request, reply);
    // Nobody knows how to go on with it.
    filling.lost = true;
    try {
      const report = await service.queue.add(async () => {
        if (declared.length === 0) return blank(service, filling, size);
        letSend(request.raw, reply.raw);
        return whole(await service.uploads.begin(filling, declared), request.raw, service);
      });
      return await reply.code(201).header('location', `/volumes/${name}`).send(reported(name, report));
    } finally {
      filling.release();
    }
  };
  app.route({
    method: ['PUT', 'POST'],
    url: '/volumes/:name',
    schema: SCHEMA,
    config: { errand: { operation: 'upload' } },
    handler,
  });
};

async function whole(upload: Upload, body: Readable, { uploads }: Service): Promise<TransferReport> {
  try {
    if (await upload.take(body)) return await upload.finish();
    throw upload.failure ?? new FerryError('the sender went before the end', { code: 'TRUNCATED', stage: 'source' });
  } finally {
    await uploads.drop(upload, 'the upload was cut');
  }
}

async function blank({ log, store }: Service, filling: Filling, size: number | undefined): Promise<TransferReport> {
  if (size === undefined) {
    throw new FerryError('the body is empty: send an image, or ?size=20Gi for an empty volume', {
      code: 'BAD_SPEC',
      stage: 'plan',
    });
  }
  return filling.carry(
    {
      source: `blank:${size}`,
      sourceOptions: {},
      connections: 1,
      fresh: true,
      force: true,
      preallocate: false,
      journalKey: { stateDirectory: store.stateDirectory },
    },
    log,
  );
}

/** What a request says of the image that it carries. BAD_SPEC for what contradicts itself. */
export function declaredOf({ headers }: FastifyRequest, more: Partial<Declared>): Declared {
  const text = headers['content-length'];
  const length = text === undefined ? undefined : Number(text);
  if (length === undefined && headers['transfer-encoding'] === undefined) return { ...more, length: 0 };
  if (headers['content-encoding'] !== undefined && headers['content-encoding'] !== 'identity') {
    throw new FerryError(
      'a content coding is not undone: send the compressed image as it is, without Content-Encoding',
      {
        code: 'UNSUPPORTED',
        stage: 'plan',
      },
    );
  }
  const digest = digestOf(headers);
  return { ...more, ...(length === undefined ? {} : { length }), ...(digest === undefined ? {} : { digest }) };
}

export function digestOf(headers: FastifyRequest['headers']): Digest | undefined {
  const hex = headers['x-checksum-sha256'];
  if (typeof hex === 'string') {
    if (!/^[0-9a-f]{64}$/i.test(hex)) {
      throw new FerryError('X-Checksum-Sha256 has 64 hexadecimal digits', { code: 'BAD_SPEC', stage: 'plan' });
    }
    return { algorithm: 'sha256', hex: hex.toLowerCase() };
  }
  return promisedDigest(headers, true);
}

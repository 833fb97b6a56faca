import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify';
import { FerryError } from '../../dataplane/errors.ts';
import type { TransferReport } from '../../dataplane/transfer.ts';
import type { Filling } from '../../store/filling.ts';
import { letSend } from '../continue.ts';
import type { Service } from '../service.ts';
import type { Declared, Upload } from '../upload.ts';
import { reported } from './report.ts';

/** Versions of the draft that are spoken (draft-ietf-httpbis-resumable-upload-03, -05 and later): what is used is the same. */
const VERSIONS = ['5', '6', '7', '8'];
/** Relation of a link (RFC 8288) to where an image is begun that takes what this describes: images.ts. */
const IMAGES = 'https://ovirt.github.io/ovirt-imageio/images.html';
/** Type of a problem (RFC 9457) that names where the upload goes on. */
const MISMATCH = 'https://iana.org/assignments/http-problem-types#mismatching-upload-offset';

interface Volume {
  readonly Params: { readonly name: string };
}

interface Known {
  readonly Params: { readonly id: string };
}

/** Whether the sender of an image would go on with it. BAD_SPEC where it does not say how. */
export function wantsToResume({ headers }: FastifyRequest): boolean {
  const complete = headers['upload-complete'];
  if (complete === undefined) return false;
  if (complete !== '?0' && complete !== '?1') {
    throw new FerryError('Upload-Complete is ?0 or ?1', { code: 'BAD_SPEC', stage: 'plan' });
  }
  return true;
}

/** Takes the beginning of an image, or all of it, and tells under which address it can be gone on with. */
export async function beginResumable(
  service: Service,
  filling: Filling,
  declared: Declared,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<unknown> {
  const complete = request.headers['upload-complete'] === '?1';
  const { length: body, ...rest } = declared;
  const length = lengthOf(request) ?? (complete ? body : undefined);
  const upload = await service.uploads.begin(filling, { ...rest, ...(length === undefined ? {} : { length }) });
  const location = `/uploads/${upload.id}`;
  reply.header('location', location);
  letSend(request.raw, reply.raw);
  // Where nothing is sent yet the answer itself comes at once.
  if (body !== 0) inform(request, location);
  return append(upload, request, reply.code(201), 0);
}

/** https://datatracker.ietf.org/doc/draft-ietf-httpbis-resumable-upload/: what follows the first request of an upload. */
export const ietf: FastifyPluginAsync<Service> = async (app, service) => {
  const { uploads } = service;
  const open = { config: { open: true } };

  app.options<Volume>('/volumes/:name', { ...open, schema: { hide: true } }, async ({ params }, reply) =>
    reply
      .code(204)
      .headers({
        'upload-limit': `max-age=${Math.floor(service.expiry / 1000)}`,
        'accept-patch': 'application/partial-upload',
        // A client may send a raw disk without its zeros.
        accept: 'application/x-qemu-disk, */*',
        link: `<./${encodeURIComponent(params.name)}/images>; rel="${IMAGES}"`,
      })
      .send(),
  );

  app.head<Known>('/uploads/:id', { ...open, schema: { hide: true } }, async ({ params }, reply) => {
    const upload = await uploads.find(params.id, 'ietf');
    if (upload.complete) await upload.finish();
    else upload.settle();
    const { length } = upload.declared;
    if (length !== undefined) reply.header('upload-length', length);
    return told(reply.code(204).header('cache-control', 'no-store'), upload).send();
  });

  app.patch<Known>(
    '/uploads/:id',
    { ...open, schema: { summary: 'Resumable uploads (IETF draft): goes on at Upload-Offset' } },
    async (request, reply) => {
      const upload = await uploads.find(request.params.id, 'ietf');
      const text = request.headers['upload-offset'];
      if (typeof text !== 'string' || !/^\d{1,15}$/.test(text) || !wantsToResume(request)) {
        const message = 'Upload-Offset and Upload-Complete say where a part belongs and whether it is the last';
        throw new FerryError(message, { code: 'BAD_SPEC', stage: 'plan' });
      }
      const wanted = upload.settle();
      if (Number(text) !== wanted) {
        const problem = {
          type: MISMATCH,
          title: 'offsets do not match',
          'expected-offset': wanted,
          'provided-offset': Number(text),
        };
        return told(reply.code(409).type('application/problem+json').header('connection', 'close'), upload).send(
          problem,
        );
      }
      letSend(request.raw, reply.raw);
      return append(upload, request, reply.code(200), wanted);
    },
  );

  app.delete<Known>(
    '/uploads/:id',
    { ...open, schema: { summary: 'Gives an upload up' } },
    async ({ params }, reply) => {
      await uploads.drop(await uploads.find(params.id, 'ietf'), 'its sender gave it up');
      return reply.code(204).send();
    },
  );
};

async function append(upload: Upload, request: FastifyRequest, reply: FastifyReply, offset: number): Promise<unknown> {
  const last = request.headers['upload-complete'] === '?1';
  if (!(await upload.take(request.raw, offset))) {
    // Its sender has gone, or has come back by another connection.
    request.raw.socket.destroy();
    return reply.hijack();
  }
  if (!last && !upload.complete) return told(reply, upload).send();
  const report: TransferReport = await upload.finish();
  return told(reply, upload).send(reported(upload.volume, report));
}

function told(reply: FastifyReply, upload: Upload): FastifyReply {
  return reply.headers({ 'upload-offset': upload.offset, 'upload-complete': upload.report ? '?1' : '?0' });
}

/** What proxies add to what they pass on (RFC 7239, RFC 9110 section 7.6.3, and what was there before). */
const FORWARDED = ['forwarded', 'via', 'x-forwarded-for', 'x-real-ip'];

/**
 * `104 Upload Resumption Supported`, for clients that say that they understand it and that nothing else is in between: nginx
 * passes their wish on, and takes the first head that comes for that of the answer. It asks as an HTTP/1.0 client, whom no
 * 1xx may be sent (RFC 9110 section 15.2), unless it is told otherwise.
 */
function inform({ raw }: FastifyRequest, location: string): void {
  const { headers, httpVersion, socket } = raw;
  const version = headers['upload-draft-interop-version'];
  if (typeof version !== 'string' || !VERSIONS.includes(version)) return;
  if (httpVersion === '1.0' || FORWARDED.some((name) => headers[name] !== undefined)) return;
  const lines = [`Upload-Draft-Interop-Version: ${version}`, `Location: ${location}`];
  socket.write(`HTTP/1.1 104 Upload Resumption Supported\r\n${lines.join('\r\n')}\r\n\r\n`);
}

function lengthOf({ headers }: FastifyRequest): number | undefined {
  const text = headers['upload-length'];
  return typeof text === 'string' && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

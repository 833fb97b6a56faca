import { chmod } from 'node:fs/promises';
import {
  createServer as createPlain,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http';
import { createServer as createSecure, type Server as SecureServer } from 'node:https';
import { dirname } from 'node:path';
import type { Readable } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { Busboy } from '@fastify/busboy';
import { unpack } from '../../dataplane/archive.ts';
import type { Log } from '../../dataplane/context.ts';
import { asFerryError, type Code, FerryError } from '../../dataplane/errors.ts';
import { promisedDigest } from '../../dataplane/http/fields.ts';
import { Filling } from '../../store/filling.ts';
import { certificatesIn, followCertificates } from '../certificates.ts';
import { AHEAD, holdBack, letSend } from '../continue.ts';
import { dismiss, isUnread } from '../dismiss.ts';
import { Counted, logged } from '../log.ts';
import { type Content, Pipe } from '../pipe.ts';
import { Upload } from '../upload.ts';
import { cloneOf } from './clone.ts';
import type { Settings } from './settings.ts';

/** Milliseconds of silence after which a body is given up, and for the header of a request. */
const STALL = 60_000;
const HEADER = 30_000;
/** Owner and group may write a disk, as virt-launcher wants it (CDI: 0660). */
const MODE = 0o660;

/** Paths of CDI's upload server: `v1alpha1` is an older name of the same. */
const PATH = /^\/(?:v1beta1|v1alpha1)\/upload(-async|-archive|-form|-form-async)?$/;

/** What became of the volume: an upload or a clone is in it, or nobody came in time. */
export type Outcome = 'uploaded' | 'cloned' | 'deadline';

export interface PodServer extends AsyncDisposable {
  readonly port: number;
  /** Resolves once. */
  readonly outcome: Promise<Outcome>;
}

/** One volume, one upload: others are told 503 meanwhile, and 409 afterwards. */
export async function servePod(settings: Settings, scratch: string | undefined, log: Log): Promise<PodServer> {
  const { promise: outcome, resolve: finish } = Promise.withResolvers<Outcome>();
  let state: 'free' | 'taken' | 'done' = 'free';

  const handler = (request: Counted, response: ServerResponse): void => {
    // The kubelet asks every few seconds whether the pod lives.
    if (request.url !== '/healthz') logged(request, response, log);
    answer(request, response).catch((thrown: unknown) => {
      const error = asFerryError(thrown, 'target');
      const { status, text } = failure(error);
      log.warn(`nothing came into the volume: ${error.message}`, { code: error.code });
      request.refuse(error.code);
      say(request, response, status, text);
    });
  };

  const answer = async (request: Counted, response: ServerResponse): Promise<void> => {
    const refuse = (status: number, code: Code, text = ''): void => {
      request.refuse(code);
      say(request, response, status, text);
    };
    const path = (request.url ?? '').split('?', 1)[0] ?? '';
    if (path === '/healthz') return say(request, response, 200, 'OK');
    const kind = PATH.exec(path);
    const way = kind?.[1] ?? '';
    if (kind && way === '-async' && request.method === 'HEAD') return say(request, response, 200, '');
    if (!kind || request.method !== 'POST') return refuse(404, 'NOT_FOUND');
    if (!admitted(request, settings)) return refuse(401, 'DENIED');
    if (state === 'taken') return refuse(503, 'BUSY');
    if (state === 'done') return refuse(409, 'CHANGED');
    const clone = cloneOf(request.headers['x-cdi-content-type'], settings.claim === undefined);
    if (clone && way.endsWith('-async')) {
      return refuse(500, 'UNSUPPORTED', 'Saving stream failed: async clone not supported');
    }
    state = 'taken';
    try {
      letSend(request, response);
      const body = way.startsWith('-form') ? await firstPart(request) : request;
      const length = body === request ? lengthOf(request) : undefined;
      const { of, content } = clone ?? { of: way === '-archive' ? 'files' : 'disk' };
      await (of === 'files' ? archive(body, length, content) : disk(body, length, request, content));
      state = 'done';
      log.info('the volume is whole');
      say(request, response, 200, '');
      response.once('close', () => finish(clone ? 'cloned' : 'uploaded'));
    } finally {
      if (state === 'taken') state = 'free';
    }
  };

  const disk = async (
    body: Readable,
    length: number | undefined,
    { headers }: IncomingMessage,
    content: Content | undefined,
  ): Promise<void> => {
    const { destination, claim, preallocate, journalKey } = settings;
    const filling = new Filling('volume', destination, scratch === undefined ? {} : { spill: scratch }, undefined, {
      publish: async () => {
        if (claim) await chmod(destination, MODE);
      },
      discard: () => Promise.resolve(),
      failed: () => undefined,
      over: () => undefined,
    });
    const digest = promisedDigest(headers, true);
    const declared = { ...(length === undefined ? {} : { length }), ...(digest === undefined ? {} : { digest }) };
    const upload = new Upload(filling, declared, {
      log,
      stall: STALL,
      journalKey,
      preallocate,
      // A clone is as long as what it is one of.
      ...(claim === undefined || content ? {} : { claim }),
      ...(content === undefined ? {} : { content }),
    });
    try {
      if (!(await upload.take(body))) throw upload.failure ?? gone();
      await upload.finish();
    } catch (thrown) {
      await upload.abandon('the upload was cut', true);
      throw thrown;
    }
  };

  const archive = async (body: Readable, length: number | undefined, content: Content | undefined): Promise<void> => {
    if (settings.claim === undefined) {
      const message = 'an archive is unpacked into a file system: the volume mode of the claim is Block';
      throw new FerryError(message, { code: 'UNSUPPORTED', stage: 'target' });
    }
    const pipe = new Pipe('upload of an archive', length, undefined, content);
    pipe.admit();
    const unpacking = unpack(
      {
        source: pipe.name,
        stream: pipe,
        target: dirname(settings.destination),
        sourceOptions: {},
        replace: true,
        connections: 1,
      },
      new AbortController().signal,
      () => undefined,
      log,
    );
    const failed = new AbortController();
    unpacking.catch((thrown: unknown) => failed.abort(thrown));
    try {
      if (!(await pipe.take(body, STALL, failed.signal))) throw gone();
      pipe.end();
    } catch (thrown) {
      pipe.fail(asFerryError(thrown, 'source'));
    }
    await unpacking;
  };

  const server = create(settings, handler);
  holdBack(server, handler);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(settings.port, settings.host, resolve);
  });
  const late = deadlineOf(settings, () => {
    // An upload that is under way is waited for.
    if (state === 'free') finish('deadline');
    return state !== 'taken';
  });
  const { port } = server.address() as { port: number };
  const { tls } = settings;
  const unwatch = tls && followCertificates(server as SecureServer, tls.files, tls.versions, log);
  return {
    port,
    outcome,
    async [Symbol.asyncDispose]() {
      clearInterval(late);
      unwatch?.();
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

function create({ tls }: Settings, handler: RequestListener<typeof Counted>): Server<typeof Counted> {
  const limits = { IncomingMessage: Counted, highWaterMark: AHEAD, headersTimeout: HEADER, requestTimeout: 0 };
  if (!tls) return createPlain(limits, handler);
  // The probe of the kubelet brings no certificate; requests that want one look at it.
  const secure = { ...certificatesIn(tls.files), ...tls.versions, requestCert: true, rejectUnauthorized: false };
  return createSecure({ ...limits, ...secure }, handler);
}

function admitted({ socket }: IncomingMessage, { tls, client }: Settings): boolean {
  if (!tls) return true;
  const secure = socket as TLSSocket;
  return secure.authorized && secure.getPeerCertificate().subject?.CN === client;
}

/** A clock that looks each second, because timers are not longer than 24 days. */
function deadlineOf({ deadline }: Settings, passed: () => boolean): NodeJS.Timeout {
  const timer = setInterval(() => {
    if (deadline !== undefined && Date.now() >= deadline && passed()) clearInterval(timer);
  }, 1000);
  return timer;
}

function lengthOf({ headers }: IncomingMessage): number | undefined {
  const text = headers['content-length'];
  return text === undefined ? undefined : Number(text);
}

/** The file of a form: its first part, named `file`. BAD_SPEC where there is none, TRUNCATED where its sender goes. */
function firstPart(request: IncomingMessage): Promise<Readable> {
  return new Promise((resolve, reject) => {
    const none = (): void =>
      reject(new FerryError("the form has no part named 'file'", { code: 'BAD_SPEC', stage: 'source' }));
    const type = request.headers['content-type'] ?? '';
    if (!type.startsWith('multipart/form-data')) return none();
    const form = new Busboy({
      headers: { ...request.headers, 'content-type': type },
      limits: { fileSize: Number.POSITIVE_INFINITY },
    });
    let file: Readable | undefined;
    const silent = setTimeout(() => request.destroy(), STALL);
    // A form does not notice that its sender has gone.
    request.once('close', () => {
      clearTimeout(silent);
      if (request.complete) return;
      file?.destroy();
      reject(gone());
    });
    form.once('file', (name: string, part: Readable) => {
      clearTimeout(silent);
      file = part;
      if (name === 'file') resolve(part);
      else none();
    });
    form.once('finish', none);
    form.once('error', (cause: unknown) =>
      reject(new FerryError('the form cannot be read', { code: 'BAD_SPEC', stage: 'source', cause })),
    );
    request.pipe(form);
  });
}

/** In the words that clients and the controller know. */
function failure(error: FerryError): { status: number; text: string } {
  const { code, message } = error;
  if (code === 'BAD_SPEC') return { status: 400, text: message };
  if (code === 'NO_SPACE' || code === 'TOO_LARGE') {
    return {
      status: 400,
      text: `Saving stream failed: effective image size is larger than the reported available storage: ${message}`,
    };
  }
  const refused = ['UNSUPPORTED', 'UNSAFE', 'ENCRYPTED', 'DIGEST_MISMATCH'].includes(code);
  return { status: refused ? 400 : 500, text: `Saving stream failed: ${message}` };
}

function say(request: IncomingMessage, response: ServerResponse, status: number, text: string): void {
  if (response.headersSent) return;
  const type = { 'content-type': 'text/plain; charset=utf-8' };
  const body = text === '' ? text : `${text}\n`;
  if (isUnread(request)) dismiss(response, status, type, body);
  else response.writeHead(status, type).end(body);
}

function gone(): FerryError {
  return new FerryError('the sender went before the end', { code: 'TRUNCATED', stage: 'source' });
}

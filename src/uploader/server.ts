import { createServer } from 'node:http';
import swagger from '@fastify/swagger';
import Fastify, { type FastifyInstance } from 'fastify';
import PQueue from 'p-queue';
import type { Log } from '../dataplane/context.ts';
import { FerryError } from '../dataplane/errors.ts';
import type { Guard } from '../dataplane/guard.ts';
import type { Store } from '../store/store.ts';
import { type Access, authorize } from './access.ts';
import { holdBack } from './continue.ts';
import { plain } from './protocols/plain.ts';
import { tus } from './protocols/tus.ts';
import { refuse } from './refuse.ts';
import { Uploads } from './uploads.ts';
import { volumes } from './volumes.ts';

export interface ServerOptions {
  readonly store: Store;
  readonly access: Access;
  readonly log: Log;
  /** Transfers at once; more wait. */
  readonly transfers: number;
  /** Bytes a second of all imports together. */
  readonly rate?: number;
  /** Bytes of the process that the decoders of one transfer may count on. */
  readonly memory?: number;
  /** Which addresses images may be imported from. */
  readonly guard: Guard;
  /** Milliseconds of silence after which a sender is given up. */
  readonly stall: number;
  /** Milliseconds after which an upload that nobody goes on with is dropped. */
  readonly expiry: number;
  readonly version: string;
}

/** What the protocols are given. */
export interface Service extends ServerOptions {
  readonly uploads: Uploads;
  readonly queue: PQueue;
}

/** Milliseconds for the header of a request. */
const HEADER = 30_000;
/** Bytes of a header; the longest that are known (tus metadata, tokens) have some kilobytes. */
const LONGEST_HEADER = 16 * 1024;
/** Bytes of a request that is JSON. */
const LONGEST_JSON = 64 * 1024;

/** The volumes of a directory, over HTTP: docs/serve.md. */
export async function buildServer(options: ServerOptions): Promise<FastifyInstance> {
  const service: Service = {
    ...options,
    uploads: new Uploads(options),
    queue: new PQueue({ concurrency: options.transfers }),
  };
  const app = Fastify({
    serverFactory: (handler) => {
      const server = createServer({ maxHeaderSize: LONGEST_HEADER, headersTimeout: HEADER }, handler);
      // An upload takes as long as it takes; who is silent is noticed by Pipe.
      server.requestTimeout = 0;
      holdBack(server, handler);
      return server;
    },
    bodyLimit: LONGEST_JSON,
    forceCloseConnections: true,
    exposeHeadRoutes: false,
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, allErrors: false } },
    logger: false,
  });
  app.removeAllContentTypeParsers();
  // An image is whatever its type says; routes that want JSON parse it themselves.
  app.addContentTypeParser('*', (_request, payload, done) => done(null, payload));
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'diskferry serve', version: options.version },
      components: { securitySchemes: { secret: { type: 'http', scheme: 'bearer' } } },
      security: [{ secret: [] }],
    },
  });
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-content-type-options', 'nosniff');
    if (request.routeOptions.config.open) return;
    authorize(options.access, request.headers);
  });
  app.addHook('onResponse', async (request, reply) => {
    const { method, url } = request;
    const seconds = Math.round(reply.elapsedTime) / 1000;
    const read = request.raw.socket.bytesRead;
    options.log.info(`${method} ${url.split('?', 1)[0]}`, { status: reply.statusCode, seconds, read });
  });
  app.setErrorHandler((thrown, request, reply) => {
    const { validation, statusCode } = thrown as { validation?: unknown; statusCode?: number };
    const known =
      validation !== undefined || (statusCode !== undefined && statusCode < 500 && !(thrown instanceof FerryError))
        ? new FerryError((thrown as Error).message, { code: 'BAD_SPEC', stage: 'plan' })
        : thrown;
    refuse(request, reply, known, options.log);
  });
  app.setNotFoundHandler((request, reply) => {
    const message = `there is no ${request.method} ${request.url.split('?', 1)[0]} here: GET /openapi.json tells what there is`;
    refuse(request, reply, new FerryError(message, { code: 'NOT_FOUND', stage: 'plan' }), options.log);
  });
  app.get('/healthz', { config: { open: true }, schema: { hide: true } }, async () => 'OK\n');
  app.get('/openapi.json', { config: { open: true }, schema: { hide: true } }, async () => app.swagger());
  await app.register(volumes, service);
  await app.register(plain, service);
  await app.register(tus, service);
  app.addHook('onClose', async () => {
    service.queue.clear();
    await service.uploads[Symbol.asyncDispose]();
  });
  return app;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Without the secret. */
    readonly open?: boolean;
  }
}

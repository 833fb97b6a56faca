import { createServer, type RequestListener } from 'node:http';
import { promisify } from 'node:util';
import swagger from '@fastify/swagger';
import Fastify, { type FastifyInstance } from 'fastify';
import PQueue from 'p-queue';
import { FerryError } from '../dataplane/errors.ts';
import { credentialIn, isTrusted, refuseForeign, shownPath } from './access.ts';
import { AHEAD, holdBack } from './continue.ts';
import { Counted, logged } from './log.ts';
import { Metrics } from './metrics.ts';
import { ietf } from './protocols/ietf.ts';
import { images } from './protocols/images.ts';
import { plain } from './protocols/plain.ts';
import { tus } from './protocols/tus.ts';
import { refuse } from './refuse.ts';
import type { ServerOptions, Service } from './service.ts';
import { type Errand, Tokens } from './tokens.ts';
import { Uploads } from './uploads.ts';
import { volumes } from './volumes.ts';
import { web } from './web.ts';

/** Milliseconds for the header of a request. */
const HEADER = 30_000;
/** Bytes of a header; the longest that are known (tus metadata, tokens) have some kilobytes. */
const LONGEST_HEADER = 16 * 1024;

/** The volumes of a directory, over HTTP: docs/serve.md. */
export async function buildServer(options: ServerOptions): Promise<FastifyInstance> {
  const metrics = new Metrics(options.store);
  const service: Service = {
    ...options,
    metrics,
    uploads: new Uploads({ ...options, metrics }),
    queue: new PQueue({ concurrency: options.transfers }),
    tokens: await Tokens.of(options.store),
  };
  const app = Fastify({
    serverFactory: (handler) => {
      const overridden: RequestListener<typeof Counted> = (request, response) => {
        // For what cannot send PATCH (tus 1.0, "X-HTTP-Method-Override").
        const method = request.headers['x-http-method-override'];
        if (request.method === 'POST' && /^(PATCH|DELETE|HEAD)$/.test(String(method))) request.method = String(method);
        logged(request, response, options.log, (over) => metrics.requested(over));
        handler(request, response);
      };
      const server = createServer(
        {
          IncomingMessage: Counted,
          maxHeaderSize: LONGEST_HEADER,
          highWaterMark: AHEAD,
          headersTimeout: HEADER,
          connectionsCheckingInterval: HEADER / 6,
        },
        overridden,
      );
      // An upload takes as long as it takes; who is silent is noticed by Pipe.
      server.requestTimeout = 0;
      holdBack(server, overridden);
      return server;
    },
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
    (request.raw as Counted).route = request.routeOptions.url;
    reply.header('x-content-type-options', 'nosniff');
    refuseForeign(options.access, request.raw);
    const { open, errand } = request.routeOptions.config;
    if (open) return;
    const credential = credentialIn(request.headers);
    if (isTrusted(options.access, credential)) return;
    if (credential?.split('.').length === 3) return service.tokens.check(credential, errand, request);
    const message =
      credential === undefined
        ? 'this server wants its secret, or a token: as a bearer token, or as the password of any user'
        : 'the secret is another one';
    throw new FerryError(message, { code: 'DENIED', stage: 'plan' });
  });
  app.setErrorHandler((thrown, request, reply) => {
    const { validation, statusCode } = thrown as { validation?: unknown; statusCode?: number };
    const known =
      validation !== undefined || (statusCode !== undefined && statusCode < 500 && !(thrown instanceof FerryError))
        ? new FerryError((thrown as Error).message, { code: 'BAD_SPEC', stage: 'plan' })
        : thrown;
    refuse(request, reply, known);
  });
  app.setNotFoundHandler((request, reply) => {
    const message = `there is no ${request.method} ${shownPath(request.url)} here: GET /openapi.json tells what there is`;
    refuse(request, reply, new FerryError(message, { code: 'NOT_FOUND', stage: 'plan' }));
  });
  app.get('/healthz', { config: { open: true }, schema: { hide: true } }, async () => 'OK\n');
  app.get('/openapi.json', { config: { open: true }, schema: { hide: true } }, async () => app.swagger());
  const connections = promisify(app.server.getConnections.bind(app.server));
  app.get('/metrics', { schema: { summary: 'Figures for Prometheus, in its text format' } }, async (_request, reply) =>
    reply.type(metrics.type).send(await metrics.page(await connections())),
  );
  await app.register(web, service);
  await app.register(volumes, service);
  await app.register(plain, service);
  await app.register(tus, service);
  await app.register(ietf, service);
  await app.register(images, service);
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
    /** With a token too that is for this. */
    readonly errand?: Errand;
  }
}

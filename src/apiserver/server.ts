import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { SecureContextOptions } from 'node:tls';
import type { TlsRules } from '../api/tls-rules.ts';
import type { Log } from '../kube/log.ts';
import type { Pair } from '../pki/authority.ts';
import { tlsContext } from '../pki/tls.ts';
import { type AdmissionRequest, ReviewError, requestIn, reviewOf, unjudged } from './review.ts';
import type { Judge } from './routes.ts';

export interface ServerOptions {
  /** All addresses without one. */
  readonly host?: string;
  readonly port: number;
  readonly routes: ReadonlyMap<string, Judge>;
  readonly isReady: () => boolean;
  readonly log: Log;
}

/** Bytes of a review: two objects, of which each request to an API server has at most 3 MiB, and what is around them. */
const LONGEST = 7 * 2 ** 20;
/** Bytes of all reviews that are read at a time. What comes beyond it comes again: API servers do so on Retry-After. */
const BUDGET = 4 * LONGEST;
/** Connections at a time; an API server has one for each request that waits. */
const CONNECTIONS = 1000;
/** Milliseconds: CDI's for the head of a request, and what webhooks are waited for at most (Kubernetes, timeoutSeconds). */
const HEADER = 10_000;
const REQUEST = 30_000;
/** Milliseconds; longer than API servers leave a connection unused (90 s, client-go's transport), so that they close it first. */
const IDLE = 120_000;

/** Answers an API server that asks whether objects are right. */
export class WebhookServer implements AsyncDisposable {
  readonly #options: ServerOptions;
  readonly #server: Server;
  #pair: Pair;
  #rules: TlsRules;
  /** Bytes that the reviews which are being read may have. */
  #reserved = 0;

  private constructor(options: ServerOptions, pair: Pair, rules: TlsRules) {
    this.#options = options;
    this.#pair = pair;
    this.#rules = rules;
    const limits = { headersTimeout: HEADER, requestTimeout: REQUEST, keepAliveTimeout: IDLE };
    this.#server = createServer({ ...limits, ...contextOf(pair, rules) }, (request, response) => {
      void this.#handle(request, response);
    });
    this.#server.maxConnections = CONNECTIONS;
  }

  static async start(options: ServerOptions, pair: Pair, rules: TlsRules): Promise<WebhookServer> {
    const started = new WebhookServer(options, pair, rules);
    started.#server.listen(options.port, options.host);
    await once(started.#server, 'listening');
    return started;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Shows another certificate from now on. Connections that are there go on. */
  show(pair: Pair): void {
    this.#pair = pair;
    this.#server.setSecureContext(contextOf(pair, this.#rules));
  }

  /** Speaks otherwise from now on, with whoever comes. */
  speak(rules: TlsRules): void {
    this.#rules = rules;
    this.#server.setSecureContext(contextOf(this.#pair, rules));
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const stop = new AbortController();
    response.once('close', () => stop.abort(new Error('the API server does not wait any more')));
    const path = (request.url ?? '').split('?', 1)[0] ?? '';
    try {
      if (path === '/healthz') return say(response, 200, 'ok');
      if (path === '/readyz') return this.#options.isReady() ? say(response, 200, 'ok') : say(response, 503, 'not yet');
      const judge = this.#options.routes.get(path);
      if (!judge) throw new ReviewError(404, 'there is no such path here');
      if (request.method !== 'POST') throw new ReviewError(405, 'reviews are posted');
      const asked = requestIn(await this.#read(request));
      const review = JSON.stringify(await this.#judged(judge, asked, path, stop.signal));
      response.writeHead(200, { 'content-type': 'application/json' }).end(review);
    } catch (thrown) {
      if (stop.signal.aborted) return;
      const { status, message } = thrown instanceof ReviewError ? thrown : new ReviewError(500, String(thrown));
      // What is left of the body is not read.
      response.setHeader('connection', 'close');
      if (status === 429) response.setHeader('retry-after', '1');
      say(response, status, message);
    }
  }

  async #judged(judge: Judge, asked: AdmissionRequest, path: string, signal: AbortSignal): Promise<object> {
    try {
      return reviewOf(asked, await judge(asked, signal));
    } catch (thrown) {
      if (thrown instanceof ReviewError || signal.aborted) throw thrown;
      const why = thrown instanceof Error ? thrown.message : String(thrown);
      this.#options.log('warn', `could not judge: ${why}`, { path, uid: asked.uid });
      return unjudged(asked, why);
    }
  }

  /** The whole body. Throws ReviewError where it has too many bytes. */
  async #read(request: IncomingMessage): Promise<string> {
    const length = request.headers['content-length'];
    const most = length === undefined ? LONGEST : Number(length);
    const tooLong = `a review has at most ${LONGEST} bytes`;
    if (!(most <= LONGEST)) throw new ReviewError(413, `${tooLong}, and this one has ${length}`);
    if (this.#reserved + most > BUDGET)
      throw new ReviewError(429, `the reviews that are being read have ${this.#reserved} bytes already: come again`);
    this.#reserved += most;
    try {
      const chunks: Buffer[] = [];
      let bytes = 0;
      for await (const chunk of request) {
        bytes += (chunk as Buffer).length;
        if (bytes > LONGEST) throw new ReviewError(413, `${tooLong}, and this one has more`);
        chunks.push(chunk as Buffer);
      }
      return Buffer.concat(chunks).toString('utf8');
    } finally {
      this.#reserved -= most;
    }
  }

  /** Takes no connection any more; requests that are there are answered. */
  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeIdleConnections();
    await closed;
  }
}

function contextOf({ certificate, key }: Pair, rules: TlsRules): SecureContextOptions {
  return { cert: certificate, key, ...tlsContext(rules) };
}

function say(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'content-type': 'text/plain', 'x-content-type-options': 'nosniff' }).end(`${text}\n`);
}

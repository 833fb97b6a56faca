import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import { CONFIG_MAPS } from '../../api/resource.ts';
import type { Log } from '../../dataplane/context.ts';
import { asFerryError, type Code, FerryError } from '../../dataplane/errors.ts';
import { type Kube, KubeError } from '../../kube/client.ts';
import { type Refusal, type Scope, verified } from '../../pki/token.ts';
import { certificatesIn, followCertificates } from '../certificates.ts';
import { holdBack } from '../continue.ts';
import { dismiss, isUnread } from '../dismiss.ts';
import { Counted, logged } from '../log.ts';
import { placeOf } from './claims.ts';
import { forward } from './forward.ts';
import type { Settings } from './settings.ts';

/** Milliseconds for the header of a request. */
const HEADER = 30_000;
/** Where an upload pod listens. */
const POD_PORT = 8443;
/** Paths that are passed on; what an archive goes to is chosen by the claim. */
const PATH = /^\/(v1beta1|v1alpha1)\/upload(-async|-form|-form-async)?$/;
/** Who signs CDI's tokens. */
const ISSUER = 'cdi-apiserver';
/** RFC 6750 section 2.1. */
const BEARER = /^Bearer\s+([A-Za-z0-9\-._~+/]+)$/i;
/** What pages of other sites may send: any of these, with a token, and never with a password that the browser knows. */
const METHODS = ['HEAD', 'GET', 'POST', 'PUT', 'PATCH', 'DELETE'];

export interface ProxyServer extends AsyncDisposable {
  readonly port: number;
  /** Takes no connection any more, and waits for the uploads that are under way. */
  drain(): Promise<void>;
}

/** What the proxy reads of the cluster. */
export interface Cluster {
  readonly kube: Kube;
  /** The proxy's own. */
  readonly namespace: string;
}

/** Passes uploads with a token on to the pod of their claim. */
export async function serveProxy(settings: Settings, { kube, namespace }: Cluster, log: Log): Promise<ProxyServer> {
  const handler = (request: Counted, response: ServerResponse): void => {
    // The kubelet asks every few seconds whether the pod lives.
    if (request.url !== '/healthz') logged(request, response, log);
    answer(request, response).catch((thrown: unknown) => {
      const error = asFerryError(thrown, 'target');
      log.warn(`nothing was passed on: ${error.message}`, { code: error.code });
      request.refuse(error.code);
      const { status, text } = failure(error);
      say(request, response, status, text);
    });
  };

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const path = (request.url ?? '').split('?', 1)[0] ?? '';
    if (path === '/healthz') return say(request, response, 200, 'OK');
    if (isPreflight(request)) return preflight(request, response);
    const [, version = '', way = ''] = PATH.exec(path) ?? [];
    if (version === '') throw refused('NOT_FOUND', 'there is no such path here');
    const scope = await scopeOf(request, settings);
    const stop = new AbortController();
    const gone = (): void => stop.abort(new FerryError('the client went', { code: 'ABORTED', stage: 'source' }));
    response.once('close', gone);
    const place = await placeOf(kube, claimOf(scope), stop.signal);
    const kind = place.archive ? '-archive' : way;
    const url = new URL(`https://${place.host}:${POD_PORT}/${version}/upload${kind}`);
    const ca = await authorities(kube, namespace, settings, stop.signal);
    const certificates = { ...certificatesIn(settings.client), ca };
    // Who has gone before this is noticed by nobody after it, and the pod would wait for the body.
    stop.signal.throwIfAborted();
    await forward(request, response, url, certificates, shared(request));
  };

  const limits = { IncomingMessage: Counted, headersTimeout: HEADER, requestTimeout: 0 };
  const server = createServer({ ...limits, ...certificatesIn(settings.server), minVersion: 'TLSv1.2' }, handler);
  holdBack(server, handler);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(settings.port, settings.host, resolve);
  });
  const unfollow = followCertificates(server, settings.server, {}, log);
  return {
    port: (server.address() as { port: number }).port,
    async drain() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      await closed;
    },
    async [Symbol.asyncDispose]() {
      unfollow();
      server.close();
      server.closeAllConnections();
    },
  };
}

/** The scope of the token that a request brings: of an upload into a claim. */
async function scopeOf({ headers }: IncomingMessage, { tokenKey }: Settings): Promise<Scope> {
  const [, token] = BEARER.exec(headers.authorization ?? '') ?? [];
  if (token === undefined) throw refused('BAD_SPEC', 'an upload wants a token: Authorization: Bearer TOKEN');
  const scope: Scope | Refusal = await verified(token, { issuer: ISSUER, key: tokenKey });
  if ('refused' in scope) throw refused('DENIED', scope.refused);
  const { operation, name, namespace, resource } = scope;
  const isClaim = resource?.group === '' && resource.version === 'v1' && resource.resource === 'persistentvolumeclaims';
  if (operation !== 'Upload' || !isClaim || name === '' || !namespace) {
    throw refused('BAD_SPEC', `the token is not for an upload into a claim: it is for '${operation}'`);
  }
  return scope;
}

function refused(code: 'BAD_SPEC' | 'DENIED' | 'NOT_FOUND', message: string): FerryError {
  return new FerryError(message, { code, stage: 'plan' });
}

function claimOf({ namespace = '', name, params }: Scope): Parameters<typeof placeOf>[1] {
  return { namespace, name, ...(params?.uid === undefined ? {} : { uid: params.uid }) };
}

/** The authorities whose certificates upload pods have: read each time, they are renewed. BUSY, to be tried again. */
async function authorities(kube: Kube, namespace: string, { bundle }: Settings, signal: AbortSignal): Promise<string> {
  const why = (reason: string): FerryError =>
    new FerryError(`the authorities of upload pods (ConfigMap ${namespace}/${bundle}) ${reason}`, {
      code: 'BUSY',
      stage: 'plan',
      retryable: true,
    });
  try {
    const map = await kube.get(CONFIG_MAPS, namespace, bundle, signal);
    const pem = map?.data?.['ca-bundle.crt'];
    if (pem) return pem;
  } catch (thrown) {
    if (thrown instanceof KubeError) throw why(`cannot be read: ${thrown.message}`);
    throw thrown;
  }
  throw why('are not there yet: is its key ca-bundle.crt set?');
}

/** What every answer to a page of another site carries: whoever has a token may use it anywhere. */
function shared({ headers }: IncomingMessage): Record<string, string> {
  return headers.origin === undefined ? {} : { 'access-control-allow-origin': '*', vary: 'Origin' };
}

/** A browser asks before it sends (Fetch standard, CORS-preflight request). */
function isPreflight({ method, headers }: IncomingMessage): boolean {
  return method === 'OPTIONS' && headers['access-control-request-method'] !== undefined;
}

function preflight(request: IncomingMessage, response: ServerResponse): void {
  const { 'access-control-request-method': method = '', 'access-control-request-headers': wanted } = request.headers;
  const allowed = METHODS.includes(String(method));
  response.writeHead(204, {
    ...(allowed ? { ...shared(request), 'access-control-allow-methods': String(method) } : {}),
    ...(allowed && wanted !== undefined ? { 'access-control-allow-headers': String(wanted) } : {}),
    vary: 'Origin, Access-Control-Request-Method, Access-Control-Request-Headers',
  });
  response.end();
}

/** In the status of the contract; CDI's words where it could not be passed on. */
const STATUS: Readonly<Partial<Record<Code, number>>> = { BAD_SPEC: 400, DENIED: 401, NOT_FOUND: 404, BUSY: 503 };

function failure({ code, message }: FerryError): { status: number; text: string } {
  const status = STATUS[code];
  return status === undefined ? { status: 502, text: `error in upload-proxy: ${message}` } : { status, text: message };
}

/** Of HTML, as CDI has it: names are told that a client has chosen. */
function escaped(text: string): string {
  return text.replace(/[<>&"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

function say(request: IncomingMessage, response: ServerResponse, status: number, text: string): void {
  if (response.headersSent || request.destroyed) return;
  const headers = {
    ...shared(request),
    'content-type': 'text/plain; charset=utf-8',
    'x-content-type-options': 'nosniff',
    ...(status === 503 ? { 'retry-after': '1' } : {}),
  };
  const body = `${escaped(text)}\n`;
  if (isUnread(request)) dismiss(response, status, headers, body);
  else response.writeHead(status, headers).end(body);
}

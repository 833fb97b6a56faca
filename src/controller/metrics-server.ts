import type { IncomingMessage } from 'node:http';
import { createServer } from 'node:https';
import type { SecureContextOptions } from 'node:tls';
import { ACCESS_REVIEWS, TOKEN_REVIEWS } from '../api/resource.ts';
import type { TlsRules } from '../api/tls-rules.ts';
import type { Kube } from '../kube/client.ts';
import { authority, issue } from '../pki/authority.ts';
import { tlsContext } from '../pki/tls.ts';
import { type Listening, listen } from './listen.ts';

const PATH = '/metrics';
/** Milliseconds that the certificate is valid, which nobody can know beforehand: longer than any process. */
const LIFE = 365 * 86_400_000;
/** Bytes of a token: service accounts' have less than 2 KiB. */
const LONGEST = 16 * 1024;
/** Anybody in the cluster may ask: so many are connected at a time, and looked at by the API server. */
const CONNECTIONS = 64;
const TOGETHER = 8;
/** Milliseconds for a request to arrive. */
const PATIENCE = 10_000;

export interface MetricsServer extends Listening {
  /** Speaks otherwise from now on, with whoever comes. */
  speak(rules: TlsRules): void;
}

/**
 * Serves metrics over TLS to whoever may read them: a token that the API server knows, and the right to get the path
 * (Kubernetes, "Authorization Overview", non-resource URLs). 401 without a token that is good, 403 without the right, 503 while
 * the API server does not answer, or too many ask at once.
 */
export async function serveMetrics(
  port: number,
  kube: Kube,
  page: () => Promise<string>,
  rules: TlsRules,
): Promise<MetricsServer> {
  const issuer = await authority('diskferry metrics', LIFE);
  const wanted = {
    commonName: 'cdi-prometheus-metrics',
    names: ['cdi-prometheus-metrics.cdi.svc'],
    use: 'server',
  } as const;
  const { certificate, key } = await issue(issuer, { ...wanted, duration: LIFE });
  const contextOf = (spoken: TlsRules): SecureContextOptions => ({ cert: certificate, key, ...tlsContext(spoken) });
  const limits = { headersTimeout: PATIENCE, requestTimeout: PATIENCE, handshakeTimeout: PATIENCE };
  let asking = 0;
  const server = createServer({ ...limits, ...contextOf(rules) }, async (request, response) => {
    const say = (status: number, text: string, type = 'text/plain'): void =>
      void response.writeHead(status, { 'content-type': `${type}; charset=utf-8` }).end(text);
    if (request.url?.split('?')[0] !== PATH) return say(404, 'not found\n');
    const token = tokenOf(request);
    if (token === undefined) return say(401, 'a token is needed\n');
    if (asking >= TOGETHER) return say(503, 'too many ask at once: come again\n');
    asking += 1;
    try {
      const refused = await refusal(kube, token);
      if (refused === 401) return say(401, 'the API server does not know this token\n');
      if (refused === 403) return say(403, `this account may not get ${PATH}\n`);
      say(200, await page(), 'text/plain; version=0.0.4');
    } catch {
      // Who asks cannot be known.
      say(503, 'the API server does not answer\n');
    } finally {
      asking -= 1;
    }
  });
  server.maxConnections = CONNECTIONS;
  return { ...(await listen(server, port)), speak: (spoken) => server.setSecureContext(contextOf(spoken)) };
}

function tokenOf({ headers }: IncomingMessage): string | undefined {
  const [, token] = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '') ?? [];
  return token === undefined || token.length > LONGEST ? undefined : token;
}

async function refusal(kube: Kube, token: string): Promise<401 | 403 | undefined> {
  const { status } = await kube.create(TOKEN_REVIEWS, { spec: { token } });
  const { username, groups, uid, extra } = status?.user ?? {};
  if (!status?.authenticated || !username) return 401;
  const more = { ...(groups ? { groups } : {}), ...(uid ? { uid } : {}), ...(extra ? { extra } : {}) };
  const review = await kube.create(ACCESS_REVIEWS, {
    spec: { user: username, ...more, nonResourceAttributes: { path: PATH, verb: 'get' } },
  });
  return review.status?.allowed ? undefined : 403;
}

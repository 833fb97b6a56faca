import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { ACCESS_REVIEWS, TOKEN_REVIEWS } from '../api/resource.ts';
import type { Kube } from '../kube/client.ts';
import { authority, issue } from '../pki/authority.ts';

const PATH = '/metrics';
/** Milliseconds that the certificate is valid, which nobody can know beforehand: longer than any process. */
const LIFE = 365 * 86_400_000;
/** Bytes of a token: service accounts' have less than 2 KiB. */
const LONGEST = 16 * 1024;

/**
 * Serves metrics over TLS to whoever may read them: a token that the API server knows, and the right to get the path
 * (Kubernetes, "Authorization Overview", non-resource URLs). 401 without a token that is good, 403 without the right.
 */
export async function serveMetrics(
  port: number,
  kube: Kube,
  page: () => Promise<string>,
): Promise<AsyncDisposable & { readonly port: number }> {
  const issuer = await authority('diskferry metrics', LIFE);
  const wanted = {
    commonName: 'cdi-prometheus-metrics',
    names: ['cdi-prometheus-metrics.cdi.svc'],
    use: 'server',
  } as const;
  const { certificate, key } = await issue(issuer, { ...wanted, duration: LIFE });
  const server = createServer({ cert: certificate, key }, async (request, response) => {
    const say = (status: number, text: string, type = 'text/plain'): void =>
      void response.writeHead(status, { 'content-type': `${type}; charset=utf-8` }).end(text);
    try {
      if (request.url?.split('?')[0] !== PATH) return say(404, 'not found\n');
      const refused = await refusal(kube, request);
      if (refused) return say(refused, refused === 401 ? 'a token is needed\n' : `this account may not get ${PATH}\n`);
      say(200, await page(), 'text/plain; version=0.0.4');
    } catch {
      // The API server does not answer: who asks cannot be known.
      say(503, 'the API server does not answer\n');
    }
  });
  server.listen(port);
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

async function refusal(kube: Kube, { headers }: IncomingMessage): Promise<401 | 403 | undefined> {
  const [, token] = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '') ?? [];
  if (token === undefined || token.length > LONGEST) return 401;
  const { status } = await kube.create(TOKEN_REVIEWS, { spec: { token } });
  const { username, groups, uid } = status?.user ?? {};
  if (!status?.authenticated || !username) return 401;
  const who = { user: username, ...(groups ? { groups } : {}), ...(uid ? { uid } : {}) };
  const review = await kube.create(ACCESS_REVIEWS, {
    spec: { ...who, nonResourceAttributes: { path: PATH, verb: 'get' } },
  });
  return review.status?.allowed ? undefined : 403;
}

// The certificates of the webhooks against a real API server, with no more rights than deploy/ gives: replicas at the same time,
// and what is replaced while objects are created.
import { X509Certificate } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from 'node:tls';
import type { ConfigMap, Secret } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DATA_VOLUMES, pathOf, type Resource } from '../../src/api/resource.ts';
import { LIVES, type Lives } from '../../src/apiserver/authority.ts';
import { BUNDLE, Certificates, SHOWN, SIGNER } from '../../src/apiserver/certificates.ts';
import { routesOf } from '../../src/apiserver/routes.ts';
import { WebhookServer } from '../../src/apiserver/server.ts';
import { Sight } from '../../src/apiserver/sight.ts';
import { configurationOf, WEBHOOKS, type WebhookConfiguration } from '../../src/apiserver/webhooks.ts';
import { Kube } from '../../src/kube/client.ts';
import { logTo } from '../../src/kube/log.ts';
import type { Pair } from '../../src/pki/authority.ts';
import { tlsRules } from '../../src/profile/tls-profile.ts';
import { AdmissionCluster, SYSTEM } from '../support/admission-cluster.ts';
import { Answers } from '../support/answers.ts';
import { freePort } from '../support/nginx.ts';

const HOUR = 3_600_000;
const signal = AbortSignal.timeout(600_000);
let cluster: AdmissionCluster;
let answers: Answers;
let kube: Kube;

beforeAll(async () => {
  cluster = await AdmissionCluster.start();
  answers = new Answers(cluster.api);
  const token = await cluster.api.tokenOf(SYSTEM, 'cdi-apiserver');
  const { url, ca } = cluster.api;
  kube = new Kube({ url, ca, token: async () => token });
}, 120_000);
afterAll(async () => {
  await kube?.[Symbol.asyncDispose]();
  await answers?.[Symbol.asyncDispose]();
  await cluster?.[Symbol.asyncDispose]();
});

const at = (kind: 'secrets' | 'configmaps', name: string): string => `/api/v1/namespaces/${SYSTEM}/${kind}/${name}`;
const pem = async (name: string): Promise<string> => {
  const { data } = await cluster.api.ask<Secret>('GET', at('secrets', name));
  return Buffer.from(data?.['tls.crt'] ?? '', 'base64').toString();
};
const bundle = async (): Promise<string> =>
  (await cluster.api.ask<ConfigMap>('GET', at('configmaps', BUNDLE))).data?.['ca-bundle.crt'] ?? '';
const count = (text: string): number => text.split('BEGIN CERTIFICATE').length - 1;
async function forget(): Promise<void> {
  for (const name of [SIGNER, SHOWN]) await answers.to('DELETE', at('secrets', name));
  await answers.to('DELETE', at('configmaps', BUNDLE));
}
function certificates(lives: Lives = LIVES, now = Date.now): Certificates {
  return new Certificates(kube, { namespace: SYSTEM, lives: () => lives, now, log: () => undefined });
}

test('replicas that start at the same time agree on one authority and one certificate', {
  timeout: 60_000,
}, async () => {
  for (let round = 0; round < 8; round += 1) {
    const pairs = await Promise.all(Array.from({ length: 5 }, () => certificates().renew(signal)));
    expect(new Set(pairs.map((pair) => pair.certificate)).size).toBe(1);
    const trusted = await bundle();
    expect(count(trusted)).toBe(1);
    expect(trusted.trim()).toBe((await pem(SIGNER)).trim());
    expect((await pem(SHOWN)).trim()).toBe(pairs[0]?.certificate.trim());
    const shown = new X509Certificate(pairs[0]?.certificate ?? '');
    expect(shown.verify(new X509Certificate(trusted).publicKey)).toBe(true);
    await forget();
  }
});

test('replicas that look at the same time replace once what is due', { timeout: 120_000 }, async () => {
  const start = Date.now();
  let now = start;
  const replicas = Array.from({ length: 4 }, () => certificates(LIVES, () => now));
  const signers = new Set<string>();
  const shown = new Set<string>();
  for (; now < start + 5 * 24 * HOUR; now += 3 * HOUR) {
    const pairs = await Promise.all(replicas.map((one) => one.renew(signal)));
    const trusted = (await bundle()).match(/-----BEGIN[\s\S]*?-----END CERTIFICATE-----/g) ?? [];
    for (const { certificate } of pairs) {
      const one = new X509Certificate(certificate);
      expect(trusted.some((by) => one.verify(new X509Certificate(by).publicKey))).toBe(true);
      expect(Date.parse(one.validTo)).toBeGreaterThan(now);
    }
    expect(trusted.length).toBeLessThanOrEqual(2);
    signers.add(await pem(SIGNER));
    shown.add(await pem(SHOWN));
  }
  expect(signers.size).toBe(5);
  expect(shown.size).toBe(10);
  await forget();
});

describe('with the webhooks registered', () => {
  beforeAll(() => cluster.register());

  const configurations = (): Promise<WebhookConfiguration[]> =>
    Promise.all(
      WEBHOOKS.map(({ kind, configuration }) =>
        cluster.api.ask<WebhookConfiguration>('GET', pathOf(kind as Resource<unknown>, undefined, configuration)),
      ),
    );
  const bundles = async (): Promise<(string | undefined)[]> =>
    (await configurations()).flatMap(({ webhooks = [] }) =>
      webhooks.map(
        ({ clientConfig }) => clientConfig.caBundle && Buffer.from(clientConfig.caBundle, 'base64').toString(),
      ),
    );

  test('each of them knows whom it can trust, and nothing else of them changes', async () => {
    const before = await configurations();
    expect(await bundles()).toEqual(WEBHOOKS.map(() => undefined));
    const renewing = certificates();
    await renewing.renew(signal);
    const trusted = await bundle();
    expect(await bundles()).toEqual(WEBHOOKS.map(() => trusted));
    const after = await configurations();
    const stripped = (all: WebhookConfiguration[]): unknown =>
      all.map(({ webhooks = [], metadata }) => ({
        name: metadata?.name,
        labels: metadata?.labels,
        webhooks: webhooks.map(({ clientConfig: { caBundle, ...client }, ...rest }) => ({
          ...rest,
          client,
        })),
      }));
    expect(stripped(after)).toEqual(stripped(before));
    const versions = after.map(({ metadata }) => metadata?.resourceVersion);
    await renewing.renew(signal);
    expect((await configurations()).map(({ metadata }) => metadata?.resourceVersion)).toEqual(versions);
  });

  test('what was taken from them is told again; what users have added stays', async () => {
    const [webhook] = WEBHOOKS;
    const path = pathOf(webhook?.kind as Resource<unknown>, undefined, webhook?.configuration);
    const { webhooks = [] } = await cluster.api.ask<WebhookConfiguration>('GET', path);
    const [ours] = webhooks;
    const namespaceSelector = { matchLabels: { 'example.org/cdi': 'yes' } };
    const other = { ...ours, name: 'other.example.org', failurePolicy: 'Ignore', timeoutSeconds: 1 };
    const bare = { ...ours, namespaceSelector, clientConfig: { service: ours?.clientConfig.service } };
    await cluster.api.ask('PATCH', path, { webhooks: [{ ...other, clientConfig: bare.clientConfig }, bare] });
    await certificates().renew(signal);
    const after = await cluster.api.ask<WebhookConfiguration>('GET', path);
    expect(after.webhooks).toEqual([
      expect.objectContaining({ name: other.name, failurePolicy: 'Ignore', clientConfig: bare.clientConfig }),
      expect.objectContaining({ namespaceSelector, clientConfig: ours?.clientConfig }),
    ]);
    await cluster.api.ask('PATCH', path, { webhooks: [ours] });
  });

  test('who applies them once more takes nothing away', async () => {
    await certificates().renew(signal);
    const trusted = await bundle();
    const type = { 'content-type': 'application/apply-patch+yaml' };
    for (const webhook of WEBHOOKS) {
      const path = pathOf(webhook.kind as Resource<unknown>, undefined, webhook.configuration);
      const text = JSON.stringify(configurationOf(webhook, SYSTEM));
      for (const query of ['?fieldManager=kubectl&force=true', '?fieldManager=kubectl']) {
        const applied = await answers.to('PATCH', path + query, text, type);
        expect(applied.status, applied.text).toBe(200);
      }
    }
    expect(await bundles()).toEqual(WEBHOOKS.map(() => trusted));
    for (const { kind, configuration } of WEBHOOKS)
      await answers.to('DELETE', pathOf(kind as Resource<unknown>, undefined, configuration));
    await cluster.register();
  });

  test('everything is replaced again and again, and no request is refused', { timeout: 120_000 }, async () => {
    await forget();
    const short = (seconds: number) => ({ duration: HOUR, renewBefore: HOUR - seconds * 1000 });
    const lives = { ca: short(4), server: short(2), settle: 1500 };
    const sight = new Sight(kube);
    const stop = new AbortController();
    const errors: unknown[] = [];
    const watching = sight.run(stop.signal, (error) => errors.push(error));
    await sight.synced();
    const log: string[] = [];
    const renewing = new Certificates(kube, {
      namespace: SYSTEM,
      lives: () => lives,
      log: logTo((line) => log.push(line)),
    });
    const options = { host: '127.0.0.1', port: cluster.port, routes: routesOf(sight), isReady: () => true };
    const pair = await renewing.renew(signal);
    const server = await WebhookServer.start({ ...options, log: () => undefined }, pair, tlsRules(undefined));
    const spec = { source: { blank: {} }, storage: { resources: { requests: { storage: '1Gi' } } } };
    const wanted = { apiVersion: 'cdi.kubevirt.io/v1beta1', kind: 'DataVolume', metadata: { name: 'disk' }, spec };
    const created = async (): Promise<string> => {
      const answer = await answers.to('POST', `${pathOf(DATA_VOLUMES, 'default')}?dryRun=All`, wanted);
      return answer.status === 201 ? 'created' : answer.text;
    };
    // An API server hears of the configurations by its own watch.
    await expect.poll(created, { timeout: 10_000 }).toBe('created');
    const until = performance.now() + 30_000;
    let requests = 0;
    const asking = Array.from({ length: 4 }, async () => {
      while (performance.now() < until) {
        expect(await created()).toBe('created');
        requests += 1;
      }
    });
    const shown = new Set<string>();
    const replacing = (async () => {
      while (performance.now() < until) {
        const pair = await renewing.renew(signal);
        server.show(pair);
        shown.add(pair.certificate);
        await sleep(200);
      }
    })();
    await Promise.all([...asking, replacing]);
    const authorities = log.filter((line) => line.includes('made a new authority')).length;
    process.stderr.write(`${requests} requests, ${authorities} authorities, ${shown.size} certificates\n`);
    expect(requests).toBeGreaterThan(200);
    expect(authorities).toBeGreaterThan(4);
    expect(shown.size).toBeGreaterThan(8);
    expect(errors).toEqual([]);
    stop.abort();
    await watching;
    await server[Symbol.asyncDispose]();
    await forget();
  });

  test('two programs that start at the same time show the same', { timeout: 60_000 }, async () => {
    const programs = await Promise.all([cluster.run(await freePort()), cluster.run(await freePort())]);
    try {
      await Promise.all(programs.map((one) => one.ready()));
      const trusted = await bundle();
      expect(count(trusted)).toBe(1);
      const seen = await Promise.all(programs.map(({ port }) => certificateAt(port, trusted)));
      expect(new Set(seen)).toEqual(new Set([new X509Certificate(await pem(SHOWN)).fingerprint256]));
      expect(await bundles()).toEqual(WEBHOOKS.map(() => trusted));
      const made = programs.map((one) => one.said().split('made a new authority').length - 1);
      expect(made.reduce((sum, one) => sum + one)).toBe(1);
    } finally {
      for (const one of programs) await one[Symbol.asyncDispose]();
    }
  });
});

/** Fingerprint of what a server shows to whoever asks for the Service, and trusts `ca` alone. */
function certificateAt(port: number, ca: Pair['certificate']): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port, ca, servername: 'cdi-api.cdi.svc' }, () => {
      resolve(socket.getPeerCertificate().fingerprint256);
      socket.destroy();
    });
    socket.once('error', reject);
  });
}

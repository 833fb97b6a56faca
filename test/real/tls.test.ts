// How our servers speak, as the tlsSecurityProfile of the configuration says, to OpenSSL's client.
import { createSecureContext, getCiphers } from 'node:tls';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TlsSecurityProfile } from '../../src/api/config.ts';
import { WebhookServer } from '../../src/apiserver/server.ts';
import { serveMetrics as serveController } from '../../src/controller/metrics-server.ts';
import { serveMetrics as serveImporter } from '../../src/importer/metrics.ts';
import { Kube } from '../../src/kube/client.ts';
import { authority, issue } from '../../src/pki/authority.ts';
import { tlsContext, tlsEnvironment, tlsRulesIn } from '../../src/pki/tls.ts';
import { tlsRules } from '../../src/profile/tls-profile.ts';
import { handshake } from '../support/handshake.ts';
import { freePort } from '../support/nginx.ts';

const HOUR = 3_600_000;
const AES128 = 'ECDHE-ECDSA-AES128-GCM-SHA256';
const AES256 = 'ECDHE-ECDSA-AES256-GCM-SHA384';
const MODERN: TlsSecurityProfile = { type: 'Modern', modern: {} };
const custom = (minTLSVersion: string, ...ciphers: string[]): TlsSecurityProfile => ({
  type: 'Custom',
  custom: { minTLSVersion, ciphers },
});

interface Speaks extends AsyncDisposable {
  readonly port: number;
  speak(rules: ReturnType<typeof tlsRules>): void;
}

const SERVERS: Readonly<Record<string, () => Promise<Speaks>>> = {
  'of the webhooks': async () => {
    const issuer = await authority('one', HOUR);
    const pair = await issue(issuer, { commonName: 'a', names: ['127.0.0.1'], use: 'server', duration: HOUR });
    const options = { host: '127.0.0.1', port: 0, routes: new Map(), isReady: () => true, log: () => undefined };
    return WebhookServer.start(options, pair, tlsRules(undefined));
  },
  'of the controller’s metrics': async () => {
    const kube = new Kube({ url: 'https://127.0.0.1:1', ca: '', token: async () => '' });
    return serveController(0, kube, async () => '', tlsRules(undefined));
  },
};

describe.each(Object.entries(SERVERS))('the server %s', (_, start) => {
  let server: Speaks;
  const speaks = (...args: string[]): Promise<string> => handshake(server.port, ...args);
  beforeAll(async () => {
    server = await start();
  });
  afterAll(() => server?.[Symbol.asyncDispose]());

  test('speaks TLS 1.2 and 1.3, and nothing older, whatever is asked for', async () => {
    for (const profile of [undefined, { type: 'Old', old: {} }, custom('VersionTLS10', AES128)]) {
      server.speak(tlsRules(profile));
      expect(await speaks()).toMatch(/^TLSv1\.3 /);
      expect(await speaks('-tls1_2')).toBe(`TLSv1.2 ${AES128}`);
      expect(await speaks('-tls1_1', '-cipher', 'ALL:@SECLEVEL=0')).toBe('refused');
    }
  });

  test('changes while it runs', async () => {
    server.speak(tlsRules(MODERN));
    expect(await speaks('-tls1_2')).toBe('refused');
    expect(await speaks('-tls1_3')).toBe('TLSv1.3 TLS_AES_128_GCM_SHA256');
    server.speak(tlsRules(undefined));
    expect(await speaks('-tls1_2')).toBe(`TLSv1.2 ${AES128}`);
  });

  test('has the ciphers that are named, in their order', async () => {
    server.speak(tlsRules(custom('VersionTLS12', AES256)));
    expect(await speaks('-tls1_2', '-cipher', AES128)).toBe('refused');
    expect(await speaks('-tls1_2')).toBe(`TLSv1.2 ${AES256}`);
    // Nobody chooses among those of 1.3 who names none.
    expect(await speaks()).toMatch(/^TLSv1\.3 /);
    server.speak(tlsRules(custom('VersionTLS12', AES256, AES128)));
    expect(await speaks('-tls1_2', '-cipher', `${AES128}:${AES256}`)).toBe(`TLSv1.2 ${AES256}`);
  });

  test('is not stopped by ciphers that there are not', async () => {
    server.speak(tlsRules(custom('VersionTLS12', 'NO-SUCH-CIPHER', '!ALL', '@SECLEVEL=0', AES256)));
    expect(await speaks('-tls1_2')).toBe(`TLSv1.2 ${AES256}`);
    server.speak(tlsRules(custom('VersionTLS14', 'NO-SUCH-CIPHER')));
    expect(await speaks('-tls1_2')).toMatch(/^TLSv1\.2 /);
  });
});

test('the import pod’s server speaks as its environment says', async () => {
  const port = await freePort();
  await using _server = await serveImporter(port, 'uid', tlsRulesIn(tlsEnvironment(tlsRules(MODERN))));
  expect(await handshake(port, '-tls1_2')).toBe('refused');
  expect(await handshake(port)).toBe('TLSv1.3 TLS_AES_128_GCM_SHA256');
});

test('every cipher that OpenSSL has makes a context, alone', () => {
  for (const name of getCiphers()) {
    const context = tlsContext({ minVersion: 'VersionTLS12', ciphers: [name.toUpperCase()] });
    expect(() => createSecureContext(context), name).not.toThrow();
  }
});

test('an environment is read back as it was written; without one it is TLS 1.2, and another version is none', () => {
  const rules = tlsRules({ type: 'Old' });
  expect(tlsRulesIn(tlsEnvironment(rules))).toEqual(rules);
  expect(tlsRulesIn({})).toEqual({ minVersion: 'VersionTLS12', ciphers: [] });
  expect(tlsRulesIn({ TLS_MIN_VERSION: 'SSL' })).toBeUndefined();
  expect(tlsRulesIn({ TLS_MIN_VERSION: 'constructor' })).toBeUndefined();
});

import '../pki/reflection.ts';
import type { webcrypto } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Server } from 'node:https';
import { X509CertificateGenerator } from '@peculiar/x509';
import type { TlsRules } from '../api/tls-rules.ts';
import { tlsContext } from '../pki/tls.ts';

/** A page for Prometheus, over TLS with a certificate of its own, as CDI's controller and dashboards ask for it. */
export interface Metrics extends AsyncDisposable {
  /** Percent, 0 to 100. */
  progress: number;
}

/** Days that the certificate is valid: longer than any import. */
const DAYS = 365;

/** Serves on `port`, whatever the path. `owner` is the label of the progress; without `rules` it speaks as Node does. */
export async function serveMetrics(port: number, owner: string, rules: TlsRules | undefined): Promise<Metrics> {
  const { certificate, key } = await selfSigned();
  const state = { progress: 0 };
  const server: Server = createServer(
    { cert: certificate, key, ...(rules ? tlsContext(rules) : {}) },
    (_request, response) => {
      response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' });
      response.end(page(state.progress, owner));
    },
  );
  server.listen(port);
  await once(server, 'listening');
  return {
    get progress() {
      return state.progress;
    },
    set progress(percent: number) {
      // A counter only grows.
      state.progress = Math.max(state.progress, Math.min(100, percent));
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** Prometheus' text format 0.0.4. */
export function page(progress: number, owner: string): string {
  const label = owner.replace(/[\\"\n]/g, (c) => (c === '\n' ? '\\n' : `\\${c}`));
  return [
    '# HELP kubevirt_cdi_import_progress_total The import progress in percentage',
    '# TYPE kubevirt_cdi_import_progress_total counter',
    `kubevirt_cdi_import_progress_total{ownerUID="${label}"} ${progress}`,
    '',
  ].join('\n');
}

async function selfSigned(): Promise<{ certificate: string; key: string }> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = (await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair;
  const now = Date.now();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: 'CN=diskferry importer',
    notBefore: new Date(now - 3_600_000),
    notAfter: new Date(now + DAYS * 86_400_000),
    signingAlgorithm: algorithm,
    keys,
  });
  const key = Buffer.from(await crypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64');
  return {
    certificate: certificate.toString('pem'),
    key: `-----BEGIN PRIVATE KEY-----\n${key.replace(/.{64}/g, '$&\n')}\n-----END PRIVATE KEY-----\n`,
  };
}

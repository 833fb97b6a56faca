import '../pki/reflection.ts';
import type { webcrypto } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Server } from 'node:https';
import { X509CertificateGenerator } from '@peculiar/x509';
import type { TlsRules } from '../api/tls-rules.ts';
import type { Snapshot } from '../dataplane/meter.ts';
import { tlsContext } from '../pki/tls.ts';

/** A page for Prometheus, over TLS with a certificate of its own, as CDI's controller and dashboards ask for it. */
export interface Metrics extends AsyncDisposable {
  /** Percent, 0 to 100. */
  progress: number;
  /** The latest look at the transfer. */
  seen: Snapshot | undefined;
}

/** Days that the certificate is valid: longer than any import. */
const DAYS = 365;

/** Serves on `port`, whatever the path. `owner` is the label of the progress; without `rules` it speaks as Node does. */
export async function serveMetrics(port: number, owner: string, rules: TlsRules | undefined): Promise<Metrics> {
  const { certificate, key } = await selfSigned();
  const state: State = { progress: 0, seen: undefined };
  const server: Server = createServer(
    { cert: certificate, key, ...(rules ? tlsContext(rules) : {}) },
    (_request, response) => {
      response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' });
      response.end(page(state, owner));
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
    get seen() {
      return state.seen;
    },
    set seen(snapshot: Snapshot | undefined) {
      state.seen = snapshot;
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
    },
  };
}

type State = Pick<Metrics, 'progress' | 'seen'>;

type Type = 'counter' | 'gauge';

/** Prometheus' text format 0.0.4. The first is CDI's, in its spelling, and there from the beginning. */
export function page({ progress, seen }: State, owner: string): string {
  const uid = owner.replace(/[\\"\n]/g, (c) => (c === '\n' ? '\\n' : `\\${c}`));
  const series = (type: Type, name: string, help: string, value: number, labels = `owner_uid="${uid}"`): string =>
    `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${name}{${labels}} ${value}\n`;
  const first = series(
    'counter',
    'kubevirt_cdi_import_progress_total',
    'The import progress in percentage',
    progress,
    `ownerUID="${uid}"`,
  );
  if (seen === undefined) return first;
  const { source, disk, rate, bottleneck, resumes, retries } = seen;
  const ours = (type: Type, name: string, help: string, value: number, labels?: string): string =>
    series(type, `diskferry_import_${name}`, help, value, labels);
  return [
    first,
    ours('counter', 'source_bytes_total', 'Bytes of the source, those of earlier runs too.', source.bytes),
    ours('counter', 'written_bytes_total', 'Bytes that this run wrote.', disk.written ?? 0),
    ours('gauge', 'source_bytes_per_second', 'Of the last three seconds.', Math.round(rate)),
    ours('gauge', 'bottleneck', 'What it waits for: 1.', 1, `owner_uid="${uid}",stage="${bottleneck}"`),
    ours('counter', 'resumes_total', 'Runs that went on where one before had stopped.', resumes),
    ours('counter', 'retries_total', 'Requests of this run that were made again.', retries),
  ].join('');
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

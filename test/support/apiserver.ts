// The API server of a real Kubernetes on loopback, with an etcd of its own; nothing else of a cluster runs.
import { type ChildProcess, spawn } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, request } from 'undici';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { serverPath } from '../../scripts/toolchain.mjs';
import type { ApiServer as Access } from '../../src/kube/client.ts';
import { authority, issue, type Pair } from '../../src/pki/authority.ts';
import { freePort, stop } from './nginx.ts';
import { tempdir } from './tempdir.ts';
import { tool } from './tools.ts';

const HOUR = 3_600_000;
/** Token of an administrator. */
export const ADMIN = 'an-administrator-of-the-tests';

export interface ApiServer extends AsyncDisposable {
  readonly port: number;
  /** PEM of the authority that its certificate has. */
  readonly ca: string;
  readonly url: string;
  /** How an administrator asks it. */
  readonly access: Access;
  /** The same with a certificate, as a user who has no rights. */
  readonly stranger: Access;
  /** What it answers to an administrator. Throws what it says where it refuses. */
  ask<T = unknown>(method: string, path: string, body?: object): Promise<T>;
  /** A token of a service account, as a pod is given it. */
  tokenOf(namespace: string, account: string): Promise<string>;
  /** It does not answer until `resume` is called. */
  pause(): void;
  resume(): void;
  /** Makes its store forget what was before now. */
  compact(): Promise<void>;
  /** Ends it without notice, lets `meanwhile` happen, and starts it again at its port, with certificates of `by`. */
  restart(meanwhile?: () => Promise<void>, by?: Pair): Promise<void>;
}

/** `more`: arguments of kube-apiserver. */
export async function startApiServer(more: readonly string[] = []): Promise<ApiServer> {
  const home = await tempdir();
  const at = (name: string): string => join(home.path, name);
  const [client, peer, port] = [await freePort(), await freePort(), await freePort()];
  const [urls, peers] = [`http://127.0.0.1:${client}`, `http://127.0.0.1:${peer}`];
  const store = spawn(
    tool('etcd', 'etcd-server'),
    [
      ...['--name', 'test', '--data-dir', at('etcd'), '--listen-client-urls', urls, '--advertise-client-urls', urls],
      ...['--listen-peer-urls', peers, '--initial-advertise-peer-urls', peers, '--initial-cluster', `test=${peers}`],
      // As kubeadm sets it: bookmarks of watches come from it where nothing happens.
      '--experimental-watch-progress-notify-interval=5s',
    ],
    { stdio: 'ignore' },
  );
  const issuer = await authority('test cluster', HOUR);
  const names = ['127.0.0.1', 'localhost', 'kubernetes.default.svc'];
  const certify = async (by: Pair): Promise<void> => {
    const pair = await issue(by, { commonName: 'kube-apiserver', names, use: 'server', duration: HOUR });
    await Promise.all([writeFile(at('tls.crt'), pair.certificate), writeFile(at('tls.key'), pair.key)]);
  };
  const stranger = await issue(issuer, { commonName: 'stranger', use: 'client', duration: HOUR });
  const signing = generateKeyPairSync('rsa', { modulusLength: 2048 });
  await mkdir(at('certificates'));
  await Promise.all([
    certify(issuer),
    writeFile(at('clients.crt'), issuer.certificate),
    writeFile(at('account.key'), signing.privateKey.export({ type: 'pkcs8', format: 'pem' })),
    writeFile(at('account.pub'), signing.publicKey.export({ type: 'spki', format: 'pem' })),
    // https://kubernetes.io/docs/reference/access-authn-authz/authentication/#static-token-file
    writeFile(at('tokens'), `${ADMIN},admin,1,"system:masters"\n`),
  ]);
  let log = '';
  const start = (): ChildProcess => {
    const child = spawn(
      serverPath('kube-apiserver'),
      [
        ...[`--etcd-servers=${urls}`, '--bind-address=127.0.0.1', '--advertise-address=127.0.0.1'],
        ...[`--secure-port=${port}`, `--tls-cert-file=${at('tls.crt')}`, `--tls-private-key-file=${at('tls.key')}`],
        ...[`--cert-dir=${at('certificates')}`, `--token-auth-file=${at('tokens')}`, '--authorization-mode=RBAC'],
        ...['--service-account-issuer=https://kubernetes.default.svc', '--service-cluster-ip-range=10.96.0.0/24'],
        ...[`--service-account-key-file=${at('account.pub')}`, `--client-ca-file=${at('clients.crt')}`],
        ...[`--service-account-signing-key-file=${at('account.key')}`, ...more],
      ],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    child.stderr.on('data', (chunk: Buffer) => {
      log = (log + chunk.toString()).slice(-20_000);
    });
    return child;
  };
  let server = start();
  let ca = issuer.certificate;
  let agent = new Agent({ connect: { ca } });
  const ask = async <T>(method: string, path: string, body?: object): Promise<T> => {
    const type = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';
    const answer = await request(`https://127.0.0.1:${port}${path}`, {
      dispatcher: agent,
      method: method as 'GET',
      headers: { authorization: `Bearer ${ADMIN}`, 'content-type': type },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.body.text();
    if (answer.statusCode >= 300) throw new Error(`${method} ${path}: ${answer.statusCode} ${text}`);
    return (answer.headers['content-type']?.includes('json') ? JSON.parse(text) : text) as T;
  };
  const isReady = async (): Promise<boolean> => {
    for (let tries = 0; tries < 600 && server.exitCode === null; tries += 1) {
      const ready = await ask('GET', '/readyz').then(
        () => true,
        () => false,
      );
      if (ready) return true;
      await sleep(100);
    }
    return false;
  };
  const end = async (): Promise<void> => {
    await agent.destroy();
    server.kill('SIGCONT');
    await stop(server);
    await stop(store);
    await home[Symbol.asyncDispose]();
  };
  if (!(await isReady())) {
    await end();
    throw new Error(`kube-apiserver did not start: ${log}`);
  }
  return {
    port,
    ca,
    url: `https://127.0.0.1:${port}`,
    access: { url: `https://127.0.0.1:${port}`, ca, token: async () => ADMIN },
    stranger: { url: `https://127.0.0.1:${port}`, ca, cert: stranger.certificate, key: stranger.key },
    ask,
    async tokenOf(namespace, account) {
      const path = `/api/v1/namespaces/${namespace}/serviceaccounts/${account}/token`;
      const wanted = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: {} };
      return (await ask<{ status: { token: string } }>('POST', path, wanted)).status.token;
    },
    pause: () => void server.kill('SIGSTOP'),
    resume: () => void server.kill('SIGCONT'),
    async compact() {
      // The JSON of etcd's API (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/).
      const etcd = async (path: string, body: object): Promise<{ header: { revision: string } }> => {
        const answer = await request(`${urls}/v3/${path}`, { method: 'POST', body: JSON.stringify(body) });
        if (answer.statusCode !== 200) throw new Error(`etcd: ${path}: ${await answer.body.text()}`);
        return (await answer.body.json()) as { header: { revision: string } };
      };
      const { header } = await etcd('maintenance/status', {});
      await etcd('kv/compaction', { revision: header.revision, physical: true });
    },
    async restart(meanwhile, by) {
      const gone = once(server, 'exit');
      server.kill('SIGKILL');
      await gone;
      await meanwhile?.();
      if (by) {
        await certify(by);
        ca = by.certificate;
        await agent.destroy();
        agent = new Agent({ connect: { ca } });
      }
      server = start();
      if (!(await isReady())) throw new Error(`kube-apiserver did not start again: ${log}`);
    },
    [Symbol.asyncDispose]: end,
  };
}

// What the upload proxy finds in a cluster: claims, a service account, authorities, and whoever signs tokens.
import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { serviceName, uploadPodName } from '../../src/api/names.ts';
import { authority, issue, type Pair } from '../../src/pki/authority.ts';
import { type Scope, sign } from '../../src/pki/token.ts';
import { type ApiServer, startApiServer } from './apiserver.ts';

export const HOUR = 3_600_000;
/** Common name of the certificate that pods take uploads from. */
export const CLIENT = 'client.upload-server.cdi.kubevirt.io';
const SYSTEM = 'cdi';
const ACCOUNT = 'cdi-uploadproxy';
const BUNDLE = 'cdi-uploadserver-signer-bundle';
const CLAIMS = '/api/v1/namespaces/default/persistentvolumeclaims';
export const PVC = { group: '', version: 'v1', resource: 'persistentvolumeclaims' };
const TARGET = { 'upload.target': '', contentType: 'kubevirt' };
export const WAITING = { ...TARGET, 'pod.phase': 'Pending', 'pod.ready': 'false' };
export const READY = { ...TARGET, 'pod.phase': 'Running', 'pod.ready': 'true' };

export const hostOf = (claim: string): string => `${serviceName(uploadPodName(claim))}.default.svc`;

/** Annotations of CDI's by the end of their names. */
const said = (annotations: Readonly<Record<string, string>>): object =>
  Object.fromEntries(Object.entries(annotations).map(([key, value]) => [`cdi.kubevirt.io/storage.${key}`, value]));

export class UploadCluster implements AsyncDisposable {
  readonly api: ApiServer;
  /** Of pods, of those who upload into them, and of the proxy. */
  readonly servers: Pair;
  readonly clients: Pair;
  readonly outside: Pair;
  readonly #signing: { readonly publicKey: KeyObject; readonly privateKey: KeyObject };

  private constructor(api: ApiServer, [servers, clients, outside]: readonly [Pair, Pair, Pair]) {
    this.api = api;
    this.servers = servers;
    this.clients = clients;
    this.outside = outside;
    this.#signing = generateKeyPairSync('rsa', { modulusLength: 2048 });
  }

  static async start(): Promise<UploadCluster> {
    const pairs = await Promise.all([
      authority('upload servers', HOUR),
      authority('upload clients', HOUR),
      authority('the proxy', HOUR),
    ]);
    const cluster = new UploadCluster(await startApiServer(), pairs);
    await cluster.#allow();
    await cluster.trust(cluster.servers.certificate);
    return cluster;
  }

  /** No more than docs/uploadproxy.md says. */
  async #allow(): Promise<void> {
    const { api } = this;
    const rbac = '/apis/rbac.authorization.k8s.io/v1';
    const metadata = { name: 'proxy' };
    const may = (resource: string): object => ({
      metadata,
      rules: [{ apiGroups: [''], resources: [resource], verbs: ['get'] }],
    });
    const bound = (kind: string): object => ({
      metadata,
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind, name: 'proxy' },
      subjects: [{ kind: 'ServiceAccount', name: ACCOUNT, namespace: SYSTEM }],
    });
    await api.ask('POST', '/api/v1/namespaces', { metadata: { name: SYSTEM } });
    await api.ask('POST', `/api/v1/namespaces/${SYSTEM}/serviceaccounts`, { metadata: { name: ACCOUNT } });
    await api.ask('POST', `${rbac}/clusterroles`, may('persistentvolumeclaims'));
    await api.ask('POST', `${rbac}/clusterrolebindings`, bound('ClusterRole'));
    await api.ask('POST', `${rbac}/namespaces/${SYSTEM}/roles`, may('configmaps'));
    await api.ask('POST', `${rbac}/namespaces/${SYSTEM}/rolebindings`, bound('Role'));
  }

  /** The authorities by which the proxy trusts pods from now on. */
  async trust(pem: string): Promise<void> {
    const path = `/api/v1/namespaces/${SYSTEM}/configmaps`;
    const data = { 'ca-bundle.crt': pem };
    await this.api
      .ask('PATCH', `${path}/${BUNDLE}`, { data })
      .catch(() => this.api.ask('POST', path, { metadata: { name: BUNDLE }, data }));
  }

  /** A claim, with what the controller would say of it; its uid. */
  async claim(name: string, annotations: Readonly<Record<string, string>>, spec: object = {}): Promise<string> {
    await this.api.ask('DELETE', `${CLAIMS}/${name}`).catch(() => undefined);
    // A controller, which does not run here, would end the protection of claims that nobody uses.
    await this.api.ask('PATCH', `${CLAIMS}/${name}`, { metadata: { finalizers: null } }).catch(() => undefined);
    const { metadata } = await this.api.ask<{ metadata: { uid: string } }>('POST', CLAIMS, {
      metadata: { name, annotations: said(annotations) },
      spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '96Mi' } }, ...spec },
    });
    return metadata.uid;
  }

  async annotate(name: string, annotations: Readonly<Record<string, string>>): Promise<void> {
    await this.api.ask('PATCH', `${CLAIMS}/${name}`, { metadata: { annotations: said(annotations) } });
  }

  /** As CDI's API server signs it. */
  tokenFor(name: string, more: Partial<Scope> = {}, duration = HOUR, issuer = 'cdi-apiserver'): Promise<string> {
    const scope = { operation: 'Upload', name, namespace: 'default', resource: PVC, ...more };
    return sign({ issuer, key: this.#signing.privateKey }, scope, duration);
  }

  /**
   * Puts what a pod of the proxy is given into `directory`: its service account, its certificate as `proxy.crt` and `proxy.key`,
   * the one that it shows as `client.crt` and `client.key`, and for its callers `outside.pem`. Its environment but for paths.
   */
  async furnish(directory: string): Promise<Record<string, string>> {
    const at = (name: string): string => join(directory, name);
    const names = ['localhost', '127.0.0.1'];
    await mkdir(at('account'), { recursive: true });
    await Promise.all([
      writeFile(at('account/ca.crt'), this.api.ca),
      writeFile(at('account/namespace'), SYSTEM),
      writeFile(at('account/token'), await this.api.tokenOf(SYSTEM, ACCOUNT)),
      writeFile(at('outside.pem'), this.outside.certificate),
      put(directory, 'client', await issue(this.clients, { commonName: CLIENT, use: 'client', duration: HOUR })),
      put(directory, 'proxy', await issue(this.outside, { commonName: 'proxy', names, use: 'server', duration: HOUR })),
    ]);
    return {
      APISERVER_PUBLIC_KEY: this.#signing.publicKey.export({ type: 'spki', format: 'pem' }) as string,
      KUBERNETES_SERVICE_HOST: '127.0.0.1',
      KUBERNETES_SERVICE_PORT: String(this.api.port),
      LISTEN_ADDRESS: '127.0.0.1',
    };
  }

  /** Puts the certificate of a claim's pod into `directory` as `pod.crt` and `pod.key`, with `clients.pem`. */
  async furnishPod(directory: string, claim: string, by = this.servers): Promise<void> {
    const host = hostOf(claim);
    await put(directory, 'pod', await issue(by, { commonName: host, names: [host], use: 'server', duration: HOUR }));
    await writeFile(join(directory, 'clients.pem'), this.clients.certificate);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.api[Symbol.asyncDispose]();
  }
}

async function put(directory: string, name: string, { certificate, key }: Pair): Promise<void> {
  await writeFile(join(directory, `${name}.crt`), certificate);
  await writeFile(join(directory, `${name}.key`), key);
}

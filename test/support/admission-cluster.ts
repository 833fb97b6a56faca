// A real API server that asks the webhooks of deploy/: with our definitions, accounts and rights, and where the Service of a
// cluster would be, a name of this machine.
import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseAllDocuments } from 'yaml';
import { pathOf } from '../../src/api/resource.ts';
import { DEFINITIONS } from '../../src/api/schemas/definitions.ts';
import { type ApiServer, startApiServer } from './apiserver.ts';
import { freePort } from './nginx.ts';
import { tempdir } from './tempdir.ts';

const PROGRAM = fileURLToPath(new URL('../../dist/apiserver/main.js', import.meta.url));
/** As scripts/entrypoint.sh has it. */
const MEMORY = ['--max-old-space-size=112', '--max-semi-space-size=4'];
const deploy = fileURLToPath(new URL('../../deploy', import.meta.url));
export const SYSTEM = 'cdi';
const ACCOUNT = 'cdi-apiserver';
const GROUPS: Readonly<Record<string, string>> = {
  ClusterRole: '/apis/rbac.authorization.k8s.io/v1/clusterroles',
  ClusterRoleBinding: '/apis/rbac.authorization.k8s.io/v1/clusterrolebindings',
  Role: `/apis/rbac.authorization.k8s.io/v1/namespaces/${SYSTEM}/roles`,
  RoleBinding: `/apis/rbac.authorization.k8s.io/v1/namespaces/${SYSTEM}/rolebindings`,
  ServiceAccount: `/api/v1/namespaces/${SYSTEM}/serviceaccounts`,
  CustomResourceDefinition: '/apis/apiextensions.k8s.io/v1/customresourcedefinitions',
  ValidatingWebhookConfiguration: '/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations',
  MutatingWebhookConfiguration: '/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations',
};

interface Manifest {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly webhooks?: { clientConfig: { service: { port: number } } }[];
}

const documents = (file: string): Manifest[] =>
  parseAllDocuments(readFileSync(join(deploy, file), 'utf8')).map((one) => one.toJS() as Manifest);

export interface Process extends AsyncDisposable {
  readonly port: number;
  readonly child: ChildProcess;
  readonly ended: Promise<number | null>;
  said(): string;
  /** It answers. Throws what it said where it does not within a while. */
  ready(): Promise<void>;
}

export class AdmissionCluster implements AsyncDisposable {
  readonly api: ApiServer;
  /** Where the API server expects the webhooks. */
  readonly port: number;

  private constructor(api: ApiServer, port: number) {
    this.api = api;
    this.port = port;
  }

  static async start(): Promise<AdmissionCluster> {
    const cluster = new AdmissionCluster(await startApiServer(), await freePort());
    await cluster.#install();
    return cluster;
  }

  async #install(): Promise<void> {
    const { api } = this;
    await api.ask('POST', '/api/v1/namespaces', { metadata: { name: SYSTEM } });
    const service = { type: 'ExternalName', externalName: 'localhost' };
    await api.ask('POST', `/api/v1/namespaces/${SYSTEM}/services`, { metadata: { name: 'cdi-api' }, spec: service });
    const crds = readdirSync(join(deploy, 'crds')).filter((name) => name !== 'kustomization.yaml');
    for (const name of crds) for (const one of documents(join('crds', name))) await this.#create(one);
    for (const one of documents('apiserver.yaml')) if (one.kind in GROUPS) await this.#create(one);
    for (const { resource } of DEFINITIONS) {
      const isServed = (): Promise<boolean> =>
        api.ask('GET', pathOf(resource)).then(
          () => true,
          () => false,
        );
      for (let tries = 0; tries < 100 && !(await isServed()); tries += 1) await sleep(100);
    }
  }

  /** The webhooks of deploy/, at our port. */
  async register(): Promise<void> {
    for (const one of documents('webhooks.yaml')) {
      for (const webhook of one.webhooks ?? []) webhook.clientConfig.service.port = this.port;
      await this.#create(one);
    }
  }

  async #create(one: Manifest): Promise<void> {
    await this.api.ask('POST', GROUPS[one.kind] ?? '', one);
  }

  /** The program as it was built, as a pod of the deployment runs it; it may not be ready yet. */
  async run(port = this.port): Promise<Process> {
    const { api } = this;
    const home = await tempdir();
    const account = join(home.path, 'var/run/secrets/kubernetes.io/serviceaccount');
    await mkdir(account, { recursive: true });
    await Promise.all([
      writeFile(join(account, 'ca.crt'), api.ca),
      writeFile(join(account, 'namespace'), SYSTEM),
      writeFile(join(account, 'token'), await api.tokenOf(SYSTEM, ACCOUNT)),
    ]);
    const env = {
      PATH: process.env.PATH ?? '',
      DISKFERRY_ROOT: home.path,
      KUBERNETES_SERVICE_HOST: '127.0.0.1',
      KUBERNETES_SERVICE_PORT: String(api.port),
      LISTEN_ADDRESS: '127.0.0.1',
      LISTEN_PORT: String(port),
    };
    const child = spawn(process.execPath, [...MEMORY, PROGRAM], { env, stdio: ['ignore', 'ignore', 'pipe'] });
    let log = '';
    child.stderr.on('data', (text: Buffer) => {
      log += text.toString();
    });
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
    return {
      port,
      child,
      ended,
      said: () => log,
      async ready() {
        for (let tries = 0; tries < 300 && child.exitCode === null; tries += 1) {
          if (log.includes('answers API servers')) return;
          await sleep(100);
        }
        throw new Error(`the webhooks do not answer: ${log}`);
      },
      async [Symbol.asyncDispose]() {
        child.kill('SIGKILL');
        await ended;
        await home[Symbol.asyncDispose]();
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.api[Symbol.asyncDispose]();
  }
}

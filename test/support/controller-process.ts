// The controller as it was built, as a pod of the deployment runs it, against an API server.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Agent, request } from 'undici';
import type { ApiServer } from './apiserver.ts';
import { freePort } from './nginx.ts';
import { tempdir } from './tempdir.ts';

const PROGRAM = fileURLToPath(new URL('../../dist/controller/main.js', import.meta.url));
const NAMESPACE = 'cdi';
const ACCOUNT = 'cdi-sa';

export interface Answer {
  readonly status: number;
  readonly text: string;
}

export interface ControllerProcess extends AsyncDisposable {
  readonly child: ChildProcess;
  readonly metricsPort: number;
  said(): string;
  /** What it answers to the kubelet; status 0 where it does not listen yet. */
  probe(path: string): Promise<Answer>;
  /** What it answers to who asks for metrics, with a token or without. */
  metrics(token?: string, path?: string): Promise<Answer>;
}

export async function startController(api: ApiServer, name: string): Promise<ControllerProcess> {
  const home = await tempdir();
  const account = join(home.path, 'var/run/secrets/kubernetes.io/serviceaccount');
  await mkdir(account, { recursive: true });
  await Promise.all([
    writeFile(join(account, 'ca.crt'), api.ca),
    writeFile(join(account, 'namespace'), NAMESPACE),
    writeFile(join(account, 'token'), await api.tokenOf(NAMESPACE, ACCOUNT)),
  ]);
  const [health, metrics] = [await freePort(), await freePort()];
  const env = {
    PATH: process.env.PATH ?? '',
    DISKFERRY_ROOT: home.path,
    KUBERNETES_SERVICE_HOST: '127.0.0.1',
    KUBERNETES_SERVICE_PORT: String(api.port),
    IMPORTER_IMAGE: 'registry.test/diskferry:dev',
    POD_NAME: name,
    HEALTH_PORT: String(health),
    METRICS_PORT: String(metrics),
  };
  const child = spawn(process.execPath, [PROGRAM], { env, stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = new Promise((resolve) => child.once('close', resolve));
  let log = '';
  child.stderr.on('data', (text: Buffer) => {
    log += text.toString();
  });
  // A connection for each request: one that is kept may be closed from the other side just when it is used again.
  const agent = new Agent({ connect: { rejectUnauthorized: false }, pipelining: 0 });
  const ask = async (url: string, token?: string): Promise<Answer> => {
    const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
    const { statusCode, body } = await request(url, { dispatcher: agent, headers });
    return { status: statusCode, text: await body.text() };
  };
  return {
    child,
    metricsPort: metrics,
    said: () => log,
    probe: (path) => ask(`http://127.0.0.1:${health}${path}`).catch((error) => ({ status: 0, text: String(error) })),
    metrics: (token, path = '/metrics') => ask(`https://127.0.0.1:${metrics}${path}`, token),
    async [Symbol.asyncDispose]() {
      await agent.destroy();
      child.kill('SIGKILL');
      await ended;
      await home[Symbol.asyncDispose]();
    },
  };
}

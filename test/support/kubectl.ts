// Kubernetes' own client: renders what is deployed, and applies it to an API server.
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { parseAllDocuments } from 'yaml';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { serverPath } from '../../scripts/toolchain.mjs';
import { ADMIN, type ApiServer } from './apiserver.ts';

const run = promisify(execFile);
const MOST = 16 * 1024 * 1024;

export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
  };
}

/** What `kubectl apply -k` would apply of a directory. */
export async function rendered<T extends Manifest = Manifest>(directory: string): Promise<T[]> {
  const { stdout } = await run(serverPath('kubectl'), ['kustomize', directory], { maxBuffer: MOST });
  return parseAllDocuments(stdout).map((one) => one.toJS() as T);
}

/** kubectl as an administrator of an API server: what it writes. Throws what it complains of. `home`: a directory for its files. */
export async function kubectlOf(api: ApiServer, home: string): Promise<(...args: string[]) => Promise<string>> {
  const config = join(home, 'kubeconfig');
  const ca = Buffer.from(api.ca).toString('base64');
  await writeFile(
    config,
    JSON.stringify({
      'current-context': 'test',
      contexts: [{ name: 'test', context: { cluster: 'test', user: 'admin' } }],
      clusters: [{ name: 'test', cluster: { server: api.url, 'certificate-authority-data': ca } }],
      users: [{ name: 'admin', user: { token: ADMIN } }],
    }),
    { mode: 0o600 },
  );
  const options = { maxBuffer: MOST, timeout: 60_000, env: { ...process.env, KUBECONFIG: config, HOME: home } };
  return async (...args) => (await run(serverPath('kubectl'), args, options)).stdout;
}

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ApiServer } from './connection.ts';
import { KubeError } from './error.ts';

/** What every pod is given (Kubernetes, "Accessing the Kubernetes API from a Pod"). */
const ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount';
/** Milliseconds that a file is not read again for. The kubelet replaces a token at 80 % of its life, which is 10 minutes or more. */
const FRESH = 60_000;

/** The API server as a pod is told of it. */
export interface InCluster extends ApiServer {
  /** The pod's own namespace. */
  namespace(): Promise<string>;
}

/**
 * The API server of the cluster that this pod runs in, from its environment and the files of its service account. KubeError
 * where it is no pod, and later where a file cannot be read. Tests put the directory `DISKFERRY_ROOT` in front of paths.
 */
export function inCluster(env: Readonly<Record<string, string | undefined>>): InCluster {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port, DISKFERRY_ROOT: root = '' } = env;
  if (!host) throw new KubeError('KUBERNETES_SERVICE_HOST is not set: this runs in a pod of Kubernetes');
  const file = (name: string): (() => Promise<string>) => reread(join(root, ACCOUNT, name));
  return {
    url: `https://${host.includes(':') ? `[${host}]` : host}:${port || '443'}`,
    ca: file('ca.crt'),
    token: file('token'),
    namespace: file('namespace'),
  };
}

/** The text of a file as it was at most a minute ago. */
function reread(path: string): () => Promise<string> {
  let latest: { readonly at: number; readonly text: Promise<string> } | undefined;
  return async () => {
    const now = performance.now();
    if (!latest || now - latest.at > FRESH) {
      const text = readFile(path, 'utf8').then((read) => read.trim());
      latest = { at: now, text };
      // The next one tries again.
      text.catch(() => {
        latest = undefined;
      });
    }
    try {
      return await latest.text;
    } catch (cause) {
      throw new KubeError(`${path} cannot be read, which a pod of Kubernetes has: ${(cause as Error).message}`, {
        cause,
      });
    }
  };
}

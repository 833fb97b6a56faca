// The upload proxy: takes uploads with a token from outside of a cluster, and passes them on to the pod of their claim.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Kube } from '../../kube/client.ts';
import { logOf } from '../log.ts';
import { serveProxy } from './server.ts';
import { settingsOf } from './settings.ts';

/** Where everything is in a pod; tests put another directory in front. */
const ROOT = process.env.DISKFERRY_ROOT ?? '';
/** What every pod is given (Kubernetes, "Accessing the Kubernetes API from a Pod"). */
const ACCOUNT = join(ROOT, '/var/run/secrets/kubernetes.io/serviceaccount');

const log = logOf(true);

try {
  const settings = settingsOf(process.env, ROOT);
  const read = async (name: string): Promise<string> => (await readFile(join(ACCOUNT, name), 'utf8')).trim();
  await using kube = new Kube({ url: settings.api, ca: await read('ca.crt'), token: () => read('token') });
  const cluster = { kube, namespace: await read('namespace') };
  await using server = await serveProxy(settings, cluster, log);
  log.info(`passes uploads on, at port ${server.port}`);
  const signals = ['SIGTERM', 'SIGINT'] as const;
  const signalled = (): Promise<void> =>
    new Promise((resolve) => {
      for (const name of signals) process.once(name, () => resolve());
    });
  await signalled();
  log.info('waits for the uploads that are under way; another signal ends them');
  await Promise.race([server.drain(), signalled()]);
} catch (error) {
  log.warn(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
process.exit();

// The upload proxy: takes uploads with a token from outside of a cluster, and passes them on to the pod of their claim.
import { Kube } from '../../kube/client.ts';
import { inCluster } from '../../kube/in-cluster.ts';
import { logOf } from '../log.ts';
import { serveProxy } from './server.ts';
import { settingsOf } from './settings.ts';

/** Where everything is in a pod; tests put another directory in front. */
const ROOT = process.env.DISKFERRY_ROOT ?? '';

const log = logOf(true);

try {
  const settings = settingsOf(process.env, ROOT);
  const api = inCluster(process.env);
  await using kube = new Kube(api);
  const cluster = { kube, namespace: await api.namespace() };
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

// The webhooks: an API server asks here whether objects of CDI are right before it stores them.
import { setTimeout as sleep } from 'node:timers/promises';
import type { TlsRules } from '../api/tls-rules.ts';
import { Kube } from '../kube/client.ts';
import { inCluster } from '../kube/in-cluster.ts';
import { logTo } from '../kube/log.ts';
import { tlsRules } from '../profile/tls-profile.ts';
import { livesOf } from './authority.ts';
import { Certificates } from './certificates.ts';
import { routesOf } from './routes.ts';
import { WebhookServer } from './server.ts';
import { settingsOf } from './settings.ts';
import { Sight } from './sight.ts';

/** Milliseconds between two looks at the certificates: CDI's operator looks each minute. */
const LOOK = 60_000;
/** Milliseconds, where the look before failed. */
const AGAIN = 5000;
/** Milliseconds for which requests still come when the pod is to end: so long it may take until nobody is sent here any more. */
const PARTING = 5000;

const stop = new AbortController();
const stopped = new Promise<void>((resolve) => stop.signal.addEventListener('abort', () => resolve(), { once: true }));
for (const name of ['SIGTERM', 'SIGINT'] as const) process.on(name, () => stop.abort(new Error(`stopped by ${name}`)));

const log = logTo((line) => void process.stderr.write(line));
const told = (error: unknown): void => log('warn', error instanceof Error ? error.message : String(error));

/** Until it is aborted, waits so many milliseconds. */
const wait = (milliseconds: number, signal: AbortSignal): Promise<void> =>
  sleep(milliseconds, undefined, { signal }).catch(() => undefined);

try {
  const settings = settingsOf(process.env);
  const api = inCluster(process.env);
  await using kube = new Kube(api);
  const namespace = await api.namespace();
  const sight = new Sight(kube);
  // Goes on until the last request is answered.
  const watching = new AbortController();
  const watched = sight.run(watching.signal, told);
  await Promise.race([sight.synced(), stopped]);
  const certificates = new Certificates(kube, { namespace, lives: () => livesOf(sight.installation), log });
  let server: WebhookServer | undefined;
  const rules = (): TlsRules => tlsRules(sight.config?.spec?.tlsSecurityProfile);
  sight.watchConfig(() => server?.speak(rules()));
  while (!stop.signal.aborted) {
    let delay = LOOK * (0.75 + Math.random() / 2);
    try {
      const pair = await certificates.renew(stop.signal);
      if (server) server.show(pair);
      else {
        const isReady = (): boolean => sight.isSynced && !stop.signal.aborted;
        server = await WebhookServer.start({ ...settings, routes: routesOf(sight), isReady, log }, pair, rules());
        log('info', 'answers API servers', { port: server.port });
      }
    } catch (error) {
      if (!stop.signal.aborted) told(error);
      delay = AGAIN;
    }
    await wait(delay, stop.signal);
  }
  if (server) {
    await wait(PARTING, new AbortController().signal);
    await server[Symbol.asyncDispose]();
  }
  watching.abort();
  await watched;
} catch (error) {
  told(error);
  process.exitCode = 1;
}
process.exit();

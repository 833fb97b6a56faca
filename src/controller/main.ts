// The controller: keeps DataVolumes, claims and profiles of a cluster as they are to be. One of several acts at a time.
import { Kube } from '../kube/client.ts';
import { inCluster } from '../kube/in-cluster.ts';
import { lead } from '../kube/lease.ts';
import { logTo } from '../kube/log.ts';
import { Recorder } from '../kube/recorder.ts';
import { Actor } from './act.ts';
import { Controller } from './controller.ts';
import { serveHealth } from './health.ts';
import { Metrics } from './metrics.ts';
import { serveMetrics } from './metrics-server.ts';
import { Progress } from './progress.ts';
import { settingsOf } from './settings.ts';
import { Views } from './views.ts';
import { COMPONENT, World } from './world.ts';

/** CDI's own: the two never act at once. */
const LEASE = 'cdi-controller-leader-election-helper';

/** Of probes. */
const HEALTH_PORT = Number(process.env.HEALTH_PORT ?? 8080);
const METRICS_PORT = Number(process.env.METRICS_PORT ?? 8443);

const stop = new AbortController();
for (const name of ['SIGTERM', 'SIGINT'] as const) process.on(name, () => stop.abort(new Error(`stopped by ${name}`)));

let verbose = false;
const log = logTo(
  (line) => void process.stderr.write(line),
  () => verbose,
);
try {
  const api = inCluster(process.env);
  const settings = settingsOf(process.env, await api.namespace());
  await using kube = new Kube(api);
  await using recorder = new Recorder(kube, { component: COMPONENT, instance: settings.identity });
  const world = new World(kube, (kind, error) => log('debug', `watching ${kind}: ${String(error)}`));
  let ready = false;
  await using _health = await serveHealth(HEALTH_PORT, { isReady: () => ready });
  const metrics = new Metrics(world);
  kube.asked = metrics.asked;
  // Of its own: it answers also when this process does not act.
  await using asker = new Kube(api);
  await using progress = new Progress();
  const views = new Views(world, settings, progress.of);
  await using server = await serveMetrics(METRICS_PORT, asker, () => metrics.page(), views.tls);
  world.configs.watch(() => {
    verbose = (views.config.spec?.logVerbosity ?? 1) > 1;
    server.speak(views.tls);
  });
  const actor = new Actor(kube, recorder, (resource, object) => world.learn(resource, object));
  const watching = world.run(stop.signal);
  const seen = world.synced().then(() => {
    ready = true;
  });
  const acting = lead(
    kube,
    {
      namespace: settings.namespace,
      name: LEASE,
      identity: settings.identity,
      failed: (error) => log('warn', `the lease cannot be had or kept: ${String(error)}`),
    },
    async (leading) => {
      log('info', 'successfully acquired lease', { lease: LEASE });
      await seen;
      const controller = new Controller(kube, settings.namespace, world, views, actor, log);
      metrics.queue = controller.queue;
      const reading = progress.run(
        () => world.pods.list(),
        (claim) => controller.moved(claim),
        leading,
      );
      await Promise.all([controller.run(leading), reading]);
    },
    stop.signal,
  );
  await Promise.all([watching, acting]);
} catch (error) {
  if (!stop.signal.aborted) {
    log('warn', error instanceof Error ? error.message : String(error));
    process.exitCode = 1;
  }
}
process.exit();

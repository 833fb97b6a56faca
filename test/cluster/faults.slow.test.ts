// The control plane in bad hours: nothing twice, nothing stuck, nothing lost.
import { createHash, randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { dataVolume, diskFrom, type Made } from './support/datavolumes.ts';
import { killLeader, podsSeen, writeBeside } from './support/faults.ts';
import type { Namespace } from './support/namespace.ts';
import { until } from './support/until.ts';
import { digestOnClaim } from './support/volumes.ts';

const MiB = 1024 * 1024;
const SIZE = 64 * MiB;
let home: TempDir;
let site: Nginx;
let kubernetes: Cluster;
let digest: string;

beforeAll(async () => {
  kubernetes = await cluster();
  home = await tempdir();
  const disk = randomBytes(SIZE);
  digest = createHash('sha256').update(disk).digest('hex');
  await writeFile(join(home.path, 'disk.raw'), disk);
  site = await nginx({ root: home.path, address: kubernetes.host, server: 'limit_rate 1m;' });
}, 600_000);
afterAll(async () => {
  await kubernetes?.kubectl(['scale', 'deployment/cdi-deployment', '-n', 'cdi', '--replicas=1']);
  await site?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
});

const imported = (namespace: Namespace, name: string): Promise<Made> =>
  dataVolume(kubernetes, namespace, name, {
    spec: diskFrom(`http://${kubernetes.host}:${site.port}/disk.raw`, { mode: 'Block' }),
  });

test('an API server that is away for two minutes', async () => {
  await using namespace = await kubernetes.namespace();
  using pods = podsSeen(kubernetes, namespace);
  const dv = await imported(namespace, 'away');
  await dv.reaches('ImportInProgress');
  const server = kubernetes.service('kube-apiserver');
  await server.signal('SIGSTOP');
  await sleep(120_000);
  await server.signal('SIGCONT');
  await dv.reaches('Succeeded', 120);
  expect(await digestOnClaim(kubernetes, namespace, 'away')).toBe(digest);
  expect(pods.names()).toEqual([expect.stringMatching(/^importer-prime-/)]);
}, 400_000);

test('ten imports while the API server is restarted, leaders are killed, and others write, too', async () => {
  await using namespace = await kubernetes.namespace();
  await kubernetes.kubectl(['scale', 'deployment/cdi-deployment', '-n', 'cdi', '--replicas=2']);
  await kubernetes.kubectl(
    ['rollout', 'status', 'deployment/cdi-deployment', '-n', 'cdi', '--timeout=90s'],
    undefined,
    100,
  );
  using pods = podsSeen(kubernetes, namespace);
  const dvs = await Promise.all(Array.from({ length: 10 }, (_, n) => imported(namespace, `disk-${n}`)));
  const over = new AbortController();
  const others = writeBeside(kubernetes, namespace, () => dvs, over.signal);
  for (let round = 0; round < 3; round += 1) {
    await sleep(4000);
    await killLeader(kubernetes);
    await sleep(4000);
    await kubernetes.service('kube-apiserver').restart();
    await until('the API server answers', 60, () => kubernetes.find('/readyz').then((answer) => answer !== undefined));
  }
  await Promise.all(dvs.map((dv) => dv.reaches('Succeeded', 240)));
  over.abort();
  const written = await others;
  process.stdout.write(`${written} writes of others beside ten imports\n`);
  expect(written).toBeGreaterThan(20);
  for (const { name } of dvs.slice(0, 3)) expect(await digestOnClaim(kubernetes, namespace, name)).toBe(digest);
  // One pod an import, however often somebody else decided.
  expect(new Set(pods.names()).size).toBe(10);
  expect(pods.names()).toHaveLength(10);
}, 600_000);

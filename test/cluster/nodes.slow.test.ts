// A node that is lost in the middle of an import: nobody takes its place before it is fenced, and then it goes on. On a cluster of
// its own, of two nodes.
import { createHash, randomBytes } from 'node:crypto';
import { chown, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { down } from './down.ts';
import { layoutFrom } from './layout.ts';
import { processOf } from './processes.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { dataVolume, IMMEDIATE } from './support/datavolumes.ts';
import { until } from './support/until.ts';
import { digestOnClaim } from './support/volumes.ts';

const MiB = 1024 * 1024;
const SIZE = 512 * MiB;
const USER = 107;
let home: TempDir;
let site: Nginx;
let kubernetes: Cluster;
let digest: string;
/** A directory that both nodes see, as of a network file system. */
let shared: string;

beforeAll(async () => {
  const { DISKFERRY_CLUSTER_NAME: other = 'diskferry', DISKFERRY_CLUSTER: _, ...env } = process.env;
  const name = `${other.slice(0, 11)}2`;
  kubernetes = await cluster(layoutFrom({ ...env, DISKFERRY_CLUSTER_NAME: name }, 2));
  home = await tempdir();
  const disk = randomBytes(SIZE);
  digest = createHash('sha256').update(disk).digest('hex');
  await writeFile(join(home.path, 'disk.raw'), disk);
  site = await nginx({ root: home.path });
  shared = join(kubernetes.layout.directory, 'shared');
  await mkdir(shared, { recursive: true });
  await chown(shared, USER, USER);
}, 600_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
  if (kubernetes) await down(kubernetes.layout, true);
}, 300_000);

interface ImportPod {
  readonly metadata: { readonly uid: string; readonly deletionTimestamp?: string };
  readonly spec: { readonly nodeName?: string };
}

// The node is lost once.
test('an import whose node is lost goes on on another one', { retry: 0, timeout: 900_000 }, async () => {
  const [first, second] = kubernetes.nodes;
  if (!first || !second) throw new Error('two nodes');
  const onlyOn = (name: string | null) =>
    kubernetes.ask('PATCH', '/apis/cdi.kubevirt.io/v1beta1/cdis/cdi', {
      spec: { workload: { nodeSelector: { 'kubernetes.io/hostname': name } } },
    });
  await using namespace = await kubernetes.namespace();
  await using line = await kubernetes.reachable(site.port, { rate: 2 * MiB });
  await kubernetes.ask('POST', '/api/v1/persistentvolumes', {
    apiVersion: 'v1',
    kind: 'PersistentVolume',
    metadata: { name: 'shared' },
    spec: {
      capacity: { storage: '1Gi' },
      accessModes: ['ReadWriteMany'],
      persistentVolumeReclaimPolicy: 'Retain',
      hostPath: { path: shared, type: 'Directory' },
    },
  });
  await onlyOn(second.name);
  const dv = await dataVolume(kubernetes, namespace, 'lost', {
    annotations: IMMEDIATE,
    spec: {
      source: { http: { url: `http://${kubernetes.host}:${line.port}/disk.raw` } },
      pvc: {
        storageClassName: '',
        volumeName: 'shared',
        accessModes: ['ReadWriteMany'],
        resources: { requests: { storage: '640Mi' } },
      },
    },
  });
  const pods = async (): Promise<ImportPod[]> =>
    (
      await kubernetes.ask<{ items: ImportPod[] }>(
        'GET',
        namespace.path('pods?labelSelector=cdi.kubevirt.io%3Dimporter'),
      )
    ).items;
  await until('40 %', 180, async () => Number.parseFloat((await dv.now()).status?.progress ?? '0') >= 40);
  const [before] = await pods();
  expect(before?.spec.nodeName).toBe(second.name);
  await onlyOn(null);
  // Everything of it ends at once: kubelet, containerd, containers.
  process.kill(await processOf(second, 'node'), 'SIGKILL');
  const carried = line.bytes;
  await until('Kubernetes sees that the node is lost', 120, async () =>
    (
      await kubernetes.kubectl([
        'get',
        'node',
        second.name,
        '-o',
        'jsonpath={.status.conditions[?(@.type=="Ready")].status}',
      ])
    ).includes('Unknown'),
  );
  await sleep(10_000);
  // It may still write, for all that anybody knows.
  expect((await pods()).map(({ metadata }) => metadata.uid)).toEqual([before?.metadata.uid]);
  await kubernetes.kubectl(['taint', 'node', second.name, 'node.kubernetes.io/out-of-service=nodeshutdown:NoExecute']);
  const successor = await until('a successor', 120, async () => {
    const [pod] = await pods();
    return pod && pod.metadata.uid !== before?.metadata.uid && pod;
  });
  await dv.reaches('Succeeded', 300);
  expect(successor.metadata.uid).not.toBe(before?.metadata.uid);
  expect(await digestOnClaim(kubernetes, namespace, 'lost', { bytes: SIZE })).toBe(digest);
  process.stdout.write(
    `${Math.round(carried / MiB)} MiB before the node was lost, ${Math.round(line.bytes / MiB)} MiB in all, of ${SIZE / MiB} MiB\n`,
  );
  expect(line.bytes).toBeLessThanOrEqual(SIZE + 128 * MiB);
});

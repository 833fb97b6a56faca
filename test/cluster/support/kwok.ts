// Nodes that nothing runs on, and volumes that nothing is on: kwok says of their pods what a kubelet would.
import { randomBytes } from 'node:crypto';
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { partsOf } from '../layout.ts';
import { FAKE } from '../services.ts';
import type { Cluster } from './cluster.ts';
import { until } from './until.ts';

/** `fake-csi` is of a driver of its own, whose volumes kwok makes; of `fake-static` nothing makes any. Both bind at once. */
export const FAKE_CLASSES = { csi: 'fake-csi', static: 'fake-static' } as const;
const DRIVER = 'fake.csi.test';
const STAGES = fileURLToPath(new URL('../kwok/stages.yaml', import.meta.url));
const LABELS = { [FAKE]: 'true' };
const OURS = `labelSelector=${encodeURIComponent(`${FAKE}=true`)}`;
const NAMESPACES = '/api/v1/namespaces';
const VOLUMES = '/api/v1/persistentvolumes';
/** Requests at a time of whoever makes many objects. */
const AT_ONCE = 16;

/** How pods come to these nodes, and only those that want to: a placement of the CDI. */
export const FAKE_PLACEMENT = {
  nodeSelector: LABELS,
  tolerations: [{ key: FAKE, operator: 'Exists' }],
} as const;

/** Of namespaces whose pods are to be on these nodes: they go with them at the latest. */
export const FAKE_LABELS: Readonly<Record<string, string>> = LABELS;

/** So many nodes, with both classes. When it is disposed they are gone, and with them kwok and all volumes of the classes. */
export async function fakeNodes(cluster: Cluster, count: number): Promise<AsyncDisposable> {
  const [first] = cluster.nodes;
  if (first === undefined) throw new Error('a cluster without nodes');
  const kwok = cluster.service('kwok', first);
  const end = async (): Promise<void> => {
    await emptyFakes(cluster);
    for (const path of ['/api/v1/nodes', '/apis/storage.k8s.io/v1/storageclasses'])
      await cluster.ask('DELETE', `${path}?${OURS}`);
    // Where it does not run, nothing is to be ended.
    await kwok.signal('SIGKILL').catch(() => undefined);
  };
  await copyFile(STAGES, join(partsOf(first).configuration, 'stages.yaml'));
  // Of a test that was killed.
  await end();
  await kwok.restart();
  const storage = 'storage.k8s.io/v1';
  const classOf = (name: string, provisioner: string): object => ({
    ...{ apiVersion: storage, kind: 'StorageClass', metadata: { name, labels: LABELS } },
    ...{ provisioner, volumeBindingMode: 'Immediate' },
  });
  const driver = { attachRequired: false, podInfoOnMount: false, volumeLifecycleModes: ['Persistent'] };
  const applied = await cluster.applied([
    { apiVersion: storage, kind: 'CSIDriver', metadata: { name: DRIVER }, spec: driver },
    classOf(FAKE_CLASSES.csi, DRIVER),
    classOf(FAKE_CLASSES.static, 'kubernetes.io/no-provisioner'),
  ]);
  // Of a name that another kwok has had, this one waits until the lease of that one is over.
  const id = randomBytes(2).toString('hex');
  await many(count, async (n) => {
    const name = `fake-${id}-${n + 1}`;
    const labels = { ...LABELS, 'kubernetes.io/hostname': name, 'kubernetes.io/os': 'linux' };
    await cluster.ask('POST', '/api/v1/nodes', {
      ...{ apiVersion: 'v1', kind: 'Node', metadata: { name, labels } },
      spec: { taints: [{ key: FAKE, value: 'true', effect: 'NoSchedule' }] },
    });
  });
  await until(`${count} nodes are ready`, 120, async () => {
    const { items } = await cluster.ask<Nodes>('GET', `/api/v1/nodes?${OURS}`);
    const ready = ({ spec, status }: Nodes['items'][number]): boolean =>
      status.conditions?.some((one) => one.type === 'Ready' && one.status === 'True') === true &&
      spec.taints?.length === 1;
    return items.filter(ready).length === count;
  });
  return {
    async [Symbol.asyncDispose]() {
      await end();
      await applied[Symbol.asyncDispose]();
    },
  };
}

interface Nodes {
  readonly items: readonly {
    /** Kubernetes puts taints on a node that is not ready. */
    readonly spec: { readonly taints?: readonly unknown[] };
    readonly status: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
  }[];
}

/** Ends namespaces with pods on these nodes, and all volumes of the classes, and waits until nothing is left. */
export async function emptyFakes(cluster: Cluster): Promise<void> {
  const namespaces = await named(cluster, NAMESPACES);
  for (const name of namespaces) {
    await cluster.ask('DELETE', `${NAMESPACES}/${name}`);
    // Nobody has to say that these have ended.
    await cluster.ask('DELETE', `${NAMESPACES}/${name}/pods?gracePeriodSeconds=0`);
  }
  await until('fake namespaces are gone', 240, async () => (await named(cluster, NAMESPACES)).length === 0, 1000);
  await cluster.ask('DELETE', `${VOLUMES}?${OURS}`);
  await until('fake volumes are gone', 120, async () => (await named(cluster, VOLUMES)).length === 0, 1000);
}

/** Names of those of a kind that have our label. */
async function named(cluster: Cluster, path: string): Promise<string[]> {
  const { items } = await cluster.ask<{ items: { metadata: { name: string } }[] }>('GET', `${path}?${OURS}`);
  return items.map(({ metadata }) => metadata.name);
}

/** So many volumes of `fake-static`, which go with the nodes. */
export async function fakeVolumes(cluster: Cluster, count: number, size: string): Promise<void> {
  await many(count, (n) =>
    cluster.ask('POST', VOLUMES, {
      ...{ apiVersion: 'v1', kind: 'PersistentVolume', metadata: { name: `fake-${n + 1}`, labels: LABELS } },
      spec: {
        hostPath: { path: `/nowhere/${n + 1}` },
        storageClassName: FAKE_CLASSES.static,
        accessModes: ['ReadWriteOnce'],
        capacity: { storage: size },
        volumeMode: 'Filesystem',
        persistentVolumeReclaimPolicy: 'Retain',
      },
    }),
  );
}

/** Does something so many times, some at a time. */
export async function many(count: number, work: (n: number) => Promise<unknown>): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) {
      const n = next;
      next += 1;
      await work(n);
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, count) }, worker));
}

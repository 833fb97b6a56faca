// One image onto every kind of storage: right bytes, nothing besides the target.
import { createHash, randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { command } from './command.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { type ContainerProcess, processOfContainer } from './support/containers.ts';
import { claimsSeen, dataVolume, IMMEDIATE } from './support/datavolumes.ts';
import { type Namespace, script } from './support/namespace.ts';
import { until } from './support/until.ts';
import { digestOnClaim, hostPathVolume, localVolume } from './support/volumes.ts';

const MiB = 1024 * 1024;
/** Of the disk; three quarters are zeros. */
const SIZE = 96 * MiB;
let site: Nginx;
let home: TempDir;
let kubernetes: Cluster;
let digest: string;

beforeAll(async () => {
  kubernetes = await cluster();
  home = await tempdir();
  const disk = Buffer.concat([randomBytes(SIZE / 8), Buffer.alloc((SIZE / 8) * 6), randomBytes(SIZE / 8)]);
  digest = createHash('sha256').update(disk).digest('hex');
  await writeFile(join(home.path, 'disk.raw'), disk);
  const [raw, image] = [join(home.path, 'disk.raw'), join(home.path, 'disk.qcow2')];
  await command('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, image]);
  // Slow enough to be looked at.
  site = await nginx({
    root: home.path,
    address: kubernetes.host,
    server: `location /slow/ { limit_rate 8m; alias ${home.path}/; }`,
  });
}, 600_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
});

interface Case {
  readonly name: string;
  readonly class: string | undefined;
  readonly mode: 'Filesystem' | 'Block';
  /** Whether a pod that uses the claim comes first; else the DataVolume says that none is to be waited for. */
  readonly consumer?: boolean;
  readonly place?: 'hostPath' | 'local';
}

const CASES: readonly Case[] = [
  { name: 'csi-wffc-files', class: 'wffc', mode: 'Filesystem', consumer: true },
  { name: 'csi-wffc-block', class: 'wffc', mode: 'Block', consumer: true },
  { name: 'csi-requested-files', class: 'wffc', mode: 'Filesystem' },
  { name: 'csi-requested-block', class: 'wffc', mode: 'Block' },
  { name: 'csi-immediate-files', class: 'immediate', mode: 'Filesystem' },
  { name: 'csi-immediate-block', class: 'immediate', mode: 'Block' },
  { name: 'default-class', class: undefined, mode: 'Filesystem' },
  { name: 'hostpath', class: '', mode: 'Filesystem', place: 'hostPath' },
  { name: 'local-files', class: 'local', mode: 'Filesystem', place: 'local' },
  { name: 'local-block', class: 'local', mode: 'Block', place: 'local' },
  { name: 'local-files-consumer', class: 'local', mode: 'Filesystem', place: 'local', consumer: true },
];

test.concurrent.each(CASES)(
  '$name',
  async ({ name, class: storageClassName, mode, consumer = false, place }) => {
    const volume = `${name}-${randomBytes(4).toString('hex')}`;
    const options = { mode, size: 256 * MiB, class: storageClassName ?? 'local' };
    const placing = place === 'hostPath' ? hostPathVolume : localVolume;
    await using _placed = place ? await placing(kubernetes, volume, options) : undefined;
    await using namespace = await kubernetes.namespace();
    using claims = claimsSeen(kubernetes, namespace);
    const dv = await dataVolume(kubernetes, namespace, name, {
      annotations: consumer ? {} : IMMEDIATE,
      spec: {
        source: { http: { url: `http://${kubernetes.host}:${site.port}/slow/disk.qcow2` } },
        pvc: {
          ...(storageClassName === undefined ? {} : { storageClassName }),
          ...(place === 'hostPath' ? { volumeName: volume } : {}),
          volumeMode: mode,
          accessModes: ['ReadWriteOnce'],
          resources: { requests: { storage: '192Mi' } },
        },
      },
    });
    if (consumer) {
      const csi = storageClassName === 'wffc';
      await dv.reaches(csi ? 'PendingPopulation' : 'WaitForFirstConsumer');
      await dv.says('Bound', /waits for a pod that uses the claim; start one, or annotate/);
      const using_ = mode === 'Block' ? { devices: { [name]: '/dev/volume' } } : { mounts: { [name]: '/data' } };
      // As virt-controller does: a pod that only makes the storage choose a node.
      const throwAway = { ...using_, command: script('true') };
      await startConsumer(kubernetes, namespace, throwAway);
    }
    const pod = await until('the import pod', 60, async () => (await importPods(namespace, kubernetes))[0]);
    expect(volumesOf(pod.spec.volumes)).toEqual(['persistentVolumeClaim']);
    const io = await watched(kubernetes, namespace, pod.metadata.name);
    await dv.reaches('Succeeded', 90);
    expect(await digestOnClaim(kubernetes, namespace, name, { bytes: SIZE })).toBe(digest);
    expect(claims.names().filter((one) => one.includes('scratch'))).toEqual([]);
    const { written, besides } = await io();
    // The data, less what its last tenth of a second wrote, and with it the journal and what the file system has of its own.
    expect(written).toBeGreaterThan(SIZE / 8);
    expect(written).toBeLessThanOrEqual(SIZE / 4 + 8 * MiB);
    expect(besides).toBeLessThanOrEqual(MiB);
    const left = await until('only the claim is left', 30, async () => {
      const { items } = await kubernetes.ask<{ items: { metadata: { name: string } }[] }>(
        'GET',
        namespace.path('persistentvolumeclaims'),
      );
      return items.length === 1 && items;
    });
    expect(left[0]?.metadata.name).toBe(name);
    expect(await importPods(namespace, kubernetes)).toEqual([]);
  },
  240_000,
);

interface ImportPod {
  readonly metadata: { readonly name: string };
  readonly spec: { readonly volumes: readonly Readonly<Record<string, unknown>>[] };
}

async function importPods(namespace: Namespace, { ask }: Cluster): Promise<ImportPod[]> {
  const { items } = await ask<{ items: ImportPod[] }>(
    'GET',
    namespace.path('pods?labelSelector=cdi.kubevirt.io%3Dimporter'),
  );
  return items;
}

const volumesOf = (volumes: readonly Readonly<Record<string, unknown>>[]): string[] =>
  volumes.flatMap((one) => Object.keys(one).filter((key) => key !== 'name'));

async function startConsumer(
  cluster: Cluster,
  namespace: Namespace,
  options: Parameters<Namespace['start']>[1],
): Promise<void> {
  await namespace.start('consumer', options);
  const path = namespace.path('pods/consumer');
  await cluster.ask('PATCH', path, { metadata: { annotations: { 'kubevirt.io/ephemeral-provisioning': 'true' } } });
}

/** Bytes that a pod's process wrote to storage, and that lay in other places than its volume: read while it lives. */
async function watched(
  cluster: Cluster,
  namespace: Namespace,
  pod: string,
): Promise<() => Promise<{ written: number; besides: number }>> {
  const process: ContainerProcess = await processOfContainer(cluster, namespace, pod);
  // A container that is being started has all that is mounted on its node.
  const besides = await until('it may write to its volume alone', 10, () => process.besides('/data'));
  const most = { written: 0, besides };
  const watching = (async () => {
    for (;;) {
      const counters = await process.io().catch(() => undefined);
      if (!counters) return;
      most.written = counters.write_bytes;
      most.besides = Math.max(most.besides, await process.besides('/data').catch(() => 0));
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  })();
  return async () => {
    await watching;
    return most;
  };
}

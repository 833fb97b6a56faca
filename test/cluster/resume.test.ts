// An import that is killed in every way goes on where it was: counted at the server that it reads from.
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { type ContainerProcess, processOfContainer } from './support/containers.ts';
import { dataVolume, diskFrom, type Made } from './support/datavolumes.ts';
import type { Namespace } from './support/namespace.ts';
import { until } from './support/until.ts';
import { digestOnClaim, localVolume } from './support/volumes.ts';

const MiB = 1024 * 1024;
const SIZE = 1024 * MiB;
/** Bytes that may be read again after each kill. */
const AGAIN = 128 * MiB;
/** Bytes a second of each connection: the import takes long enough to be killed five times. */
const RATE = 4 * MiB;
let home: TempDir;
let site: Nginx;
let kubernetes: Cluster;
let digest: string;

beforeAll(async () => {
  kubernetes = await cluster();
  home = await tempdir();
  const path = join(home.path, 'disk.raw');
  await using file = await open(path, 'w');
  for (let n = 0; n < SIZE / (16 * MiB); n += 1) await file.write(randomBytes(16 * MiB));
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  digest = hash.digest('hex');
  site = await nginx({ root: home.path });
}, 600_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
});

const percentOf = async (dv: Made): Promise<number> => Number.parseFloat((await dv.now()).status?.progress ?? '0') || 0;

/** How far it is, and what the pod's process is there. */
async function at(
  dv: Made,
  namespace: Namespace,
  percent: number,
): Promise<{ pod: string; process: ContainerProcess }> {
  await until(`${percent} % of ${dv.name}`, 180, async () => (await percentOf(dv)) >= percent);
  const pod = await importPod(namespace);
  return { pod, process: await processOfContainer(kubernetes, namespace, pod) };
}

async function importPod(namespace: Namespace): Promise<string> {
  const list = namespace.path('pods?labelSelector=cdi.kubevirt.io%3Dimporter');
  const { items } = await kubernetes.ask<{ items: { metadata: { name: string } }[] }>('GET', list);
  expect(items).toHaveLength(1);
  return items[0]?.metadata.name ?? '';
}

test.each(['Filesystem', 'Block'] as const)(
  'an import of 1 GiB into a volume of mode %s, killed four times',
  async (volumeMode) => {
    await using namespace = await kubernetes.namespace();
    await using line = await kubernetes.reachable(site.port, { rate: RATE });
    const dv = await dataVolume(kubernetes, namespace, 'killed', {
      spec: diskFrom(`http://${kubernetes.host}:${line.port}/disk.raw`, { mode: volumeMode, size: '1280Mi' }),
    });
    // The process is killed: the kubelet starts its container again.
    const first = await at(dv, namespace, 20);
    first.process.signal('SIGKILL');
    await until('the container is started again', 60, async () => (await dv.now()).status?.restartCount === 1);

    // The pod is deleted.
    const second = await at(dv, namespace, 35);
    await kubernetes.kubectl(['delete', 'pod', second.pod, '-n', namespace.name, '--wait=true']);

    // The controller is killed while nobody sees to the import.
    await at(dv, namespace, 50);
    await kubernetes.kubectl([
      'delete',
      'pod',
      '-n',
      'cdi',
      '-l',
      'cdi.kubevirt.io=cdi-deployment',
      '--grace-period=0',
      '--force',
    ]);

    // The pod is deleted by force while its process stands still: the API knows nothing of it any more.
    const last = await at(dv, namespace, 65);
    last.process.signal('SIGSTOP');
    await kubernetes.kubectl(['delete', 'pod', last.pod, '-n', namespace.name, '--grace-period=0', '--force']);
    const successor = await until('a successor runs', 90, async () => {
      const process = await processOfContainer(kubernetes, namespace, last.pod).catch(() => undefined);
      return process && process.pid !== last.process.pid && process;
    });
    await sleep(3000);
    try {
      last.process.signal('SIGCONT');
    } catch {
      // The kubelet has ended it meanwhile, which is as well.
    }
    await dv.reaches('Succeeded', 300);
    expect(successor.pid).not.toBe(last.process.pid);
    expect(await digestOnClaim(kubernetes, namespace, 'killed', { bytes: SIZE })).toBe(digest);
    const read = line.bytes;
    process.stdout.write(`${volumeMode}: ${Math.round(read / MiB)} MiB were sent of an image of ${SIZE / MiB} MiB\n`);
    expect(read).toBeLessThanOrEqual(SIZE + 3 * AGAIN);
  },
  600_000,
);

test('a device with the journal of another claim, right but for that, is filled from the beginning', async () => {
  const name = `forged-${randomBytes(4).toString('hex')}`;
  await using placed = await localVolume(kubernetes, name, { mode: 'Block', size: 1280 * MiB });
  await using namespace = await kubernetes.namespace();
  await using slow = await kubernetes.reachable(site.port, { rate: RATE });
  await using quick = await kubernetes.reachable(site.port);
  const importing = (dv: string, port: number): Promise<Made> =>
    dataVolume(kubernetes, namespace, dv, {
      spec: diskFrom(`http://${kubernetes.host}:${port}/disk.raw`, { class: 'local', mode: 'Block', size: '1280Mi' }),
    });
  await at(await importing('before', slow.port), namespace, 10);
  await kubernetes.kubectl(['delete', 'datavolume', 'before', '-n', namespace.name, '--wait=true']);
  const volume = `/api/v1/persistentvolumes/${name}`;
  await until('the volume is nobody’s', 60, async () => {
    const { status } = await kubernetes.ask<{ status: { phase: string } }>('GET', volume);
    return status.phase === 'Released';
  });
  await using device = await open(placed.path, 'r+');
  // docs/journal.md, "The record".
  const { buffer } = await device.read(Buffer.alloc(8), 0, 8, 64);
  expect(buffer.toString()).toBe('dfry-jr1');
  // What the journal says is there, and is not any more.
  await device.write(randomBytes(4 * MiB), 0, 4 * MiB, 8 * MiB);
  await device.sync();
  await kubernetes.ask('PATCH', volume, { spec: { claimRef: null } });
  await (await importing('after', quick.port)).reaches('Succeeded', 180);
  expect(await digestOnClaim(kubernetes, namespace, 'after', { bytes: SIZE })).toBe(digest);
  expect(quick.bytes).toBeGreaterThanOrEqual(SIZE);
}, 400_000);

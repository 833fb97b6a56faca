// Container images that the node pulls: whichever part is killed, and images that hold no disk. That the bytes are right, by
// every way of asking, is in sources.test.ts.
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, open, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Pod } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { MiB } from '../support/images.ts';
import { tempdir } from '../support/tempdir.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { type ContainerProcess, processOfContainer } from './support/containers.ts';
import { dataVolume, eventsOf, IMMEDIATE, type Made } from './support/datavolumes.ts';
import { localImage } from './support/local-image.ts';
import type { Namespace } from './support/namespace.ts';
import { until } from './support/until.ts';
import { digestOnClaim } from './support/volumes.ts';

/** Some seconds, in which it is killed twice. */
const SIZE = 1024 * MiB;
/** Bytes that may be read again after the importer was killed: CHECKPOINT of the engine, and what it had in its hands. */
const AGAIN = 256 * MiB;

let kubernetes: Cluster;
beforeAll(async () => {
  kubernetes = await cluster();
}, 600_000);
afterAll(() => kubernetes?.[Symbol.asyncDispose]());

/** A pod of the importer, also when it is done. */
const RETAINED = { ...IMMEDIATE, 'cdi.kubevirt.io/storage.pod.retainAfterCompletion': 'true' };

const asked = (namespace: Namespace, image: string, size = '64Mi'): Promise<Made> =>
  dataVolume(kubernetes, namespace, 'disk', {
    annotations: { ...RETAINED, 'cdi.kubevirt.io/storage.usePopulator': 'false' },
    spec: {
      source: { registry: { url: `docker://${image}`, pullMethod: 'node' } },
      pvc: {
        storageClassName: 'immediate',
        accessModes: ['ReadWriteOnce'],
        resources: { requests: { storage: size } },
      },
    },
  });

const podOf = (namespace: Namespace): Promise<Pod> => kubernetes.ask('GET', namespace.path('pods/importer-disk'));

async function processOf(namespace: Namespace, name: 'importer' | 'server', other?: number): Promise<ContainerProcess> {
  return until(`a process of ${name}`, 60, async () => {
    const found = await processOfContainer(kubernetes, namespace, 'importer-disk', name).catch(() => undefined);
    return found && found.pid !== other && found;
  });
}

async function written(process: ContainerProcess, bytes: number): Promise<void> {
  const end = Date.now() + 60_000;
  while ((await process.io()).wchar < bytes) {
    if (Date.now() > end) throw new Error(`not ${bytes} bytes were written within a minute`);
    await sleep(5);
  }
}

test('an import whose server is killed, and then its importer, goes on and ends', async () => {
  await using home = await tempdir();
  const [path, hash] = [join(home.path, 'disk.raw'), createHash('sha256')];
  await using file = await open(path, 'w');
  for (let n = 0; n < SIZE / (16 * MiB); n += 1) {
    const piece = randomBytes(16 * MiB);
    hash.update(piece);
    await file.write(piece);
  }
  await using _image = await localImage(kubernetes, 'registry.test/killed:1', { files: { 'disk/disk.raw': path } });
  await using namespace = await kubernetes.namespace();
  const dv = await asked(namespace, 'registry.test/killed:1', '1280Mi');

  const [importer, server] = await Promise.all([processOf(namespace, 'importer'), processOf(namespace, 'server')]);
  await written(importer, 200 * MiB);
  server.signal('SIGKILL');
  // The importer waits for the next.
  const next = await processOf(namespace, 'server', server.pid);
  await written(importer, 600 * MiB);
  next.signal('SIGSTOP');
  importer.signal('SIGKILL');
  const successor = await processOf(namespace, 'importer', importer.pid);
  next.signal('SIGCONT');
  expect(successor.pid).not.toBe(importer.pid);

  await dv.reaches('Succeeded', 180);
  expect(await digestOnClaim(kubernetes, namespace, 'disk', { bytes: SIZE })).toBe(hash.digest('hex'));
  expect((await dv.now()).status?.restartCount).toBe(2);
  const { status } = await podOf(namespace);
  expect(status?.phase).toBe('Succeeded');
  expect(status?.containerStatuses?.map(({ restartCount }) => restartCount)).toEqual([1]);
  expect(status?.initContainerStatuses?.map(({ name, restartCount }) => `${name} ${restartCount}`)).toEqual([
    'init 0',
    'server 1',
  ]);
  const log = await kubernetes.ask<string>('GET', namespace.path('pods/importer-disk/log?container=importer'));
  const report = JSON.parse(/ done: (\{.*\})$/m.exec(log)?.[1] ?? '{}') as {
    resumedAt?: number;
    receivedBytes?: number;
  };
  process.stdout.write(`went on at ${report.resumedAt}, and read ${report.receivedBytes} bytes\n`);
  expect(report.resumedAt).toBeGreaterThanOrEqual(600 * MiB - AGAIN);
  expect(report.receivedBytes).toBeLessThanOrEqual(SIZE - 600 * MiB + AGAIN);
}, 480_000);

/** What is in the image, and what is said of it. */
const REFUSED: Readonly<Record<string, readonly [files: readonly string[], said: RegExp]>> = {
  'no directory /disk': [['etc/os-release'], /the image holds no directory \/disk: a disk is to be the one file in it/],
  'two files': [
    ['disk/a.img', 'disk/b.img'],
    /\/disk of the image holds 2 files \("a\.img", "b\.img"\): it is to hold one/,
  ],
  'a link': [['disk/a.img -> /etc/passwd'], /"\/disk\/a\.img" of the image is no regular file/],
  'a whole operating system': [
    ['disk/a.img', 'sysroot/x'],
    /the image holds \/sysroot, as those of bootc and ostree do/,
  ],
};

test.concurrent.each(Object.entries(REFUSED))(
  'an image with %s is told, again and again',
  async (what, [files, said]) => {
    await using home = await tempdir();
    await mkdir(join(home.path, 'files'));
    const placed: [string, string][] = await Promise.all(
      files.map(async (one, n): Promise<[string, string]> => {
        const [path = '', target] = one.split(' -> ');
        const at = join(home.path, 'files', String(n));
        await (target === undefined ? writeFile(at, 'x') : symlink(target, at));
        return [path, at];
      }),
    );
    const name = `registry.test/refused:${Object.keys(REFUSED).indexOf(what)}`;
    await using _image = await localImage(kubernetes, name, { files: Object.fromEntries(placed) });
    await using namespace = await kubernetes.namespace();
    const dv = await asked(namespace, name);
    await dv.says('Running', new RegExp(`^False Error ${said.source}`), 60);
    await until('a restart is counted', 60, async () => ((await dv.now()).status?.restartCount ?? 0) > 0);
    const events = await until('an event', 15, async () => {
      const found = await eventsOf(kubernetes, namespace, 'PersistentVolumeClaim', 'disk');
      return found.some((one) => said.test(one)) && found;
    });
    expect(events.join('\n')).toMatch(/^Warning ErrImportFailed /m);
    expect((await dv.now()).status?.phase).toMatch(/^Import(Scheduled|InProgress)$/);
  },
);

test('an image that cannot be pulled is told, and the import ends when it is there', async () => {
  await using home = await tempdir();
  await using namespace = await kubernetes.namespace();
  const name = 'registry.test/late:1';
  const dv = await asked(namespace, name);
  await dv.says('Running', /^False ImagePullFailed failed to pull image: registry\.test\/late:1: /, 60);
  expect((await dv.now()).status?.phase).toBe('ImportScheduled');
  const path = join(home.path, 'disk.raw');
  await writeFile(path, Buffer.alloc(MiB, 'disk'));
  await using _image = await localImage(kubernetes, name, { files: { 'disk/disk.raw': path } });
  // The kubelet tries again after ten seconds, then twenty, then forty.
  await dv.reaches('Succeeded', 120);
  const digest = createHash('sha256').update(Buffer.alloc(MiB, 'disk')).digest('hex');
  expect(await digestOnClaim(kubernetes, namespace, 'disk', { bytes: MiB })).toBe(digest);
}, 240_000);

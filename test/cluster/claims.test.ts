// Claims that were there before their DataVolume, and DataVolumes that go: what is taken, and that nothing is left.
import { join } from 'node:path';
import type { PersistentVolume, PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DataVolumeSource } from '../../src/api/datavolume.ts';
import { bootableDisk, MiB, qcow2, sha256 } from '../support/images.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { claimOf, dataVolume } from './support/datavolumes.ts';
import { historyOf } from './support/history.ts';
import { type Namespace, script } from './support/namespace.ts';
import { until } from './support/until.ts';
import { digestOnClaim, localVolume } from './support/volumes.ts';

const GROUP = 'cdi.kubevirt.io/v1beta1';
const CDI = 'cdi.kubevirt.io/';
const ITSELF = { [`${CDI}storage.usePopulator`]: 'false' };
const SIZE = 24 * MiB;
let kubernetes: Cluster;
let home: TempDir;
let site: Nginx;
const at = (name: string): string => join(home.path, name);
const http = (path = 'disk.qcow2', more: object = {}): DataVolumeSource => ({
  http: { url: `http://${kubernetes.host}:${site.port}/${path}`, ...more },
});
const pvc = (storageClassName = 'immediate') => ({
  storageClassName,
  accessModes: ['ReadWriteOnce'],
  resources: { requests: { storage: '64Mi' } },
});

beforeAll(async () => {
  kubernetes = await cluster();
  home = await tempdir();
  await bootableDisk(at('disk.raw'), SIZE);
  await qcow2(at('disk.raw'), at('disk.qcow2'));
  site = await nginx({
    root: home.path,
    address: kubernetes.host,
    server: `location /slow/ { alias ${home.path}/; limit_rate 40k; }`,
  });
}, 600_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
});

/** A claim with one word in a file, which a pod has written. */
async function written(namespace: Namespace, annotations: Readonly<Record<string, string>> = {}): Promise<void> {
  await namespace.claim('disk', { class: 'immediate' });
  await namespace.run('writer', { command: script('echo kept > /data/word'), mounts: { disk: '/data' } });
  await kubernetes.ask('PATCH', namespace.path('persistentvolumeclaims/disk'), { metadata: { annotations } });
}

const word = (namespace: Namespace): Promise<string> =>
  namespace.run('reader', { command: script('cat /data/word'), mounts: { disk: '/data' } });

const ownersOf = async (namespace: Namespace): Promise<(string | undefined)[]> =>
  ((await claimOf(namespace, 'disk')).metadata?.ownerReferences ?? []).map(({ uid }) => uid);

describe('a claim of the name is there before', () => {
  test.concurrent('of somebody else: refused, and not touched; when it is gone, the import begins', async () => {
    await using namespace = await kubernetes.namespace();
    await written(namespace);
    const make = (): ReturnType<typeof dataVolume> =>
      dataVolume(kubernetes, namespace, 'disk', { annotations: {}, spec: { source: http(), pvc: pvc() } });
    await expect(make()).rejects.toThrow(/Destination PVC .*disk already exists/);
    expect(await ownersOf(namespace)).toEqual([]);
    expect(await word(namespace)).toBe('kept\n');
    await kubernetes.ask('DELETE', namespace.path('persistentvolumeclaims/disk'));
    await until('it is gone', 60, async () => (await namespace.found('persistentvolumeclaims', 'disk')) === undefined);
    const dv = await make();
    await dv.reaches('Succeeded');
    const digest = await digestOnClaim(kubernetes, namespace, 'disk', { bytes: SIZE });
    expect(`sha256:${digest}`).toBe(await sha256(at('disk.raw')));
  }, 120_000);

  test.concurrent.each([
    ['the DataVolume allows it', { [`${CDI}allowClaimAdoption`]: 'true' }, {}],
    ['the claim says that it was filled for it', {}, { [`${CDI}storage.populatedFor`]: 'disk' }],
  ])(
    'taken as it is, where %s',
    async (_, ofDataVolume, ofClaim) => {
      await using namespace = await kubernetes.namespace();
      await written(namespace, ofClaim);
      using pods = await historyOf(kubernetes, namespace.path('pods'));
      const dv = await dataVolume(kubernetes, namespace, 'disk', {
        annotations: ofDataVolume,
        spec: { source: http(), pvc: pvc() },
      });
      await dv.reaches('Succeeded');
      expect(pods.states).toEqual([]);
      expect(await ownersOf(namespace)).toEqual([(await dv.now()).metadata.uid]);
      expect(await word(namespace)).toBe('kept\n');
      const marks = async () => (await dv.now()).metadata.annotations ?? {};
      await until('it is marked', 15, async () => (await marks())[`${CDI}storage.prePopulated`] === 'disk');
      expect((await claimOf(namespace, 'disk')).metadata?.annotations).toMatchObject({
        [`${CDI}storage.populatedFor`]: 'disk',
      });
    },
    120_000,
  );

  test.concurrent('restored from a backup: no claim is made, and the one that comes is taken', async () => {
    await using namespace = await kubernetes.namespace();
    const dv = await dataVolume(kubernetes, namespace, 'disk', {
      annotations: { [`${CDI}storage.prePopulated`]: 'disk' },
      spec: { source: http(), pvc: pvc() },
    });
    await dv.reaches('Pending');
    await new Promise((resolve) => setTimeout(resolve, 5000));
    expect(await namespace.found('persistentvolumeclaims', 'disk')).toBeUndefined();
    await written(namespace, { [`${CDI}storage.populatedFor`]: 'disk' });
    await dv.reaches('Succeeded');
    expect(await word(namespace)).toBe('kept\n');
  }, 120_000);

  test.concurrent.each([
    ['by way of a prime', {}],
    ['the claim itself', ITSELF],
  ])(
    'a volume that is reserved for it is taken as it is: %s',
    async (_, annotations) => {
      await using namespace = await kubernetes.namespace();
      const volume = `${namespace.name}-volume`;
      await using _placed = await localVolume(kubernetes, volume);
      const claimRef = { namespace: namespace.name, name: 'disk' };
      const reserved = `/api/v1/persistentvolumes/${volume}`;
      await kubernetes.ask('PATCH', reserved, { spec: { claimRef } });
      await until('the volume is there to be had', 15, async () => {
        const { status } = await kubernetes.ask<{ status?: { phase?: string } }>('GET', reserved);
        return status?.phase === 'Available';
      });
      using claims = await historyOf<PersistentVolumeClaim>(kubernetes, namespace.path('persistentvolumeclaims'));
      const dv = await dataVolume(kubernetes, namespace, 'disk', {
        annotations: { ...annotations, [`${CDI}storage.checkStaticVolume`]: '' },
        spec: { source: http(), pvc: pvc('local') },
      });
      await dv.reaches('Succeeded');
      expect(claims.states[0]?.metadata?.annotations).toMatchObject({
        [`${CDI}storage.persistentVolumeList`]: JSON.stringify([volume]),
      });
      const claim = await claimOf(namespace, 'disk');
      expect(claim.spec?.volumeName).toBe(volume);
      expect(claim.metadata?.annotations).not.toHaveProperty(`${CDI}storage.persistentVolumeList`);
      await kubernetes.ask('DELETE', namespace.path('datavolumes/disk', GROUP));
      await nothingLeft(namespace, [volume]);
    },
    120_000,
  );

  test.concurrent('no volume is reserved for it: filled as any other', async () => {
    await using namespace = await kubernetes.namespace();
    const dv = await dataVolume(kubernetes, namespace, 'disk', {
      annotations: { [`${CDI}storage.checkStaticVolume`]: '' },
      spec: { source: http(), pvc: pvc() },
    });
    await dv.reaches('Succeeded');
    const digest = await digestOnClaim(kubernetes, namespace, 'disk', { bytes: SIZE });
    expect(`sha256:${digest}`).toBe(await sha256(at('disk.raw')));
  }, 120_000);
});

interface Case {
  readonly phase: string;
  readonly of: string;
  readonly source: () => DataVolumeSource;
  readonly class?: string;
  /** Of requests.storage. */
  readonly quota?: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

const EVERY: readonly Case[] = [
  { phase: 'Pending', of: 'without a claim', source: http, quota: '1Mi' },
  { phase: 'Pending', of: 'whose prime cannot be', source: http, quota: '64Mi' },
  { phase: 'PendingPopulation', of: 'by way of a prime', source: http, class: 'wffc' },
  { phase: 'WaitForFirstConsumer', of: 'the claim itself', source: http, class: 'wffc', annotations: ITSELF },
  { phase: 'ImportScheduled', of: 'by way of a prime', source: () => http('disk.qcow2', { secretRef: 'absent' }) },
  {
    phase: 'ImportScheduled',
    of: 'the claim itself',
    source: () => http('disk.qcow2', { secretRef: 'absent' }),
    annotations: ITSELF,
  },
  { phase: 'ImportInProgress', of: 'by way of a prime', source: () => http('slow/disk.qcow2') },
  { phase: 'ImportInProgress', of: 'the claim itself', source: () => http('slow/disk.qcow2'), annotations: ITSELF },
  { phase: 'Succeeded', of: 'by way of a prime', source: http },
  { phase: 'Succeeded', of: 'the claim itself', source: http, annotations: ITSELF },
  { phase: 'Failed', of: 'by way of a prime', source: () => http('disk.qcow2', { checksum: `md5:${'0'.repeat(32)}` }) },
  {
    phase: 'Failed',
    of: 'the claim itself',
    source: () => http('disk.qcow2', { checksum: `md5:${'0'.repeat(32)}` }),
    annotations: ITSELF,
  },
];

describe('deleted, it leaves nothing', () => {
  test.concurrent.each(EVERY)(
    '$phase, $of',
    async ({ phase, source, class: name, quota, annotations = {} }) => {
      await using namespace = await kubernetes.namespace();
      if (quota !== undefined)
        await kubernetes.ask('POST', namespace.path('resourcequotas'), {
          apiVersion: 'v1',
          kind: 'ResourceQuota',
          metadata: { name: 'small' },
          spec: { hard: { 'requests.storage': quota } },
        });
      const dv = await dataVolume(kubernetes, namespace, 'disk', {
        annotations,
        spec: { source: source(), pvc: pvc(name) },
      });
      await dv.reaches(phase);
      if (quota !== undefined) await dv.says('Bound', /exceeded quota/);
      await kubernetes.ask('DELETE', namespace.path('datavolumes/disk', GROUP));
      await nothingLeft(namespace);
    },
    120_000,
  );

  test.concurrent('with what it belongs to, as a virtual machine', async () => {
    await using namespace = await kubernetes.namespace();
    const machine = await kubernetes.ask<{ metadata: { uid: string } }>('POST', namespace.path('configmaps'), {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'machine' },
    });
    await kubernetes.ask('POST', namespace.path('datavolumes', GROUP), {
      apiVersion: GROUP,
      kind: 'DataVolume',
      metadata: {
        name: 'disk',
        ownerReferences: [
          {
            apiVersion: 'v1',
            kind: 'ConfigMap',
            name: 'machine',
            uid: machine.metadata.uid,
            controller: true,
            blockOwnerDeletion: true,
          },
        ],
      },
      spec: { source: http(), pvc: pvc() },
    });
    await until('it is filled', 60, async () => (await claimOf(namespace, 'disk')).status?.phase === 'Bound');
    await kubernetes.ask('DELETE', namespace.path('configmaps/machine'), { propagationPolicy: 'Foreground' });
    await nothingLeft(namespace);
  }, 120_000);
});

interface List {
  readonly items: readonly { readonly metadata: { readonly name: string } }[];
}

/** Of what a DataVolume makes; `placed` are volumes that were there before. */
async function nothingLeft(namespace: Namespace, placed: readonly string[] = []): Promise<void> {
  const paths = [
    namespace.path('datavolumes', GROUP),
    namespace.path('volumeimportsources', GROUP),
    namespace.path('persistentvolumeclaims'),
    namespace.path('pods'),
  ];
  await until('nothing is left', 60, async () => {
    const lists = await Promise.all(paths.map((path) => kubernetes.ask<List>('GET', path)));
    const volumes = await kubernetes.ask<{ items: PersistentVolume[] }>('GET', '/api/v1/persistentvolumes');
    const bound = volumes.items.filter(
      ({ metadata, spec }) => spec?.claimRef?.namespace === namespace.name && !placed.includes(metadata?.name ?? ''),
    );
    const left = [...lists.flatMap(({ items }) => items), ...bound].map(({ metadata }) => metadata?.name);
    if (left.length > 0) throw new Error(`there are ${left.join(', ')}`);
    return true;
  });
}

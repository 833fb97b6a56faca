// Nothing waits silently: whatever keeps a DataVolume from being filled is a condition within 15 seconds, with the name of the
// object and the remedy; and it goes on by itself when the remedy is there.
import { join } from 'node:path';
import { afterAll, beforeAll, describe, test } from 'vitest';
import type { DataVolumeSource } from '../../src/api/datavolume.ts';
import { bootableDisk, MiB, qcow2 } from '../support/images.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { dataVolume } from './support/datavolumes.ts';
import type { Namespace } from './support/namespace.ts';
import { secret } from './support/servers.ts';

const CDI = 'cdi.kubevirt.io/';
const ITSELF = { [`${CDI}storage.usePopulator`]: 'false' };
let kubernetes: Cluster;
let home: TempDir;
let site: Nginx;
const at = (name: string): string => join(home.path, name);
const url = (path: string): string => `http://${kubernetes.host}:${site.port}/${path}`;
const http = (path = 'disk.qcow2', more: object = {}): DataVolumeSource => ({ http: { url: url(path), ...more } });

beforeAll(async () => {
  kubernetes = await cluster();
  home = await tempdir();
  await bootableDisk(at('disk.raw'), 24 * MiB);
  await qcow2(at('disk.raw'), at('disk.qcow2'));
  site = await nginx({ root: home.path, address: kubernetes.host });
}, 600_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
});

const claimOf = (storageClassName: string | undefined, size = '64Mi') => ({
  ...(storageClassName === undefined ? {} : { storageClassName }),
  accessModes: ['ReadWriteOnce'],
  resources: { requests: { storage: size } },
});

interface Case {
  readonly name: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly class?: string;
  readonly source?: () => DataVolumeSource;
  /** Objects of the namespace, by their resource, before the DataVolume. */
  readonly before?: Readonly<Record<string, object>>;
  readonly says: readonly [type: 'Bound' | 'Running', what: RegExp];
  /** What mends it; the DataVolume is Succeeded then. */
  readonly remedy?: (namespace: Namespace) => Promise<unknown>;
}

const quota = (hard: Readonly<Record<string, string>>) => ({
  resourcequotas: { apiVersion: 'v1', kind: 'ResourceQuota', metadata: { name: 'small' }, spec: { hard } },
});
const limits = (limit: object) => ({
  limitranges: { apiVersion: 'v1', kind: 'LimitRange', metadata: { name: 'narrow' }, spec: { limits: [limit] } },
});
const removed =
  (resource: string) =>
  (namespace: Namespace): Promise<unknown> =>
    kubernetes.ask('DELETE', namespace.path(resource));
const made =
  (resource: string, object: object) =>
  (namespace: Namespace): Promise<unknown> =>
    kubernetes.ask('POST', namespace.path(resource), object);
const credentials = { accessKeyId: 'a', secretKey: 'b' };

const CASES: readonly Case[] = [
  {
    name: 'a Secret that is missing',
    source: () => http('disk.qcow2', { secretRef: 'absent' }),
    says: ['Running', /CreateContainerConfigError secret "absent" not found: create it in namespace test-/],
    remedy: made('secrets', secret('absent', credentials)),
  },
  {
    name: 'a Secret without the keys that are wanted',
    source: () => http('disk.qcow2', { secretRef: 'bare' }),
    before: { secrets: secret('bare', { user: 'a' }) },
    says: ['Running', /CreateContainerConfigError couldn't find key accessKeyId in Secret test-\w+\/bare: add it/],
  },
  {
    name: 'a ConfigMap that is missing',
    source: () => http('disk.qcow2', { certConfigMap: 'absent' }),
    says: ['Running', /ContainerCreating .*configmap "absent" not found: create it in namespace test-/],
  },
  {
    name: 'a Secret of headers that is missing',
    source: () => http('disk.qcow2', { secretExtraHeaders: ['absent'] }),
    says: ['Running', /ContainerCreating .*secret "absent" not found: create it in namespace test-/],
  },
  {
    name: 'a Secret of gcs that is missing',
    source: () => ({ gcs: { url: 'gs://images/disk.qcow2', secretRef: 'absent' } }),
    says: ['Running', /ContainerCreating .*secret "absent" not found: create it in namespace test-/],
  },
  {
    name: 'a class that does not exist',
    class: 'absent',
    says: ['Bound', /storageclass.storage.k8s.io "absent" not found: create it/],
  },
  {
    name: 'no volume that suits, of a class that makes none',
    class: 'local',
    annotations: { [`${CDI}storage.bind.immediate.requested`]: 'true' },
    says: ['Running', /Unschedulable Importer pod cannot be scheduled: .*volumes to bind.*: create one that suits/],
  },
  {
    name: 'no volume that suits, without a class',
    class: '',
    says: ['Bound', /Pending PVC disk Pending: no persistent volumes available .*: create .*, or name a storage class/],
  },
  {
    name: 'a consumer that is awaited',
    class: 'wffc',
    says: ['Bound', /storage class wffc waits for a pod that uses the claim; start one, or annotate the DataVolume/],
    remedy: (namespace) => namespace.start('consumer', { mounts: { disk: '/data' }, command: ['true'] }),
  },
  {
    name: 'a quota of storage',
    before: quota({ 'requests.storage': '63Mi' }),
    says: ['Bound', /ErrExceededQuota .*"disk" is forbidden: exceeded quota: small.*; it needs 134217728 bytes/],
    remedy: removed('resourcequotas/small'),
  },
  {
    name: 'a quota of pods',
    before: quota({ pods: '0' }),
    says: ['Running', /ErrExceededQuota Error starting pod 'importer-.*exceeded quota: small.* when quota is free/],
    remedy: removed('resourcequotas/small'),
  },
  {
    name: 'a LimitRange of claims',
    before: limits({ type: 'PersistentVolumeClaim', min: { storage: '1Gi' } }),
    says: ['Bound', /ErrClaimNotValid .*"disk" is forbidden: minimum storage usage .* is 1Gi/],
    remedy: removed('limitranges/narrow'),
  },
  {
    name: 'a LimitRange of pods',
    before: limits({ type: 'Container', max: { memory: '100M' } }),
    says: ['Running', /ErrStartingPod Error starting pod .* maximum memory usage per Container is 100M.*tried again/],
    remedy: removed('limitranges/narrow'),
  },
];

describe.each([
  { flow: 'by way of a prime', annotations: {} as Record<string, string> },
  { flow: 'the claim itself', annotations: ITSELF },
])('$flow', ({ annotations }) => {
  test.concurrent.each(CASES)(
    '$name',
    async (one) => {
      await using namespace = await kubernetes.namespace();
      for (const [resource, object] of Object.entries(one.before ?? {}))
        await kubernetes.ask('POST', namespace.path(resource), object);
      const dv = await dataVolume(kubernetes, namespace, 'disk', {
        annotations: { ...annotations, ...one.annotations },
        spec: { source: (one.source ?? http)(), pvc: claimOf(one.class ?? 'immediate') },
      });
      const [type, what] = one.says;
      const populated = annotations !== ITSELF;
      // The peak has no second claim then.
      const expected = populated ? what : new RegExp(what.source.replace('134217728', '67108864'));
      await dv.says(type, expected, 15);
      await dv.says('Ready', /^False /, 1);
      await one.remedy?.(namespace);
      if (one.remedy) await dv.reaches('Succeeded', 60);
    },
    150_000,
  );
});

test.concurrent('a pod uses the claim that is to be filled itself, until it ends', async () => {
  await using namespace = await kubernetes.namespace();
  const dv = await dataVolume(kubernetes, namespace, 'disk', {
    annotations: ITSELF,
    spec: { source: http(), pvc: claimOf('wffc') },
  });
  await dv.reaches('WaitForFirstConsumer');
  await namespace.start('consumer', { mounts: { disk: '/data' }, command: ['sleep', '600'] });
  await dv.says(
    'Running',
    /^False ImportTargetInUse pod test-\w+\/consumer using PersistentVolumeClaim disk: stop it, and the import begins/,
  );
  await kubernetes.ask('DELETE', namespace.path('pods/consumer'), { gracePeriodSeconds: 0 });
  await dv.reaches('Succeeded');
}, 120_000);

// What keeps imports waiting that is everybody's: the default class, nodes, the importer's image, turns; and quota to the byte.
import { join } from 'node:path';
import type { Pod } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { bootableDisk, MiB, qcow2 } from '../support/images.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { dataVolume, type Made } from './support/datavolumes.ts';
import { historyOf } from './support/history.ts';
import { installation } from './support/installation.ts';
import type { Namespace } from './support/namespace.ts';
import { until } from './support/until.ts';

const GROUP = 'cdi.kubevirt.io/v1beta1';
const CDI = 'cdi.kubevirt.io/';
const DEFAULT = 'storageclass.kubernetes.io/is-default-class';
const ITSELF = { [`${CDI}storage.usePopulator`]: 'false' };
const SIZE = 64 * MiB;
/** Imports at a time on a node (docs/datavolumes.md). */
const LIMIT = 10;
let kubernetes: Cluster;
let home: TempDir;
let site: Nginx;
const at = (name: string): string => join(home.path, name);
const http = (path = 'disk.qcow2') => ({ http: { url: `http://${kubernetes.host}:${site.port}/${path}` } });

beforeAll(async () => {
  kubernetes = await cluster();
  home = await tempdir();
  await bootableDisk(at('disk.raw'), 24 * MiB);
  await qcow2(at('disk.raw'), at('disk.qcow2'));
  site = await nginx({
    root: home.path,
    address: kubernetes.host,
    server: `location /slow/ { alias ${home.path}/; limit_rate 20k; }`,
  });
}, 600_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
});

const claimOf = (storageClassName?: string) => ({
  ...(storageClassName === undefined ? {} : { storageClassName }),
  accessModes: ['ReadWriteOnce'],
  resources: { requests: { storage: String(SIZE) } },
});

test('there is no default class', async () => {
  const path = '/apis/storage.k8s.io/v1/storageclasses/wffc';
  const isDefault = (is: boolean): Promise<unknown> =>
    kubernetes.ask('PATCH', path, { metadata: { annotations: { [DEFAULT]: String(is) } } });
  await using namespace = await kubernetes.namespace();
  await isDefault(false);
  try {
    const annotations = { [`${CDI}storage.bind.immediate.requested`]: 'true' };
    const storage = { resources: { requests: { storage: '40Mi' } } };
    const rendered = await dataVolume(kubernetes, namespace, 'storage', {
      annotations,
      spec: { source: http(), storage },
    });
    await rendered.says(
      'Bound',
      /ErrClaimNotValid .*DataVolume test-\w+\/storage: it names no storage class and none is the default one\. Name one in storageClassName, or annotate one .*the storage classes are immediate/,
    );
    const claimed = await dataVolume(kubernetes, namespace, 'claim', {
      annotations,
      spec: { source: http(), pvc: claimOf() },
    });
    await claimed.says(
      'Bound',
      /PVC claim Pending: no persistent volumes available .*: create one .*, or name a storage/,
    );
    // It lasts: what was told stays told.
    await new Promise((resolve) => setTimeout(resolve, 20_000));
    await claimed.says('Bound', /PVC claim Pending: no persistent volumes available/, 0.1);
    await isDefault(true);
    // Kubernetes gives the class to a claim that was made without one.
    await claimed.reaches('Succeeded');
    // The class of the tests is none of those that are known.
    await rendered.says(
      'Bound',
      /ErrClaimNotValid .*cannot get access mode from StorageProfile wffc.*claimPropertySets into the spec of the StorageProfile/,
    );
  } finally {
    await isDefault(true);
  }
}, 180_000);

test.each([
  ['by way of a prime', {}],
  ['the claim itself', ITSELF],
])(
  'no node is one where imports may run: %s',
  async (_, annotations) => {
    await using namespace = await kubernetes.namespace();
    let dv: Made;
    {
      await using _configured = await installation(kubernetes, { workload: { nodeSelector: { images: 'here' } } });
      dv = await dataVolume(kubernetes, namespace, 'disk', {
        annotations,
        spec: { source: http(), pvc: claimOf('immediate') },
      });
      await dv.says(
        'Running',
        /Unschedulable Importer pod cannot be scheduled: .*node affinity\/selector.*: spec\.workload of the CDI says on which nodes/,
      );
      expect((await dv.now()).status?.phase).toBe('ImportScheduled');
    }
    // A pod stays as it was made; the node may change.
    const node = (value: string | null): Promise<unknown> =>
      kubernetes.ask('PATCH', '/api/v1/nodes/node-1', { metadata: { labels: { images: value } } });
    await node('here');
    try {
      await dv.reaches('Succeeded');
    } finally {
      await node(null);
    }
  },
  120_000,
);

test('the node that was chosen for the claim is none where imports may run', async () => {
  await using namespace = await kubernetes.namespace();
  using pods = await historyOf<Pod>(kubernetes, namespace.path('pods'));
  let dv: Made;
  {
    await using _configured = await installation(kubernetes, { workload: { nodeSelector: { images: 'here' } } });
    dv = await dataVolume(kubernetes, namespace, 'disk', {
      annotations: { 'volume.kubernetes.io/selected-node': 'node-1' },
      spec: { source: http(), pvc: claimOf('wffc') },
    });
    await dv.says('Running', /^False NodeAffinity .*node affinity\/selector.*: spec\.workload of the CDI says/);
    await new Promise((resolve) => setTimeout(resolve, 20_000));
  }
  // One every 15 seconds.
  const made = new Set(pods.states.map(({ metadata }) => metadata?.uid));
  expect(made.size).toBeGreaterThan(1);
  expect(made.size).toBeLessThan(5);
  await dv.reaches('Succeeded');
}, 120_000);

test('the image of the importer cannot be had', async () => {
  const deployment = '/apis/apps/v1/namespaces/cdi/deployments/cdi-deployment';
  const env = (value: string) => ({
    spec: {
      template: { spec: { containers: [{ name: 'cdi-deployment', env: [{ name: 'IMPORTER_IMAGE', value }] }] } },
    },
  });
  const image = async (value: string): Promise<void> => {
    await kubernetes.ask('PATCH', deployment, env(value), 'application/strategic-merge-patch+json');
    await kubernetes.kubectl(['rollout', 'status', '-n', 'cdi', 'deployment/cdi-deployment', '--timeout=60s']);
  };
  await using namespace = await kubernetes.namespace();
  await image('registry.test/absent:1');
  try {
    const dv = await dataVolume(kubernetes, namespace, 'disk', {
      annotations: {},
      spec: { source: http(), pvc: claimOf('immediate') },
    });
    await dv.says('Running', /ImagePullFailed failed to pull image: registry\.test\/absent:1: ./, 40);
  } finally {
    await image('registry.test/diskferry:dev');
  }
}, 180_000);

test.each([
  // As where a consumer has been scheduled.
  ['its consumer', 'wffc', { 'volume.kubernetes.io/selected-node': 'node-1' }],
  ['its volume', 'immediate', {}],
])(
  'a place in the queue of the node of %s, until one before it is done',
  async (_, storageClass, annotations) => {
    await using namespace = await kubernetes.namespace();
    // So that as many fit onto the node.
    await using _configured = await installation(kubernetes, {
      config: { podResourceRequirements: { requests: { cpu: '1m', memory: '60M' } } },
    });
    const importing = (name: string): Promise<Made> =>
      dataVolume(kubernetes, namespace, name, {
        annotations,
        spec: { source: http('slow/disk.qcow2'), pvc: claimOf(storageClass) },
      });
    const first = await Promise.all(Array.from({ length: LIMIT }, (_, n) => importing(`first-${n}`)));
    await until('all of them have their pods', 60, async () => (await podsOf(namespace)).length === LIMIT);
    const full = `${LIMIT} imports are under way on node node-1, which is the limit`;
    const last = await importing('last');
    await last.says('Running', new RegExp(`^False Queued waits for its turn, place 1: ${full}`));
    // The older comes first, and ages are whole seconds.
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const later = await importing('later');
    await later.says('Running', new RegExp(`^False Queued waits for its turn, place 2: ${full}`));
    expect(await podsOf(namespace)).toHaveLength(LIMIT);
    await kubernetes.ask('DELETE', namespace.path(`datavolumes/${first[0]?.name}`, GROUP));
    await last.says('Running', /^True Pod is running/, 40);
    await later.says('Running', new RegExp(`^False Queued waits for its turn, place 1: ${full}`));
  },
  240_000,
);

test.each([
  ['by way of a prime', {}, 2],
  ['the claim itself', ITSELF, 1],
])(
  'a quota of exactly the peak that is told admits it, and one byte less does not: %s',
  async (_, annotations, times) => {
    await using namespace = await kubernetes.namespace();
    const path = namespace.path('resourcequotas/exact');
    const quota = (bytes: number) => ({
      apiVersion: 'v1',
      kind: 'ResourceQuota',
      metadata: { name: 'exact' },
      spec: { hard: { 'requests.storage': String(bytes) } },
    });
    const spec = { source: http(), pvc: claimOf('immediate') };
    await kubernetes.ask('POST', namespace.path('resourcequotas'), quota(times * SIZE));
    const exact = await dataVolume(kubernetes, namespace, 'exact', { annotations, spec });
    await exact.reaches('Succeeded');
    const events = await exact.events();
    expect(events.join('\n')).toMatch(new RegExp(`StoragePlanned needs ${times * SIZE} bytes of claims at its peak`));
    expect(events.filter((one) => one.startsWith('Warning'))).toEqual([]);
    await kubernetes.ask('DELETE', namespace.path('datavolumes/exact', GROUP));
    await until('its claim is gone', 60, async () => !(await namespace.found('persistentvolumeclaims', 'exact')));
    await kubernetes.ask('PATCH', path, quota(times * SIZE - 1));
    const less = await dataVolume(kubernetes, namespace, 'less', { annotations, spec });
    await less.says(
      'Bound',
      new RegExp(
        `ErrExceededQuota .*exceeded quota: exact, requested: requests.storage=.*limited: .*=${times * SIZE - 1}`,
      ),
    );
    await kubernetes.ask('PATCH', path, quota(times * SIZE));
    await less.reaches('Succeeded');
    const conditions = (await less.now()).status?.conditions ?? [];
    expect(conditions.filter(({ reason }) => reason === 'ErrExceededQuota')).toEqual([]);
  },
  180_000,
);

async function podsOf({ path }: Namespace): Promise<unknown[]> {
  const selector = 'pods?labelSelector=cdi.kubevirt.io%3Dimporter';
  return (await kubernetes.ask<{ items: unknown[] }>('GET', path(selector))).items;
}

// Many DataVolumes at once, on nodes that nothing runs on: what they cost the API server, and the controller.
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { DataVolume } from '../../src/api/datavolume.ts';
import { type Asked, auditOf, WRITES } from './support/audit.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { processOfContainer } from './support/containers.ts';
import { installation } from './support/installation.ts';
import { emptyFakes, FAKE_CLASSES, FAKE_LABELS, FAKE_PLACEMENT, fakeNodes, fakeVolumes, many } from './support/kwok.ts';
import { until } from './support/until.ts';

const MiB = 1024 * 1024;
const COUNT = Number(process.env.DISKFERRY_LOAD_DATAVOLUMES ?? 500);
/** With the 10 imports that each may have at a time (src/controller/views.ts), as many as there are DataVolumes. */
const NODES = 50;
const SIZE = '64Mi';
const GROUP = 'cdi.kubevirt.io/v1beta1';
const MOST_MEMORY = 256 * MiB;

let kubernetes: Cluster;
const open = new AsyncDisposableStack();
beforeAll(async () => {
  kubernetes = open.use(await cluster());
  open.use(await fakeNodes(kubernetes, NODES));
  open.use(await installation(kubernetes, { workload: FAKE_PLACEMENT }));
}, 300_000);
afterEach(() => emptyFakes(kubernetes), 400_000);
afterAll(() => open[Symbol.asyncDispose](), 400_000);

interface Load {
  readonly name: string;
  readonly storageClass: string;
  /** Hosts that the images come from: at most 20 imports from each at a time (src/controller/views.ts). */
  readonly hosts: number;
  /** Requests for each DataVolume at most, on average: those of a way without waiting, and a few for what is told meanwhile. */
  readonly writes: number;
  readonly reads: number;
}

test.for<Load>([
  { name: 'volumes that are there', storageClass: FAKE_CLASSES.static, hosts: NODES, writes: 34, reads: 3 },
  { name: 'volumes of a CSI driver', storageClass: FAKE_CLASSES.csi, hosts: NODES, writes: 52, reads: 5 },
  // Most wait for their turn, and are told in steps which it is.
  { name: 'one source', storageClass: FAKE_CLASSES.csi, hosts: 1, writes: 60, reads: 5 },
])('$name', { timeout: 1_200_000, retry: 0 }, async ({ name, storageClass, hosts, ...most }) => {
  if (storageClass === FAKE_CLASSES.static) await fakeVolumes(kubernetes, COUNT, SIZE);
  const controller = await freshController();
  const before = await controller.usage();
  // It goes with all that is in it after the test.
  const namespace = await kubernetes.namespace(FAKE_LABELS);
  const audit = await auditOf(kubernetes);
  const began = performance.now();
  await many(COUNT, (n) =>
    kubernetes.ask('POST', namespace.path('datavolumes', GROUP), {
      apiVersion: GROUP,
      kind: 'DataVolume',
      metadata: { name: `disk-${n}` },
      spec: {
        source: { http: { url: `http://source-${n % hosts}.test/disk.raw` } },
        pvc: {
          storageClassName: storageClass,
          accessModes: ['ReadWriteOnce'],
          resources: { requests: { storage: SIZE } },
        },
      },
    }),
  );
  const made = performance.now();
  let phases: Record<string, number> = {};
  await until(
    `${COUNT} DataVolumes succeed`,
    900,
    async () => {
      const { items } = await kubernetes.ask<{ items: DataVolume[] }>('GET', namespace.path('datavolumes', GROUP));
      phases = tally(items.map(({ status }) => status?.phase ?? ''));
      return phases.Succeeded === COUNT;
    },
    2000,
  ).catch((error: Error) => {
    throw new Error(`${error.message}: ${JSON.stringify(phases)}`);
  });
  const ended = performance.now();
  // What it deletes, and tells, comes after that.
  const asked = await quiet(() => audit.asked());
  const after = await controller.usage();
  const of = (some: readonly Asked[]): string => (some.length / COUNT).toFixed(1);
  const writes = asked.filter(({ verb, resource }) => WRITES.includes(verb) && !OWN.includes(resource));
  const reads = asked.filter(({ verb, resource }) => verb === 'get' && !OWN.includes(resource));
  const lists = asked.filter(({ verb }) => verb === 'list');
  process.stdout.write(`
${COUNT} DataVolumes, ${name}: ${seconds(began, ended)} until all succeeded, of it ${seconds(began, made)} until all were made
${table(asked)}
  writes for each ${of(writes)}, reads ${of(reads)}; lists ${lists.length}; refused ${asked.filter(({ status }) => status >= 400).length}
  the controller: ${megabytes(before.peak)} before, ${megabytes(after.peak)} at most; ${(after.cpu - before.cpu).toFixed(1)} s of a processor
`);
  // Of kinds that never change, the API server over Debian's etcd tells nothing, and they are listed anew now and then.
  expect(lists.filter(({ resource }) => GROWING.includes(resource))).toEqual([]);
  expect(writes.length / COUNT).toBeLessThanOrEqual(most.writes);
  expect(reads.length / COUNT).toBeLessThanOrEqual(most.reads);
  expect(await controller.restarts()).toBe(0);
  expect(after.peak).toBeLessThan(MOST_MEMORY);
  expect(writes.filter(({ verb, resource }) => verb === 'create' && resource === 'pods')).toHaveLength(COUNT);
});

/** Kinds of which there is one for each DataVolume. */
const GROWING = ['datavolumes', 'persistentvolumeclaims', 'persistentvolumes', 'pods', 'volumeimportsources'];
/** Of the controller itself, however many DataVolumes there are. */
const OWN = ['leases', 'tokenreviews', 'subjectaccessreviews'];

const seconds = (from: number, to: number): string => `${((to - from) / 1000).toFixed(0)} s`;
const megabytes = (bytes: number): string => `${(bytes / MiB).toFixed(0)} MiB`;

function tally(values: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
}

function table(asked: readonly Asked[]): string {
  const counts = tally(asked.map(({ verb, resource }) => `${verb.padEnd(8)} ${resource}`));
  const rows = Object.entries(counts).sort(([, a], [, b]) => b - a);
  return rows
    .map(
      ([what, count]) => `  ${what.padEnd(42)} ${String(count).padStart(6)} ${(count / COUNT).toFixed(2).padStart(7)}`,
    )
    .join('\n');
}

/** What was asked, when for 6 s nothing more was than what is the controller's own. */
async function quiet(asked: () => Promise<Asked[]>): Promise<Asked[]> {
  let last = -1;
  return until(
    'the controller is quiet',
    120,
    async () => {
      const all = await asked();
      const count = all.filter(({ resource, verb }) => !OWN.includes(resource) && verb !== 'watch').length;
      const same = count === last;
      last = count;
      return same && all;
    },
    6000,
  );
}

interface Fresh {
  /** Bytes that were resident at most, and seconds of a processor, since the process began. */
  usage(): Promise<{ peak: number; cpu: number }>;
  restarts(): Promise<number>;
}

interface Pods {
  readonly items: readonly {
    readonly metadata: { readonly name: string; readonly deletionTimestamp?: string };
    readonly status: { readonly containerStatuses?: readonly { readonly restartCount: number }[] };
  }[];
}

/** Another controller in the place of the one that is there: it has seen everything, acts, and has done what was to be done. */
async function freshController(): Promise<Fresh> {
  const place = ['-n', 'cdi', 'deployment/cdi-deployment'];
  await kubernetes.kubectl(['rollout', 'restart', ...place]);
  await kubernetes.kubectl(['rollout', 'status', '--timeout=120s', ...place], undefined, 130);
  const path = (resource: string): string => `/api/v1/namespaces/cdi/${resource}`;
  const pods = async (): Promise<Pods['items']> => {
    const selected = 'labelSelector=cdi.kubevirt.io%3Dcdi-deployment';
    return (await kubernetes.ask<Pods>('GET', path(`pods?${selected}`))).items;
  };
  const lease = '/apis/coordination.k8s.io/v1/namespaces/cdi/leases/cdi-controller-leader-election-helper';
  const name = await until('one controller, which acts', 60, async () => {
    const [one, ...others] = await pods();
    const { spec } = await kubernetes.ask<{ spec: { holderIdentity?: string } }>('GET', lease);
    return one !== undefined && others.length === 0 && spec.holderIdentity === one.metadata.name && one.metadata.name;
  });
  const audit = await auditOf(kubernetes);
  await sleep(1000);
  await quiet(() => audit.asked());
  const { pid } = await processOfContainer(kubernetes, { path }, name);
  return {
    async usage() {
      const status = await readFile(`/proc/${pid}/status`, 'utf8');
      const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).replace(/^.*\) /s, '').split(' ');
      // proc(5): VmHWM is in KiB; utime and stime are fields 14 and 15, in 1/100 s.
      const [user = 0, system = 0] = fields.slice(11, 13).map(Number);
      return { peak: Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024, cpu: (user + system) / 100 };
    },
    async restarts() {
      const found = (await pods()).find(({ metadata }) => metadata.name === name);
      return found?.status.containerStatuses?.[0]?.restartCount ?? Number.NaN;
    },
  };
}

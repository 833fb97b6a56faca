// What Prometheus warns of: the rules of deploy/monitoring, on the pages that the controller serves.
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { StorageClass } from 'kubernetes-types/storage/v1.js';
import { beforeAll, expect, test } from 'vitest';
import { stringify } from 'yaml';
import type { Cdi } from '../../src/api/config.ts';
import type { DataVolume } from '../../src/api/datavolume.ts';
import type { Stored } from '../../src/api/meta.ts';
import type { StorageProfile } from '../../src/api/storage-profile.ts';
import { Metrics } from '../../src/controller/metrics.ts';
import { World } from '../../src/controller/world.ts';
import { Kube } from '../../src/kube/client.ts';
import { Queue } from '../../src/kube/queue.ts';
import { type Manifest, rendered } from '../support/kubectl.ts';
import { tempdir } from '../support/tempdir.ts';
import { tool } from '../support/tools.ts';

const run = promisify(execFile);

interface Rule {
  readonly alert?: string;
  readonly record?: string;
  readonly for?: string;
  readonly labels?: Readonly<Record<string, string>>;
}
interface Rules extends Manifest {
  readonly spec: { readonly groups: readonly { readonly name: string; readonly rules: readonly Rule[] }[] };
}
let groups: Rules['spec']['groups'];
beforeAll(async () => {
  const found = (await rendered<Rules>('deploy/monitoring')).find(({ kind }) => kind === 'PrometheusRule');
  expect(found?.metadata).toMatchObject({ name: 'prometheus-cdi-rules', namespace: 'cdi' });
  groups = found?.spec.groups ?? [];
});

/** A cluster as it is seen. */
interface Cluster {
  readonly classes?: readonly Class[];
  /** DataVolumes without a class, by phase. */
  readonly phases?: readonly string[];
  readonly isAvailable?: boolean;
}
interface Class {
  readonly name: string;
  readonly is?: 'default' | 'virt-default';
  readonly shared?: boolean;
  readonly clones?: boolean;
  readonly incomplete?: boolean;
}
const CLONES = 'csi.example.org';

async function page({ classes = [], phases = [], isAvailable = true }: Cluster, acts = true): Promise<string> {
  await using kube = new Kube({ url: 'https://127.0.0.1:1', ca: '' });
  const world = new World(kube, () => undefined);
  const meta = (name: string) => ({ name, uid: name, resourceVersion: '1' });
  world.csiDrivers.take({ metadata: meta(CLONES), spec: {} } as never);
  for (const { name, is, shared, clones, incomplete } of classes) {
    const key =
      is === 'default'
        ? 'storageclass.kubernetes.io/is-default-class'
        : 'storageclass.kubevirt.io/is-default-virt-class';
    const annotations = is ? { [key]: 'true' } : {};
    world.storageClasses.take({
      metadata: { ...meta(name), annotations },
      provisioner: clones ? CLONES : 'other.example.org',
    } as Stored<StorageClass>);
    const set = { accessModes: [shared ? 'ReadWriteMany' : 'ReadWriteOnce'], volumeMode: 'Block' };
    world.profiles.take({
      metadata: meta(name),
      spec: {},
      status: { claimPropertySets: incomplete ? [] : [set], cloneStrategy: clones ? 'csi-clone' : 'copy' },
    } as Stored<StorageProfile>);
  }
  for (const [n, phase] of phases.entries())
    world.dataVolumes.take({
      metadata: { ...meta(`disk-${n}`), namespace: 'ns' },
      spec: {},
      status: { phase },
    } as Stored<DataVolume>);
  const status = isAvailable ? 'True' : 'False';
  world.installations.take({
    metadata: meta('cdi'),
    spec: {},
    status: { conditions: [{ type: 'Available', status }] },
  } as Stored<Cdi>);
  const metrics = new Metrics(world);
  if (acts) metrics.queue = new Queue();
  return metrics.page();
}

interface Series {
  readonly series: string;
  readonly values: string;
}

/** The series of a page, as Prometheus has them that scraped the pod `of` for half an hour. */
function scraped(text: string, of = 'cdi-deployment-1'): Series[] {
  return text.split('\n').flatMap((line) => {
    const [, name, labels, value] = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
    if (name === undefined) return [];
    const all = [labels, `pod="${of}"`, 'namespace="cdi"'].filter(Boolean).join(',');
    return [{ series: `${name}{${all}}`, values: `${value}x60` }];
  });
}
const restarts = (pod: string, container: string, count: number): Series => ({
  series: `kube_pod_container_status_restarts_total{namespace="ns",pod="${pod}",container="${container}"}`,
  values: `${count}x60`,
});

const GOOD: Class = { name: 'good', is: 'default', shared: true, clones: true };
const VIRT: Class = { ...GOOD, name: 'virt', is: 'virt-default' };
const LONG = '16m';

interface Case {
  readonly says: string;
  readonly input: () => Promise<Series[]>;
  /** Name → value, after LONG. */
  readonly fires?: Readonly<Record<string, number>>;
}
const acting = (cluster: Cluster) => async (): Promise<Series[]> => scraped(await page(cluster));
const CASES: readonly Case[] = [
  {
    says: 'all is well',
    input: acting({ classes: [GOOD, { name: 'other' }], phases: ['Succeeded', 'ImportInProgress'] }),
  },
  {
    says: 'one acts and others wait',
    input: async () => [
      ...scraped(await page({ classes: [GOOD, VIRT] })),
      ...scraped(await page({}, false), 'cdi-deployment-2'),
    ],
  },
  {
    says: 'one has acted, and another does: both are known for a while',
    input: async () => [
      ...scraped(await page({ classes: [GOOD, VIRT] })),
      ...scraped(await page({ classes: [GOOD, VIRT] }), 'cdi-deployment-2'),
    ],
  },
  { says: 'no controller is scraped', input: async () => [], fires: { DiskferryControllerDown: 1 } },
  {
    says: 'none of them acts',
    input: async () => scraped(await page({ classes: [], phases: ['Pending'] }, false)),
    fires: { DiskferryControllerDown: 1 },
  },
  { says: 'not available', input: acting({ classes: [GOOD], isAvailable: false }), fires: { CDINotReady: 1 } },
  {
    says: 'DataVolumes wait for a default class',
    input: acting({ classes: [{ name: 'other' }], phases: ['Pending', 'Pending', 'Succeeded'] }),
    fires: { CDINoDefaultStorageClass: 1 },
  },
  {
    says: 'no default class, and nobody waits for one',
    input: acting({ classes: [{ name: 'other' }], phases: ['Succeeded'] }),
  },
  { says: 'they wait for something else', input: acting({ classes: [VIRT], phases: ['Pending'] }) },
  {
    says: 'two default classes of virtual machines',
    input: acting({ classes: [VIRT, { ...VIRT, name: 'second' }] }),
    fires: { CDIMultipleDefaultVirtStorageClasses: 1 },
  },
  {
    says: 'the default class has no shared volumes',
    input: acting({ classes: [{ ...GOOD, shared: false }] }),
    fires: { CDIDefaultStorageClassDegraded: 1 },
  },
  {
    says: 'the default class copies when it clones',
    input: acting({ classes: [{ ...VIRT, clones: false }] }),
    fires: { CDIDefaultStorageClassDegraded: 1 },
  },
  { says: 'the other default class has both', input: acting({ classes: [VIRT, { ...GOOD, shared: false }] }) },
  {
    says: 'classes that nothing is known of',
    input: acting({ classes: [GOOD, { name: 'a', incomplete: true }, { name: 'b', incomplete: true }] }),
    fires: { CDIStorageProfilesIncomplete: 2 },
  },
  {
    says: 'imports that are begun again and again',
    input: async () => [
      ...scraped(await page({ classes: [GOOD] })),
      ...[restarts('importer-one', 'importer', 4), restarts('importer-two', 'importer', 3)],
      ...[restarts('importer-three', 'sidecar', 9), restarts('web', 'importer', 9)],
    ],
    fires: { CDIDataVolumeUnusualRestartCount: 1 },
  },
];

/** promtool, of the rules and a table of what is to come of a case. */
async function promtool(input: Series[], tests: object[]): Promise<void> {
  await using home = await tempdir();
  await writeFile(join(home.path, 'rules.yaml'), stringify({ groups }));
  const suite = {
    rule_files: ['rules.yaml'],
    evaluation_interval: '30s',
    tests: [{ interval: '30s', input_series: input, promql_expr_test: tests }],
  };
  await writeFile(join(home.path, 'test.yaml'), stringify(suite));
  const program = tool('promtool', 'prometheus');
  await run(program, ['check', 'rules', join(home.path, 'rules.yaml')]);
  await run(program, ['test', 'rules', join(home.path, 'test.yaml')]).catch(
    (error: { stdout: string; stderr: string }) => {
      throw new Error(`${error.stdout}${error.stderr}`);
    },
  );
}
const firing = (at: string, fires: Readonly<Record<string, number>>): object => ({
  expr: 'count by (alertname) (ALERTS{alertstate="firing"})',
  eval_time: at,
  exp_samples: Object.entries(fires).map(([alertname, value]) => ({ labels: `{alertname="${alertname}"}`, value })),
});

test.each(CASES)('$says', async ({ input, fires = {} }) => {
  // At once nobody is woken.
  await promtool(await input(), [firing('4m', {}), firing(LONG, fires)]);
});

test('what is recorded is there also when no pod was ever started again', async () => {
  const expected = (name: string, value: number): object => ({
    expr: name,
    eval_time: '5m',
    exp_samples: [{ labels: name, value }],
  });
  const names = ['cluster:kubevirt_cdi_import_pods_high_restart:count', 'kubevirt_cdi_import_pods_high_restart'];
  await promtool(
    [],
    names.map((name) => expected(name, 0)),
  );
  await promtool(
    [restarts('importer-one', 'importer', 4)],
    names.map((name) => expected(name, 1)),
  );
});

test('names, durations and severities are CDI’s', () => {
  const rules = groups.flatMap((one) => one.rules).filter(({ alert }) => alert);
  expect(
    rules.map((one) => [one.alert, one.for, one.labels?.severity, one.labels?.operator_health_impact].join(' ')),
  ).toEqual([
    'DiskferryControllerDown 10m critical critical',
    'CDINotReady 10m critical critical',
    'CDIDataVolumeUnusualRestartCount 5m warning none',
    'CDIStorageProfilesIncomplete 5m info none',
    'CDINoDefaultStorageClass 5m warning none',
    'CDIMultipleDefaultVirtStorageClasses 5m warning none',
    'CDIDefaultStorageClassDegraded 5m warning none',
  ]);
  for (const { labels } of rules)
    expect(labels).toMatchObject({
      kubernetes_operator_part_of: 'kubevirt',
      kubernetes_operator_component: 'containerized-data-importer',
    });
});

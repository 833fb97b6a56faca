// The CustomResourceDefinitions in deploy/crds as a real API server takes them.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import type { DataVolume } from '../../src/api/datavolume.ts';
import { apiVersionOf, DATA_VOLUMES, pathOf, type Resource } from '../../src/api/resource.ts';
import { DEFINITIONS } from '../../src/api/schemas/definitions.ts';
import { type Answer, Answers } from '../support/answers.ts';
import { type ApiServer, startApiServer } from '../support/apiserver.ts';
import {
  cdi,
  cdiConfig,
  cloneSource,
  dataImportCron,
  dataSource,
  dataVolume,
  EXAMPLES,
  type Example,
  importSource,
  objectTransfer,
  openstackPopulator,
  ovirtPopulator,
  storageProfile,
} from '../support/examples.ts';

const CRDS = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
const directory = fileURLToPath(new URL('../../deploy/crds', import.meta.url));
const files = readdirSync(directory)
  .filter((name) => name !== 'kustomization.yaml')
  .sort();
const textOf = (file: string): string => readFileSync(join(directory, file), 'utf8');
const nameOf = ({ plural, group }: Resource<unknown>): string => `${plural}.${group}`;

interface Crd {
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

let api: ApiServer;
let answers: Answers;

beforeAll(async () => {
  api = await startApiServer();
  answers = new Answers(api);
  for (const file of files) {
    const answer = await answers.to('POST', CRDS, textOf(file));
    expect(answer.status, answer.text).toBe(201);
    expect(answer.headers.warning, file).toBeUndefined();
  }
  for (const { resource } of DEFINITIONS) {
    const served = async (): Promise<boolean> =>
      (await conditionsOf(resource)).Established === 'True' &&
      (await answers.to('GET', pathOf(resource))).status === 200;
    for (let tries = 0; tries < 100 && !(await served()); tries += 1) await sleep(100);
  }
}, 120_000);
afterAll(async () => {
  await answers?.[Symbol.asyncDispose]();
  await api?.[Symbol.asyncDispose]();
});

async function conditionsOf(resource: Resource<unknown>): Promise<Record<string, string>> {
  const { status } = await api.ask<Crd>('GET', `${CRDS}/${nameOf(resource)}`);
  return Object.fromEntries((status?.conditions ?? []).map((one) => [one.type, one.status]));
}

/** Nothing is kept of it. */
function tryOut({ resource, object }: Pick<Example, 'resource' | 'object'>, validation = 'Strict'): Promise<Answer> {
  const where = pathOf(resource, 'default');
  return answers.to('POST', `${where}?dryRun=All&fieldValidation=${validation}`, object);
}

/** A copy with another value at `path`, whose numbers are places in lists; without that field for undefined. */
function changed({ resource, object }: Example, path: string, value: unknown): Pick<Example, 'resource' | 'object'> {
  const copy = structuredClone(object) as Record<string, unknown>;
  const keys = path.split('.');
  const last = keys.pop() ?? '';
  let at = copy;
  for (const key of keys) {
    at[key] ??= {};
    at = at[key] as Record<string, unknown>;
  }
  if (value === undefined) delete at[last];
  else at[last] = value;
  return { resource, object: copy };
}

describe('the definitions', () => {
  test('there is a file for each kind, and the kustomization lists all of them', () => {
    const names = DEFINITIONS.map(({ resource }) => `${nameOf(resource)}.yaml`).sort();
    expect(files).toEqual(names);
    expect(parse(textOf('kustomization.yaml')).resources).toEqual(names);
  });

  test.each(DEFINITIONS)('$resource.kind is established and structural', async ({ resource }) => {
    const conditions = await conditionsOf(resource);
    expect(conditions).toMatchObject({ Established: 'True', NamesAccepted: 'True' });
    expect(conditions.NonStructuralSchema ?? 'False').toBe('False');
  });

  test.each(files)('%s is kept as it is, so that to apply it again changes nothing', async (file) => {
    const { metadata, spec } = parse(textOf(file));
    expect(await api.ask('GET', `${CRDS}/${metadata.name}`)).toMatchObject({ metadata, spec });
  });

  // `kubectl apply` keeps the whole object in an annotation, and all annotations together have 256 KiB
  // (apimachinery, pkg/api/validation/objectmeta.go).
  test.each(files)('%s is small enough for kubectl apply', (file) => {
    const { length } = JSON.stringify(parse(textOf(file)));
    expect(length).toBeLessThan(256 * 1024);
  });

  test('kinds have the names by which clients know them', async () => {
    interface Listed {
      readonly kind: string;
      readonly name: string;
      readonly shortNames?: readonly string[];
      readonly categories?: readonly string[];
      readonly namespaced: boolean;
    }
    const groups = await Promise.all(
      ['cdi.kubevirt.io', 'forklift.cdi.kubevirt.io'].map((group) =>
        api.ask<{ resources: Listed[] }>('GET', `/apis/${group}/v1beta1`),
      ),
    );
    const rows = groups
      .flatMap(({ resources }) => resources)
      .map(({ name, namespaced, shortNames = [], categories = [] }) =>
        [name, namespaced ? 'Namespaced' : 'Cluster', shortNames.join(), categories.join()].join(' ').trim(),
      );
    expect(rows.sort()).toEqual([
      'cdiconfigs Cluster',
      'cdis Cluster cdi,cdis',
      'dataimportcrons Namespaced dic,dics all',
      'datasources Namespaced das all',
      'datavolumes Namespaced dv,dvs all',
      'datavolumes/status Namespaced',
      'objecttransfers Cluster ot,ots',
      'objecttransfers/status Cluster',
      'openstackvolumepopulators Namespaced osvp,osvps',
      'ovirtvolumepopulators Namespaced ovvp,ovvps',
      'storageprofiles Cluster',
      'storageprofiles/status Cluster',
      'volumeclonesources Namespaced',
      'volumeimportsources Namespaced',
      'volumeuploadsources Namespaced',
    ]);
  });

  test('kubectl explain says what clients look for', async () => {
    interface Described {
      readonly description?: string;
      readonly properties?: Readonly<Record<string, Described>>;
    }
    const of = (kind: string): string => `io.kubevirt.cdi.v1beta1.${kind}`;
    let schemas: Readonly<Record<string, Described>> = {};
    // Published some time after the definitions are established.
    for (let tries = 0; tries < 100 && !(of('CDI') in schemas && of('DataVolume') in schemas); tries += 1) {
      const answer = await answers.to('GET', '/openapi/v3/apis/cdi.kubevirt.io/v1beta1');
      schemas = answer.status === 200 ? JSON.parse(answer.text).components.schemas : {};
      await sleep(100);
    }
    const says = (kind: string, ...path: string[]): string | undefined =>
      path.reduce<Described | undefined>((at, key) => at?.properties?.[key], schemas[of(kind)])?.description;
    // Each at the beginning: kubectl breaks lines at 80 characters.
    expect(says('CDI', 'status')).toMatch(/^CDIStatus defines the status of the installation/);
    expect(says('CDI', 'status', 'targetVersion')).toMatch(/^The desired version of the resource/);
    expect(says('CDIConfig', 'status')).toMatch(
      /^CDIConfigStatus provides the most recently observed status of the CDI/,
    );
    expect(says('CDIConfig', 'status', 'uploadProxyURL')).toMatch(/^The calculated upload proxy URL/);
    expect(says('DataVolume', 'status')).toMatch(/^DataVolumeStatus contains the current status of the DataVolume/);
    expect(says('DataVolume', 'status', 'restartCount')).toMatch(
      /^RestartCount is the number of times the pod populating the DataVolume has/,
    );
  });
});

test.each(EXAMPLES)('$title', async (example) => {
  const answer = await tryOut(example);
  expect(answer.status, answer.text).toBe(201);
  expect(answer.headers.warning).toBeUndefined();
  // As it was written: nothing is added and nothing left out.
  expect(JSON.parse(answer.text)).toMatchObject(example.object);
  expect(JSON.parse(answer.text).spec).toEqual((example.object as { spec: unknown }).spec);
});

test('there is an example of each kind', () => {
  expect(new Set(EXAMPLES.map(({ resource }) => resource.kind))).toEqual(
    new Set(DEFINITIONS.map(({ resource }) => resource.kind)),
  );
});

/** What, where in it, what is refused there, what is not, and why. `undefined`: without the field. */
const RULES: readonly (readonly [Example, string, unknown, unknown, RegExp])[] = [
  ...EXAMPLES.filter((one, n) => EXAMPLES.findIndex(({ resource }) => resource === one.resource) === n).map(
    (one) => [one, 'spec', undefined, (one.object as { spec: object }).spec, /Required value/] as const,
  ),

  [dataVolume, 'spec.contentType', 'iso', 'archive', /Unsupported value: "iso".*"kubevirt", "archive"/],
  [dataVolume, 'spec.preallocation', 'yes', true, /must be of type boolean/],
  [dataVolume, 'spec.checkpoints', [{ previous: '' }], [{ previous: '', current: '1' }], /current: Required/],
  [dataVolume, 'spec.checkpoints', [{ current: '1' }], [], /previous: Required/],
  [dataVolume, 'spec.source.http', {}, { url: '' }, /url: Required/],
  [dataVolume, 'spec.source.http.extraHeaders', 'a: b', ['a: b'], /must be of type array/],
  [dataVolume, 'spec.source.s3', {}, { url: '' }, /url: Required/],
  [dataVolume, 'spec.source.gcs', {}, { url: '' }, /url: Required/],
  [dataVolume, 'spec.source.imageio', { url: '' }, { url: '', diskId: '' }, /diskId: Required/],
  [dataVolume, 'spec.source.imageio', { diskId: '' }, { url: '', diskId: '' }, /url: Required/],
  [dataVolume, 'spec.source.registry', 'docker://a', {}, /must be of type object/],
  [dataVolume, 'spec.source.vddk', 'a', {}, /must be of type object/],
  [dataVolume, 'spec.source.pvc', { name: 'a' }, { name: 'a', namespace: 'b' }, /namespace: Required/],
  [dataVolume, 'spec.source.snapshot', { namespace: 'a' }, { name: 'a', namespace: 'b' }, /name: Required/],
  [dataVolume, 'spec.sourceRef', { name: 'a' }, { name: 'a', kind: 'b' }, /kind: Required/],
  [dataVolume, 'spec.sourceRef', { kind: 'b' }, { name: 'a', kind: 'b' }, /name: Required/],
  [dataVolume, 'spec.pvc.resources.requests.storage', 'ten', '10Gi', /should match/],
  [dataVolume, 'spec.pvc.resources.requests.storage', '10GB', '10G', /should match/],
  [dataVolume, 'spec.pvc.resources.requests.storage', 1.5, 1, /must validate at least one schema/],
  [dataVolume, 'spec.storage.resources.requests.storage', '10 Gi', '.5Gi', /should match/],
  [dataVolume, 'spec.storage.dataSourceRef', { kind: 'a' }, { kind: 'a', name: 'b' }, /name: Required/],
  [dataVolume, 'spec.storage.selector', { matchExpressions: [{ key: 'a' }] }, {}, /operator: Required/],

  [dataSource, 'spec.source', undefined, {}, /spec.source: Required/],
  [dataSource, 'spec.source.dataSource', { name: 'a' }, { name: 'a', namespace: 'b' }, /namespace: Required/],

  [dataImportCron, 'spec.template', undefined, { spec: {} }, /template: Required/],
  [dataImportCron, 'spec.template', {}, { spec: {} }, /template.spec: Required/],
  [dataImportCron, 'spec.template.spec.contentType', 'iso', 'archive', /Unsupported value/],
  [dataImportCron, 'spec.schedule', undefined, '', /schedule: Required/],
  [dataImportCron, 'spec.managedDataSource', undefined, 'a', /managedDataSource: Required/],
  [dataImportCron, 'spec.importsToKeep', '3', 3, /must be of type integer/],
  [dataImportCron, 'spec.importsToKeep', 2 ** 31, 2 ** 31 - 1, /int32/],
  [dataImportCron, 'spec.serviceAccountName', '', 'a', /at least 1 char/],
  [dataImportCron, 'status.currentImports', [{ DataVolumeName: 'a' }], [], /Digest: Required/],
  [dataImportCron, 'status.lastImportTimestamp', 'today', '2026-01-01T00:00:00Z', /date-time/],

  [storageProfile, 'spec.claimPropertySets', sets(9), sets(8), /at most 8 items/],
  [storageProfile, 'spec.claimPropertySets.0.accessModes', modes(5), modes(4), /at most 4 items/],
  [storageProfile, 'spec.claimPropertySets.0.accessModes', ['ReadOnce'], ['ReadWriteOncePod'], /Illegal AccessMode/],
  [storageProfile, 'spec.claimPropertySets.0.accessModes', undefined, [], /accessModes: Required/],
  [storageProfile, 'spec.claimPropertySets.0.volumeMode', undefined, 'Block', /volumeMode: Required/],
  [storageProfile, 'spec.claimPropertySets.0.volumeMode', 'FromStorageProfile', 'Filesystem', /Unsupported value/],

  [cdiConfig, 'spec.filesystemOverhead.global', '1.1', '1', /should match/],
  [cdiConfig, 'spec.filesystemOverhead.global', '0.0625', '0.062', /should match/],
  [cdiConfig, 'spec.filesystemOverhead.global', '.06', '0', /should match/],
  [cdiConfig, 'spec.filesystemOverhead.global', 0.06, '0.06', /must be of type string/],
  [cdiConfig, 'spec.filesystemOverhead.storageClass', { fast: '6%' }, { fast: '0.6' }, /should match/],
  [cdiConfig, 'spec.tlsSecurityProfile.type', 'Paranoid', 'Modern', /Unsupported value/],
  [cdiConfig, 'spec.tlsSecurityProfile.modern', [], {}, /must be of type object/],
  [cdiConfig, 'spec.tlsSecurityProfile.old', 'yes', null, /must be of type object/],
  [cdiConfig, 'spec.tlsSecurityProfile.custom', 'yes', null, /must be of type object/],
  [cdiConfig, 'spec.tlsSecurityProfile.custom.minTLSVersion', 'TLSv1.2', 'VersionTLS13', /Unsupported value/],
  [cdiConfig, 'spec.webhookPvcRendering', 'disabled', 'Disabled', /Unsupported value/],
  [cdiConfig, 'spec.podResourceRequirements.limits.cpu', 'one', 1, /should match/],
  [cdiConfig, 'spec.podResourceRequirements.claims', twice({ name: 'a' }), [{ name: 'a' }], /Duplicate value/],
  [cdiConfig, 'status.preallocation', 'no', false, /must be of type boolean/],

  [cdi, 'spec.imagePullPolicy', 'Sometimes', 'Always', /Unsupported value/],
  [cdi, 'spec.uninstallStrategy', 'Keep', 'RemoveWorkloads', /Unsupported value/],
  [cdi, 'spec.cloneStrategyOverride', 'clone', 'copy', /Unsupported value/],
  [cdi, 'spec.customizeComponents.patches.0.resourceName', '', '*', /at least 1 char/],
  [cdi, 'spec.customizeComponents.patches.0.resourceType', '', '*', /at least 1 char/],
  [cdi, 'spec.customizeComponents.patches.0.patch', undefined, '', /patch: Required/],
  [cdi, 'spec.infra.deploymentReplicas', 'two', 2, /must be of type integer/],
  [cdi, 'spec.config.filesystemOverhead.global', '2', '0.2', /should match/],
  [
    cdi,
    'spec.workload.affinity.podAffinity',
    { requiredDuringSchedulingIgnoredDuringExecution: [{}] },
    {},
    /topologyKey/,
  ],
  [
    cdi,
    'spec.workload.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution',
    {},
    undefined,
    /Terms: Req/,
  ],

  [importSource, 'spec.source.http', {}, { url: '' }, /url: Required/],
  // What it may be is not for the schema to say.
  [importSource, 'spec.contentType', 1, 'anything', /must be of type string/],
  [cloneSource, 'spec.source', undefined, { kind: 'a', name: 'b' }, /source: Required/],
  [cloneSource, 'spec.source.name', undefined, 'a', /name: Required/],
  [objectTransfer, 'spec.source', undefined, { kind: 'a', name: 'b', namespace: 'c' }, /source: Required/],
  [objectTransfer, 'spec.source.kind', undefined, 'a', /kind: Required/],
  [objectTransfer, 'spec.source.name', undefined, 'a', /name: Required/],
  [objectTransfer, 'spec.source.namespace', undefined, 'a', /namespace: Required/],
  [objectTransfer, 'spec.target', undefined, {}, /target: Required/],
  [ovirtPopulator, 'spec.engineUrl', undefined, '', /engineUrl: Required/],
  [ovirtPopulator, 'spec.secretRef', undefined, '', /secretRef: Required/],
  [ovirtPopulator, 'spec.diskId', undefined, '', /diskId: Required/],
  [openstackPopulator, 'spec.identityUrl', undefined, '', /identityUrl: Required/],
  [openstackPopulator, 'spec.secretRef', undefined, '', /secretRef: Required/],
  [openstackPopulator, 'spec.imageId', undefined, '', /imageId: Required/],
];

function sets(count: number): object[] {
  return Array(count).fill({ accessModes: [], volumeMode: 'Block' });
}
function modes(count: number): string[] {
  return Array(count).fill('ReadWriteOnce');
}
function twice<T>(value: T): [T, T] {
  return [value, value];
}

test.each(
  RULES.map(([example, path, bad, good, why]) => ({ kind: example.resource.kind, example, path, bad, good, why })),
)('$kind $path: not $bad, but $good', async ({ example, path, bad, good, why }) => {
  const refused = await tryOut(changed(example, path, bad));
  expect(refused.status, refused.text).toBe(422);
  expect(JSON.parse(refused.text).message).toMatch(why);
  const accepted = await tryOut(changed(example, path, good));
  expect(accepted.status, accepted.text).toBe(201);
});

describe('an object', () => {
  test.each(EXAMPLES.filter((one, n) => EXAMPLES.findIndex(({ resource }) => resource === one.resource) === n))(
    '$resource.kind is kept without fields that nobody knows, and the user is warned',
    async (example) => {
      const odd = changed(example, 'spec.sourec', { http: {} });
      const answer = await tryOut(odd, 'Warn');
      expect(answer.status, answer.text).toBe(201);
      expect(answer.headers.warning).toContain('unknown field \\"spec.sourec\\"');
      expect(JSON.parse(answer.text).spec).not.toHaveProperty('sourec');
      // As clients of old ask.
      expect((await tryOut(odd, 'Ignore')).headers.warning).toBeUndefined();
    },
  );

  test('the metadata of a template keeps what nobody knows', async () => {
    const metadata = { labels: { os: 'fedora' }, creationTimestamp: null, whatever: { a: 1 } };
    const answer = await tryOut(changed(dataImportCron, 'spec.template.metadata', metadata));
    expect(JSON.parse(answer.text).spec.template.metadata).toEqual(metadata);
  });

  test('keeps sizes as they were written', async () => {
    for (const size of [1073741824, '1073741824', '1Gi', '1e9', '1.5G', '500m']) {
      const answer = await tryOut(changed(dataVolume, 'spec.pvc.resources.requests.storage', size));
      expect(JSON.parse(answer.text).spec.pvc.resources.requests.storage).toBe(size);
    }
  });

  test('has the status written apart where it has one', async () => {
    for (const example of [dataVolume, storageProfile, objectTransfer]) {
      const { resource } = example;
      const path = pathOf(resource, 'default', 'example');
      type Stored = { spec: object; status?: object; metadata: { generation: number } };
      const status = { conditions: [{ type: 'Ready', status: 'True' }] };
      const made = await api.ask<Stored>('POST', pathOf(resource, 'default'), { ...example.object, status });
      expect(made.status).toBeUndefined();
      const told = await api.ask<Stored>('PATCH', `${path}/status`, { status, spec: { priorityClassName: 'a' } });
      expect(told).toMatchObject({ spec: made.spec, status, metadata: { generation: 1 } });
      expect(told.spec).toEqual(made.spec);
      const again = await api.ask<Stored>('PUT', path, { ...told, status: {} });
      expect(again.status).toEqual(status);
      await api.ask('DELETE', path);
    }
  });

  test('has the status written with it where it has none apart', async () => {
    for (const example of [dataSource, dataImportCron, cdiConfig, cdi]) {
      const { resource } = example;
      const path = pathOf(resource, 'default', 'example');
      const made = await api.ask<{ spec: object; status: object }>('POST', pathOf(resource, 'default'), example.object);
      expect(made).toMatchObject(example.object);
      const told = await api.ask<{ status?: object }>('PUT', path, { ...made, status: {} });
      expect(told.status).toEqual({});
      expect((await answers.to('PATCH', `${path}/status`, { status: {} })).status).toBe(404);
      await api.ask('DELETE', path);
    }
  });

  test('is one for both versions of CDI', async () => {
    const older = '/apis/cdi.kubevirt.io/v1alpha1/cdis';
    await api.ask('POST', older, { ...cdi.object, apiVersion: 'cdi.kubevirt.io/v1alpha1' });
    const path = pathOf(cdi.resource, undefined, 'example');
    const read = await api.ask<Record<string, unknown>>('GET', path);
    expect(read).toMatchObject(cdi.object);
    expect(read.apiVersion).toBe(apiVersionOf(cdi.resource));
    const { status } = await api.ask<{ status: object }>('GET', `${CRDS}/${nameOf(cdi.resource)}`);
    expect(status).toMatchObject({ storedVersions: ['v1beta1'] });
    await api.ask('DELETE', path);
  });

  test('is shown with its columns', async () => {
    interface Table {
      readonly columnDefinitions: readonly { readonly name: string; readonly type: string }[];
      readonly rows: readonly { readonly cells: readonly unknown[] }[];
    }
    const shown: Record<string, string> = {};
    for (const { resource } of DEFINITIONS) {
      const accept = 'application/json;as=Table;v=v1;g=meta.k8s.io';
      const answer = await answers.to('GET', pathOf(resource, 'default'), undefined, { accept });
      const { columnDefinitions } = JSON.parse(answer.text) as Table;
      shown[resource.kind] = columnDefinitions.map(({ name, type }) => `${name}:${type}`).join(' ');
    }
    const plain = 'Name:string Age:date';
    expect(shown).toEqual({
      CDI: 'Name:string Age:date Phase:string',
      CDIConfig: plain,
      DataImportCron: 'Name:string Format:string',
      DataSource: plain,
      DataVolume: 'Name:string Phase:string Progress:string Restarts:integer Age:date',
      ObjectTransfer: 'Name:string Age:date Phase:string',
      OpenstackVolumePopulator: plain,
      OvirtVolumePopulator: plain,
      StorageProfile: plain,
      VolumeCloneSource: plain,
      VolumeImportSource: plain,
      VolumeUploadSource: plain,
    });

    const path = pathOf(DATA_VOLUMES, 'default');
    await api.ask('POST', path, dataVolume.object);
    const status: NonNullable<DataVolume['status']> = {
      phase: 'ImportInProgress',
      progress: '45.34%',
      restartCount: 2,
    };
    await api.ask('PATCH', `${path}/example/status`, { status });
    const answer = await answers.to('GET', `${path}/example`, undefined, {
      accept: 'application/json;as=Table;v=v1;g=meta.k8s.io',
    });
    const { cells } = (JSON.parse(answer.text) as Table).rows[0] ?? { cells: [] };
    expect(cells.slice(0, 4)).toEqual(['example', 'ImportInProgress', '45.34%', 2]);
    await api.ask('DELETE', `${path}/example`);
  });
});

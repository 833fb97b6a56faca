// The webhooks as a cluster has them: a real API server asks the program as it was built, which has the rights of deploy/.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { serverPath } from '../../scripts/toolchain.mjs';
import {
  apiVersionOf,
  CDI_CONFIGS,
  CDIS,
  CLAIMS,
  DATA_VOLUMES,
  OBJECT_TRANSFERS,
  pathOf,
  type Resource,
  STORAGE_CLASSES,
  STORAGE_PROFILES,
} from '../../src/api/resource.ts';
import { WEBHOOKS } from '../../src/apiserver/webhooks.ts';
import { GI, type Thing, URL } from '../apiserver/rules/row.ts';
import { RULES } from '../apiserver/rules.ts';
import { AdmissionCluster, type Process } from '../support/admission-cluster.ts';
import { type Answer, Answers } from '../support/answers.ts';
import { ADMIN } from '../support/apiserver.ts';
import { handshake } from '../support/handshake.ts';

let cluster: AdmissionCluster;
let answers: Answers;
let program: Process;

beforeAll(async () => {
  cluster = await AdmissionCluster.start();
  answers = new Answers(cluster.api);
  await cluster.register();
  program = await cluster.run();
  await program.ready();
}, 120_000);
afterAll(async () => {
  await program?.[Symbol.asyncDispose]();
  await answers?.[Symbol.asyncDispose]();
  await cluster?.[Symbol.asyncDispose]();
});

interface Status {
  readonly message: string;
  readonly reason: string;
  readonly details?: { readonly causes?: readonly { readonly field?: string; readonly message: string }[] };
}

const full = (resource: Resource<unknown>, { metadata, ...rest }: Thing): object => ({
  apiVersion: apiVersionOf(resource),
  kind: resource.kind,
  metadata: { ...metadata, ...(resource.namespaced ? { namespace: 'default' } : {}) },
  ...rest,
});
const create = (resource: Resource<unknown>, object: Thing, query = '?dryRun=All'): Promise<Answer> =>
  answers.to('POST', pathOf(resource, 'default') + query, full(resource, object));
/** It is stored. */
async function store(resource: Resource<unknown>, object: object): Promise<Thing & { metadata: { uid: string } }> {
  const answer = await create(resource, object as Thing, '');
  expect(answer.status, answer.text).toBe(201);
  return JSON.parse(answer.text);
}
/** The whole object as it is to be, with what says which one it is. */
async function replace(resource: Resource<unknown>, object: Thing): Promise<Answer> {
  const path = pathOf(resource, 'default', object.metadata.name);
  const now = await cluster.api.ask<Thing>('GET', path);
  const metadata = { ...now.metadata, ...object.metadata };
  return answers.to('PUT', `${path}?dryRun=All`, full(resource, { ...object, metadata }));
}
const remove = (resource: Resource<unknown>, name: string): Promise<unknown> =>
  cluster.api.ask('DELETE', pathOf(resource, 'default', name));

const there = new Map(RULES.flatMap((rule) => (rule.there ? [[rule.there.object.metadata.name, rule.there]] : [])));

describe('rules', () => {
  beforeAll(async () => {
    for (const { resource, object } of there.values()) {
      await store(resource, object);
    }
  });
  afterAll(async () => {
    for (const { resource, object } of there.values()) await remove(resource, object.metadata.name);
  });

  test.each(RULES.map((rule) => [`${rule.resource.kind}: ${rule.title}`, rule] as const))('%s', async (_, rule) => {
    const { resource, before, refused, accepted, field, says, alreadyRefused } = rule;
    if (before) expect((await create(resource, before, '')).status).toBe(201);
    try {
      const send = (object: Thing): Promise<Answer> => (before ? replace : create)(resource, object);
      const answer = await send(refused);
      const status = JSON.parse(answer.text) as Status;
      expect([answer.status, status.reason], answer.text).toEqual([422, 'Invalid']);
      expect(status.message).toContain(alreadyRefused ?? says);
      if (alreadyRefused === undefined) {
        expect(status.message).toContain('.cdi.kubevirt.io" denied the request: ');
        expect(status.details?.causes).toContainEqual(expect.objectContaining({ field }));
      }
      expect(answer.text).not.toContain('swordfish');
      for (const one of accepted) {
        const other = await send(one);
        expect(other.status, `${JSON.stringify(one)} ${other.text}`).toBe(before ? 200 : 201);
      }
    } finally {
      if (before) await remove(resource, before.metadata.name);
    }
  });

  /** What kubectl says to a list of objects, and its exit. */
  async function kubectl(objects: readonly object[], ...args: readonly string[]): Promise<[number | null, string]> {
    const { url } = cluster.api;
    // Its certificate is of no interest here: the address is one of this machine.
    const options = [`--server=${url}`, `--token=${ADMIN}`, '--insecure-skip-tls-verify', '--cache-dir=/nonexistent'];
    const child = spawn(serverPath('kubectl'), [...args, ...options, '-f', '-'], { stdio: ['pipe', 'ignore', 'pipe'] });
    let said = '';
    child.stderr.on('data', (text: Buffer) => {
      said += text.toString();
    });
    child.stdin.end(objects.map((one) => JSON.stringify(one)).join('\n---\n'));
    const [exit] = (await once(child, 'close')) as [number | null];
    return [exit, said];
  }

  test('kubectl tells each of them', { timeout: 120_000 }, async () => {
    const created = RULES.filter((rule) => !rule.before);
    const refused = created.map(({ resource, refused: object }) => full(resource, object));
    const [exit, said] = await kubectl(refused, 'create', '--dry-run=server', '--validate=false');
    expect(exit).toBe(1);
    for (const { says, alreadyRefused } of created) expect(said).toContain(alreadyRefused ?? says);
    expect(said).not.toContain('swordfish');
    const accepted = created.flatMap(({ resource, accepted: all }) => all.map((one) => full(resource, one)));
    expect((await kubectl(accepted, 'create', '--dry-run=server'))[0]).toBe(0);
  });
});

test('a DataVolume may have the claim of another one, and its own again', async () => {
  const spec = { source: { blank: {} }, storage: GI };
  const metadata = { name: 'owned' };
  const { uid } = (await store(DATA_VOLUMES, { metadata, spec })).metadata;
  const owner = { apiVersion: apiVersionOf(DATA_VOLUMES), kind: 'DataVolume', name: 'owned', uid, controller: true };
  await store(CLAIMS, {
    metadata: { ...metadata, ownerReferences: [owner] },
    spec: { accessModes: ['ReadWriteOnce'], ...GI },
  });
  await remove(DATA_VOLUMES, 'owned');
  expect((await create(DATA_VOLUMES, { metadata, spec })).status).toBe(201);
  await cluster.api.ask('PATCH', pathOf(CLAIMS, 'default', 'owned'), { metadata: { finalizers: null } });
  await remove(CLAIMS, 'owned');
});

test('an object whose name the API server makes up is one as any other', async () => {
  const metadata = { generateName: 'disk-' };
  const spec = { source: { blank: {} }, storage: GI };
  expect((await create(DATA_VOLUMES, { metadata: metadata as never, spec })).status).toBe(201);
  const without = await create(DATA_VOLUMES, { metadata: metadata as never, spec: { source: { blank: {} } } });
  expect(without.text).toContain('Missing Data volume PVC');
});

test('what a DataVolume had before there was a rule, it keeps', async () => {
  const path = WEBHOOKS.find(({ configuration }) => configuration === 'cdi-api-datavolume-validate');
  const at = pathOf(path?.kind as Resource<unknown>, undefined, path?.configuration);
  const none = { webhooks: [] };
  const before = await cluster.api.ask<{ webhooks: object[] }>('GET', at);
  await cluster.api.ask('PATCH', at, none);
  const spec = { source: { http: { url: 'https://user:swordfish@images.example/a' } }, storage: GI };
  const object = { metadata: { name: 'old', finalizers: ['example.org/a'] }, spec };
  await expect
    .poll(async () => (await create(DATA_VOLUMES, object as never, '')).status, { timeout: 10_000 })
    .toBe(201);
  await cluster.api.ask('PATCH', at, { webhooks: before.webhooks });
  await expect
    .poll(async () => (await create(DATA_VOLUMES, { ...object, metadata: { name: 'new' } })).status)
    .toBe(422);
  await remove(DATA_VOLUMES, 'old');
  const released = await answers.to('PATCH', pathOf(DATA_VOLUMES, 'default', 'old'), {
    metadata: { finalizers: null },
  });
  expect(released.status, released.text).toBe(200);
});

test('a transfer is told to be deprecated', async () => {
  const source = { kind: 'DataVolume', namespace: 'default', name: 'a' };
  const object = { metadata: { name: 'a' }, spec: { source, target: { name: 'b' } } };
  const answer = await create(OBJECT_TRANSFERS, object);
  expect(answer.status).toBe(201);
  expect(String(answer.headers.warning)).toContain('ObjectTransfer is deprecated');
});

describe('an installation that is guarded', () => {
  const guarded = { metadata: { name: 'cdi' }, spec: { uninstallStrategy: 'BlockUninstallIfWorkloadsExist' } };
  const uninstall = (version = 'v1beta1'): Promise<Answer> =>
    answers.to('DELETE', `/apis/cdi.kubevirt.io/${version}/cdis/cdi?dryRun=All`);
  beforeAll(async () => {
    await store(CDIS, { ...guarded, status: { phase: 'Deployed' } });
  });
  afterAll(async () => {
    await remove(CDIS, 'cdi');
  });

  test('goes when nothing is there but what is made again', async () => {
    const labels = { 'cdi.kubevirt.io/dataImportCron': 'fedora' };
    const cronned = { metadata: { name: 'cronned', labels }, spec: { source: { blank: {} }, storage: GI } };
    await store(DATA_VOLUMES, cronned);
    expect((await uninstall()).status).toBe(200);
    await remove(DATA_VOLUMES, 'cronned');
  });

  test('stays while there is a DataVolume, by whatever version of it', async () => {
    await store(DATA_VOLUMES, { metadata: { name: 'kept' }, spec: { source: { blank: {} }, storage: GI } });
    for (const version of ['v1beta1', 'v1alpha1']) {
      const answer = await uninstall(version);
      expect([answer.status, (JSON.parse(answer.text) as Status).message]).toEqual([
        422,
        expect.stringContaining('there are still 1 DataVolumes present: default/kept.'),
      ]);
    }
    await store(DATA_VOLUMES, { metadata: { name: 'kept-2' }, spec: { source: { blank: {} }, storage: GI } });
    expect((await uninstall()).text).toContain(
      'there are still 2 DataVolumes present (or more): default/kept, default/',
    );
    await remove(DATA_VOLUMES, 'kept');
    await remove(DATA_VOLUMES, 'kept-2');
    expect((await uninstall()).status).toBe(200);
  });
});

describe('a claim that its StorageProfile completes', () => {
  const label = { 'cdi.kubevirt.io/applyStorageProfile': 'true' };
  const claim = (spec: object, labels: object = label): Thing =>
    ({ metadata: { name: 'rendered', labels }, spec: { volumeMode: 'FromStorageProfile', ...GI, ...spec } }) as never;
  const made = async (spec: object): Promise<NonNullable<PersistentVolumeClaim['spec']>> => {
    const answer = await create(CLAIMS, claim(spec));
    expect(answer.status, answer.text).toBe(201);
    return JSON.parse(answer.text).spec;
  };
  beforeAll(async () => {
    for (const name of ['known', 'unknown'])
      await store(STORAGE_CLASSES, { metadata: { name }, provisioner: 'csi.example.com' });
    await store(STORAGE_PROFILES, { metadata: { name: 'known' }, spec: {} });
    const claimPropertySets = [
      { accessModes: ['ReadWriteMany'], volumeMode: 'Block' },
      { accessModes: ['ReadWriteOnce'], volumeMode: 'Filesystem' },
    ];
    await cluster.api.ask('PATCH', pathOf(STORAGE_PROFILES, undefined, 'known', 'status'), {
      status: { claimPropertySets },
    });
  });

  test('has the modes of the class as soon as the program has heard of it', async () => {
    const heard = async (): Promise<number> => (await create(CLAIMS, claim({ storageClassName: 'known' }))).status;
    await expect.poll(heard, { timeout: 10_000 }).toBe(201);
  });

  test('has the modes of the class', async () => {
    expect(await made({ storageClassName: 'known' })).toMatchObject({
      storageClassName: 'known',
      accessModes: ['ReadWriteMany'],
      volumeMode: 'Block',
      resources: { requests: { storage: '1Gi' } },
    });
  });

  test('keeps the modes that it has, and has room for a file system', async () => {
    const spec = await made({
      storageClassName: 'known',
      accessModes: ['ReadWriteOnce'],
      selector: { matchLabels: { a: 'b' } },
    });
    expect(spec).toMatchObject({
      accessModes: ['ReadWriteOnce'],
      volumeMode: 'Filesystem',
      selector: { matchLabels: { a: 'b' } },
    });
    expect(spec.resources?.requests?.storage).not.toBe('1Gi');
  });

  test('is refused where nobody knows its modes, with the remedy', async () => {
    const answer = await create(CLAIMS, claim({ storageClassName: 'unknown' }));
    expect([answer.status, answer.text]).toEqual([
      422,
      expect.stringContaining('no accessMode specified in StorageProfile unknown'),
    ]);
    expect(answer.text).toContain('PersistentVolumeClaim default/rendered');
  });

  test('is one without the label, or without the webhook, as Kubernetes takes it', async () => {
    const answer = await create(CLAIMS, claim({ storageClassName: 'known' }, {}));
    expect(answer.text).toContain('Unsupported value: \\"FromStorageProfile\\"');
    const plain = { accessModes: ['ReadWriteOnce'], storageClassName: 'known', volumeMode: 'Filesystem' };
    expect((await create(CLAIMS, claim(plain, {}))).text).toContain('"storage":"1Gi"');
    await store(CDI_CONFIGS, { metadata: { name: 'config' }, spec: { webhookPvcRendering: 'Disabled' } });
    const rendered = async (): Promise<boolean> =>
      !(await create(CLAIMS, claim(plain))).text.includes('"storage":"1Gi"');
    await expect.poll(rendered, { timeout: 10_000 }).toBe(false);
    await remove(CDI_CONFIGS, 'config');
    await expect.poll(rendered, { timeout: 10_000 }).toBe(true);
  });
});

test('the feature gate of the configuration lets DataVolumes take claims', async () => {
  await store(CLAIMS, { metadata: { name: 'mine' }, spec: { accessModes: ['ReadWriteOnce'], ...GI } });
  const spec = { featureGates: ['DataVolumeClaimAdoption'] };
  const wanted = { metadata: { name: 'mine' }, spec: { source: { http: { url: URL } }, storage: GI } };
  expect((await create(DATA_VOLUMES, wanted)).status).toBe(422);
  await store(CDI_CONFIGS, { metadata: { name: 'config' }, spec });
  await expect.poll(async () => (await create(DATA_VOLUMES, wanted)).status, { timeout: 10_000 }).toBe(201);
  await remove(CDI_CONFIGS, 'config');
});

test('the configuration says how the webhooks speak TLS, while they run', async () => {
  const old = (): Promise<string> => handshake(program.port, '-tls1_2');
  expect(await old()).toMatch(/^TLSv1\.2 /);
  const spec = { tlsSecurityProfile: { type: 'Modern', modern: {} } };
  await store(CDI_CONFIGS, { metadata: { name: 'config' }, spec });
  await expect.poll(old, { timeout: 10_000 }).toBe('refused');
  expect(await handshake(program.port)).toMatch(/^TLSv1\.3 /);
  await remove(CDI_CONFIGS, 'config');
  await expect.poll(old, { timeout: 10_000 }).toMatch(/^TLSv1\.2 /);
});

test('what cannot be looked at is not let through, and told', async () => {
  const role = '/apis/rbac.authorization.k8s.io/v1/clusterroles/cdi-apiserver';
  const before = await cluster.api.ask<{ rules: { resources: string[] }[] }>('GET', role);
  const rules = before.rules.filter((rule) => !rule.resources.includes('persistentvolumeclaims'));
  const wanted = { metadata: { name: 'any' }, spec: { source: { blank: {} }, storage: GI } };
  await cluster.api.ask('PATCH', role, { rules });
  await expect.poll(async () => (await create(DATA_VOLUMES, wanted)).status, { timeout: 10_000 }).toBe(500);
  const { text } = await create(DATA_VOLUMES, wanted);
  expect(text).toContain('it could not be looked at whether this is right: the API server answered 403');
  await cluster.api.ask('PATCH', role, { rules: before.rules });
  await expect.poll(async () => (await create(DATA_VOLUMES, wanted)).status, { timeout: 10_000 }).toBe(201);
});

test('one that is to end answers until nobody asks it any more', { timeout: 60_000 }, async () => {
  const wanted = { metadata: { name: 'any' }, spec: { source: { blank: {} }, storage: GI } };
  program.child.kill('SIGTERM');
  const from = performance.now();
  let count = 0;
  for (; performance.now() - from < 3000; count += 1) {
    expect((await create(DATA_VOLUMES, wanted)).status).toBe(201);
    await sleep(20);
  }
  expect(count).toBeGreaterThan(10);
  expect(await program.ended).toBe(0);
  expect((await create(DATA_VOLUMES, wanted)).status).toBe(500);
  // An installation that is guarded stays, also where nobody can look; another one goes.
  const BLOCK = 'BlockUninstallIfWorkloadsExist';
  for (const [spec, status, code] of [
    [{ uninstallStrategy: BLOCK }, { phase: 'Deployed' }, 500],
    [{ uninstallStrategy: BLOCK }, { phase: 'Error' }, 200],
    [{ uninstallStrategy: BLOCK }, undefined, 200],
    [{ uninstallStrategy: 'RemoveWorkloads' }, { phase: 'Deployed' }, 200],
    [{}, { phase: 'Deployed' }, 200],
  ] as const) {
    await store(CDIS, { metadata: { name: 'cdi' }, spec, ...(status ? { status } : {}) });
    const answer = await answers.to('DELETE', pathOf(CDIS, undefined, 'cdi'));
    expect([spec, status, answer.status]).toEqual([spec, status, code]);
    if (code === 500) {
      await cluster.api.ask('PATCH', pathOf(CDIS, undefined, 'cdi'), { spec: { uninstallStrategy: null } });
      await remove(CDIS, 'cdi');
    }
  }
});

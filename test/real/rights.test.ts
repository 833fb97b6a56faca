// A real API server with what deploy/ installs: the controller does its work with the rights that it has there, and has no other.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PersistentVolume, PersistentVolumeClaim, Pod } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { DataVolume } from '../../src/api/datavolume.ts';
import type { Stored } from '../../src/api/meta.ts';
import { type ApiServer, startApiServer } from '../support/apiserver.ts';
import { type ControllerProcess, startController } from '../support/controller-process.ts';
import { found } from '../support/found.ts';
import { handshake } from '../support/handshake.ts';
import { shell } from '../support/images.ts';
import { kubectlOf, type Manifest, rendered } from '../support/kubectl.ts';
import { tempdir } from '../support/tempdir.ts';
import { tool } from '../support/tools.ts';

interface Deployed extends Manifest {
  readonly spec: { readonly template: { readonly metadata: object; readonly spec: object } };
}

const NS = 'disks';
let home: Awaited<ReturnType<typeof tempdir>>;
let api: ApiServer;
let kubectl: Awaited<ReturnType<typeof kubectlOf>>;
let controller: ControllerProcess;

beforeAll(async () => {
  home = await tempdir();
  // Who sets blockOwnerDeletion must be allowed to change the owner's finalizers, as in OpenShift.
  api = await startApiServer(['--enable-admission-plugins=OwnerReferencesPermissionEnforcement']);
  kubectl = await kubectlOf(api, home.path);
  // As docs/install.md says.
  await kubectl('apply', '--server-side', '--validate=strict', '-k', 'deploy/crds');
  await kubectl('wait', '--for=condition=Established', '--timeout=50s', 'crd', '--all');
  await kubectl('apply', '--server-side', '--validate=strict', '-k', 'deploy');
  await kubectl('apply', '--server-side', '--validate=strict', '-k', 'deploy/egress');
  // Nobody answers them here.
  await kubectl('delete', 'validatingwebhookconfigurations,mutatingwebhookconfigurations', '--all');
  await api.ask('POST', '/api/v1/namespaces', { metadata: { name: NS } });
  // As a controller of Kubernetes makes it, which does not run here.
  await api.ask('POST', `/api/v1/namespaces/${NS}/serviceaccounts`, { metadata: { name: 'default' } });
  controller = await startController(api, 'first');
  await found(
    'readiness',
    20,
    async () => (await controller.probe('/readyz')).status === 200 || undefined,
    controller.said,
  );
}, 120_000);

afterAll(async () => {
  await controller?.[Symbol.asyncDispose]();
  await api?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

const merged = (path: string, patch: object): Promise<unknown> => api.ask('PATCH', path, patch);
const reader = (): Promise<string> => api.tokenOf('cdi', 'cdi-metrics-reader');
const claims = `/api/v1/namespaces/${NS}/persistentvolumeclaims`;
const look = <T>(path: string): Promise<T> => api.ask<T>('GET', path);
const waited = <T>(what: string, path: string, is: (object: T) => boolean): Promise<T> =>
  found(
    what,
    20,
    async () => {
      const object = await look<T>(path);
      return is(object) ? object : undefined;
    },
    controller.said as () => string,
  );

test('an import from the first object to the last is done without a right that is missing', async () => {
  await kubectl('wait', '--for=jsonpath={.status.phase}=Deployed', '--timeout=30s', 'cdi/cdi');
  await api.ask('POST', '/apis/storage.k8s.io/v1/storageclasses', {
    metadata: { name: 'fast' },
    provisioner: 'csi.example.org',
    volumeBindingMode: 'Immediate',
  });
  await api.ask('POST', '/apis/storage.k8s.io/v1/csidrivers', { metadata: { name: 'csi.example.org' }, spec: {} });
  await kubectl('wait', '--for=create', '--timeout=30s', 'storageprofile/fast');
  await api.ask('POST', `/apis/cdi.kubevirt.io/v1beta1/namespaces/${NS}/datavolumes`, {
    apiVersion: 'cdi.kubevirt.io/v1beta1',
    kind: 'DataVolume',
    metadata: { name: 'disk' },
    spec: {
      source: { http: { url: 'http://images.example.org/disk.qcow2' } },
      pvc: { accessModes: ['ReadWriteOnce'], storageClassName: 'fast', resources: { requests: { storage: '1Gi' } } },
    },
  });
  const target = await waited<Stored<PersistentVolumeClaim>>('the claim', `${claims}/disk`, () => true);
  const prime = `prime-${target.metadata.uid}`;
  const { metadata } = await waited<Stored<PersistentVolumeClaim>>(
    'the claim in its place',
    `${claims}/${prime}`,
    () => true,
  );
  // As the controllers of storage do it, which do not run here.
  const volume = { capacity: { storage: '1Gi' }, accessModes: ['ReadWriteOnce'], storageClassName: 'fast' };
  const claimRef = { kind: 'PersistentVolumeClaim', apiVersion: 'v1', namespace: NS, name: prime, uid: metadata.uid };
  await api.ask('POST', '/api/v1/persistentvolumes', {
    metadata: { name: 'volume' },
    spec: { ...volume, claimRef, csi: { driver: 'csi.example.org', volumeHandle: 'one' } },
  });
  await merged(`${claims}/${prime}`, { spec: { volumeName: 'volume' } });
  await merged(`${claims}/${prime}/status`, { status: { phase: 'Bound', capacity: volume.capacity } });
  const pods = `/api/v1/namespaces/${NS}/pods/importer-${prime}`;
  await waited<Pod>('the pod', pods, () => true);
  const container = { name: 'importer', image: 'i', imageID: '', ready: false };
  const running = { phase: 'Running', containerStatuses: [{ ...container, restartCount: 0, state: { running: {} } }] };
  await merged(`${pods}/status`, { status: running });
  const again = { phase: 'Running', containerStatuses: [{ ...container, restartCount: 2, state: { running: {} } }] };
  await merged(`${pods}/status`, { status: again });
  await waited<DataVolume>(
    'ImportInProgress',
    `/apis/cdi.kubevirt.io/v1beta1/namespaces/${NS}/datavolumes/disk`,
    ({ status }) => status?.phase === 'ImportInProgress' && status.restartCount === 2,
  );
  // As src/importer/report.ts ends: without it the pod has not filled its volume.
  const message = JSON.stringify({ scratchSpaceRequired: false, message: 'Import Complete' });
  const terminated = { exitCode: 0, reason: 'Completed', message };
  const over = { phase: 'Succeeded', containerStatuses: [{ ...container, restartCount: 2, state: { terminated } }] };
  await merged(`${pods}/status`, { status: over });
  await waited<PersistentVolume>(
    'the volume of the target',
    '/api/v1/persistentvolumes/volume',
    ({ spec }) => spec?.claimRef?.name === 'disk',
  );
  await merged(`${claims}/${prime}/status`, { status: { phase: 'Lost' } });
  await merged(`${claims}/disk`, { spec: { volumeName: 'volume' } });
  await merged(`${claims}/disk/status`, { status: { phase: 'Bound', capacity: volume.capacity } });
  await waited<DataVolume>(
    'Succeeded',
    `/apis/cdi.kubevirt.io/v1beta1/namespaces/${NS}/datavolumes/disk`,
    ({ status }) => status?.phase === 'Succeeded',
  );
  await found(
    'the end of the claim in its place',
    20,
    () =>
      look<Stored<PersistentVolumeClaim>>(`${claims}/${prime}`).then(
        (one) => (one.metadata.deletionTimestamp ? true : undefined),
        () => true,
      ),
    controller.said,
  );
  // Events are sent beside.
  await found(
    'an event',
    20,
    async () => (await kubectl('events', '-n', NS)).includes('Import Successful') || undefined,
    controller.said,
  );
  const { text } = await controller.metrics(await reader());
  expect(text).toMatch(/^diskferry_api_requests_total\{verb="patch",resource="persistentvolumes",code="200"\} 1$/m);
  expect(text).toMatch(
    // Once more where it is looked at again before the watch tells that it goes.
    /^diskferry_api_requests_total\{verb="delete",resource="persistentvolumeclaims",code="200"\} [12]$/m,
  );
  expect(text).not.toMatch(/code="403"/);
  expect(text).toMatch(/^diskferry_import_restarts_total 2$/m);
  expect(text).toMatch(/^diskferry_datavolumes\{phase="Succeeded"\} 1$/m);
  expect(controller.said()).not.toMatch(/forbidden/);
});

test('what nobody acts on says so, and an event says it once', async () => {
  interface Said {
    readonly metadata: { readonly uid: string; readonly resourceVersion: string };
    readonly status?: { readonly conditions?: { readonly type: string; readonly reason?: string }[] };
  }
  const cdi = `/apis/cdi.kubevirt.io/v1beta1/namespaces/${NS}`;
  const apiVersion = 'cdi.kubevirt.io/v1beta1';
  const registry = { url: 'docker://registry.example.org/golden' };
  const pvc = { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Gi' } } };
  await api.ask('POST', `${cdi}/dataimportcrons`, {
    apiVersion,
    kind: 'DataImportCron',
    metadata: { name: 'golden' },
    spec: {
      schedule: '@daily',
      managedDataSource: 'golden',
      template: { metadata: {}, spec: { source: { registry }, storage: pvc } },
    },
  });
  await api.ask('POST', `${cdi}/datasources`, {
    apiVersion,
    kind: 'DataSource',
    metadata: { name: 'golden' },
    spec: { source: { pvc: { namespace: NS, name: 'disk' } } },
  });
  await api.ask('POST', claims, {
    metadata: { name: 'uploaded', annotations: { 'cdi.kubevirt.io/storage.upload.target': '' } },
    spec: pvc,
  });
  const transfers = '/apis/cdi.kubevirt.io/v1beta1/objecttransfers';
  await api.ask('POST', transfers, {
    apiVersion,
    kind: 'ObjectTransfer',
    metadata: { name: 'move' },
    spec: { source: { kind: 'DataVolume', namespace: NS, name: 'disk' }, target: { name: 'other' } },
  });
  const isSaid = ({ status }: Said): boolean =>
    status?.conditions?.every(({ reason }) => reason === 'NotSupported') ?? false;
  const cron = await waited<Said>('the DataImportCron says it', `${cdi}/dataimportcrons/golden`, isSaid);
  expect(cron.status?.conditions?.map(({ type }) => type)).toEqual(['Progressing', 'UpToDate']);
  // API servers sort keys: what is compared with what is stored is not compared as text.
  for (const one of cron.status?.conditions ?? []) expect(Object.keys(one)).toEqual(Object.keys(one).sort());
  const source = await waited<Said>('the DataSource says it', `${cdi}/datasources/golden`, isSaid);
  await waited<Said>('the ObjectTransfer says it', `${transfers}/move`, (one) => !!one.status && isSaid(one));
  const running = 'cdi.kubevirt.io/storage.condition.running.reason';
  const claim = await waited<Stored<PersistentVolumeClaim>>(
    'the claim says it',
    `${claims}/uploaded`,
    ({ metadata }) => metadata.annotations?.[running] === 'NotSupported',
  );
  const about = [cron, source, claim].map(({ metadata }) => metadata.uid);
  interface Events {
    readonly items: { readonly involvedObject: { readonly uid: string }; readonly count?: number }[];
  }
  const told = async (): Promise<number[]> => {
    const { items } = await look<Events>(`/api/v1/namespaces/${NS}/events`);
    return about.map((uid) =>
      items.filter(({ involvedObject }) => involvedObject.uid === uid).reduce((sum, { count = 1 }) => sum + count, 0),
    );
  };
  await found('events', 20, async () => (await told()).every((n) => n > 0) || undefined, controller.said);
  // A change of anything else is seen, and changes nothing.
  const touched = await api.ask<Said>('PATCH', `${cdi}/dataimportcrons/golden`, {
    metadata: { labels: { touched: 'true' } },
  });
  await sleep(1000);
  expect((await look<Said>(`${cdi}/dataimportcrons/golden`)).metadata.resourceVersion).toBe(
    touched.metadata.resourceVersion,
  );
  expect(await told()).toEqual([1, 1, 1]);
  expect(controller.said()).not.toMatch(/forbidden/);
});

test('metrics are for who may read them: 401, 403, 200', async () => {
  expect((await controller.metrics()).status).toBe(401);
  expect((await controller.metrics('nobody-gave-this')).status).toBe(401);
  expect((await controller.metrics(await api.tokenOf(NS, 'default'))).status).toBe(403);
  const { status, text } = await controller.metrics(await reader());
  expect(status).toBe(200);
  await writeFile(join(home.path, 'page'), text);
  await shell(`${tool('promtool', 'prometheus')} check metrics < ${join(home.path, 'page')}`);
  for (const name of ['kubevirt_cdi_cr_ready 1', 'diskferry_controller_leads 1', 'kubevirt_cdi_datavolume_pending 0'])
    expect(text.split('\n')).toContain(name);
  expect(text).toMatch(/^kubevirt_cdi_storageprofile_info\{storageclass="fast",[^}]*\} 1$/m);
  // Of two watches.
  expect(text).toMatch(/^diskferry_controller_lists_total\{kind="events"\} 2$/m);
  expect(text).toMatch(/^diskferry_controller_lists_total\{kind="datavolumes"\} 1$/m);
  expect((await controller.metrics(await reader(), '/')).status).toBe(404);
});

test('the configuration says how TLS is spoken, while it runs', async () => {
  const old = (): Promise<string> => handshake(controller.metricsPort, '-tls1_2');
  expect(await old()).toMatch(/^TLSv1\.2 /);
  const cdi = '/apis/cdi.kubevirt.io/v1beta1/cdis/cdi';
  const speak = (tlsSecurityProfile: object | null): Promise<unknown> =>
    merged(cdi, { spec: { config: { tlsSecurityProfile } } });
  await speak({ type: 'Modern', modern: {} });
  await expect.poll(old, { timeout: 20_000 }).toBe('refused');
  expect((await controller.metrics(await reader())).status).toBe(200);
  await speak(null);
  await expect.poll(old, { timeout: 20_000 }).toMatch(/^TLSv1\.2 /);
}, 60_000);

test('one that does not act is ready, and tells nothing of the cluster that would be added up', async () => {
  await using second = await startController(api, 'second');
  await found('readiness', 20, async () => (await second.probe('/readyz')).status === 200 || undefined, second.said);
  expect((await second.probe('/healthz')).status).toBe(200);
  const { text } = await second.metrics(await reader());
  expect(text).toMatch(/^diskferry_controller_leads 0$/m);
  expect(text).not.toMatch(/^kubevirt_cdi_|^diskferry_datavolumes/m);
});

test('the pods of what is deployed are let into a namespace that lets in only what is restricted', async () => {
  const deployments = (await rendered<Deployed>('deploy')).filter(({ kind }) => kind === 'Deployment');
  expect(deployments.map(({ metadata: { name } }) => name)).toEqual(['cdi-apiserver', 'cdi-deployment']);
  for (const { spec } of deployments) {
    const pod = { metadata: { ...spec.template.metadata, name: 'tried' }, spec: spec.template.spec };
    await api.ask('POST', '/api/v1/namespaces/cdi/pods?dryRun=All', pod);
    const root = { ...pod, spec: { ...pod.spec, securityContext: {} } };
    await expect(api.ask('POST', '/api/v1/namespaces/cdi/pods?dryRun=All', root)).rejects.toThrow(
      'violates PodSecurity',
    );
  }
});

interface Asked {
  readonly resource: string;
  readonly namespace?: string;
  readonly group?: string;
  readonly subresource?: string;
  readonly name?: string;
}

async function may(account: string, verb: string, what: Asked): Promise<boolean> {
  const user = `system:serviceaccount:cdi:${account}`;
  const groups = ['system:serviceaccounts', 'system:serviceaccounts:cdi', 'system:authenticated'];
  const review = await api.ask<{ status: { allowed: boolean } }>(
    'POST',
    '/apis/authorization.k8s.io/v1/subjectaccessreviews',
    {
      apiVersion: 'authorization.k8s.io/v1',
      kind: 'SubjectAccessReview',
      spec: { user, groups, resourceAttributes: { verb, ...what } },
    },
  );
  return review.status.allowed;
}
const which = async (account: string, verbs: string, what: Asked): Promise<string> => {
  const found: string[] = [];
  for (const verb of verbs.split(' ')) if (await may(account, verb, what)) found.push(verb);
  return found.join(' ');
};
const ALL = 'get list watch create update patch delete deletecollection';

// CDI's own suite asks `kubectl auth can-i` these (cdi.md §14.1); where ours answer otherwise, docs/install.md says why.
test.each([
  ['events', 'get list watch create patch', ''],
  ['pods', 'get list watch create delete', ''],
  ['persistentvolumeclaims', 'get list watch create patch delete', 'update deletecollection'],
  ['secrets', '', 'create'],
])('what CDI may with %s: %s; and what only CDI may: %s', async (resource, ours, onlyTheirs) => {
  const allowed = await which('cdi-sa', ALL, { namespace: NS, resource });
  expect(allowed).toBe(ours);
  for (const verb of onlyTheirs.split(' ').filter(Boolean)) expect(allowed.split(' ')).not.toContain(verb);
});

test('the controller has no other right on what is of others', async () => {
  const none: Asked[] = [
    { namespace: 'cdi', resource: 'secrets' },
    { namespace: NS, resource: 'pods', subresource: 'exec' },
    { namespace: NS, resource: 'pods', subresource: 'log' },
    { namespace: NS, resource: 'pods', subresource: 'status' },
    { namespace: NS, resource: 'pods', subresource: 'eviction' },
    { namespace: NS, resource: 'serviceaccounts', subresource: 'token' },
    { resource: 'nodes' },
    { resource: 'namespaces' },
    { group: 'rbac.authorization.k8s.io', resource: 'clusterroles' },
    { group: 'apiextensions.k8s.io', resource: 'customresourcedefinitions' },
    { group: 'admissionregistration.k8s.io', resource: 'validatingwebhookconfigurations' },
    { group: 'apps', namespace: 'cdi', resource: 'deployments' },
  ];
  for (const what of none) expect(await which('cdi-sa', ALL, what), JSON.stringify(what)).toBe('');
  expect(await which('cdi-sa', ALL, { namespace: NS, resource: 'configmaps' })).toBe('create');
  expect(await which('cdi-sa', ALL, { namespace: 'cdi', resource: 'configmaps' })).toBe('get create');
  const group = 'coordination.k8s.io';
  expect(await which('cdi-sa', ALL, { namespace: 'cdi', group, resource: 'leases', name: 'of-others' })).toBe('create');
  expect(await which('cdi-sa', ALL, { namespace: NS, group, resource: 'leases' })).toBe('');
  expect(await which('cdi-sa', ALL, { resource: 'persistentvolumes' })).toBe('get list watch patch');
});

test('of what it only speaks of, the controller writes that and makes and deletes nothing', async () => {
  for (const resource of ['dataimportcrons', 'datasources'])
    expect(await which('cdi-sa', ALL, { group: 'cdi.kubevirt.io', namespace: NS, resource })).toBe(
      'get list watch patch',
    );
  const transfers = { group: 'cdi.kubevirt.io', resource: 'objecttransfers' };
  expect(await which('cdi-sa', ALL, transfers)).toBe('get list watch');
  for (const resource of ['volumeuploadsources', 'volumeclonesources'])
    expect(await which('cdi-sa', ALL, { group: 'cdi.kubevirt.io', namespace: NS, resource })).toBe('');
});

test('webhooks change their own certificates, and nothing else', async () => {
  const group = 'admissionregistration.k8s.io';
  const resource = 'validatingwebhookconfigurations';
  expect(await which('cdi-apiserver', ALL, { group, resource, name: 'cdi-api-validate' })).toBe('get patch');
  expect(await which('cdi-apiserver', ALL, { group, resource, name: 'of-others' })).toBe('');
  expect(await which('cdi-apiserver', ALL, { namespace: NS, resource: 'secrets' })).toBe('');
  expect(await which('cdi-apiserver', ALL, { namespace: 'cdi', resource: 'secrets', name: 'of-others' })).toBe(
    'create',
  );
  expect(await which('cdi-metrics-reader', ALL, { namespace: 'cdi', resource: 'pods' })).toBe('');
});

test('users have CDI’s kinds with their roles', async () => {
  for (const role of ['admin', 'edit', 'view']) {
    const { rules } = await look<{ rules: { apiGroups: string[] }[] }>(
      `/apis/rbac.authorization.k8s.io/v1/clusterroles/cdi.kubevirt.io:${role}`,
    );
    expect(rules.length).toBeGreaterThan(0);
  }
  // Of whoever has logged in.
  expect(await which('nobody', ALL, { group: 'cdi.kubevirt.io', resource: 'cdiconfigs' })).toBe('get list watch');
  expect(await which('nobody', ALL, { group: 'cdi.kubevirt.io', namespace: NS, resource: 'datavolumes' })).toBe('');
});

test('while the API server does not answer, one that waits is alive and ready, and lets nobody in', async () => {
  await using second = await startController(api, 'second');
  await found('readiness', 20, async () => (await second.probe('/readyz')).status === 200 || undefined, second.said);
  const token = await reader();
  api.pause();
  try {
    const asked = await Promise.all(Array.from({ length: 12 }, () => second.metrics(token)));
    expect(asked.map(({ status }) => status)).toEqual(Array.from({ length: 12 }, () => 503));
    expect(asked.filter(({ text }) => text.includes('too many')).length).toBe(4);
    expect((await second.probe('/healthz')).status).toBe(200);
    expect((await second.probe('/readyz')).status).toBe(200);
  } finally {
    api.resume();
  }
  await found('metrics', 30, async () => (await second.metrics(token)).status === 200 || undefined, second.said);
}, 60_000);

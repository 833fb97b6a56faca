// What controllers ask of an API server: the object that they mean and no other, and answers that can be told apart.
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ConfigMap, PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import type { Stored } from '../../src/api/meta.ts';
import { CLAIMS, CONFIG_MAPS, type Resource } from '../../src/api/resource.ts';
import { Kube, type KubeError, type Target, type Written } from '../../src/kube/client.ts';
import { inCluster } from '../../src/kube/in-cluster.ts';
import { authority } from '../../src/pki/authority.ts';
import { FaultProxy } from '../faults/proxy.ts';
import { type ApiServer, startApiServer } from '../support/apiserver.ts';
import { freePort, nginx } from '../support/nginx.ts';
import { tempdir } from '../support/tempdir.ts';

const HOUR = 3_600_000;

interface Thing extends Written {
  readonly spec?: { readonly color?: string };
  readonly status?: { readonly phase?: string };
}
const THINGS: Resource<Thing> = {
  group: 'test.diskferry',
  version: 'v1',
  plural: 'things',
  kind: 'Thing',
  namespaced: true,
};

let api: ApiServer;
let kube: Kube;

beforeAll(async () => {
  api = await startApiServer();
  kube = new Kube(api.access);
  const object = { type: 'object', 'x-kubernetes-preserve-unknown-fields': true };
  const schema = { openAPIV3Schema: { type: 'object', properties: { spec: object, status: object } } };
  await api.ask('POST', '/apis/apiextensions.k8s.io/v1/customresourcedefinitions', {
    metadata: { name: 'things.test.diskferry' },
    spec: {
      group: THINGS.group,
      names: { plural: 'things', kind: 'Thing' },
      scope: 'Namespaced',
      versions: [{ name: 'v1', served: true, storage: true, schema, subresources: { status: {} } }],
    },
  });
  await vi.waitFor(() => kube.list(THINGS, {}, { limit: 1 }), { timeout: 20_000, interval: 100 });
}, 60_000);

afterAll(async () => {
  await kube?.[Symbol.asyncDispose]();
  await api?.[Symbol.asyncDispose]();
});

afterEach(() => {
  vi.useRealTimers();
});

const refused = (promise: Promise<unknown>): Promise<KubeError> =>
  promise.then(
    () => expect.unreachable('it was not refused'),
    (error: KubeError) => error,
  );
const configMap = (name: string, data: Record<string, string> = {}): Promise<Stored<ConfigMap>> =>
  kube.create(CONFIG_MAPS, { metadata: { namespace: 'default', name }, data });
const targetOf = ({ metadata: { namespace, name, uid } }: Stored<Written>): Target => ({ namespace, name, uid });

describe('an object of the same name that is another one', () => {
  for (const resource of [CONFIG_MAPS, CLAIMS, THINGS] as Resource<Written>[]) {
    test(`is not changed and not deleted: ${resource.kind}`, async () => {
      const spec = { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Mi' } } };
      const wanted: Written = {
        metadata: { namespace: 'default', name: 'again' },
        ...(resource === CONFIG_MAPS ? {} : { spec }),
      };
      const first = await kube.create(resource, wanted);
      await kube.delete(resource, targetOf(first));
      // A controller, which does not run here, would end the protection of claims.
      await kube.patch(resource, targetOf(first), { metadata: { finalizers: null } }).catch(() => undefined);
      const second = await kube.create(resource, wanted);
      const annotations = { own: 'x' };
      const operations = [{ op: 'add', path: '/metadata/annotations', value: annotations }];
      const target = targetOf(first);
      const patches = [
        () => kube.patch(resource, target, { metadata: { annotations } }),
        () => kube.patch(resource, target, operations, { type: 'json' }),
        // API servers do not look at the uid in the status of custom resources.
        () => kube.patch(resource, target, { status: { phase: 'Bound' } }, { part: 'status' }),
      ];
      for (const patch of resource === CONFIG_MAPS ? patches.slice(0, 2) : patches) {
        const error = await refused(patch());
        expect([error.name, error.status, error.reason]).toEqual(['KubeError', 409, 'Conflict']);
        expect(error.message).toContain(`its uid is ${second.metadata.uid}, not ${first.metadata.uid}`);
      }
      // The one that was meant is gone.
      await kube.delete(resource, targetOf(first));
      expect(await kube.get(resource, 'default', 'again')).toEqual(second);
    });
  }
});

test('a version that is not the latest is not changed and not deleted', async () => {
  const first = await configMap('versions');
  const later = await kube.patch(CONFIG_MAPS, targetOf(first), { data: { a: '1' } });
  const old = { ...targetOf(first), resourceVersion: first.metadata.resourceVersion };
  for (const attempt of [
    () => kube.patch(CONFIG_MAPS, old, { data: { a: '2' } }),
    () => kube.patch(CONFIG_MAPS, old, [{ op: 'add', path: '/data/a', value: '2' }], { type: 'json' }),
    () => kube.delete(CONFIG_MAPS, old),
  ]) {
    expect(await refused(attempt())).toMatchObject({ status: 409, reason: 'Conflict' });
  }
  expect(await kube.get(CONFIG_MAPS, 'default', 'versions')).toEqual(later);
  const latest = { ...old, resourceVersion: later.metadata.resourceVersion };
  expect((await kube.patch(CONFIG_MAPS, latest, { data: { a: '3' } })).data).toEqual({ a: '3' });
});

test('what is wrong for another reason stays what it is', async () => {
  const object = await configMap('wrong');
  const test = [{ op: 'test', path: '/data', value: { other: '1' } }];
  expect(await refused(kube.patch(CONFIG_MAPS, targetOf(object), test, { type: 'json' }))).toMatchObject({
    status: 422,
  });
  expect(await refused(kube.patch(CONFIG_MAPS, targetOf(object), { data: { a: 1 } }))).toMatchObject({
    status: 422,
    reason: 'Invalid',
  });
  const gone = { namespace: 'default', name: 'none', uid: object.metadata.uid };
  expect(await refused(kube.patch(CONFIG_MAPS, gone, { data: {} }))).toMatchObject({ status: 404, reason: 'NotFound' });
  expect(await refused(configMap('wrong'))).toMatchObject({ status: 409, reason: 'AlreadyExists' });
  expect(await kube.get(CONFIG_MAPS, 'default', 'none')).toBeUndefined();
  await kube.delete(CONFIG_MAPS, gone);
});

test('a patch of the status leaves the rest, and the other way round', async () => {
  const object = await kube.create(THINGS, {
    metadata: { namespace: 'default', name: 'parts' },
    spec: { color: 'red' },
  });
  const patch = { spec: { color: 'green' }, status: { phase: 'Succeeded' } };
  const status = await kube.patch(THINGS, targetOf(object), patch, { part: 'status' });
  expect([status.spec, status.status]).toEqual([{ color: 'red' }, { phase: 'Succeeded' }]);
  const whole = await kube.patch(THINGS, targetOf(object), { spec: { color: 'green' }, status: null });
  expect([whole.spec, whole.status]).toEqual([{ color: 'green' }, { phase: 'Succeeded' }]);
});

test('a status that many change at once is changed by all', async () => {
  const object = await kube.create(THINGS, { metadata: { namespace: 'default', name: 'busy' } });
  const names = ['a', 'b', 'c'];
  await Promise.all(
    names.map((key) => kube.patch(THINGS, targetOf(object), { status: { [key]: '1' } }, { part: 'status' })),
  );
  expect((await kube.get(THINGS, 'default', 'busy'))?.status).toEqual({ a: '1', b: '1', c: '1' });
  const gone = { ...targetOf(object), name: 'none' };
  expect(await refused(kube.patch(THINGS, gone, { status: {} }, { part: 'status' }))).toMatchObject({ status: 404 });
});

test('a status is patched at the version that was seen without asking, and at the latest where that is another', async () => {
  const asked: string[] = [];
  await using counted = new Kube(api.access);
  const object = await kube.create(THINGS, { metadata: { namespace: 'default', name: 'seen' } });
  counted.asked = ({ verb }, status) => void asked.push(`${verb} ${status}`);
  const patch = (phase: string): Promise<Stored<Thing>> => {
    const target = { ...targetOf(object), seen: object.metadata.resourceVersion };
    return counted.patch(THINGS, target, { status: { phase } }, { part: 'status' });
  };
  expect((await patch('Pending')).status).toEqual({ phase: 'Pending' });
  expect(asked).toEqual(['patch 200']);
  expect((await patch('Bound')).status).toEqual({ phase: 'Bound' });
  expect(asked.slice(1)).toEqual(['patch 409', 'get 200', 'patch 200']);
  await kube.delete(THINGS, targetOf(object));
  await kube.create(THINGS, { metadata: { namespace: 'default', name: 'seen' } });
  expect(await refused(patch('Lost'))).toMatchObject({ status: 409, reason: 'Conflict' });
});

test('a deletion that has to wait says so on the object, and is as asked for', async () => {
  const made = await kube.create(CLAIMS, {
    metadata: { namespace: 'default', name: 'waits', finalizers: ['test.diskferry/wait'] },
    spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Mi' } } },
  });
  const going = await kube.delete(CLAIMS, targetOf(made), { propagation: 'Foreground', gracePeriodSeconds: 5 });
  expect(going?.metadata.deletionTimestamp).toBeDefined();
  const { metadata } = (await kube.get(CLAIMS, 'default', 'waits')) as Stored<PersistentVolumeClaim>;
  expect(metadata.deletionTimestamp).toBeDefined();
  expect(metadata.finalizers).toContain('foregroundDeletion');
  await kube.delete(CLAIMS, targetOf(made));
  await kube.patch(CLAIMS, targetOf(made), { metadata: { finalizers: null } });
  expect(await kube.get(CLAIMS, 'default', 'waits')).toBeUndefined();
  expect(await kube.delete(CONFIG_MAPS, targetOf(await configMap('at-once')))).toBeUndefined();
});

test('a page that is too large is asked for in smaller ones, and nothing is left out', async () => {
  await api.ask('POST', '/api/v1/namespaces', { metadata: { name: 'large' } });
  const data = { blob: 'x'.repeat(900_000) };
  for (let n = 0; n < 24; n += 1) {
    const metadata = { namespace: 'large', name: `large-${String(n).padStart(2, '0')}`, labels: { large: '' } };
    await kube.create(CONFIG_MAPS, { metadata, data });
  }
  const names: string[] = [];
  const sizes: number[] = [];
  let next: string | undefined;
  let limit = 24;
  do {
    const page = await kube.list(CONFIG_MAPS, { namespace: 'large', labelSelector: 'large' }, { limit, next });
    names.push(...page.items.map(({ metadata }) => metadata.name));
    sizes.push(page.items.length);
    // As `get` has them, which lists of API servers leave out.
    expect(page.items[0]).toMatchObject({ apiVersion: 'v1', kind: 'ConfigMap' });
    ({ next, limit } = page);
  } while (next !== undefined);
  expect(sizes).toEqual([6, 6, 6, 6]);
  expect(names).toEqual(Array.from({ length: 24 }, (_, n) => `large-${String(n).padStart(2, '0')}`));
}, 60_000);

test('names that a user chose stay one part of the path', async () => {
  expect(await kube.get(CONFIG_MAPS, 'default', '../secrets?x=#')).toBeUndefined();
});

test('a user who may not is told so, by a certificate too', async () => {
  await using stranger = new Kube(api.stranger);
  const error = await refused(stranger.get(CONFIG_MAPS, 'default', 'a'));
  expect(error).toMatchObject({ status: 403, reason: 'Forbidden' });
  expect(error.message).toContain('User "stranger" cannot get resource "configmaps"');
  await using nobody = new Kube({ ...api.access, token: async () => 'wrong' });
  expect(await refused(nobody.get(CONFIG_MAPS, 'default', 'a'))).toMatchObject({ status: 401, reason: 'Unauthorized' });
});

test('no answer is a status of 0, and says why', async () => {
  await using none = new Kube({ ...api.access, url: `https://127.0.0.1:${await freePort()}` });
  expect(await refused(none.get(CONFIG_MAPS, 'default', 'a'))).toMatchObject({ status: 0, reason: '' });
  const other = await authority('another', HOUR);
  await using mistrusted = new Kube({ ...api.access, ca: other.certificate });
  const error = await refused(mistrusted.get(CONFIG_MAPS, 'default', 'a'));
  expect([error.status, error.message]).toEqual([
    0,
    expect.stringMatching(/the API server cannot be reached: .*(certificate|signature)/),
  ]);
});

test('what stands before an API server may answer what it likes', async () => {
  await using home = await tempdir();
  const locations = [
    'location /api/v1/namespaces/a/ { return 503 "<html>busy</html>"; add_header Retry-After "Wed, 21 Oct 2026 07:28:00 GMT" always; }',
    'location /api/v1/namespaces/b/ { default_type application/json; return 200 "{"; }',
    'location /api/v1/namespaces/c/ { default_type application/json; return 429 "null"; add_header Retry-After 7 always; }',
  ];
  await using server = await nginx({ root: home.path, server: locations.join('\n') });
  await using behind = new Kube({ ...api.access, url: server.url });
  const [a, b, c] = await Promise.all(['a', 'b', 'c'].map((space) => refused(behind.get(CONFIG_MAPS, space, 'x'))));
  expect([a?.status, a?.retryAfter, a?.message]).toEqual([503, undefined, 'the API server answered 503']);
  expect([b?.status, b?.message]).toEqual([0, expect.stringContaining('no JSON')]);
  expect([c?.status, c?.retryAfter]).toEqual([429, 7]);
});

test('what is aborted ends at once with its reason, on a connection or on the way to one', async () => {
  await using proxy = await FaultProxy.start({ port: api.port }, { stall: 0 });
  await using far = new Kube({ ...api.access, url: `https://127.0.0.1:${proxy.port}` });
  const reason = new Error('enough');
  for (const faults of [{ stall: 0 }, { stall: 5000 }]) {
    proxy.faults = faults;
    const stop = new AbortController();
    const asked = refused(far.list(CONFIG_MAPS, {}, { limit: 500 }, stop.signal));
    await sleep(300);
    const begun = performance.now();
    stop.abort(reason);
    expect(await asked).toBe(reason);
    expect(performance.now() - begun).toBeLessThan(100);
  }
});

test('what may not be written any more is not sent', async () => {
  await using own = new Kube(api.access);
  const object = await configMap('guarded');
  own.guard = () => {
    throw new Error('not any more');
  };
  for (const attempt of [
    () => own.create(CONFIG_MAPS, { metadata: { namespace: 'default', name: 'more' } }),
    () => own.patch(CONFIG_MAPS, targetOf(object), { data: { a: '1' } }),
    () => own.delete(CONFIG_MAPS, targetOf(object)),
  ]) {
    expect((await refused(attempt())).message).toContain('not any more');
  }
  expect(await own.get(CONFIG_MAPS, 'default', 'guarded')).toEqual(object);
});

describe('in a pod', () => {
  test('the files are read again after a minute, and a failure is no end', async () => {
    await using home = await tempdir();
    const account = join(home.path, 'var/run/secrets/kubernetes.io/serviceaccount');
    await mkdir(account, { recursive: true });
    const put = (name: string, text: string): Promise<void> => writeFile(join(account, name), text);
    await Promise.all([put('token', 'one\n'), put('ca.crt', 'CA'), put('namespace', 'cdi')]);
    vi.useFakeTimers({ toFake: ['performance'] });
    const env = { KUBERNETES_SERVICE_HOST: 'fd00::1', KUBERNETES_SERVICE_PORT: '6443', DISKFERRY_ROOT: home.path };
    const { url, token, namespace } = inCluster(env);
    expect([url, await token?.(), await namespace()]).toEqual(['https://[fd00::1]:6443', 'one', 'cdi']);
    await put('token', 'two');
    vi.advanceTimersByTime(59_000);
    expect(await token?.()).toBe('one');
    vi.advanceTimersByTime(2000);
    expect(await token?.()).toBe('two');
    await rm(join(account, 'token'));
    vi.advanceTimersByTime(61_000);
    const error = await refused(token?.() ?? Promise.resolve());
    expect([error.name, error.message]).toEqual([
      'KubeError',
      expect.stringContaining(`${account}/token cannot be read`),
    ]);
    await put('token', 'three');
    expect(await token?.()).toBe('three');
    expect(() => inCluster({})).toThrow('KUBERNETES_SERVICE_HOST is not set');
  });

  test('a client goes on when the authority and the certificate of the API server are replaced', async () => {
    await using home = await tempdir();
    const file = join(home.path, 'ca.crt');
    await writeFile(file, api.ca);
    await using long = new Kube({ ...api.access, ca: () => readFile(file, 'utf8') });
    await configMap('replaced');
    expect(await long.get(CONFIG_MAPS, 'default', 'replaced')).toBeDefined();
    const next = await authority('the next', HOUR);
    await api.restart(async () => undefined, next);
    expect(await refused(long.get(CONFIG_MAPS, 'default', 'replaced'))).toMatchObject({ status: 0 });
    await writeFile(file, next.certificate);
    expect(await long.get(CONFIG_MAPS, 'default', 'replaced')).toBeDefined();
  }, 30_000);
});

// Events of a real API server: told once, counted when they come again, and nobody's trouble when they cannot be told.
import type { ConfigMap, Event } from 'kubernetes-types/core/v1.js';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import type { Stored } from '../../src/api/meta.ts';
import { CONFIG_MAPS, EVENTS, STORAGE_CLASSES } from '../../src/api/resource.ts';
import { Kube } from '../../src/kube/client.ts';
import { Recorder } from '../../src/kube/recorder.ts';
import { FaultProxy } from '../faults/proxy.ts';
import { type ApiServer, startApiServer } from '../support/apiserver.ts';

const REPORTER = { component: 'import-controller', instance: 'cdi-deployment-0' };

let api: ApiServer;
let kube: Kube;

beforeAll(async () => {
  api = await startApiServer();
  kube = new Kube(api.access);
}, 60_000);

afterAll(async () => {
  await kube?.[Symbol.asyncDispose]();
  await api?.[Symbol.asyncDispose]();
});

afterEach(() => {
  vi.useRealTimers();
});

const configMap = (name: string, namespace = 'default'): Promise<Stored<ConfigMap>> =>
  kube.create(CONFIG_MAPS, { metadata: { namespace, name } });

async function eventsOf({ metadata }: Stored<ConfigMap>): Promise<readonly Stored<Event>[]> {
  const namespace = metadata.namespace ?? 'default';
  const selection = { namespace, fieldSelector: `involvedObject.uid=${metadata.uid}` };
  const { items } = await kube.list(EVENTS, selection, { limit: 500 });
  return [...items].sort((a, b) => Number(a.metadata.resourceVersion) - Number(b.metadata.resourceVersion));
}

test('what happens again is counted, and other things are told apart', async () => {
  const object = await configMap('counted');
  {
    await using recorder = new Recorder(kube, REPORTER);
    recorder.event(object, 'Normal', 'Pending', 'PVC a Pending');
    await vi.waitFor(async () => expect(await eventsOf(object)).toHaveLength(1));
    for (let times = 0; times < 4; times += 1) recorder.event(object, 'Normal', 'Pending', 'PVC a Pending');
    recorder.event(object, 'Normal', 'Bound', 'PVC a Bound');
    recorder.event(object, 'Warning', 'Bound', 'PVC a Bound');
    recorder.event(object, 'Normal', 'Pending', 'PVC a Pending');
  }
  const events = await eventsOf(object);
  expect(events.map(({ type, reason, count }) => [type, reason, count]).sort()).toEqual([
    ['Normal', 'Bound', 1],
    ['Normal', 'Pending', 6],
    ['Warning', 'Bound', 1],
  ]);
  const pending = events.find(({ reason }) => reason === 'Pending');
  expect(pending).toMatchObject({
    message: 'PVC a Pending',
    involvedObject: {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      namespace: 'default',
      name: 'counted',
      uid: object.metadata.uid,
    },
    source: { component: 'import-controller' },
    reportingComponent: 'import-controller',
    reportingInstance: 'cdi-deployment-0',
  });
  expect(pending?.metadata.name).toMatch(/^counted\.[0-9a-f]{16}$/);
  const seconds = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;
  expect([pending?.firstTimestamp, pending?.lastTimestamp].every((time) => seconds.test(time ?? ''))).toBe(true);
});

test('ten minutes later it is another event', async () => {
  const object = await configMap('later');
  vi.useFakeTimers({ toFake: ['Date'] });
  {
    await using recorder = new Recorder(kube, REPORTER);
    for (const minutes of [0, 9, 9, 11]) {
      vi.setSystemTime(Date.now() + minutes * 60_000);
      recorder.event(object, 'Normal', 'Pending', 'again');
    }
  }
  expect((await eventsOf(object)).map(({ count }) => count).sort()).toEqual([1, 3]);
});

test('an event that the API server has forgotten is made again, with what it counted', async () => {
  const object = await configMap('forgotten');
  {
    await using recorder = new Recorder(kube, REPORTER);
    recorder.event(object, 'Normal', 'Pending', 'again');
    await vi.waitFor(async () => expect(await eventsOf(object)).toHaveLength(1));
    const [event] = await eventsOf(object);
    if (event) await kube.delete(EVENTS, event.metadata);
    recorder.event(object, 'Normal', 'Pending', 'again');
  }
  expect((await eventsOf(object)).map(({ count }) => count)).toEqual([2]);
});

test('of what has no namespace, and of names and messages of any length', async () => {
  const provisioner = 'kubernetes.io/no-provisioner';
  const shared = await kube.create(STORAGE_CLASSES, { metadata: { name: 'shared' }, provisioner });
  const long = await configMap(`${'x'.repeat(235)}.${'y'.repeat(10)}`);
  {
    await using recorder = new Recorder(kube, REPORTER);
    recorder.event(shared, 'Warning', 'ErrClaimNotValid', 'kurz');
    recorder.event(long, 'Warning', 'ErrClaimNotValid', `x${'ü€'.repeat(1000)}`);
    recorder.event(long, 'Warning', 'Whole', 'x'.repeat(1024));
    expect(recorder.dropped).toBe(0);
  }
  const selection = { namespace: 'default', fieldSelector: 'involvedObject.kind=StorageClass' };
  expect((await kube.list(EVENTS, selection, { limit: 10 })).items).toHaveLength(1);
  const [cut, whole] = await eventsOf(long);
  expect(Buffer.byteLength(cut?.message ?? '')).toBeGreaterThan(1015);
  expect(Buffer.byteLength(cut?.message ?? '')).toBeLessThanOrEqual(1024);
  expect(cut?.message).toMatch(/^x(ü€)+ü?…$/);
  expect(whole?.message).toHaveLength(1024);
});

test('where it is not allowed it is dropped, and the next one is told', async () => {
  const object = await configMap('dropped');
  const gone = { ...object, metadata: { ...object.metadata, namespace: 'there-is-none', uid: 'other' } };
  const recorder = new Recorder(kube, REPORTER);
  recorder.event(gone, 'Normal', 'Pending', 'a');
  recorder.event(object, 'Normal', 'Pending', 'b');
  await recorder[Symbol.asyncDispose]();
  recorder.event(object, 'Normal', 'Pending', 'after the end');
  expect((await eventsOf(object)).map(({ message }) => message)).toEqual(['b']);
  expect(recorder.dropped).toBe(2);
});

test('an API server that went away for a while is told of later, and one that stays away holds up no end', async () => {
  await using proxy = await FaultProxy.start({ port: api.port });
  await using far = new Kube({ ...api.access, url: `https://127.0.0.1:${proxy.port}` });
  const object = await configMap('away');
  const recorder = new Recorder(far, REPORTER);
  proxy.faults = { cut: 1, connections: 2 };
  recorder.event(object, 'Normal', 'Pending', 'late');
  await vi.waitFor(async () => expect(await eventsOf(object)).toHaveLength(1), { timeout: 10_000 });
  proxy.faults = { stall: 0 };
  proxy.cutAll();
  for (let n = 0; n < 2000; n += 1) recorder.event(object, 'Normal', 'Pending', `never ${n}`);
  const begun = performance.now();
  await recorder[Symbol.asyncDispose]();
  expect(performance.now() - begun).toBeLessThan(6000);
  // A thousand wait at most.
  expect(recorder.dropped).toBe(2000);
  expect(await eventsOf(object)).toHaveLength(1);
}, 40_000);

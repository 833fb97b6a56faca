// What is known of a cluster's objects is what there is, whatever the network and the API server do; and one list is enough.
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ConfigMap } from 'kubernetes-types/core/v1.js';
import { Agent, request } from 'undici';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { keyOf, type Stored } from '../../src/api/meta.ts';
import { CONFIG_MAPS, type Resource } from '../../src/api/resource.ts';
import { Cache, type Change } from '../../src/kube/cache.ts';
import {
  type ApiServer as Access,
  Kube,
  type KubeError,
  type Page,
  type Selection,
  type Written,
} from '../../src/kube/client.ts';
import { Reflector, type ReflectorOptions } from '../../src/kube/reflector.ts';
import { FaultProxy } from '../faults/proxy.ts';
import { type ApiServer, startApiServer } from '../support/apiserver.ts';
import { freePort, nginx } from '../support/nginx.ts';
import { tempdir } from '../support/tempdir.ts';

/** At length: SECONDS=600. */
const SECONDS = Number(process.env.SECONDS ?? 12);
const COUNT = 5000;

let api: ApiServer;
/** Asks without faults. */
let kube: Kube;

beforeAll(async () => {
  api = await startApiServer();
  kube = new Kube(api.access);
}, 60_000);

afterAll(async () => {
  await kube?.[Symbol.asyncDispose]();
  await api?.[Symbol.asyncDispose]();
});

let namespace: string;
let tests = 0;
beforeEach(async () => {
  tests += 1;
  namespace = `test-${tests}`;
  await api.ask('POST', '/api/v1/namespaces', { metadata: { name: namespace } });
});

type Object = Stored<ConfigMap>;

const write = (name: string, data: Record<string, string> = {}, labels: Record<string, string> = {}): Promise<Object> =>
  kube.create(CONFIG_MAPS, { metadata: { namespace, name, labels }, data });
const patch = (object: Object, value: string): Promise<Object> => {
  const { uid, name } = object.metadata;
  return kube.patch(CONFIG_MAPS, { namespace, name, uid }, { data: { value } });
};
const remove = ({ metadata: { name, uid } }: Object): Promise<unknown> =>
  kube.delete(CONFIG_MAPS, { namespace, name, uid });

/** Some at a time. */
async function each<T>(items: Iterable<T>, work: (item: T) => Promise<unknown>): Promise<void> {
  const rest = items[Symbol.iterator]();
  const worker = async (): Promise<void> => {
    for (let next = rest.next(); !next.done; next = rest.next()) await work(next.value);
  };
  await Promise.all(Array.from({ length: 16 }, worker));
}

/** All there is of the namespace, asked for at once. */
async function direct(selection: Selection = { namespace }): Promise<Map<string, Object>> {
  const found = new Map<string, Object>();
  let next: string | undefined;
  do {
    const page: Page<ConfigMap> = await kube.list(CONFIG_MAPS, selection, { limit: 2000, next });
    for (const { metadata, ...rest } of page.items) {
      const { managedFields: _, ...kept } = metadata;
      found.set(keyOf({ metadata }), { ...rest, metadata: kept });
    }
    next = page.next;
  } while (next !== undefined);
  return found;
}

interface Followed extends AsyncDisposable {
  readonly kube: Kube;
  readonly cache: Cache<ConfigMap>;
  readonly reflector: Reflector<ConfigMap>;
  readonly failures: readonly KubeError[];
  /** What listeners know. */
  readonly mirror: ReadonlyMap<string, Object>;
  /** Waits until the cache and its listeners know what there is. */
  agrees(within?: number): Promise<void>;
}

const open: Followed[] = [];
afterEach(async () => {
  for (const one of open.splice(0)) await one[Symbol.asyncDispose]();
});

async function follow(
  access: Access,
  options: ReflectorOptions<ConfigMap> = {},
  client = new Kube(access),
): Promise<Followed> {
  const cache = new Cache<ConfigMap>();
  const failures: KubeError[] = [];
  const failed = (error: unknown): void => void failures.push(error as KubeError);
  const selection = { namespace, ...options };
  const reflector = new Reflector(client, CONFIG_MAPS, cache, { failed, ...selection });
  const mirror = new Map<string, Object>();
  const wrong: string[] = [];
  cache.watch(({ before, after }: Change<ConfigMap>) => {
    const key = keyOf((after ?? before) as Object);
    // Each change begins where the one before ended: none is lost or told twice.
    if (mirror.get(key)?.metadata.resourceVersion !== before?.metadata.resourceVersion) wrong.push(key);
    if (after) mirror.set(key, after);
    else mirror.delete(key);
  });
  const end = new AbortController();
  const running = reflector.run(end.signal);
  const followed = {
    kube: client,
    cache,
    reflector,
    failures,
    mirror,
    async agrees(within = 20_000) {
      const wanted = await direct(selection);
      const known = (): Map<string, Object> => new Map([...cache.list()].map((object) => [keyOf(object), object]));
      await vi.waitFor(() => expect(known()).toEqual(wanted), { timeout: within, interval: 50 });
      expect(new Map(mirror)).toEqual(wanted);
      expect(wrong).toEqual([]);
    },
    async [Symbol.asyncDispose]() {
      end.abort();
      await running;
      await client[Symbol.asyncDispose]();
    },
  };
  open.push(followed);
  return followed;
}

/** Through a faulty network. */
async function faulty(options: ReflectorOptions<ConfigMap> = {}): Promise<{ proxy: FaultProxy; followed: Followed }> {
  const proxy = await FaultProxy.start({ port: api.port });
  return { proxy, followed: await follow({ ...api.access, url: `https://127.0.0.1:${proxy.port}` }, options) };
}

/** Writes, changes and deletes, one a few milliseconds, until it is told to stop. */
async function bustle(objects: Object[], signal: AbortSignal): Promise<number> {
  let writes = 0;
  while (!signal.aborted) {
    const n = Math.floor(Math.random() * objects.length);
    const object = objects[n] as Object;
    const kind = Math.random();
    if (kind < 0.6) objects[n] = await patch(object, String(writes));
    else {
      await remove(object);
      // Often one of the same name.
      objects[n] = await write(kind < 0.8 ? object.metadata.name : `new-${writes}`);
    }
    writes += 1;
    await sleep(2);
  }
  return writes;
}

test(
  `${COUNT} objects in pages, then ${SECONDS} s of cut, ended and stalled watches: none lost or doubled, with one list`,
  async () => {
    const objects: Object[] = [];
    await each(
      Array.from({ length: COUNT }, (_, n) => `disk-${n}`),
      async (name) => void objects.push(await write(name)),
    );
    const { proxy, followed } = await faulty({ idle: 1000 });
    const { cache, reflector, failures } = followed;
    try {
      await cache.synced;
      await followed.agrees();
      expect(reflector.counters.lists).toBe(1);
      const end = new AbortController();
      const writes = bustle(objects, end.signal);
      const until = performance.now() + SECONDS * 1000;
      for (let round = 0; performance.now() < until; round += 1) {
        const bytes = Math.floor(3000 + Math.random() * 20_000);
        proxy.faults = [{ cut: bytes }, { finish: bytes }, { stall: bytes }][round % 3] ?? {};
        if (round % 3 === 0) proxy.cutAll();
        await sleep(200 + Math.random() * 800);
      }
      proxy.faults = {};
      proxy.cutAll();
      end.abort();
      expect(await writes).toBeGreaterThan(SECONDS * 10);
      await followed.agrees();
      expect(reflector.counters).toMatchObject({ lists: 1, failedLists: 0, badLines: 0 });
      expect(reflector.counters.restarts).toBeGreaterThan(SECONDS / 3);
      expect(reflector.counters.restarts).toBe(failures.length);
      // No storm: after each failure there is a pause.
      expect(reflector.counters.watches).toBeLessThan(SECONDS * 20);
    } finally {
      await proxy[Symbol.asyncDispose]();
    }
  },
  90_000 + SECONDS * 1000,
);

test('an API server that stands still for 4 s is watched on, without a list', async () => {
  const followed = await follow(api.access, { idle: 1500 });
  await followed.cache.synced;
  const object = await write('a');
  await followed.agrees();
  api.pause();
  await sleep(4000);
  api.resume();
  await patch(object, 'after the pause');
  await followed.agrees();
  expect(followed.reflector.counters.restarts).toBeGreaterThan(0);
  expect(followed.reflector.counters.lists).toBe(1);
}, 60_000);

test('an API server that is started again is watched on where it still knows what was, without a list', async () => {
  const followed = await follow(api.access);
  await followed.cache.synced;
  await write('a');
  await followed.agrees();
  await api.restart();
  await write('b');
  await followed.agrees();
  expect(followed.reflector.counters).toMatchObject({ lists: 1, failedLists: 0 });
}, 60_000);

test('what happened while it was cut off and is forgotten is listed: 410 as an event', async () => {
  const { proxy, followed } = await faulty();
  try {
    const [gone, changed] = [await write('gone'), await write('changed')];
    await followed.agrees();
    const { port } = proxy;
    await proxy[Symbol.asyncDispose]();
    await remove(gone);
    await patch(changed, 'meanwhile');
    await write('made');
    // After more than an API server keeps of what happened (100 events at least), and etcd forgot the rest.
    for (let n = 0; n < 150; n += 1) await patch(changed, String(n));
    await api.restart(() => api.compact());
    await using back = await FaultProxy.start({ port: api.port }, {}, port);
    await followed.agrees();
    expect([...followed.mirror.keys()].sort()).toEqual([`${namespace}/changed`, `${namespace}/made`]);
    expect(followed.reflector.counters.lists).toBe(2);
    expect(followed.failures.at(-1)).toMatchObject({ status: 410, reason: 'Expired' });
    expect(back.accepted).toBeGreaterThan(0);
  } finally {
    await proxy[Symbol.asyncDispose]();
  }
}, 60_000);

test('a list whose next page is forgotten begins again: 410 as an answer', async () => {
  await each(
    Array.from({ length: 40 }, (_, n) => `disk-${n}`),
    (name) => write(name),
  );
  /** Has the store forget what was after the first page of the first list. */
  class Late extends Kube {
    pages = 0;
    override async list<T extends Written>(
      resource: Resource<T>,
      selection: Selection,
      page: { readonly limit: number; readonly next?: string | undefined },
      signal?: AbortSignal,
    ): Promise<Page<T>> {
      const answer = await super.list(resource, selection, page, signal);
      this.pages += 1;
      if (this.pages > 1) return answer;
      await write('more');
      await api.restart(async () => {
        await api.compact();
      });
      return answer;
    }
  }
  const followed = await follow(api.access, { page: 10 }, new Late(api.access));
  await followed.cache.synced;
  await followed.agrees();
  expect(followed.failures[0]).toMatchObject({ status: 410, reason: 'Expired' });
  expect(followed.reflector.counters).toMatchObject({ lists: 2, failedLists: 1 });
}, 60_000);

test('objects that come under a selector and leave it come and go', async () => {
  const followed = await follow(api.access, { labelSelector: 'kind=disk' });
  await followed.cache.synced;
  const object = await write('a', {}, { kind: 'disk' });
  await write('b');
  await followed.agrees();
  expect(followed.cache.size).toBe(1);
  const { uid, name } = object.metadata;
  const relabelled = await kube.patch(
    CONFIG_MAPS,
    { namespace, name, uid },
    { metadata: { labels: { kind: 'none' } } },
  );
  followed.cache.learn(relabelled);
  await followed.agrees();
  expect(followed.cache.size).toBe(0);
  expect(followed.failures).toEqual([]);
});

test('of an object no more is remembered than is kept, and own writes the same way', async () => {
  const keep = ({ metadata, data }: Object): Object | undefined =>
    data?.secret === undefined ? { metadata } : undefined;
  const followed = await follow(api.access, { keep });
  await followed.cache.synced;
  const object = await write('a', { value: 'x' });
  followed.cache.learn(object);
  expect(followed.cache.get(keyOf(object))).toEqual({ metadata: object.metadata });
  await write('b', { secret: 'x' });
  const last = await write('c');
  await vi.waitFor(() => expect(followed.cache.get(keyOf(last))).toBeDefined());
  expect(followed.cache.size).toBe(2);
});

test('an own write that is learned before it is told is told to listeners once', async () => {
  const { proxy, followed } = await faulty();
  try {
    await followed.cache.synced;
    proxy.faults = { delay: 400 };
    const changes: string[] = [];
    followed.cache.watch(({ after }) => void changes.push(after?.data?.value ?? 'gone'));
    const made = await write('a', { value: '1' });
    followed.cache.learn(made);
    followed.cache.learn(await patch(made, '2'));
    await remove(made);
    await followed.agrees();
    await vi.waitFor(() => expect(changes.at(-1)).toBe('gone'));
    followed.cache.learn(made);
    expect(changes).toEqual(['1', '2', 'gone']);
  } finally {
    await proxy[Symbol.asyncDispose]();
  }
});

/** In front of the API server, in plain HTTP: changes what watches are answered, `times` times. */
async function balancer(
  times: number,
  change: (line: string) => string,
): Promise<{ access: Access } & AsyncDisposable> {
  const agent = new Agent({ connect: { ca: api.ca, allowH2: false } });
  let left = times;
  const server = createServer(async (asked, answer) => {
    try {
      const headers = { authorization: asked.headers.authorization ?? '' };
      const { statusCode, body } = await request(api.url + asked.url, { dispatcher: agent, headers, bodyTimeout: 0 });
      answer.on('close', () => body.destroy());
      answer.writeHead(statusCode, { 'content-type': 'application/json' });
      answer.flushHeaders();
      for await (const chunk of body) {
        const text = String(chunk);
        const spoils = asked.url?.includes('watch=true') && left > 0;
        if (spoils) left -= 1;
        answer.write(spoils ? change(text) : text);
      }
      answer.end();
    } catch {
      answer.destroy();
    }
  });
  const port = await freePort();
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  return {
    access: { ...api.access, url: `http://127.0.0.1:${port}` },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await agent.destroy();
    },
  };
}

test('a line that cannot be read is counted, and told again', async () => {
  for (const change of [
    (line: string) => line.replace('"type"', 'type"'),
    (line: string) => line.replace('"ADDED"', '"BECAME"'),
    (line: string) => `null\n${line}`,
    (line: string) => line.replace('"resourceVersion"', '"version"'),
  ]) {
    await using between = await balancer(1, change);
    await using followed = await follow(between.access);
    await followed.cache.synced;
    await write(`line-${Math.random()}`);
    await followed.agrees();
    expect(followed.reflector.counters).toMatchObject({ lists: 1, badLines: 1, restarts: 1 });
  }
});

test('a line that can never be read is listed, and one without an end is not held', async () => {
  await using between = await balancer(3, () => 'x\n');
  await using followed = await follow(between.access);
  await followed.cache.synced;
  await write('a');
  await followed.agrees();
  expect(followed.reflector.counters).toMatchObject({ lists: 2, badLines: 3 });
  await using endless = await balancer(1, () => 'x'.repeat(9 * 1024 * 1024));
  await using other = await follow(endless.access);
  await other.cache.synced;
  await write('b');
  await other.agrees();
  expect(other.failures.map(({ message }) => message)).toEqual(['a line of a watch has more than 8388608 bytes']);
});

test('an API server that wants to be left alone is, for that time', async () => {
  await using home = await tempdir();
  const busy = 'location / { default_type application/json; add_header Retry-After 2 always; return 429; }';
  await using server = await nginx({ root: home.path, server: busy });
  const followed = await follow({ ...api.access, url: server.url });
  await sleep(5000);
  const asked = await server.requests();
  expect(asked.length).toBeGreaterThanOrEqual(2);
  expect(asked.length).toBeLessThanOrEqual(3);
  expect(followed.failures[0]).toMatchObject({ status: 429, retryAfter: 2 });
  expect(followed.cache.isSynced).toBe(false);
});

test('an API server that is not there is asked again and again, ever more seldom, and a stop is obeyed at once', async () => {
  const followed = await follow({ ...api.access, url: `https://127.0.0.1:${await freePort()}` });
  await sleep(3000);
  expect(followed.failures.length).toBeGreaterThan(2);
  expect(followed.failures.length).toBeLessThan(30);
  const begun = performance.now();
  await followed[Symbol.asyncDispose]();
  expect(performance.now() - begun).toBeLessThan(200);
});

test('a store that went back, restored from a backup, is found out by its silence and listed', async () => {
  await using old = await startApiServer();
  await old.ask('POST', '/api/v1/namespaces', { metadata: { name: namespace } });
  await old.ask('POST', `/api/v1/namespaces/${namespace}/configmaps`, { metadata: { name: 'old' } });
  let { url, ca } = api;
  // The same address and another store.
  const access = {
    ...api.access,
    ca: async () => ca,
    get url() {
      return url;
    },
  };
  const followed = await follow(access, { idle: 1000 });
  await write('new');
  await followed.agrees();
  // As one that has been there for longer.
  for (let n = 0; n < 400; n += 1) await write(`new-${n}`);
  await followed.agrees();
  ({ url, ca } = old);
  await api.restart();
  const known = (): string[] => [...followed.mirror.keys()].filter((key) => !key.endsWith('kube-root-ca.crt'));
  await vi.waitFor(() => expect(known()).toEqual([`${namespace}/old`]), { timeout: 15_000 });
  expect(followed.reflector.counters.lists).toBe(2);
  await old.ask('POST', `/api/v1/namespaces/${namespace}/configmaps`, { metadata: { name: 'next' } });
  await vi.waitFor(() => expect(known().sort()).toEqual([`${namespace}/next`, `${namespace}/old`]));
}, 60_000);

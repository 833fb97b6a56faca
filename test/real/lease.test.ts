// One holder of a lease at a time, whatever happens to it: real processes, stopped and killed, at a real API server.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Lease } from 'kubernetes-types/coordination/v1.js';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { serverPath } from '../../scripts/toolchain.mjs';
import type { Stored } from '../../src/api/meta.ts';
import { CONFIG_MAPS, LEASES } from '../../src/api/resource.ts';
import { Kube } from '../../src/kube/client.ts';
import { lead } from '../../src/kube/lease.ts';
import { FaultProxy } from '../faults/proxy.ts';
import { type ApiServer, startApiServer } from '../support/apiserver.ts';
import { LEASE, TIMES } from '../support/contender.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';

const PROGRAM = join(import.meta.dirname, '../support/contender.ts');
const { durationSeconds, renewDeadlineSeconds, retrySeconds } = TIMES;
/** Milliseconds until another one looks, and some for a busy machine. */
const LOOK = retrySeconds * 1200 + 700;

let api: ApiServer;
let home: TempDir;
let kube: Kube;

beforeAll(async () => {
  api = await startApiServer();
  home = await tempdir();
  kube = new Kube(api.access);
  await writeFile(join(home.path, 'ca.crt'), api.ca);
}, 60_000);

afterAll(async () => {
  await kube?.[Symbol.asyncDispose]();
  await api?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

beforeEach(async () => {
  await kube.delete(LEASES, LEASE);
  await api.ask('DELETE', '/api/v1/namespaces/default/configmaps?labelSelector=written');
});

interface Contender extends AsyncDisposable {
  readonly child: ChildProcess;
  /** Waits for the next line that begins so, of those that were not waited for; when it came, on the clock of performance.now(). */
  said(beginning: string, within?: number): Promise<number>;
  readonly lines: readonly string[];
}

async function contender(identity: string, program = [process.execPath, PROGRAM]): Promise<Contender> {
  const [command = '', ...first] = program;
  const token = (await api.access.token?.()) ?? '';
  const args = [...first, api.url, join(home.path, 'ca.crt'), token, LEASE.namespace, LEASE.name, identity];
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const lines: string[] = [];
  const times: number[] = [];
  let next = 0;
  let wake = Promise.withResolvers<void>();
  createInterface({ input: child.stdout }).on('line', (line) => {
    lines.push(line);
    times.push(performance.now());
    wake.resolve();
    wake = Promise.withResolvers();
  });
  return {
    child,
    lines,
    async said(beginning, within = 10_000) {
      const latest = performance.now() + within;
      for (;;) {
        for (; next < lines.length; next += 1) {
          if (!lines[next]?.startsWith(beginning)) continue;
          next += 1;
          return times[next - 1] ?? 0;
        }
        const left = latest - performance.now();
        if (left <= 0)
          throw new Error(`${identity} did not say '${beginning}' within ${within} ms: ${lines.slice(-5)}`);
        await Promise.race([wake.promise, sleep(left)]);
      }
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = once(child, 'exit');
      child.kill('SIGCONT');
      child.kill('SIGKILL');
      await gone;
    },
  };
}

/** Who wrote, in the order of the writes, each once for all of his in succession. */
async function writers(): Promise<string[]> {
  const { items } = await kube.list(CONFIG_MAPS, { namespace: 'default', labelSelector: 'written' }, { limit: 500 });
  const order = [...items].sort((a, b) => Number(a.metadata.resourceVersion) - Number(b.metadata.resourceVersion));
  const names = order.map(({ metadata }) => metadata.labels?.written ?? '');
  return names.filter((name, n) => name !== names[n - 1]);
}

const lease = async (): Promise<Stored<Lease> | undefined> => kube.get(LEASES, LEASE.namespace, LEASE.name);

test('who ends gives it to the next at once', async () => {
  await using a = await contender('a');
  await a.said('wrote');
  await using b = await contender('b');
  await sleep(1000);
  a.child.kill('SIGTERM');
  const ended = await a.said('ended');
  expect((await b.said('leads')) - ended).toBeLessThan(LOOK);
  await b.said('wrote');
  expect(await writers()).toEqual(['a', 'b']);
  expect((await lease())?.spec).toMatchObject({ holderIdentity: 'b', leaseTransitions: 1, leaseDurationSeconds: 3 });
}, 30_000);

test('who is killed is followed when the lease has run out, and not before', async () => {
  await using a = await contender('a');
  await a.said('wrote');
  await using b = await contender('b');
  await sleep(1500);
  a.child.kill('SIGKILL');
  const killed = performance.now();
  const waited = (await b.said('leads')) - killed;
  // The last renewal was at most a look before.
  expect(waited).toBeGreaterThan((durationSeconds - retrySeconds) * 1000 - 200);
  expect(waited).toBeLessThan(durationSeconds * 1000 + LOOK);
  await b.said('wrote');
  expect(await writers()).toEqual(['a', 'b']);
}, 30_000);

test('who stood still writes nothing more when it goes on, again and again', async () => {
  const order: string[] = [];
  let holder = await contender('holder-0');
  try {
    await holder.said('wrote');
    for (let round = 1; round <= 3; round += 1) {
      order.push(`holder-${round - 1}`);
      const next = await contender(`holder-${round}`);
      try {
        await sleep(1000 + Math.random() * 500);
        // Not between a look at the clock and the write, which nobody could tell apart from a slow network.
        await holder.said('wrote');
        await holder.said('wrote');
        holder.child.kill('SIGSTOP');
        await next.said('leads');
        await next.said('wrote');
        holder.child.kill('SIGCONT');
        await holder.said('lost: the lease default/cdi-controller-leader-election-helper is');
        await next.said('wrote');
      } finally {
        await holder[Symbol.asyncDispose]();
        holder = next;
      }
      expect(holder.lines).not.toContain('wrote after it was lost');
    }
    order.push('holder-3');
    expect(await writers()).toEqual(order);
  } finally {
    await holder[Symbol.asyncDispose]();
  }
}, 60_000);

test('who does not reach the API server stops before another may begin', async () => {
  await using proxy = await FaultProxy.start({ port: api.port });
  await using far = new Kube({ ...api.access, url: `https://127.0.0.1:${proxy.port}` });
  const settings = { ...LEASE, ...TIMES };
  const end = new AbortController();
  const at: Record<string, number> = {};
  const begun = Promise.withResolvers<void>();
  const lost = lead(
    far,
    { ...settings, identity: 'far' },
    async (signal) => {
      begun.resolve();
      await once(signal, 'abort');
      at.stopped = performance.now();
    },
    end.signal,
  );
  const outcome = lost.then(
    () => 'ended',
    (error: Error) => error.message,
  );
  await begun.promise;
  const near = lead(
    kube,
    { ...settings, identity: 'near' },
    async () => {
      at.followed = performance.now();
    },
    end.signal,
  );
  await sleep(1200);
  at.stalled = performance.now();
  proxy.faults = { stall: 0 };
  // Another connection does not help, nor is it waited for.
  proxy.cutAll();
  expect(await outcome).toBe(
    `the lease default/cdi-controller-leader-election-helper is lost: not renewed for ${renewDeadlineSeconds} s`,
  );
  await near;
  const { stalled = 0, stopped = 0, followed = 0 } = at;
  expect(stopped - stalled).toBeLessThan(renewDeadlineSeconds * 1000 + 300);
  expect(followed - stopped).toBeGreaterThan(0);
  expect(far.guard).toBeUndefined();
}, 30_000);

test('client-go and this exclude each other, and hand over to each other at once', async () => {
  const elector = [serverPath('elector')];
  await using a = await contender('client-go-1', elector);
  await a.said('leads');
  await using b = await contender('own-1');
  await sleep(durationSeconds * 1000 + LOOK);
  expect(b.lines).toEqual([]);
  a.child.kill('SIGTERM');
  const ended = await a.said('ended');
  expect((await b.said('leads')) - ended).toBeLessThan(LOOK);
  await using c = await contender('client-go-2', elector);
  await sleep(durationSeconds * 1000 + LOOK);
  expect(c.lines).toEqual([]);
  b.child.kill('SIGTERM');
  const given = await b.said('ended');
  expect((await c.said('leads')) - given).toBeLessThan(LOOK);
  // One that is killed is waited for.
  await using d = await contender('own-2');
  await sleep(1500);
  c.child.kill('SIGKILL');
  const killed = performance.now();
  expect((await d.said('leads')) - killed).toBeGreaterThan((durationSeconds - retrySeconds) * 1000 - 200);
  expect((await lease())?.spec).toMatchObject({ holderIdentity: 'own-2', leaseTransitions: 3 });
}, 60_000);

test('it waits for a holder that is another program, as long as that one says', async () => {
  const now = (): string => new Date().toISOString().replace('Z', '000Z');
  const spec = {
    holderIdentity: 'cdi_1',
    leaseDurationSeconds: 2,
    leaseTransitions: 7,
    acquireTime: now(),
    renewTime: now(),
  };
  const made = await kube.create(LEASES, { metadata: LEASE, spec });
  const end = new AbortController();
  let leads = 0;
  const running = lead(
    kube,
    { ...LEASE, ...TIMES, identity: 'own' },
    async (signal) => {
      leads = performance.now();
      await once(signal, 'abort');
    },
    end.signal,
  );
  let renewed = 0;
  for (let times = 0; times < 8; times += 1) {
    await sleep(500);
    const { namespace, name, uid } = made.metadata;
    await kube.patch(LEASES, { namespace, name, uid } as never, { spec: { renewTime: now() } });
    renewed = performance.now();
    expect(leads).toBe(0);
  }
  await sleep(2000 + LOOK);
  expect(leads - renewed).toBeGreaterThan(1900);
  const held = (await lease())?.spec;
  expect(held).toMatchObject({ holderIdentity: 'own', leaseDurationSeconds: 3, leaseTransitions: 8 });
  expect(held?.acquireTime).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
  // Its own renewals keep the time since when it holds it.
  await sleep(retrySeconds * 1000 + 300);
  const later = (await lease())?.spec;
  expect(later?.acquireTime).toBe(held?.acquireTime);
  expect(later?.renewTime).not.toBe(held?.renewTime);
  end.abort();
  await running;
  // As client-go gives one back.
  expect((await lease())?.spec).toMatchObject({ holderIdentity: '', leaseDurationSeconds: 1, leaseTransitions: 8 });
}, 30_000);

test('a lease that another took stops the holder at its next renewal, and what is under way may not write', async () => {
  const own = new Kube(api.access);
  let refused: unknown;
  const running = lead(
    own,
    { ...LEASE, ...TIMES, identity: 'own' },
    async (signal) => {
      await once(signal, 'abort');
      refused = await own.create(CONFIG_MAPS, { metadata: { namespace: 'default', name: 'late' } }).catch((e) => e);
    },
    new AbortController().signal,
  );
  const outcome = running.catch((error: Error) => error.message);
  await sleep(1000);
  await kube.patch(LEASES, LEASE, { spec: { holderIdentity: 'thief' } });
  expect(await outcome).toBe('the lease default/cdi-controller-leader-election-helper is lost: thief holds it');
  expect(String(refused)).toContain('is not held any more');
  expect(await kube.get(CONFIG_MAPS, 'default', 'late')).toBeUndefined();
  // It ended, and may do what it likes.
  await own.create(CONFIG_MAPS, { metadata: { namespace: 'default', name: 'later', labels: { written: 'own' } } });
  await own[Symbol.asyncDispose]();
});

test('what the holder throws is thrown, and the lease given back', async () => {
  const broken = lead(
    kube,
    { ...LEASE, ...TIMES, identity: 'own' },
    async () => {
      throw new Error('broken');
    },
    new AbortController().signal,
  );
  await expect(broken).rejects.toThrow('broken');
  expect((await lease())?.spec.holderIdentity).toBe('');
  expect(kube.guard).toBeUndefined();
});

test('who is told to end while it waits ends', async () => {
  await kube.create(LEASES, { metadata: LEASE, spec: { holderIdentity: 'other', leaseDurationSeconds: 60 } });
  const end = new AbortController();
  const running = lead(kube, { ...LEASE, ...TIMES, identity: 'own' }, async () => expect.unreachable(), end.signal);
  await sleep(300);
  end.abort();
  await running;
  expect((await lease())?.spec.holderIdentity).toBe('other');
});

test('times that cannot hold are refused', async () => {
  const wrong = { ...LEASE, identity: 'own', durationSeconds: 10 };
  await expect(lead(kube, wrong, async () => undefined, new AbortController().signal)).rejects.toThrow(
    'not with 2, 10 and 10 s',
  );
});

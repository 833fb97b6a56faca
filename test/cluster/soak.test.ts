// Half an hour of imports under faults: `npm run cluster:soak`. DISKFERRY_SOAK_MINUTES and DISKFERRY_SOAK_IMPORTS say how
// long and how many, DISKFERRY_SOAK_SEED in which order pods are killed.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Pod } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { DataVolume } from '../../src/api/datavolume.ts';
import { MiB, randomly } from '../support/images.ts';
import { Refused } from './api.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { processOfContainer } from './support/containers.ts';
import { cutWatches, killLeader, podsSeen, writeBeside } from './support/faults.ts';
import { installation } from './support/installation.ts';
import type { Namespace } from './support/namespace.ts';
import { type Kind, type Servers, servers } from './support/servers.ts';
import { until } from './support/until.ts';
import { digestOnClaim } from './support/volumes.ts';

const GROUP = 'cdi.kubevirt.io/v1beta1';
const MINUTES = Number(process.env.DISKFERRY_SOAK_MINUTES ?? '30');
const IMPORTS = Number(process.env.DISKFERRY_SOAK_IMPORTS ?? '100');
const SEED = Number(process.env.DISKFERRY_SOAK_SEED ?? '1');
/** Of each disk. */
const SIZE = 64 * MiB;
/** Bytes a second: an import takes half a minute, and meets faults. */
const RATE = 2 * MiB;
/** Seconds after its beginning until which an import must be over: the API server is away for 120 of them. */
const PATIENCE = 600;

let kubernetes: Cluster;
let served: Servers;
let configured: AsyncDisposable;

beforeAll(async () => {
  kubernetes = await cluster();
  served = await servers(kubernetes, { size: SIZE, rate: RATE });
  configured = await installation(kubernetes, { config: { insecureRegistries: [served.insecureRegistry] } });
  await replicas(2);
}, 600_000);
afterAll(async () => {
  await configured?.[Symbol.asyncDispose]();
  await replicas(1);
  await served?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
});

async function replicas(count: number): Promise<void> {
  await kubernetes?.kubectl(['scale', 'deployment/cdi-deployment', '-n', 'cdi', `--replicas=${count}`]);
  await kubernetes?.kubectl(['rollout', 'status', 'deployment/cdi-deployment', '-n', 'cdi'], undefined, 100);
}

interface Fault {
  readonly name: string;
  /** Seconds between two of them; of one that comes once, after which it comes. */
  readonly seconds: number;
  readonly once?: boolean;
  /** False: there was nothing to do it to. */
  run(): Promise<unknown>;
}

/** What an import is, and how it must end. */
interface Import {
  readonly name: string;
  readonly kind: Kind;
  readonly mode: 'Filesystem' | 'Block';
  readonly prime: boolean;
  readonly class: 'immediate' | 'wffc';
  /** Undefined: Succeeded, with the bytes of the disk. */
  readonly fails?: { readonly why: string; readonly says: RegExp };
}

const WRONG = { why: 'its checksum is another', says: /ChecksumError/ };
const ABSENT = { why: 'there is no such image', says: /404/ };

/** Each kind of server, volume, class and flow in turn; of twenty, one with a wrong checksum and one without an image. */
const PLAN: readonly Import[] = Array.from({ length: IMPORTS }, (_, n) => {
  // Not imageio: an engine keeps the disk of whoever was killed locked for five minutes.
  const kind = (['http', 'https', 's3', 'gcs', 'registry'] as const)[n % 5] ?? 'http';
  const fails = n % 20 === 7 ? WRONG : n % 20 === 17 ? ABSENT : undefined;
  return {
    name: `disk-${n}`,
    kind: fails ? 'http' : kind,
    mode: n % 4 < 2 ? 'Filesystem' : 'Block',
    prime: n % 3 !== 2,
    class: n % 8 < 4 ? 'immediate' : 'wffc',
    ...(fails ? { fails } : {}),
  };
});

test(
  `${IMPORTS} imports within ${MINUTES} minutes of faults`,
  async () => {
    await using namespace = await kubernetes.namespace();
    for (const object of Object.values(served.asked).flatMap(({ objects }) => objects))
      await kubernetes
        .ask('POST', namespace.path(object.kind === 'Secret' ? 'secrets' : 'configmaps'), object)
        .catch(there);
    using pods = podsSeen(kubernetes, namespace);
    const deleted = new Map<string, number>();
    const faults = faultsOf(namespace, deleted);
    say(`faults, seed ${SEED}:`);
    for (const { name, seconds, once } of faults) say(`  ${name}: ${once ? 'once, after' : 'every'} ${seconds} s`);
    const over = new AbortController();
    const open = new Set<Import>();
    const count = new Map<string, number>();
    const others = writeBeside(kubernetes, namespace, () => [...open], over.signal);
    const bad = faults.map((fault) => repeat(fault, count, over.signal));
    const began = performance.now();
    const pause = ((MINUTES - 3) * 60) / IMPORTS;
    const results: Result[] = [];
    const running = PLAN.map(async (one, n) => {
      await sleep(n * pause * 1000);
      open.add(one);
      results.push(await carried(namespace, one));
      open.delete(one);
    });
    await Promise.all(running);
    // Faults for as long as was said, even when everything is there.
    await sleep(Math.max(0, MINUTES * 60_000 - (performance.now() - began)));
    over.abort();
    await Promise.all(bad);
    const written = await others;
    say(`${Math.round((performance.now() - began) / 1000)} s, ${written} writes of others`);
    for (const [name, times] of count) say(`  ${times} times: ${name}`);
    report(results);
    expect(results.filter(({ trouble }) => trouble !== undefined)).toEqual([]);
    const made = Map.groupBy(pods.names(), (name) => name);
    const most = results.map(({ pod }) => ({
      pod,
      pods: made.get(pod)?.length ?? 0,
      allowed: 1 + (deleted.get(pod) ?? 0),
    }));
    say(
      `${pods.names().length} pods of imports, ${[...deleted.values()].reduce((sum, n) => sum + n, 0)} deleted by faults`,
    );
    expect(most.filter(({ pods, allowed }) => pods > allowed)).toEqual([]);
    const left = (await kubernetes.ask<{ items: Pod[] }>('GET', namespace.path('pods'))).items;
    expect(left.map(({ metadata }) => metadata?.name)).toEqual([]);
  },
  (MINUTES + 20) * 60_000,
);

function faultsOf(namespace: Namespace, deleted: Map<string, number>): readonly Fault[] {
  const random = randomly(SEED);
  const path = namespace.path('pods?labelSelector=cdi.kubevirt.io%3Dimporter&fieldSelector=status.phase%3DRunning');
  /** A pod of an import that runs. */
  const victim = async (): Promise<string | undefined> => {
    const { items } = await kubernetes.ask<{ items: Pod[] }>('GET', path);
    const names = items
      .filter(({ metadata }) => !metadata?.deletionTimestamp)
      .map(({ metadata }) => metadata?.name ?? '');
    return names[Math.floor(random() * names.length)];
  };
  const restart = (service: string) => (): Promise<void> => kubernetes.service(service).restart();
  // Its sidecars end with it, and are started again as a kubelet does it.
  const restartDriver = async (): Promise<void> => {
    for (const service of ['csi-driver', 'csi-provisioner', 'csi-snapshotter', 'csi-resizer']) await restart(service)();
  };
  return [
    { name: 'all connections to the API server are cut', seconds: 20, run: () => cutWatches(kubernetes) },
    { name: 'all connections to the servers of images are cut', seconds: 25, run: async () => served.cutAll() },
    {
      name: 'the process of an import is killed',
      seconds: 35,
      async run() {
        const pod = await victim();
        if (pod === undefined) return false;
        (await processOfContainer(kubernetes, namespace, pod, 'importer', 2)).signal('SIGKILL');
        return true;
      },
    },
    {
      name: 'the pod of an import is deleted',
      seconds: 50,
      async run() {
        const pod = await victim();
        if (pod === undefined) return false;
        deleted.set(pod, (deleted.get(pod) ?? 0) + 1);
        return kubernetes.ask('DELETE', namespace.path(`pods/${pod}`));
      },
    },
    { name: 'the leader of the controllers is killed', seconds: 150, run: () => killLeader(kubernetes) },
    { name: 'the API server is restarted', seconds: 290, run: restart('kube-apiserver') },
    { name: 'the kubelet is restarted', seconds: 400, run: restart('kubelet') },
    { name: 'the CSI driver is restarted', seconds: 470, run: restartDriver },
    {
      name: 'the API server stands still for two minutes',
      seconds: (MINUTES * 60) / 3,
      once: true,
      async run() {
        const server = kubernetes.service('kube-apiserver');
        await server.signal('SIGSTOP');
        await sleep(120_000);
        await server.signal('SIGCONT');
      },
    },
  ];
}

/** A fault from time to time: one that the API server cannot be asked for, because of another, is let be. */
async function repeat(
  { name, seconds, once, run }: Fault,
  count: Map<string, number>,
  signal: AbortSignal,
): Promise<void> {
  do {
    await sleep(seconds * 1000, undefined, { signal }).catch(() => undefined);
    if (signal.aborted) return;
    const happened = await run().then(
      (done) => done !== false,
      (error: Error) => say(`  not done: ${name}: ${error.message.split('\n')[0]}`),
    );
    if (happened) count.set(name, (count.get(name) ?? 0) + 1);
  } while (!once);
}

interface Result {
  readonly one: Import;
  readonly seconds: number;
  readonly restarts: number;
  readonly pod: string;
  /** What is not as it must be. */
  readonly trouble?: string;
}

/** An import from its DataVolume to the bytes on the volume, and the end of both. */
async function carried(namespace: Namespace, one: Import): Promise<Result> {
  const path = namespace.path(`datavolumes/${one.name}`, GROUP);
  const began = performance.now();
  let seen: DataVolume | undefined;
  let pod = '';
  const result = (trouble?: string): Result => ({
    one,
    seconds: (performance.now() - began) / 1000,
    restarts: seen?.status?.restartCount ?? 0,
    pod,
    ...(trouble === undefined ? {} : { trouble }),
  });
  try {
    const body = { apiVersion: GROUP, kind: 'DataVolume', ...dataVolumeOf(one) };
    // Where the answer is lost, it may be there nevertheless.
    await patiently(`${one.name} is made`, () =>
      kubernetes.ask('POST', namespace.path('datavolumes', GROUP), body).catch(there),
    );
    const says = one.fails?.says;
    await patiently(`${one.name} ${one.fails ? `says ${says}` : 'is Succeeded'}`, async () => {
      seen = await kubernetes.ask<DataVolume>('GET', path);
      const { phase, conditions = [] } = seen.status ?? {};
      const running = conditions.find(({ type }) => type === 'Running');
      if (phase === 'Failed' && !one.fails) throw new Error(`Failed: ${running?.reason} ${running?.message}`);
      return says ? says.test(`${running?.reason} ${running?.message}`) : phase === 'Succeeded';
    });
    const claim = namespace.path(`persistentvolumeclaims/${one.name}`);
    const { metadata } = await patiently('its claim', () =>
      kubernetes.ask<{ metadata: { uid: string } }>('GET', claim),
    );
    pod = `importer-${one.prime ? `prime-${metadata.uid}` : one.name}`;
    const found = one.fails ? served.digest : await digestOf(namespace, one.name);
    if (found !== served.digest) return result(`SHA-256 ${found}, not ${served.digest}`);
    return result();
  } catch (error) {
    const status = JSON.stringify(seen?.status);
    return result(`${error instanceof Error ? error.message : error}; last: ${status}`);
  } finally {
    await patiently(`${one.name} is gone`, async () => {
      await kubernetes.ask('DELETE', path).catch(gone);
      return (await kubernetes.find(namespace.path(`persistentvolumeclaims/${one.name}`))) === undefined;
    });
  }
}

const patiently = <T>(what: string, probe: () => Promise<T | undefined | false>): Promise<T> =>
  until(what, PATIENCE, probe, 1000);

async function digestOf(namespace: Namespace, name: string): Promise<string> {
  return patiently(`the bytes of ${name} are read`, async () => {
    await kubernetes.ask('DELETE', namespace.path(`pods/digest-${name}?gracePeriodSeconds=0`)).catch(gone);
    const digest = await digestOnClaim(kubernetes, namespace, name, { bytes: SIZE });
    // Else the API server could not be asked for the log.
    return /^[0-9a-f]{64}$/.test(digest) && digest;
  });
}

/** 409: of one that was made by the try before. */
const there = (error: unknown): object => unless(error, 409);
const gone = (error: unknown): object => unless(error, 404);
function unless(error: unknown, status: number): object {
  if (error instanceof Refused && error.status === status) return {};
  throw error;
}

function dataVolumeOf({ name, kind, mode, prime, class: storageClassName, fails }: Import): object {
  const { source } = served.asked[kind];
  const url = source.http?.url ?? '';
  return {
    metadata: {
      name,
      annotations: {
        'cdi.kubevirt.io/storage.bind.immediate.requested': 'true',
        ...(prime ? {} : { 'cdi.kubevirt.io/storage.usePopulator': 'false' }),
      },
    },
    spec: {
      source:
        fails === WRONG
          ? { http: { url, checksum: `sha256:${'0'.repeat(64)}` } }
          : fails === ABSENT
            ? { http: { url: url.replace('disk.qcow2', 'absent.qcow2') } }
            : source,
      pvc: {
        storageClassName,
        volumeMode: mode,
        accessModes: ['ReadWriteOnce'],
        resources: { requests: { storage: '128Mi' } },
      },
    },
  };
}

function report(results: readonly Result[]): void {
  const times = results.map(({ seconds }) => seconds).sort((a, b) => a - b);
  const right = results.filter(({ one, trouble }) => !one.fails && trouble === undefined);
  say(`${right.length} Succeeded with the bytes of the disk`);
  for (const fails of [WRONG, ABSENT]) {
    const ended = results.filter(({ one, trouble }) => one.fails === fails && trouble === undefined);
    say(`${ended.length} failed because ${fails.why}, as they must`);
  }
  say(`${results.reduce((sum, { restarts }) => sum + restarts, 0)} restarts of importers`);
  say(`seconds of an import: median ${times[times.length >> 1]?.toFixed(0)}, most ${times.at(-1)?.toFixed(0)}`);
  for (const { one, trouble } of results)
    if (trouble !== undefined) say(`TROUBLE ${one.name} (${one.kind}, ${one.mode}, ${one.class}): ${trouble}`);
}

const say = (line: string): void => void process.stdout.write(`${line}\n`);

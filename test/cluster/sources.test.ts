// Every source, however it is asked for: right bytes; phases, events and annotations as clients of CDI expect them.
import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { DataVolume } from '../../src/api/datavolume.ts';
import { MiB } from '../support/images.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { claimOf, dataVolume, eventsOf } from './support/datavolumes.ts';
import { historyOf } from './support/history.ts';
import { installation } from './support/installation.ts';
import { type Namespace, script } from './support/namespace.ts';
import { type Asked, KINDS, type Kind, LABELLED, type Servers, SHORT, servers } from './support/servers.ts';
import { until } from './support/until.ts';

const GROUP = 'cdi.kubevirt.io/v1beta1';
const CDI = 'cdi.kubevirt.io/';

let kubernetes: Cluster;
let served: Servers;
let configured: AsyncDisposable;

beforeAll(async () => {
  kubernetes = await cluster();
  served = await servers(kubernetes);
  configured = await installation(kubernetes, { config: { insecureRegistries: [served.insecureRegistry] } });
}, 600_000);
afterAll(async () => {
  await configured?.[Symbol.asyncDispose]();
  await served?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
});

/** What is asked for, and where. */
interface Row {
  readonly kind: Kind;
  readonly asked: Asked;
  readonly namespace: Namespace;
}

const FLOWS = {
  'DataVolume by way of a prime': byDataVolume(true),
  'DataVolume whose claim is filled itself': byDataVolume(false),
  'claim from a VolumeImportSource': byImportSource,
  'claim with annotations': byAnnotations,
} as const;

const ROWS = KINDS.flatMap((kind) => Object.entries(FLOWS).map(([flow, run]) => ({ kind, flow, run })));

test.concurrent.each(ROWS)(
  '$kind: $flow',
  async ({ kind, run }) => {
    await using namespace = await kubernetes.namespace();
    const asked = served.asked[kind];
    for (const object of asked.objects)
      await kubernetes.ask('POST', namespace.path(object.kind === 'Secret' ? 'secrets' : 'configmaps'), object);
    const row = { kind, asked, namespace };
    const claim = await run(row);
    await onlyTheClaim(namespace);
    const { annotations = {} } = claim.metadata ?? {};
    expect(annotations).toMatchObject({
      [`${CDI}storage.pod.phase`]: 'Succeeded',
      [`${CDI}storage.pod.restarts`]: '0',
      [`${CDI}storage.pod.ready`]: 'false',
      [`${CDI}storage.pod.schedulable`]: 'true',
      [`${CDI}storage.condition.running`]: 'false',
      [`${CDI}storage.condition.running.reason`]: 'Completed',
      [`${CDI}storage.condition.running.message`]: 'Import Complete',
    });
    // What a container image says of the machine that it is for.
    expect(claim.metadata?.labels?.['instancetype.kubevirt.io/default-preference']).toBe(
      LABELLED.includes(kind) ? 'fedora' : undefined,
    );
    await rightBytes(row);
  },
  120_000,
);

function byDataVolume(populated: boolean) {
  return async ({ asked, namespace, kind }: Row): Promise<PersistentVolumeClaim> => {
    using history = await historyOf<DataVolume>(kubernetes, namespace.path('datavolumes', GROUP));
    using claims = await historyOf<PersistentVolumeClaim>(kubernetes, namespace.path('persistentvolumeclaims'));
    const dv = await dataVolume(kubernetes, namespace, 'disk', {
      annotations: populated ? {} : { [`${CDI}storage.usePopulator`]: 'false' },
      spec: { source: asked.source, pvc: claimSpec() },
    });
    await dv.reaches('Succeeded');
    const phases = await history.until('Succeeded', ({ status }) => status?.phase || undefined);
    const way = ['Pending', 'PVCBound', 'ImportScheduled', 'ImportInProgress', 'Succeeded'];
    // A claim may have its pod before anybody looks at it, and some are filled before the kubelet says that their pod runs.
    const short = SHORT.includes(kind) && !phases.includes('ImportInProgress');
    const skipped = [...(phases.includes('PVCBound') ? [] : ['PVCBound']), ...(short ? ['ImportInProgress'] : [])];
    expect(phases).toEqual(way.filter((phase) => !skipped.includes(phase)));
    if (populated) expect(phases).not.toContain('PVCBound');
    const progress = await history.until('100.0%', ({ status }) => status?.progress);
    expect([progress[0], progress.at(-1)]).toEqual(['N/A', '100.0%']);
    expect(progress.slice(1, -1).filter((percent) => !/^\d{1,2}\.\d\d%$/.test(percent))).toEqual([]);
    // Until the end, nobody can use a disk that is half filled.
    const bound = await claims.until('Bound', ({ metadata, status }) =>
      metadata?.name === 'disk' ? status?.phase : undefined,
    );
    expect(bound).toEqual(['Pending', 'Bound']);
    const { metadata, status } = await dv.now();
    expect(status).toMatchObject({ claimName: 'disk', restartCount: 0 });
    expect(said(status)).toEqual({
      Ready: 'True  ',
      Bound: 'True Bound PVC disk Bound',
      Running: 'False Completed Import Complete',
    });
    const events = await until('the last event', 15, async () => {
      const found = await dv.events();
      return found.some((one) => one.includes('ImportSucceeded')) && found;
    });
    expect(events).toContain('Normal ImportSucceeded Successfully imported into PVC disk');
    expect(events).toContain('Normal ImportScheduled Import into disk scheduled');
    if (!short) expect(events).toContain('Normal ImportInProgress Import into disk in progress');
    const peak = populated ? 128 * MiB : 64 * MiB;
    expect(events.join('\n')).toMatch(new RegExp(`^Normal StoragePlanned needs ${peak} bytes of claims`, 'm'));
    expect(events.filter((one) => one.startsWith('Warning'))).toEqual([]);
    const annotations = async () => (await dv.now()).metadata.annotations;
    await until(
      'the DataVolume is marked',
      15,
      async () => `${CDI}storage.prePopulated` in ((await annotations()) ?? {}),
    );
    expect(await annotations()).toMatchObject({
      [`${CDI}storage.usePopulator`]: String(populated),
      [`${CDI}storage.prePopulated`]: 'disk',
    });
    const claim = await claimOf(namespace, 'disk');
    expect(claim.metadata).toMatchObject({
      labels: {
        app: 'containerized-data-importer',
        'alerts.k8s.io/KubePersistentVolumeFillingUp': 'disabled',
      },
      annotations: {
        [`${CDI}createdForDataVolume`]: metadata.uid,
        [`${CDI}storage.usePopulator`]: String(populated),
        [`${CDI}storage.populatedFor`]: 'disk',
        [`${CDI}storage.contentType`]: 'kubevirt',
        [`${CDI}storage.preallocation.requested`]: 'false',
        ...(populated ? { [`${CDI}storage.populator.progress`]: '100.0%' } : asked.annotations),
      },
      ownerReferences: [
        {
          apiVersion: GROUP,
          kind: 'DataVolume',
          name: 'disk',
          uid: metadata.uid,
          controller: true,
          blockOwnerDeletion: true,
        },
      ],
    });
    // Whatever is annotated later, it is not told before the import has ended.
    const early = claims.states.find(({ metadata }) => metadata?.name === 'disk');
    expect(early?.metadata?.annotations).not.toHaveProperty(`${CDI}storage.populatedFor`);
    if (populated) await byPrime(row(namespace, claim), claims.states, asked);
    else
      expect(await eventsOf(kubernetes, namespace, 'PersistentVolumeClaim', 'disk')).toContain(
        'Normal ImportSucceeded Import Successful',
      );
    const source = namespace.path('volumeimportsources', GROUP);
    await until('what it was filled from is gone', 15, async () => {
      return (await kubernetes.ask<{ items: unknown[] }>('GET', source)).items.length === 0;
    });
    return claim;
  };
}

const row = (namespace: Namespace, target: PersistentVolumeClaim) => ({ namespace, target });

/** The claim that was filled in place of the target, and is gone. */
async function byPrime(
  { namespace, target }: { namespace: Namespace; target: PersistentVolumeClaim },
  states: readonly PersistentVolumeClaim[],
  asked: Asked,
): Promise<void> {
  const { name = '', uid = '', annotations } = target.metadata ?? {};
  const prime = `prime-${uid}`;
  expect(annotations).toMatchObject({ [`${CDI}storage.populator.pvcPrime`]: prime });
  const seen = states.filter(({ metadata }) => metadata?.name === prime);
  expect(seen[0]?.metadata).toMatchObject({
    annotations: {
      ...asked.annotations,
      [`${CDI}storage.bind.immediate.requested`]: '',
      [`${CDI}storage.populator.kind`]: 'VolumeImportSource',
    },
    ownerReferences: [{ kind: 'PersistentVolumeClaim', name, uid, controller: true }],
  });
  const phases = seen.map(({ status }) => status?.phase).filter((one, n, all) => one !== all[n - 1]);
  expect(phases.slice(0, 2)).toEqual(['Pending', 'Bound']);
  const events = await until('the last event', 15, async () => {
    const found = await eventsOf(kubernetes, namespace, 'PersistentVolumeClaim', name);
    return found.some((one) => one.includes('importSucceeded')) && found;
  });
  expect(events).toContain('Normal CreatedPVCPrimeSuccessfully PVC Prime created successfully');
  expect(events).toContain('Normal importSucceeded Import Successful');
  expect(await eventsOf(kubernetes, namespace, 'PersistentVolumeClaim', prime)).toContain(
    'Normal ImportSucceeded Import Successful',
  );
}

async function byImportSource({ asked, namespace }: Row): Promise<PersistentVolumeClaim> {
  using claims = await historyOf<PersistentVolumeClaim>(kubernetes, namespace.path('persistentvolumeclaims'));
  await kubernetes.ask('POST', namespace.path('volumeimportsources', GROUP), {
    apiVersion: GROUP,
    kind: 'VolumeImportSource',
    metadata: { name: 'image' },
    spec: { source: asked.source },
  });
  const from = { apiGroup: 'cdi.kubevirt.io', kind: 'VolumeImportSource', name: 'image' };
  await namespace.claim('disk', { class: 'immediate', from });
  const claim = await bound(namespace);
  await byPrime(row(namespace, claim), claims.states, asked);
  // What somebody else made stays.
  expect(await namespace.found('volumeimportsources', 'image', GROUP)).toBeDefined();
  return claim;
}

async function byAnnotations({ asked, namespace, kind }: Row): Promise<PersistentVolumeClaim> {
  using claims = await historyOf<PersistentVolumeClaim>(kubernetes, namespace.path('persistentvolumeclaims'));
  await kubernetes.ask('POST', namespace.path('persistentvolumeclaims'), {
    apiVersion: 'v1',
    kind: 'PersistentVolumeClaim',
    metadata: { name: 'disk', annotations: asked.annotations },
    spec: claimSpec(),
  });
  const claim = await bound(namespace);
  const phases = await claims.until('Succeeded', ({ metadata }) => metadata?.annotations?.[`${CDI}storage.pod.phase`]);
  const short = SHORT.includes(kind) && !phases.includes('Running');
  expect(phases).toEqual(['Pending', ...(short ? [] : ['Running']), 'Succeeded']);
  expect(claim.metadata?.annotations).toMatchObject({
    ...asked.annotations,
    [`${CDI}storage.import.importPodName`]: 'importer-disk',
  });
  const events = await until('the last event', 15, async () => {
    const found = await eventsOf(kubernetes, namespace, 'PersistentVolumeClaim', 'disk');
    return found.some((one) => one.includes('ImportSucceeded')) && found;
  });
  expect(events).toContain('Normal ImportSucceeded Import Successful');
  expect(events.filter((one) => one.startsWith('Warning'))).toEqual([]);
  return claim;
}

const claimSpec = () => ({
  storageClassName: 'immediate',
  accessModes: ['ReadWriteOnce'],
  resources: { requests: { storage: '64Mi' } },
});

/** Waits until the claim has its volume, and that is filled. */
async function bound(namespace: Namespace): Promise<PersistentVolumeClaim> {
  return until('the claim is filled', 60, async () => {
    const claim = await claimOf(namespace, 'disk');
    const filled = claim.metadata?.annotations?.[`${CDI}storage.pod.phase`] === 'Succeeded';
    return claim.status?.phase === 'Bound' && filled && claim;
  });
}

const said = (status: DataVolume['status']): Record<string, string> =>
  Object.fromEntries(
    (status?.conditions ?? []).map(({ type, status: is, reason, message }) => [type, `${is} ${reason} ${message}`]),
  );

async function onlyTheClaim(namespace: Namespace): Promise<void> {
  await until('only the claim is left', 30, async () => {
    const [claims, pods] = await Promise.all(
      ['persistentvolumeclaims', 'pods'].map((kind) =>
        kubernetes.ask<{ items: { metadata: { name: string } }[] }>('GET', namespace.path(kind)),
      ),
    );
    return pods?.items.length === 0 && claims?.items.length === 1;
  });
}

async function rightBytes({ kind, namespace }: Row): Promise<void> {
  const size = kind === 'blank' ? 0 : served.size;
  const at = '/data/disk.img';
  const look = [
    `stat -c '%s %a %g' ${at}`,
    `head -c ${size} ${at} | sha256sum | cut -c -64`,
    `tail -c +${size + 1} ${at} | tr -d '\\0' | wc -c`,
    // KiB: of the disk, and free beside it.
    `du -k ${at} | cut -f 1`,
    `df -Pk /data | tail -n 1`,
  ];
  const said = await namespace.run('look', { command: script(look.join('\n')), mounts: { disk: '/data' } });
  const [mode, digest, others, used, free = ''] = said.split('\n');
  const room = (Number(used) + Number(free.trim().split(/\s+/)[3])) * 1024;
  // What is usable of a file system of this size that holds nothing else: 6 % are its overhead unless configured.
  const usable = Math.floor(Math.ceil(Math.min(room, 64 * MiB) / 1.06) / MiB) * MiB;
  expect(mode).toBe(`${usable} 660 107`);
  expect(others).toBe('0');
  if (kind !== 'blank') expect(digest).toBe(served.digest);
}

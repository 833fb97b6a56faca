// What else an import is told: a checksum, all of the room at once, files instead of a disk, where and how its pod runs.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { PersistentVolumeClaim, Pod } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { bootableDisk, MiB, qcow2, run, sha256 } from '../support/images.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { startSquid } from '../support/squid.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { authority } from '../support/tls.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { claimOf, dataVolume, eventsOf } from './support/datavolumes.ts';
import { type History, historyOf } from './support/history.ts';
import { installation } from './support/installation.ts';
import { type Namespace, script } from './support/namespace.ts';
import { configMap } from './support/servers.ts';
import { until } from './support/until.ts';
import { digestOnClaim } from './support/volumes.ts';

const CDI = 'cdi.kubevirt.io/';
const SIZE = 24 * MiB;
let kubernetes: Cluster;
let home: TempDir;
let site: Nginx;
const at = (name: string): string => join(home.path, name);
const url = (name: string): string => `http://${kubernetes.host}:${site.port}/${name}`;

beforeAll(async () => {
  kubernetes = await cluster();
  home = await tempdir();
  await bootableDisk(at('disk.raw'), SIZE);
  await qcow2(at('disk.raw'), at('disk.qcow2'));
  await run('qemu-img', 'qemu-utils', ['convert', '-f', 'raw', '-O', 'qcow', at('disk.raw'), at('disk.qcow')]);
  await writeFile(at('first.txt'), 'one\n');
  await writeFile(at('second.txt'), 'two\n');
  await run('tar', 'tar', ['-C', home.path, '-czf', at('files.tar.gz'), 'first.txt', 'second.txt']);
  // Slow enough for its pod to be looked at.
  site = await nginx({ root: home.path, address: kubernetes.host, server: 'limit_rate 2m;' });
}, 600_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
});

const FLOWS = [
  { flow: 'by way of a prime', annotations: {} as Record<string, string> },
  { flow: 'the claim itself', annotations: { [`${CDI}storage.usePopulator`]: 'false' } },
] as const;

const pvc = (size = '64Mi') => ({
  storageClassName: 'immediate',
  accessModes: ['ReadWriteOnce'],
  resources: { requests: { storage: size } },
});

const podsOf = (namespace: Namespace): Promise<History<Pod>> => historyOf<Pod>(kubernetes, namespace.path('pods'));
const importPods = (history: History<Pod>): Pod[] =>
  history.states.filter(({ metadata }) => metadata?.labels?.['cdi.kubevirt.io'] === 'importer');

test.concurrent.each(FLOWS)(
  'a checksum that is right, of the bytes that are sent: $flow',
  async ({ annotations }) => {
    await using namespace = await kubernetes.namespace();
    const checksum = await sha256(at('disk.qcow2'));
    const dv = await dataVolume(kubernetes, namespace, 'disk', {
      annotations,
      spec: { source: { http: { url: url('disk.qcow2'), checksum } }, pvc: pvc() },
    });
    await dv.reaches('Succeeded');
    expect(await digestOnClaim(kubernetes, namespace, 'disk', { bytes: SIZE })).toBe(
      (await sha256(at('disk.raw'))).slice('sha256:'.length),
    );
  },
  120_000,
);

test.concurrent.each(FLOWS)(
  'a checksum that is wrong: Failed, and not tried again: $flow',
  async ({ annotations }) => {
    await using namespace = await kubernetes.namespace();
    using pods = await podsOf(namespace);
    const [wrong, right] = [`sha256:${'0'.repeat(64)}`, await sha256(at('disk.qcow2'))];
    const dv = await dataVolume(kubernetes, namespace, 'disk', {
      annotations,
      spec: { source: { http: { url: url('disk.qcow2'), checksum: wrong } }, pvc: pvc() },
    });
    await dv.reaches('Failed');
    const sentence = `checksum validation failed: checksum mismatch: expected ${wrong}, calculated ${right}`;
    expect(await dv.says('Running', /ChecksumError/)).toMatch(new RegExp(`^False ChecksumError .*${sentence}`));
    await dv.says('Ready', /^False /);
    const events = await until('the event', 15, async () => {
      const found = await dv.events();
      return found.some((one) => one.startsWith('Warning ImportFailed')) && found;
    });
    expect(events).toContain('Warning ImportFailed Failed to import into PVC disk');
    const claim = await claimOf(namespace, 'disk');
    expect(claim.metadata?.annotations).toMatchObject({ [`${CDI}storage.import.fatalError`]: 'true' });
    const filled = claim.metadata?.annotations?.[`${CDI}storage.populator.pvcPrime`] ?? 'disk';
    expect(await eventsOf(kubernetes, namespace, 'PersistentVolumeClaim', filled)).toContainEqual(
      expect.stringMatching(new RegExp(`^Warning ErrImportFailed .*${sentence}`)),
    );
    // As long as the first tries would take.
    await new Promise((resolve) => setTimeout(resolve, 10_000));
    const { status } = await dv.now();
    expect(status).toMatchObject({ phase: 'Failed', restartCount: 0 });
    const tried = new Set(importPods(pods).map(({ metadata }) => metadata?.uid));
    expect(tried.size).toBe(1);
    expect(Math.max(...importPods(pods).map((pod) => pod.status?.containerStatuses?.[0]?.restartCount ?? 0))).toBe(0);
  },
  120_000,
);

test.concurrent.each(FLOWS)(
  'preallocation: the disk has all of its room: $flow',
  async ({ annotations }) => {
    await using namespace = await kubernetes.namespace();
    const dv = await dataVolume(kubernetes, namespace, 'disk', {
      annotations,
      spec: { source: { http: { url: url('disk.qcow2') } }, preallocation: true, pvc: pvc() },
    });
    await dv.reaches('Succeeded');
    const claim = await claimOf(namespace, 'disk');
    expect(claim.metadata?.annotations).toMatchObject({
      [`${CDI}storage.preallocation.requested`]: 'true',
      [`${CDI}storage.preallocation`]: 'true',
    });
    const [size, used] = (
      await namespace.run('look', {
        command: script("stat -c '%s' /data/disk.img; du -k /data/disk.img | cut -f 1"),
        mounts: { disk: '/data' },
      })
    ).split('\n');
    expect(Number(used) * 1024).toBeGreaterThanOrEqual(Number(size));
  },
  120_000,
);

test.concurrent.each(FLOWS)(
  'an archive: its files, and nothing else: $flow',
  async ({ annotations }) => {
    await using namespace = await kubernetes.namespace();
    const dv = await dataVolume(kubernetes, namespace, 'disk', {
      annotations,
      spec: { source: { http: { url: url('files.tar.gz') } }, contentType: 'archive', pvc: pvc() },
    });
    await dv.reaches('Succeeded');
    const claim = await claimOf(namespace, 'disk');
    expect(claim.metadata?.annotations).toMatchObject({ [`${CDI}storage.contentType`]: 'archive' });
    const files = await namespace.run('look', {
      command: script('cd /data; ls | grep -v lost+found; cat first.txt second.txt'),
      mounts: { disk: '/data' },
    });
    expect(files).toBe('first.txt\nsecond.txt\none\ntwo\n');
  },
  120_000,
);

test.concurrent.each(FLOWS)(
  'an image that only QEMU reads: scratch space as long as its pod: $flow',
  async ({ annotations }) => {
    await using namespace = await kubernetes.namespace();
    using claims = await historyOf<PersistentVolumeClaim>(kubernetes, namespace.path('persistentvolumeclaims'));
    using pods = await podsOf(namespace);
    const dv = await dataVolume(kubernetes, namespace, 'disk', {
      annotations,
      spec: { source: { http: { url: url('disk.qcow') } }, pvc: pvc() },
    });
    await dv.reaches('Succeeded', 90);
    expect(await digestOnClaim(kubernetes, namespace, 'disk', { bytes: SIZE })).toBe(
      (await sha256(at('disk.raw'))).slice('sha256:'.length),
    );
    const filled = (await claimOf(namespace, 'disk')).metadata?.annotations?.[`${CDI}storage.populator.pvcPrime`];
    const scratch = `${filled ?? 'disk'}-scratch`;
    // What the target can hold and its file system's share, in its class.
    const made = claims.states.find(({ metadata }) => metadata?.name === scratch);
    expect(made?.spec).toMatchObject({ storageClassName: 'immediate', resources: { requests: { storage: '64Mi' } } });
    // The pod that found out, and the one that it is mounted in.
    const mounted = new Map(
      importPods(pods).map(({ metadata, spec }) => [
        metadata?.uid,
        (spec?.volumes ?? []).some(({ persistentVolumeClaim }) => persistentVolumeClaim?.claimName === scratch),
      ]),
    );
    expect([...mounted.values()]).toEqual([false, true]);
    await until(
      'the scratch space is gone',
      60,
      async () => (await namespace.found('persistentvolumeclaims', scratch)) === undefined,
    );
  },
  150_000,
);

// The CDI is everybody's from here on: one after another.
test.each(FLOWS)(
  'by way of a proxy, trusted with certificates that lie in the namespace of the installation: $flow',
  async ({ annotations }) => {
    await using squid = await startSquid(kubernetes.host);
    await using place = await tempdir();
    const trusted = await authority(place.path, 'authority of the proxy');
    await using secure = await nginx({
      root: home.path,
      address: kubernetes.host,
      tls: await trusted.issue('server', [kubernetes.host]),
    });
    await using _certificates = await kubernetes.applied([
      {
        ...configMap('proxy-authority', { 'ca.pem': trusted.ca }),
        metadata: { name: 'proxy-authority', namespace: 'cdi' },
      },
    ]);
    const through = `http://${kubernetes.host}:${squid.port}`;
    await using _configured = await installation(kubernetes, {
      config: { importProxy: { HTTPProxy: through, HTTPSProxy: through, trustedCAProxy: 'proxy-authority' } },
    });
    await using namespace = await kubernetes.namespace();
    using pods = await podsOf(namespace);
    const dv = await dataVolume(kubernetes, namespace, 'disk', {
      annotations,
      spec: { source: { http: { url: `https://${kubernetes.host}:${secure.port}/disk.qcow2` } }, pvc: pvc() },
    });
    await dv.reaches('Succeeded');
    expect(await digestOnClaim(kubernetes, namespace, 'disk', { bytes: SIZE })).toBe(
      (await sha256(at('disk.raw'))).slice('sha256:'.length),
    );
    expect(await squid.requests()).toContain(`CONNECT ${kubernetes.host}:${secure.port}`);
    expect(new Set(importPods(pods).map(({ metadata }) => metadata?.uid)).size).toBe(1);
    // They go with the pod.
    await until('the copied certificates are gone', 60, async () => {
      const { items } = await kubernetes.ask<{ items: { metadata: { name: string } }[] }>(
        'GET',
        namespace.path('configmaps'),
      );
      return items.every(({ metadata }) => !metadata.name.startsWith('import-proxy-cm'));
    });
  },
  150_000,
);

test.each(FLOWS)(
  'its pod has the priority, account, place and resources that it is to have: $flow',
  async ({ annotations }) => {
    const tolerations = [{ key: 'images', operator: 'Equal', value: 'yes', effect: 'NoSchedule' }] as const;
    const hostname = { key: 'kubernetes.io/hostname', operator: 'In', values: ['node-1'] };
    const affinity = {
      nodeAffinity: {
        requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [{ matchExpressions: [hostname] }] },
      },
    };
    const nodeSelector = {
      'kubernetes.io/os': 'linux',
      'kubernetes.io/arch': process.arch === 'x64' ? 'amd64' : 'arm64',
    };
    const resources = { limits: { cpu: '1', memory: '700M' }, requests: { cpu: '10m', memory: '64M' } };
    await using _configured = await installation(kubernetes, {
      workload: { nodeSelector, tolerations, affinity },
      config: { podResourceRequirements: resources },
    });
    await using _class = await kubernetes.applied([
      { apiVersion: 'scheduling.k8s.io/v1', kind: 'PriorityClass', metadata: { name: 'images' }, value: 7000 },
    ]);
    await using namespace = await kubernetes.namespace();
    await kubernetes.ask('POST', namespace.path('serviceaccounts'), {
      apiVersion: 'v1',
      kind: 'ServiceAccount',
      metadata: { name: 'carrier' },
    });
    using pods = await podsOf(namespace);
    const dv = await dataVolume(kubernetes, namespace, 'disk', {
      annotations: { ...annotations, 'k8s.v1.cni.cncf.io/networks': 'storage-net' },
      spec: {
        source: { http: { url: url('disk.qcow2') } },
        priorityClassName: 'images',
        serviceAccountName: 'carrier',
        pvc: pvc(),
      },
    });
    await dv.reaches('Succeeded');
    const claim = await claimOf(namespace, 'disk');
    expect(claim.metadata?.annotations).toMatchObject({
      [`${CDI}storage.pod.priorityclassname`]: 'images',
      [`${CDI}storage.pod.serviceAccountName`]: 'carrier',
    });
    const [pod] = importPods(pods);
    expect(pod?.spec).toMatchObject({
      priorityClassName: 'images',
      priority: 7000,
      serviceAccountName: 'carrier',
      automountServiceAccountToken: false,
      nodeSelector,
      affinity,
      tolerations: expect.arrayContaining(tolerations as never),
      restartPolicy: 'OnFailure',
      containers: [{ name: 'importer', resources, securityContext: { runAsUser: 107 } }],
    });
    expect(pod?.metadata).toMatchObject({
      name: expect.stringMatching(/^importer-/),
      labels: { app: 'containerized-data-importer', 'prometheus.cdi.kubevirt.io': 'true' },
      annotations: {
        'k8s.v1.cni.cncf.io/networks': 'storage-net',
        'sidecar.istio.io/inject': 'false',
        'linkerd.io/inject': 'disabled',
        [`${CDI}storage.createdByController`]: 'yes',
      },
    });
  },
  120_000,
);

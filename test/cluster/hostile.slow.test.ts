// DataVolumes that nobody should make: a condition with a sentence, no secret told, and the controller lives.
import { join } from 'node:path';
import type { Pod } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { DataVolumeSource } from '../../src/api/datavolume.ts';
import { bootableDisk, MiB, qcow2 } from '../support/images.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { dataVolume, type Made } from './support/datavolumes.ts';
import type { Namespace } from './support/namespace.ts';
import { secret } from './support/servers.ts';

const CDI = 'cdi.kubevirt.io/';
const ITSELF = { [`${CDI}storage.usePopulator`]: 'false' };
/** Part of everything that nobody is to be told. */
const SECRET = 'do-not-tell-7c1f';
let kubernetes: Cluster;
let home: TempDir;
let site: Nginx;
let before: string;
const at = (name: string): string => join(home.path, name);
const host = (): string => `${kubernetes.host}:${site.port}`;
const url = (path: string): string => `http://${host()}/${path}`;

beforeAll(async () => {
  kubernetes = await cluster();
  before = await controllers();
  home = await tempdir();
  await bootableDisk(at('disk.raw'), 24 * MiB);
  await qcow2(at('disk.raw'), at('disk.qcow2'));
  site = await nginx({
    root: home.path,
    address: kubernetes.host,
    server: `location /metadata { return 302 http://169.254.169.254/latest/meta-data/; }
      location /loopback { return 302 http://127.0.0.1:10248/healthz; }
      location /named { return 302 http://localhost:10248/healthz; }
      location /server { return 302 https://${kubernetes.layout.kubernetes}/version; }`,
  });
}, 600_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
});

interface Case {
  readonly name: string;
  readonly source?: () => DataVolumeSource;
  readonly size?: string;
  /** Of everything besides the source and the claim. */
  readonly more?: object;
  readonly annotations?: Readonly<Record<string, string>>;
  /** A condition, or what the webhook says of it at the door. */
  readonly says: readonly [type: 'Bound' | 'Running' | 'refused', what: RegExp];
}

const http =
  (address: () => string, more: object = {}) =>
  (): DataVolumeSource => ({ http: { url: address(), ...more } });

const CASES: readonly Case[] = [
  { name: 'a size below zero', size: '-1Gi', says: ['refused', /less than zero/] },
  { name: 'no size', size: '0', says: ['refused', /less than zero/] },
  {
    name: 'more than there is',
    size: '8Ei',
    says: ['refused', /9223372036854775807|2\^63/],
  },
  {
    name: 'credentials in the URL',
    source: http(() => `http://somebody:${SECRET}@${host()}/missing.qcow2`),
    says: ['refused', /secretRef/],
  },
  {
    name: 'a signature in the URL',
    source: http(() => url(`missing.qcow2?signature=${SECRET}`)),
    says: ['Running', /Error Unable to connect to http data source: .*404/],
  },
  {
    name: 'a header that brings another one',
    source: http(() => url('disk.qcow2'), { extraHeaders: [`X-A: ${SECRET}\r\nX-B: b`] }),
    says: ['refused', /control|extraHeaders/],
  },
  {
    name: 'a redirect to the metadata of a cloud',
    source: http(() => url('metadata')),
    says: ['Running', /Error Unable to connect to http data source: .*169\.254\.169\.254.* a link-local address/],
  },
  {
    name: 'a redirect to loopback',
    source: http(() => url('loopback')),
    says: ['Running', /Error Unable to connect to http data source: .*127\.0\.0\.1.* a loopback address/],
  },
  {
    name: 'a redirect to localhost',
    source: http(() => url('named')),
    says: ['Running', /Error Unable to connect to http data source: .*localhost.* a loopback address/],
  },
  {
    name: 'a redirect to the API server',
    source: http(() => url('server')),
    says: ['Running', /Error Unable to connect to http data source: .*the cluster's API server/],
  },
  {
    name: 'loopback itself',
    source: http(() => 'http://127.0.0.1:10248/healthz'),
    says: ['Running', /Error Unable to connect to http data source: .*a loopback address/],
  },
  {
    name: 'a file',
    source: http(() => 'file:///etc/passwd'),
    says: ['refused', /scheme|URL/i],
  },
  {
    name: 'a secret of another namespace',
    source: http(() => url('disk.qcow2'), { secretRef: 'kube-system/keys' }),
    says: ['Running', /ErrStartingPod .*kube-system\/keys/],
  },
  {
    name: 'a priority that does not exist',
    more: { priorityClassName: 'absent' },
    says: ['Running', /ErrStartingPod .*no PriorityClass with name absent was found/],
  },
  {
    name: 'an account that does not exist',
    more: { serviceAccountName: 'absent' },
    says: ['Running', /ErrStartingPod .*serviceaccount "absent" not found/],
  },
  {
    name: 'as many annotations as fit, so that no more do',
    annotations: { 'example.com/much': 'x'.repeat(262_050) },
    says: ['Bound', /ErrClaimNotValid .*annotations.* 262144/],
  },
  { name: 'nothing to fill it with', source: () => ({}), says: ['refused', /Missing Data volume source/] },
];

test.concurrent.each(
  CASES.flatMap((one) => [
    { ...one, flow: 'by way of a prime', way: {} },
    { ...one, flow: 'the claim itself', way: ITSELF },
  ]),
)(
  '$name: $flow',
  async ({ source = http(() => url('disk.qcow2')), size = '64Mi', more, annotations, way, says }) => {
    await using namespace = await kubernetes.namespace();
    const key = secret('keys', { accessKeyId: 'somebody', secretKey: SECRET });
    await kubernetes.ask('POST', namespace.path('secrets'), key);
    const making = dataVolume(kubernetes, namespace, 'disk', {
      annotations: { ...way, ...annotations },
      spec: {
        source: source(),
        ...more,
        pvc: {
          storageClassName: 'immediate',
          accessModes: ['ReadWriteOnce'],
          resources: { requests: { storage: size } },
        },
      },
    });
    if (says[0] === 'refused') {
      const refusal = await making.then(
        () => 'it was made',
        (error: Error) => error.message,
      );
      expect(refusal).toMatch(/admission webhook/);
      expect(refusal).toMatch(says[1]);
      expect(refusal).not.toContain(SECRET);
      return;
    }
    const dv = await making;
    await dv.says(says[0], says[1]);
    await nothingTold(namespace, dv);
  },
  120_000,
);

test.concurrent.each([
  ['by way of a prime', {}],
  ['the claim itself', ITSELF],
])(
  'a name as long as names are: %s',
  async (_, annotations) => {
    await using namespace = await kubernetes.namespace();
    const name = `${'a'.repeat(60)}.`.repeat(4) + 'b'.repeat(9);
    expect(name).toHaveLength(253);
    const dv = await dataVolume(kubernetes, namespace, name, {
      annotations,
      spec: {
        source: { http: { url: url('disk.qcow2') } },
        pvc: {
          storageClassName: 'immediate',
          accessModes: ['ReadWriteOnce'],
          resources: { requests: { storage: '64Mi' } },
        },
      },
    });
    await dv.reaches('Succeeded');
  },
  120_000,
);

test('the controller that was there at first is there, and has told no secret', async () => {
  expect(await controllers()).toBe(before);
  const log = await kubernetes.kubectl(['logs', '-n', 'cdi', 'deployment/cdi-deployment', '--tail=-1']);
  expect(log).not.toContain(SECRET);
});

/** UIDs and restarts of the controller's pods. */
async function controllers(): Promise<string> {
  const path = '/api/v1/namespaces/cdi/pods?labelSelector=cdi.kubevirt.io%3Dcdi-deployment';
  const { items } = await kubernetes.ask<{ items: Pod[] }>('GET', path);
  return items
    .map(({ metadata, status }) => `${metadata?.uid} ${status?.containerStatuses?.[0]?.restartCount}`)
    .join('\n');
}

/** In the status, in events, in logs and in what pods leave. */
async function nothingTold(namespace: Namespace, dv: Made): Promise<void> {
  const { status } = await dv.now();
  const events = await kubernetes.ask<{ items: object[] }>('GET', namespace.path('events'));
  const { items: pods } = await kubernetes.ask<{ items: Pod[] }>('GET', namespace.path('pods'));
  const logs = await Promise.all(
    pods.map(({ metadata }) =>
      kubernetes.ask<string>('GET', namespace.path(`pods/${metadata?.name}/log`)).catch(() => ''),
    ),
  );
  const told = JSON.stringify([status, events.items, pods.map((pod) => pod.status), logs]);
  expect(told).not.toContain(SECRET);
}

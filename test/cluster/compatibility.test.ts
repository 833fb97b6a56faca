// What clients and test suites of CDI take for granted about an installation that imports (docs/compatibility.md).
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Deployment } from 'kubernetes-types/apps/v1.js';
import type { Pod } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { bootableDisk, MiB, qcow2 } from '../support/images.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { PROGRAM_IMAGE } from './images.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { dataVolume } from './support/datavolumes.ts';
import { until } from './support/until.ts';

const CDI = 'cdi.kubevirt.io/';
let kubernetes: Cluster;
let home: TempDir;
let site: Nginx;
const at = (name: string): string => join(home.path, name);

beforeAll(async () => {
  kubernetes = await cluster();
  home = await tempdir();
  await bootableDisk(at('disk.raw'), 24 * MiB);
  await qcow2(at('disk.raw'), at('disk.qcow2'));
  site = await nginx({
    root: home.path,
    address: kubernetes.host,
    http: "log_format agents '$http_user_agent';",
    server: `location /slow/ { alias ${home.path}/; limit_rate 200k; access_log ${at('agents')} agents; }`,
  });
}, 600_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
});

const pvc = {
  storageClassName: 'immediate',
  accessModes: ['ReadWriteOnce'],
  resources: { requests: { storage: '64Mi' } },
};

test('the controller is found by name and label, and its first container names the image of the importer', async () => {
  const path = '/api/v1/namespaces/cdi/pods?labelSelector=app%3Dcontainerized-data-importer';
  const { items } = await kubernetes.ask<{ items: Pod[] }>('GET', path);
  const [pod] = items.filter(({ metadata }) => metadata?.name?.startsWith('cdi-deployment'));
  const env = pod?.spec?.containers[0]?.env ?? [];
  expect(env.find(({ name }) => name === 'IMPORTER_IMAGE')?.value).toBe(PROGRAM_IMAGE);
  const deployment = await kubernetes.ask<Deployment>('GET', '/apis/apps/v1/namespaces/cdi/deployments/cdi-deployment');
  expect(deployment.spec?.replicas).toBe(1);
  expect(deployment.spec?.template.spec?.serviceAccountName).toBe('cdi-sa');
});

test('the controller says that it leads', async () => {
  const log = await kubernetes.kubectl(['logs', '-n', 'cdi', 'deployment/cdi-deployment', '--tail=-1']);
  expect(log).toContain('successfully acquired lease');
});

/** What the controller may do: no more than it does. CDI's may also update and deletecollection claims, and create secrets. */
test.each([
  ['events', ['get', 'list', 'watch', 'create', 'patch'], ['update', 'delete', 'deletecollection']],
  ['pods', ['get', 'list', 'watch', 'create', 'delete'], ['update', 'patch', 'deletecollection']],
  ['persistentvolumeclaims', ['get', 'list', 'watch', 'create', 'patch', 'delete'], ['update', 'deletecollection']],
  ['secrets', [], ['get', 'list', 'watch', 'create', 'update', 'patch', 'delete', 'deletecollection']],
] as const)('rights on %s', async (resource, may, mayNot) => {
  const can = async (verb: string): Promise<string> =>
    (
      await kubernetes
        .kubectl(['auth', 'can-i', verb, resource, '--as', 'system:serviceaccount:cdi:cdi-sa'])
        .catch((error: Error) => error.message)
    ).includes('yes')
      ? 'yes'
      : 'no';
  const asked = await Promise.all([...may, ...mayNot].map(async (verb) => [verb, await can(verb)] as const));
  expect(Object.fromEntries(asked)).toEqual(
    Object.fromEntries([...may.map((verb) => [verb, 'yes']), ...mayNot.map((verb) => [verb, 'no'])]),
  );
});

test('the configuration says what pods ask for', async () => {
  const path = "-o=jsonpath={.status.defaultPodResourceRequirements..['cpu', 'memory']}";
  const said = await kubernetes.kubectl(['get', 'CDIConfig', 'config', path]);
  expect(said.trim().split(/\s+/)).toHaveLength(4);
});

test('the image of the importer is a shell for those that look at disks; they are sparse, and of the size that is usable', async () => {
  await using namespace = await kubernetes.namespace();
  const source = { http: { url: `http://${kubernetes.host}:${site.port}/disk.qcow2` } };
  const dv = await dataVolume(kubernetes, namespace, 'disk', { annotations: {}, spec: { source, pvc } });
  await dv.reaches('Succeeded');
  const script = [
    'set -e; cd /data',
    'md5sum disk.img | cut -d " " -f 1 | tr -d "\\n" | wc -c',
    'ls -l disk.img | cut -c -10; head -c 512 disk.img | wc -c; dd if=disk.img of=/dev/null count=1 2>&1 | grep -c records',
    'du disk.img > /dev/null; cp disk.img /dev/null',
    'qemu-img info --output=json disk.img',
  ];
  const log = await namespace.run('look', {
    image: PROGRAM_IMAGE,
    command: ['/bin/sh', '-c', script.join('\n')],
    mounts: { disk: '/data' },
  });
  const [sum, mode, sector, records, ...json] = log.split('\n');
  expect([sum, mode, sector, records]).toEqual(['32', '-rw-rw----', '512', '2']);
  const found = JSON.parse(json.join('\n')) as Record<'format' | 'virtual-size' | 'actual-size', number>;
  expect(found).toMatchObject({ format: 'raw', 'virtual-size': expect.any(Number) });
  expect(found['virtual-size']).toBeGreaterThanOrEqual(24 * MiB);
  expect(found['actual-size']).toBeLessThanOrEqual(24 * MiB);
});

test('a percentage is seen while it runs', async () => {
  await using namespace = await kubernetes.namespace();
  const source = { http: { url: `http://${kubernetes.host}:${site.port}/slow/disk.qcow2` } };
  const dv = await dataVolume(kubernetes, namespace, 'disk', { annotations: {}, spec: { source, pvc } });
  await until('a percentage', 60, async () => {
    const said = await kubernetes.kubectl(['get', 'dv', 'disk', '-n', namespace.name, '--no-headers']);
    return /\sImportInProgress\s+\d{1,2}\.\d\d%\s/.test(said);
  });
  await dv.reaches('Succeeded', 90);
  expect(new Set((await readFile(at('agents'), 'utf8')).trim().split('\n'))).toEqual(new Set(['diskferry']));
}, 180_000);

test('pods and primes are kept where that is asked for', async () => {
  await using namespace = await kubernetes.namespace();
  const source = { http: { url: `http://${kubernetes.host}:${site.port}/disk.qcow2` } };
  const dv = await dataVolume(kubernetes, namespace, 'disk', {
    annotations: { [`${CDI}storage.pod.retainAfterCompletion`]: 'true' },
    spec: { source, pvc },
  });
  await dv.reaches('Succeeded');
  const prime = `prime-${(await namespace.found<Pod>('persistentvolumeclaims', 'disk'))?.metadata?.uid}`;
  await new Promise((resolve) => setTimeout(resolve, 5000));
  expect(await namespace.found('persistentvolumeclaims', prime)).toBeDefined();
  const pod = await namespace.found<Pod>('pods', `importer-${prime}`);
  expect(pod?.status?.phase).toBe('Succeeded');
  expect(pod?.spec?.containers[0]?.env).toContainEqual({ name: 'OWNER_UID', value: prime.slice('prime-'.length) });
  await kubernetes.ask('DELETE', namespace.path('datavolumes/disk', 'cdi.kubevirt.io/v1beta1'));
  await until('all of it is gone', 60, async () => {
    const { items } = await kubernetes.ask<{ items: unknown[] }>('GET', namespace.path('pods'));
    return items.length === 0 && !(await namespace.found('persistentvolumeclaims', prime));
  });
}, 180_000);

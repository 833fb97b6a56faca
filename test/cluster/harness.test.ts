// The cluster itself: what tests of controllers take for granted.
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { nginx } from '../support/nginx.ts';
import { tempdir } from '../support/tempdir.ts';
import { PROGRAM_IMAGE } from './images.ts';
import { type Cluster, cluster as connect } from './support/cluster.ts';
import { processOfContainer } from './support/containers.ts';
import { type Namespace, script } from './support/namespace.ts';
import { until } from './support/until.ts';
import { digestOnClaim, hostPathVolume, localVolume } from './support/volumes.ts';

const MiB = 1024 * 1024;
const SNAPSHOT = 'snapshot.storage.k8s.io';
let cluster: Cluster;
let namespace: Namespace;

beforeAll(async () => {
  cluster = await connect();
  namespace = await cluster.namespace();
});

afterAll(async () => {
  await namespace?.[Symbol.asyncDispose]();
  await cluster?.[Symbol.asyncDispose]();
});

interface Claim {
  readonly metadata: { readonly uid: string };
  readonly spec: { readonly volumeName?: string };
  readonly status: { readonly phase: string };
}

const claimNow = async (name: string): Promise<Claim | undefined> =>
  namespace.found<Claim>('persistentvolumeclaims', name);
const boundTo = (name: string): Promise<string> =>
  until(`claim ${name} is bound`, 60, async () => {
    const found = await claimNow(name);
    return found?.status.phase === 'Bound' && found.spec.volumeName;
  });

/** Fills a file or device with 8 MiB that are the same each time. */
const fill = (path: string): string =>
  `yes diskferry | head -c ${8 * MiB} | dd of=${path} bs=64k conv=fsync 2>/dev/null`;
const FILLED = createHash('sha256')
  .update('diskferry\n'.repeat(MiB).slice(0, 8 * MiB))
  .digest('hex');

describe('pods', () => {
  test('run the image of this checkout', async () => {
    expect(await namespace.run('version', { image: PROGRAM_IMAGE, args: ['--version'] })).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test('that `restricted` does not allow are refused', async () => {
    const container = { securityContext: { privileged: true } };
    await expect(namespace.start('privileged', { container })).rejects.toThrow('violates PodSecurity');
  });

  test('have logs, are entered, found by name behind a Service, and reached from this machine', async () => {
    const serving = 'mkdir /tmp/www; echo hello > /tmp/www/index.html; echo serving; exec httpd -f -p 8080 -h /tmp/www';
    const probe = { readinessProbe: { httpGet: { port: 8080, path: '/index.html' }, periodSeconds: 1 } };
    await namespace.start('server', { command: script(serving), labels: { app: 'server' }, container: probe });
    await using _ = await cluster.applied([
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: 'web', namespace: namespace.name },
        spec: { selector: { app: 'server' }, ports: [{ port: 80, targetPort: 8080 }] },
      },
    ]);
    await namespace.ready('server');
    const inside = ['-n', namespace.name];
    expect(await cluster.kubectl([...inside, 'logs', 'server'])).toBe('serving\n');
    expect(await cluster.kubectl([...inside, 'exec', '-i', 'server', '--', 'sha256sum'], 'x')).toMatch(
      /^2d711642b726b044/,
    );
    const asking = script(`wget -q -O- http://web/ && wget -q -O- http://web.${namespace.name}.svc.cluster.local/`);
    const answers = await until('the Service answers', 20, () => namespace.run('client', { command: asking }));
    expect(answers).toBe('hello\nhello\n');
    const service = await cluster.ask<{ spec: { clusterIP: string } }>('GET', namespace.path('services/web'));
    expect(await (await fetch(`http://${service.spec.clusterIP}/`)).text()).toBe('hello\n');
  });

  test('reach servers of tests', async () => {
    await using home = await tempdir();
    await mkdir(join(home.path, 'www'));
    await writeFile(join(home.path, 'www/a'), 'from the machine');
    await using server = await nginx({ root: join(home.path, 'www') });
    await using proxy = await cluster.reachable(server.port);
    expect(await namespace.run('fetch', { command: script(`wget -q -O- ${proxy.url}/a`) })).toBe('from the machine');
  });

  test('are counted, stopped and killed from outside', async () => {
    const writing = 'while :; do dd if=/dev/zero of=/tmp/x bs=64k count=1 conv=fsync 2>/dev/null; done';
    await namespace.start('writer', { command: script(writing) });
    const container = await processOfContainer(cluster, namespace, 'writer');
    container.signal('SIGSTOP');
    container.signal('SIGCONT');
    await until('it writes', 20, async () => {
      // Of children that were waited for, too.
      const { wchar } = await container.io();
      return wchar >= 64 * 1024;
    });
    container.signal('SIGKILL');
    expect((await namespace.ended('writer')).code).toBe(137);
  });
});

describe.concurrent.each(['wffc', 'immediate', 'xfs', undefined])('volumes of class %s', (name) => {
  const class_ = name === undefined ? {} : { class: name };

  test('take a file of user 107', async () => {
    const claim = `files-${name ?? 'default'}`;
    await namespace.claim(claim, class_);
    const log = await namespace.run(`write-${claim}`, {
      mounts: { [claim]: '/data' },
      command: script(`${fill('/data/disk.img')}; stat -c '%u %g' /data/disk.img; stat -f -c %T /data`),
    });
    expect(log).toBe(`107 107\n${name === 'xfs' ? 'xfs' : 'ext2/ext3'}\n`);
    await boundTo(claim);
    expect(await digestOnClaim(cluster, namespace, claim)).toBe(FILLED);
  });

  test('are a device of user 107', async () => {
    const claim = `device-${name ?? 'default'}`;
    await namespace.claim(claim, { ...class_, mode: 'Block', size: '32Mi' });
    const log = await namespace.run(`write-${claim}`, {
      devices: { [claim]: '/dev/disk' },
      command: script(`${fill('/dev/disk')}; stat -c '%u %g' /dev/disk; blockdev --getsize64 /dev/disk`),
    });
    expect(log).toBe(`107 107\n${32 * MiB}\n`);
    expect(await digestOnClaim(cluster, namespace, claim, { bytes: 8 * MiB })).toBe(FILLED);
  });
});

describe.concurrent('volumes that nothing provisions', () => {
  test.each(['Filesystem', 'Block'] as const)('local: %s', async (mode) => {
    const name = `local-${mode.toLowerCase()}-${randomBytes(3).toString('hex')}`;
    await using volume = await localVolume(cluster, name, { mode });
    await using own = await cluster.namespace();
    await own.claim('disk', { class: 'local', mode });
    const block = mode === 'Block';
    await own.run('write', {
      ...(block ? { devices: { disk: '/dev/disk' } } : { mounts: { disk: '/data' } }),
      command: script(fill(block ? '/dev/disk' : '/data/disk.img')),
    });
    const found = await cluster.ask<Claim>('GET', own.path('persistentvolumeclaims/disk'));
    expect(found.spec.volumeName).toBe(volume.name);
    expect(await digestOnClaim(cluster, own, 'disk', { bytes: 8 * MiB })).toBe(FILLED);
  });

  test('hostPath', async () => {
    await using _ = await hostPathVolume(cluster, `path-${randomBytes(3).toString('hex')}`);
    await using own = await cluster.namespace();
    await own.claim('disk', { class: 'hostpath' });
    await own.run('write', { mounts: { disk: '/data' }, command: script(fill('/data/disk.img')) });
    expect(await digestOnClaim(cluster, own, 'disk')).toBe(FILLED);
  });
});

describe.concurrent('what storage can do', () => {
  test.each([
    ['a snapshot', 'Filesystem'],
    ['a snapshot', 'Block'],
    ['a clone', 'Filesystem'],
    ['a clone', 'Block'],
  ] as const)('%s: %s', async (what, mode) => {
    await using own = await cluster.namespace();
    const block = mode === 'Block';
    await own.claim('source', { class: 'xfs', mode });
    const source = block ? { devices: { source: '/dev/disk' } } : { mounts: { source: '/data' } };
    await own.run('write', { ...source, command: script(fill(block ? '/dev/disk' : '/data/disk.img')) });
    let from: { apiGroup?: string; kind: string; name: string } = { kind: 'PersistentVolumeClaim', name: 'source' };
    if (what === 'a snapshot') {
      await cluster.ask('POST', own.path('volumesnapshots', `${SNAPSHOT}/v1`), {
        apiVersion: `${SNAPSHOT}/v1`,
        kind: 'VolumeSnapshot',
        metadata: { name: 'taken' },
        spec: { volumeSnapshotClassName: 'snap', source: { persistentVolumeClaimName: 'source' } },
      });
      await until('the snapshot is ready', 60, async () => {
        const found = await own.found<{ status?: { readyToUse?: boolean } }>(
          'volumesnapshots',
          'taken',
          `${SNAPSHOT}/v1`,
        );
        return found?.status?.readyToUse;
      });
      from = { apiGroup: SNAPSHOT, kind: 'VolumeSnapshot', name: 'taken' };
    }
    await own.claim('restored', { class: 'xfs', mode, size: '96Mi', from });
    expect(await digestOnClaim(cluster, own, 'restored', { bytes: 8 * MiB })).toBe(FILLED);
  });

  test.each(['Filesystem', 'Block'] as const)('growing while it is used: %s', async (mode) => {
    await using own = await cluster.namespace();
    const block = mode === 'Block';
    await own.claim('disk', { class: 'xfs', mode });
    const volume = block ? { devices: { disk: '/dev/disk' } } : { mounts: { disk: '/data' } };
    await own.start('user', { ...volume, command: ['sleep', '600'] });
    await own.ready('user');
    const wanted = { spec: { resources: { requests: { storage: '128Mi' } } } };
    await cluster.ask('PATCH', own.path('persistentvolumeclaims/disk'), wanted);
    await until('the claim has grown', 60, async () => {
      const found = await own.found<{ status: { capacity: { storage: string } } }>('persistentvolumeclaims', 'disk');
      return found?.status.capacity.storage === '128Mi';
    });
    const size = block ? 'blockdev --getsize64 /dev/disk' : 'df -k /data | tail -1';
    const said = await cluster.kubectl(['-n', own.name, 'exec', 'user', '--', 'sh', '-c', size]);
    const bytes = block ? Number(said) : Number(said.trim().split(/\s+/)[1]) * 1024;
    expect(bytes).toBeGreaterThan(100 * MiB);
  });

  test('a claim that a populator fills waits for it, and takes the volume of another claim', async () => {
    await using own = await cluster.namespace();
    const claims = own.path('persistentvolumeclaims');
    // Nobody knows this kind, as long as its populator does.
    await own.claim('wanted', { from: { apiGroup: 'populators.test', kind: 'Filler', name: 'any' } });
    const pod = { mounts: { wanted: '/data' }, command: script('cat /data/disk.img') };
    await own.start('consumer', pod);
    const node = await until('a node for it', 60, async () => {
      const { metadata } = await cluster.ask<{ metadata: { annotations?: Record<string, string> } }>(
        'GET',
        `${claims}/wanted`,
      );
      return metadata.annotations?.['volume.kubernetes.io/selected-node'];
    });
    const prime = { metadata: { annotations: { 'volume.kubernetes.io/selected-node': node } } };
    await own.claim('prime', {});
    await cluster.ask('PATCH', `${claims}/prime`, prime);
    await own.run('filler', { mounts: { prime: '/data' }, command: script('echo populated > /data/disk.img') });
    const wanted = await cluster.ask<Claim>('GET', `${claims}/wanted`);
    expect(wanted.status.phase).toBe('Pending');
    const { spec } = await cluster.ask<Claim>('GET', `${claims}/prime`);
    const reference = { namespace: own.name, name: 'wanted', uid: wanted.metadata.uid, resourceVersion: null };
    await cluster.ask('PATCH', `/api/v1/persistentvolumes/${spec.volumeName}`, { spec: { claimRef: reference } });
    expect(await own.ended('consumer')).toMatchObject({ code: 0, log: 'populated\n' });
    expect((await cluster.ask<Claim>('GET', `${claims}/wanted`)).spec.volumeName).toBe(spec.volumeName);
    await until(
      'the other claim has lost it',
      20,
      async () => (await own.found<Claim>('persistentvolumeclaims', 'prime'))?.status.phase === 'Lost',
    );
  });
});

describe('nodes', () => {
  test('each has a driver, runs pods, and keeps its volumes to itself', async () => {
    const found = await cluster.ask<{ items: { metadata: { name: string } }[] }>('GET', '/api/v1/nodes');
    expect(found.items.map(({ metadata }) => metadata.name).sort()).toEqual(cluster.nodes.map(({ name }) => name));
    for (const { name } of cluster.nodes) {
      await namespace.claim(`on-${name}`, {});
      await namespace.run(`on-${name}`, {
        node: name,
        mounts: { [`on-${name}`]: '/data' },
        command: script(fill('/data/disk.img')),
      });
      const volume = await boundTo(`on-${name}`);
      const path = `/api/v1/persistentvolumes/${volume}`;
      const { spec } = await cluster.ask<{ spec: { nodeAffinity: unknown } }>('GET', path);
      expect(JSON.stringify(spec.nodeAffinity)).toContain(`"${name}"`);
      expect(await digestOnClaim(cluster, namespace, `on-${name}`)).toBe(FILLED);
    }
  });

  test('reach pods of each other', async () => {
    const serving = 'mkdir /tmp/www; hostname > /tmp/www/name; exec httpd -f -p 8080 -h /tmp/www';
    for (const { name } of cluster.nodes) await namespace.start(`at-${name}`, { node: name, command: script(serving) });
    for (const { name: to } of cluster.nodes) {
      await namespace.ready(`at-${to}`);
      const { status } = await cluster.ask<{ status: { podIP: string } }>('GET', namespace.path(`pods/at-${to}`));
      for (const { name: from } of cluster.nodes) {
        const command = script(`wget -q -O- http://${status.podIP}:8080/name`);
        const answer = until(`${from} reaches ${to}`, 20, () =>
          namespace.run(`from-${from}-${to}`, { node: from, command }),
        );
        expect(await answer).toBe(`at-${to}\n`);
      }
    }
  });

  test('services are stopped and started', async () => {
    const server = cluster.service('kube-apiserver');
    await server.restart();
    await until('the API server is back', 60, () => cluster.ask('GET', '/readyz'));
    expect(await namespace.run('after', { command: ['echo', 'on'] })).toBe('on\n');
  });
});

// A second cluster beside that of the other tests: what it leaves on the machine, and what a start after a kill finds.
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { run } from '../support/images.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { down } from './down.ts';
import { type Layout, layoutOf, partsOf, places } from './layout.ts';
import { isClean, leftovers } from './leftovers.ts';
import { type Cluster, cluster as connect } from './support/cluster.ts';
import { podOf, script } from './support/namespace.ts';
import { until } from './support/until.ts';
import { localVolume } from './support/volumes.ts';
import { nodesUp, up } from './up.ts';

let home: TempDir;
let layout: Layout;

beforeAll(async () => {
  home = await tempdir();
  layout = layoutOf('second', join(home.path, 'second'), 1);
});

afterAll(async () => {
  await down(layout, true);
  await home[Symbol.asyncDispose]();
});

/** As another program sees it. */
async function seen(): Promise<string[]> {
  const commands = await Promise.all(
    (await readdir('/proc'))
      .filter((entry) => /^\d+$/.test(entry))
      .map((entry) => readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '')),
  );
  const network = layout.network.replace(/0\.0\/16$/, '');
  const lines = [
    await run('ip', 'iproute2', ['netns', 'list']),
    await run('ip', 'iproute2', ['-brief', 'address']),
    await run('ip', 'iproute2', ['route']),
    await readFile('/proc/self/mounts', 'utf8'),
    await run('losetup', 'mount', ['--list', '--noheadings', '-O', 'NAME,BACK-FILE']),
    await run('find', 'findutils', ['/sys/fs/cgroup', '-name', `${layout.name}-*`]),
    ...commands.map((command) => command.replaceAll('\0', ' ')),
  ];
  const words = [layout.directory, network, `${layout.name}-1`, layout.link];
  return lines.flatMap((text) => text.split('\n')).filter((line) => words.some((word) => line.includes(word)));
}

/** Makes volumes of every kind and pods that have them open. */
async function busy(cluster: Cluster): Promise<string> {
  await localVolume(cluster, 'placed', { mode: 'Block' });
  const namespace = await cluster.namespace();
  const claims = {
    file: {},
    device: { mode: 'Block' },
    xfs: { class: 'xfs' },
    placed: { class: 'local', mode: 'Block' },
  } as const;
  for (const [name, options] of Object.entries(claims)) await namespace.claim(name, options);
  await namespace.start('user', {
    mounts: { file: '/file', xfs: '/xfs' },
    devices: { device: '/dev/disk', placed: '/dev/placed' },
    command: script(
      'echo kept > /file/x; echo kept > /xfs/x; echo kept > /dev/disk; sync; touch /file/ready; sleep 3600',
    ),
    container: { readinessProbe: { exec: { command: ['test', '-e', '/file/ready'] }, periodSeconds: 1 } },
  });
  await namespace.ready('user');
  return namespace.name;
}

test('a cluster goes without a trace, after a kill too, and keeps what it stored', async () => {
  expect(await seen()).toEqual([]);
  await up(layout, () => undefined);
  let namespace = '';
  {
    await using cluster = await connect(layout);
    namespace = await busy(cluster);
  }
  const found = await leftovers(layout);
  // The driver's of a device, the test's, and the kubelet's locks on both; and those of two file systems.
  expect(found.loops.length).toBe(6);
  expect(found.processes.length).toBeGreaterThan(10);
  await expect(up(layoutOf(layout.name, layout.directory, 2), () => undefined)).rejects.toThrow('it is up with 1 node');

  // What holds the namespaces: unshare(1), whose end ends everything in them.
  for (const { services } of layout.nodes.map(partsOf))
    process.kill(Number(await readFile(join(services, 'node.pid'), 'utf8')), 'SIGKILL');
  await until('it is seen to be gone', 20, async () => (await nodesUp(layout)) === undefined);
  expect(isClean(await leftovers(layout))).toBe(false);

  await up(layout, () => undefined);
  {
    await using cluster = await connect(layout);
    await cluster.kubectl(['-n', namespace, 'delete', 'pod', 'user', '--grace-period=0', '--force', '--wait=false']);
    const reading = script('cat /file/x /xfs/x; head -c 5 /dev/disk');
    const pod = podOf('reader', {
      mounts: { file: '/file', xfs: '/xfs' },
      devices: { device: '/dev/disk' },
      command: reading,
    });
    await cluster.ask('POST', `/api/v1/namespaces/${namespace}/pods`, pod);
    const done = ['-n', namespace, 'wait', '--for=jsonpath={.status.phase}=Succeeded', 'pod/reader', '--timeout=80s'];
    await cluster.kubectl(done, undefined, 90);
    expect(await cluster.kubectl(['-n', namespace, 'logs', 'reader'])).toBe('kept\nkept\nkept\n');
  }
  await down(layout, false);
  expect(await leftovers(layout)).toEqual({ processes: [], namespaces: [], links: [], loops: [], groups: [] });
  expect(await seen()).toEqual([]);
  expect(existsSync(places(layout).kubeconfig)).toBe(true);
  await down(layout, true);
  expect(existsSync(layout.directory)).toBe(false);
}, 300_000);

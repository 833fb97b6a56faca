// A node whose runtime does not hand devices over to users: an import into a Block volume says so before any traffic.
import { randomBytes } from 'node:crypto';
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { bootableDisk, MiB } from '../support/images.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { partsOf } from './layout.ts';
import { type Cluster, cluster } from './support/cluster.ts';
import { dataVolume, diskFrom, type Made } from './support/datavolumes.ts';
import type { Namespace } from './support/namespace.ts';
import { localVolume } from './support/volumes.ts';

const SETTING = 'device_ownership_from_security_context';
let kubernetes: Cluster;
let home: TempDir;
let site: Nginx;

beforeAll(async () => {
  kubernetes = await cluster();
  home = await tempdir();
  await bootableDisk(join(home.path, 'disk.raw'), 24 * MiB);
  site = await nginx({ root: home.path });
}, 600_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
  await kubernetes?.[Symbol.asyncDispose]();
});

/** Of containerd on the first node; as it was when disposed. */
async function devicesAreHandedOver(how: boolean): Promise<AsyncDisposable> {
  const [node] = kubernetes.nodes;
  if (node === undefined) throw new Error('a cluster without nodes');
  const file = join(partsOf(node).configuration, 'containerd.toml');
  const before = await readFile(file, 'utf8');
  const become = async (text: string): Promise<void> => {
    await writeFile(file, text);
    await kubernetes.service('containerd', node).restart();
  };
  const after = before.replace(`${SETTING} = true`, `${SETTING} = ${how}`);
  expect(after === before).toBe(how);
  await become(after);
  return { [Symbol.asyncDispose]: () => become(before) };
}

const imported = (namespace: Namespace, name: string, port: number): Promise<Made> =>
  dataVolume(kubernetes, namespace, name, {
    spec: diskFrom(`http://${kubernetes.host}:${port}/disk.raw`, { class: 'local', mode: 'Block' }),
  });

test('a device that is not handed over: nothing is read, and the condition says what to set, and where', async () => {
  await using placed = await localVolume(kubernetes, `device-${randomBytes(4).toString('hex')}`, { mode: 'Block' });
  // Of root alone: an image without a group for user 107 runs as one of root's.
  await chmod(placed.path, 0o600);
  await using namespace = await kubernetes.namespace();
  await using line = await kubernetes.reachable(site.port);
  let dv: Made;
  {
    await using _kept = await devicesAreHandedOver(false);
    dv = await imported(namespace, 'disk', line.port);
    const said = await dv.says('Running', new RegExp(SETTING), 60);
    expect(said).toMatch(/^False Error /);
    expect(said).toContain(`cannot be written as user 107: the container runtime on node ${kubernetes.nodes[0]?.name}`);
    expect(said).toContain(`${SETTING} = true`);
    expect(line.accepted).toBe(0);
  }
  // What runs has the device as it was given: a new pod gets it.
  await kubernetes.kubectl(['delete', 'pod', '-n', namespace.name, '-l', 'cdi.kubevirt.io=importer', '--wait=true']);
  await dv.reaches('Succeeded', 90);
}, 300_000);

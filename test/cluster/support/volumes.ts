// Volumes that nothing provisions, and what is on a volume.
import { chown, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { loopDevice } from '../../support/devices.ts';
import { type Node, partsOf } from '../layout.ts';
import type { Cluster } from './cluster.ts';
import { type Namespace, script, USER } from './namespace.ts';
import { until } from './until.ts';

export interface PlacedVolume extends AsyncDisposable {
  /** Of the PersistentVolume. */
  readonly name: string;
  /** Where its bytes are on this machine: a directory, or a device. */
  readonly path: string;
}

export interface PlacedOptions {
  /** The first one unless said otherwise. */
  readonly node?: Node;
  readonly mode?: 'Filesystem' | 'Block';
  /** Bytes; of a device, those that it has. */
  readonly size?: number;
  readonly class?: string;
}

const LOCAL = '/var/lib/local';
const MiB = 1024 * 1024;

/** A local volume: a directory of a node, or a loop device. Claims of class `local` take it. */
export async function localVolume(cluster: Cluster, name: string, options: PlacedOptions = {}): Promise<PlacedVolume> {
  const { node = cluster.nodes[0], mode = 'Filesystem', size = 64 * MiB } = options;
  if (node === undefined) throw new Error('a cluster without nodes');
  const path = join(partsOf(node).local, name);
  if (mode === 'Filesystem') {
    await mkdir(path);
    return place(cluster, name, { ...options, node }, path, { local: { path: join(LOCAL, name) } }, async () => {});
  }
  const device = await loopDevice(path, size);
  const detach = (): Promise<void> => Promise.resolve(device[Symbol.asyncDispose]());
  return place(cluster, name, { ...options, node }, device.path, { local: { path: device.path } }, detach, path);
}

/**
 * A directory of a node that belongs to KubeVirt's user, as a hostPath volume: the kubelet changes no owners there. Claims of
 * class `hostpath` take it, which needs no StorageClass.
 */
export async function hostPathVolume(
  cluster: Cluster,
  name: string,
  options: PlacedOptions = {},
): Promise<PlacedVolume> {
  const { node = cluster.nodes[0] } = options;
  if (node === undefined) throw new Error('a cluster without nodes');
  const path = join(partsOf(node).local, name);
  await mkdir(path);
  await chown(path, USER, USER);
  const source = { hostPath: { path: join(LOCAL, name), type: 'Directory' } };
  return place(cluster, name, { class: 'hostpath', ...options, node }, path, source, async () => {});
}

async function place(
  cluster: Cluster,
  name: string,
  { node, mode = 'Filesystem', size = 64 * MiB, class: storageClassName = 'local' }: PlacedOptions & { node: Node },
  path: string,
  source: object,
  detach: () => Promise<void>,
  file = path,
): Promise<PlacedVolume> {
  const hostname = { key: 'kubernetes.io/hostname', operator: 'In', values: [node.name] };
  const forget = async (): Promise<void> => {
    await detach();
    await rm(file, { recursive: true, force: true });
  };
  const volume = {
    apiVersion: 'v1',
    kind: 'PersistentVolume',
    metadata: { name },
    spec: {
      ...source,
      storageClassName,
      capacity: { storage: String(size) },
      volumeMode: mode,
      accessModes: ['ReadWriteOnce'],
      persistentVolumeReclaimPolicy: 'Retain',
      nodeAffinity: { required: { nodeSelectorTerms: [{ matchExpressions: [hostname] }] } },
    },
  };
  await cluster.ask('POST', '/api/v1/persistentvolumes', volume).catch(async (error: unknown) => {
    await forget();
    throw error;
  });
  return {
    name,
    path,
    async [Symbol.asyncDispose]() {
      await cluster.ask('DELETE', `/api/v1/persistentvolumes/${name}`);
      const gone = async (): Promise<boolean> =>
        (await cluster.find(`/api/v1/persistentvolumes/${name}`)) === undefined;
      await until(`volume ${name} is gone`, 60, gone);
      await forget();
    },
  };
}

/** SHA-256, as hex digits, of a file on a claim's volume or of its device, by busybox in a pod of its own. */
export async function digestOnClaim(
  cluster: Cluster,
  namespace: Namespace,
  claim: string,
  { file = 'disk.img', bytes }: { readonly file?: string; readonly bytes?: number } = {},
): Promise<string> {
  const path = namespace.path(`persistentvolumeclaims/${claim}`);
  const { spec } = await cluster.ask<{ spec: { volumeMode: string } }>('GET', path);
  const block = spec.volumeMode === 'Block';
  const place = block ? '/dev/volume' : `/data/${file}`;
  const reading = bytes === undefined ? `sha256sum < ${place}` : `head -c ${bytes} ${place} | sha256sum`;
  const volume = block ? { devices: { [claim]: place } } : { mounts: { [claim]: '/data' } };
  return (await namespace.run(`digest-${claim}`, { command: script(reading), ...volume }, 180)).slice(0, 64);
}

// What happens to a control plane in bad hours.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../../support/images.ts';
import { tool } from '../../support/tools.ts';
import { places } from '../layout.ts';
import type { Cluster } from './cluster.ts';
import type { Namespace } from './namespace.ts';

/** Pods of imports that ever were: `name uid`, each once. */
export function podsSeen(cluster: Cluster, namespace: Namespace): Disposable & { names(): string[] } {
  const seen = new Set<string>();
  const args = [
    'get',
    'pods',
    '-n',
    namespace.name,
    '-l',
    'cdi.kubevirt.io=importer',
    '--watch',
    '-o',
    'jsonpath={.metadata.name} {.metadata.uid}{"\\n"}',
  ];
  const run = (): ReturnType<typeof spawn> => {
    const child = spawn(places(cluster.layout).kubectl, args, { stdio: ['ignore', 'pipe', 'ignore'] });
    // An error that ends a watch is printed as if it were a pod, and the last line may be half of one.
    if (child.stdout)
      createInterface(child.stdout).on('line', (line) => /^\S+ [0-9a-f-]{36}$/.test(line) && seen.add(line));
    // kubectl ends with the API server.
    child.once('exit', () => {
      if (!ended) setTimeout(() => (watch = run()), 500);
    });
    return child;
  };
  let ended = false;
  let watch = run();
  return {
    names: () => [...seen].map((line) => line.split(' ')[0] ?? ''),
    [Symbol.dispose]: () => {
      ended = true;
      watch.kill('SIGKILL');
    },
  };
}

/** Ends every connection to the API server, of whoever it is: watches among them. How many there were. */
export async function cutWatches(cluster: Cluster): Promise<number> {
  const [node] = cluster.nodes;
  if (node === undefined) return 0;
  const kill = ['-K', '-H', '-t', 'state', 'established', 'sport', '=', ':6443'];
  const out = await run('nsenter', 'util-linux', [
    `--net=/run/netns/${node.namespace}`,
    tool('ss', 'iproute2'),
    ...kill,
  ]);
  return out.trim().split('\n').filter(Boolean).length;
}

/** Whoever holds the lease ends at once. */
export async function killLeader(cluster: Cluster): Promise<void> {
  const path = '/apis/coordination.k8s.io/v1/namespaces/cdi/leases/cdi-controller-leader-election-helper';
  const { spec } = await cluster.ask<{ spec: { holderIdentity?: string } }>('GET', path);
  if (spec.holderIdentity)
    await cluster.kubectl([
      'delete',
      'pod',
      spec.holderIdentity,
      '-n',
      'cdi',
      '--grace-period=0',
      '--force',
      '--ignore-not-found',
    ]);
}

/** Labels claims and DataVolumes all the time, so that whoever saw them a moment ago meets a conflict. How many writes there were. */
export async function writeBeside(
  cluster: Cluster,
  namespace: Namespace,
  made: () => readonly { readonly name: string }[],
  signal: AbortSignal,
): Promise<number> {
  let writes = 0;
  for (let n = 0; !signal.aborted; n += 1) {
    const dvs = made();
    const name = dvs[n % dvs.length]?.name;
    if (name === undefined) {
      await sleep(50);
      continue;
    }
    const patch = { metadata: { labels: { turn: String(n) } } };
    for (const path of [
      namespace.path(`persistentvolumeclaims/${name}`),
      namespace.path(`datavolumes/${name}`, 'cdi.kubevirt.io/v1beta1'),
    ]) {
      const done = await cluster.ask('PATCH', path, patch).then(
        () => true,
        () => false,
      );
      if (done) writes += 1;
    }
    await sleep(50);
  }
  return writes;
}

// The cluster as tests see it.
import { FaultProxy, type Faults } from '../../faults/proxy.ts';
import { type Api, apiOf } from '../api.ts';
import { type Layout, layoutFrom, layoutOf, type Node, nodesWanted } from '../layout.ts';
import { signalService } from '../processes.ts';
import { kubectlOf, nodesUp, restartService, up } from '../up.ts';
import { type Namespace, namespace } from './namespace.ts';

export interface Cluster extends Api {
  readonly layout: Layout;
  readonly nodes: readonly Node[];
  /** Address of this machine that pods reach. */
  readonly host: string;
  /** What kubectl writes. Throws what it complains of. */
  kubectl(args: readonly string[], stdin?: string, seconds?: number): Promise<string>;
  /** A namespace of its own, in which no pod may do more than `restricted` allows, and that goes with all that is in it. */
  namespace(labels?: Readonly<Record<string, string>>): Promise<Namespace>;
  /** Objects or YAML, applied; deleted when disposed. */
  applied(what: string | readonly object[]): Promise<AsyncDisposable>;
  /** Lets pods reach a server of the test, which listens on a port of loopback; with faults, as a bad network does. */
  reachable(port: number, faults?: Faults): Promise<FaultProxy>;
  /** A service of a node, the first one unless said otherwise: `kube-apiserver`, `kubelet`, `csi-driver`. */
  service(name: string, node?: Node): ServiceHandle;
}

export interface ServiceHandle {
  /** SIGSTOP, SIGCONT, SIGKILL, … */
  signal(signal: NodeJS.Signals): Promise<void>;
  /** Starts it again, and ends it before where it runs. */
  restart(): Promise<void>;
}

/** The cluster, which is started where it is not up: with DISKFERRY_CLUSTER_NODES nodes, 1 unless said otherwise. */
export async function cluster(wanted = layoutFrom(process.env, nodesWanted())): Promise<Cluster> {
  const running = await nodesUp(wanted);
  if (running === undefined) await up(wanted, (line) => process.stdout.write(`${line}\n`));
  const layout = layoutOf(wanted.name, wanted.directory, running ?? wanted.nodes.length);
  const api = await apiOf(layout);
  const kubectl = kubectlOf(layout);
  const handle: Cluster = {
    ...api,
    layout,
    nodes: layout.nodes,
    host: layout.host,
    kubectl,
    namespace: (labels = {}) => namespace(handle, labels),
    async applied(what) {
      const text = typeof what === 'string' ? what : JSON.stringify({ apiVersion: 'v1', kind: 'List', items: what });
      await kubectl(['apply', '--server-side', '--force-conflicts', '-f', '-'], text);
      const remove = ['delete', '--ignore-not-found', '--timeout=60s', '-f', '-'];
      return { [Symbol.asyncDispose]: async () => void (await kubectl(remove, text, 70)) };
    },
    reachable: (port, faults = {}) => FaultProxy.start({ port }, faults, 0, layout.host),
    service(name, node = layout.nodes[0]) {
      if (node === undefined) throw new Error('a cluster without nodes');
      return {
        signal: (signal) => signalService(node, name, signal),
        restart: () => restartService(layout, node, name),
      };
    },
    [Symbol.asyncDispose]: () => api[Symbol.asyncDispose](),
  };
  return handle;
}

// What a cluster is called and where it lies: everything follows from its name, so that two can stand beside each other.
import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';

export interface Node {
  /** As Kubernetes knows it. */
  readonly name: string;
  /** Its network namespace, and its directory in each hierarchy of control groups. */
  readonly namespace: string;
  readonly address: string;
  /** CIDR. */
  readonly pods: string;
  readonly directory: string;
  /** End of its link within the switch. At most 15 characters (IFNAMSIZ of the kernel). */
  readonly link: string;
}

export interface Layout {
  readonly name: string;
  /** State that a restart keeps. */
  readonly directory: string;
  /** A network namespace that holds nothing but a bridge. */
  readonly switch: string;
  /** Ends of the link between the machine and the switch. */
  readonly link: string;
  readonly uplink: string;
  /** The machine's address: tests listen on it, and pods reach it. */
  readonly host: string;
  /** CIDR of all of the above and below. */
  readonly network: string;
  /** CIDRs. */
  readonly services: string;
  readonly everyPod: string;
  readonly dns: string;
  /** Of the API server, as pods reach it. */
  readonly kubernetes: string;
  readonly nodes: readonly Node[];
}

/** Where links end inside a node, and the prefix of everything on the bridge. */
export const INSIDE = 'eth0';
export const PREFIX = 24;
const MOST_NODES = 4;
/** Directories that a node has its own of: state in one of them would not be seen from within. */
const HIDDEN = ['/run', '/var/run', '/var/lib', '/var/log', '/sys', '/proc'];

/** `name`: lower-case letters and digits, at most 12. Throws a sentence. */
export function layoutOf(name: string, directory: string, count: number): Layout {
  if (!/^[a-z][a-z0-9]{0,11}$/.test(name))
    throw new Error(`a cluster cannot be called "${name}": a to z and digits, at most 12`);
  if (!Number.isInteger(count) || count < 1 || count > MOST_NODES)
    throw new Error(`there can be 1 to ${MOST_NODES} nodes, not ${count}`);
  if (
    !isAbsolute(directory) ||
    /[^\w./@+-]/.test(directory) ||
    HIDDEN.some((path) => `${directory}/`.startsWith(`${path}/`))
  )
    throw new Error(
      `a cluster cannot lie in ${directory}: an absolute path of plain characters, not in ${HIDDEN.join(', ')}`,
    );
  // 10.128 to 10.227: one /16 for each name.
  const second = 128 + [...name].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 100, 0);
  const address = (third: number, fourth: number): string => `10.${second}.${third}.${fourth}`;
  return {
    name,
    directory,
    switch: name,
    link: `${name}0`,
    uplink: `${name}1`,
    host: address(0, 1),
    network: `${address(0, 0)}/16`,
    services: `${address(1, 0)}/${PREFIX}`,
    everyPod: `${address(16, 0)}/20`,
    dns: address(1, 10),
    kubernetes: address(1, 1),
    nodes: Array.from({ length: count }, (_, index) => ({
      name: `node-${index + 1}`,
      namespace: `${name}-${index + 1}`,
      address: address(0, 11 + index),
      pods: `${address(16 + index, 0)}/${PREFIX}`,
      directory: join(directory, 'nodes', `node-${index + 1}`),
      link: `node${index + 1}`,
    })),
  };
}

/** The cluster of this environment: DISKFERRY_CLUSTER is its directory, DISKFERRY_CLUSTER_NAME its name. */
export function layoutFrom(env: NodeJS.ProcessEnv, count: number): Layout {
  const name = env.DISKFERRY_CLUSTER_NAME ?? 'diskferry';
  const cache = join(env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'diskferry', 'cluster');
  return layoutOf(name, env.DISKFERRY_CLUSTER ?? join(cache, name), count);
}

/** How many nodes the cluster of the tests is to have. */
export const nodesWanted = (): number => Number(process.env.DISKFERRY_CLUSTER_NODES ?? '1');

/** Files and directories of a cluster. */
export const places = ({ directory }: Layout) => ({
  pki: join(directory, 'pki'),
  images: join(directory, 'images'),
  /** Bytes of the volumes of the CSI driver, of all nodes. */
  volumes: join(directory, 'volumes'),
  /** Images that examples import. */
  site: join(directory, 'site'),
  nodes: join(directory, 'nodes'),
  kubeconfig: join(directory, 'kubeconfig'),
  kubectl: join(directory, 'kubectl'),
  /** There as long as the cluster is up. */
  up: join(directory, 'up.json'),
});

/** Of a node: what it has as /var/lib and /var/log, its configuration, logs of its services, and their process ids. */
export const partsOf = ({ directory }: Node) => ({
  lib: join(directory, 'lib'),
  log: join(directory, 'log'),
  configuration: join(directory, 'configuration'),
  services: join(directory, 'services'),
  /** What tests put on it, /var/lib/local from within. */
  local: join(directory, 'lib', 'local'),
  ready: join(directory, 'ready'),
  images: join(directory, 'images.json'),
});

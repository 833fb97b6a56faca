import type { PersistentVolume } from 'kubernetes-types/core/v1.js';
import type { Stored } from '../../api/meta.ts';

/** An import that wants a pod, or has one. */
export interface Import {
  /** Of its claim: `namespace/name`. */
  readonly key: string;
  readonly namespace: string;
  /** RFC 3339: of its claim's creation. */
  readonly since: string;
  /** Where it connects to, empty for blank disks. */
  readonly host: string;
  /** Where it runs or has to run; empty while the scheduler may choose. */
  readonly node: string;
  /** It has a pod, or gets one at this moment. */
  readonly running: boolean;
  /** The scheduler has looked at its pod and finds no node for it: it takes nobody's place, for as long as that lasts. */
  readonly homeless?: boolean;
}

export interface Limits {
  readonly perNode: number;
  readonly perHost: number;
}

/** What an import waits for. */
export interface Turn {
  /** From 1, of all that wait. */
  readonly place: number;
  /** What is full: a node, all that have imports (without a name), or a host that images come from. */
  readonly full: { readonly what: 'node' | 'nodes' | 'host'; readonly name: string; readonly limit: number };
}

/**
 * Who of those that wait may not begin yet, and what for. Namespaces take turns: the one with the fewest imports under way
 * or ahead of it comes first, then the older claim. One that the scheduler is to place begins while there are fewer than a
 * node may have for each node that has any: how many nodes there are is not seen, and where it will be cannot be known.
 */
export function turnsOf(imports: readonly Import[], limits: Limits): ReadonlyMap<string, Turn> {
  const [nodes, hosts, namespaces] = [new Map<string, number>(), new Map<string, number>(), new Map<string, number>()];
  const count = (map: Map<string, number>, key: string): number => map.get(key) ?? 0;
  const add = (map: Map<string, number>, key: string): void => void map.set(key, count(map, key) + 1);
  let all = 0;
  const begin = ({ node, host }: Import): void => {
    all += 1;
    if (node !== '') add(nodes, node);
    if (host !== '') add(hosts, host);
  };
  for (const one of imports.filter(({ running }) => running)) {
    add(namespaces, one.namespace);
    if (!one.homeless) begin(one);
  }
  const waiting = imports.filter(({ running }) => !running);
  const ranked = rank(waiting, namespaces);
  const turns = new Map<string, Turn>();
  let place = 0;
  for (const one of ranked) {
    const { key, node, host } = one;
    const room = node === '' ? limits.perNode * Math.max(1, nodes.size) - all : limits.perNode - count(nodes, node);
    // The host first: it stays full for longer, and what is told changes less.
    const full =
      host !== '' && count(hosts, host) >= limits.perHost
        ? ({ what: 'host', name: host, limit: limits.perHost } as const)
        : room <= 0
          ? ({ what: node === '' ? 'nodes' : 'node', name: node, limit: limits.perNode } as const)
          : undefined;
    if (full === undefined) {
      begin(one);
      continue;
    }
    place += 1;
    turns.set(key, { place, full });
  }
  return turns;
}

/** By these, volumes say on which node alone they are: Kubernetes', and those of CSI drivers of a node's own disks. */
const OF_NODE = /^kubernetes\.io\/hostname$|\/node(name)?$/;

/** The node outside of which nobody can use a volume; undefined where there is no such, or several. */
export function nodeOf(volume: Stored<PersistentVolume> | undefined): string | undefined {
  const [term, ...others] = volume?.spec.nodeAffinity?.required?.nodeSelectorTerms ?? [];
  if (others.length > 0) return undefined;
  const found = term?.matchExpressions?.find(({ key, operator }) => operator === 'In' && OF_NODE.test(key));
  return found?.values?.length === 1 ? found.values[0] : undefined;
}

/** In the order of their turns: the n-th of a namespace stands behind as many of it as are under way or before it. */
function rank(waiting: readonly Import[], running: ReadonlyMap<string, number>): Import[] {
  const byAge = [...waiting].sort((a, b) => compare(a.since, b.since) || compare(a.key, b.key));
  const ahead = new Map(running);
  const ranked = byAge.map((one) => {
    const before = ahead.get(one.namespace) ?? 0;
    ahead.set(one.namespace, before + 1);
    return { one, before };
  });
  return ranked.sort((a, b) => a.before - b.before).map(({ one }) => one);
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** `waits for its turn, place 6 to 10: 20 imports from images.example.org are under way, which is the limit`. */
export function waitsFor({ place, full }: Turn): string {
  const where =
    full.what === 'host'
      ? `${full.limit} imports from ${full.name} are under way`
      : full.what === 'nodes'
        ? `on average ${full.limit} imports are under way on each node that has any`
        : `${full.limit} imports are under way on node ${full.name}`;
  return `waits for its turn, ${among(place)}: ${where}, which is the limit`;
}

/** The steps in which places are told: exactly where it is soon, and roughly where it is not. */
const SOON = [1, 2, 5, 10] as const;

/** `place 3 to 5`. In steps: each change is a write on a claim and on its DataVolume, and with each that leaves all move up. */
function among(place: number): string {
  let [before, last] = [0, 1];
  while (last < place) [before, last] = [last, SOON.find((step) => step > last) ?? last * 10];
  return before + 1 === last ? `place ${last}` : `place ${before + 1} to ${last}`;
}

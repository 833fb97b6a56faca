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
  readonly running: boolean;
}

export interface Limits {
  readonly perNode: number;
  readonly perHost: number;
}

/** What an import waits for. */
export interface Turn {
  /** From 1. */
  readonly place: number;
  readonly waiting: number;
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
    begin(one);
    add(namespaces, one.namespace);
  }
  const waiting = imports.filter(({ running }) => !running);
  const ranked = rank(waiting, namespaces);
  const turns = new Map<string, Turn>();
  let place = 0;
  for (const one of ranked) {
    const { key, node, host } = one;
    const room = node === '' ? limits.perNode * Math.max(1, nodes.size) - all : limits.perNode - count(nodes, node);
    const full =
      room <= 0
        ? ({ what: node === '' ? 'nodes' : 'node', name: node, limit: limits.perNode } as const)
        : host !== '' && count(hosts, host) >= limits.perHost
          ? ({ what: 'host', name: host, limit: limits.perHost } as const)
          : undefined;
    if (full === undefined) {
      begin(one);
      continue;
    }
    place += 1;
    turns.set(key, { place, waiting: 0, full });
  }
  return new Map([...turns].map(([key, turn]) => [key, { ...turn, waiting: place }]));
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

/** Places that are told as they are; behind them in steps, so that a long queue is not written anew with each that leaves. */
const EXACT = 10;

/** `waits for its turn, as 3 of some 20: node a has its 8 imports`. */
export function waitsFor({ place, waiting, full }: Turn): string {
  const where =
    full.what === 'host'
      ? `${full.limit} imports from ${full.name} are under way`
      : full.what === 'nodes'
        ? `on average ${full.limit} imports are under way on each node that has any`
        : `${full.limit} imports are under way on node ${full.name}`;
  const told = place <= EXACT ? `${place}` : `more than ${step(place)}`;
  const rest = waiting <= EXACT ? `${waiting}` : `more than ${step(waiting)}`;
  return `waits for its turn, place ${told} of ${rest}: ${where}, which is the limit`;
}

/** The next lower of 10, 20, 50, 100, 200, 500, …. */
function step(n: number): number {
  const power = 10 ** Math.floor(Math.log10(n - 1));
  return [5, 2, 1].map((factor) => factor * power).find((one) => one < n) ?? EXACT;
}

import fc from 'fast-check';
import type { PersistentVolume } from 'kubernetes-types/core/v1.js';
import { expect, test } from 'vitest';
import type { Stored } from '../../src/api/meta.ts';
import { type Import, nodeOf, turnsOf, waitsFor } from '../../src/controller/decide/turn.ts';

const LIMITS = { perNode: 3, perHost: 4 };
const anImport: fc.Arbitrary<Omit<Import, 'key'>> = fc.record({
  namespace: fc.constantFrom('a', 'b', 'c'),
  since: fc.integer({ min: 0, max: 99 }).map((n) => `2026-01-01T00:00:${String(n % 60).padStart(2, '0')}Z`),
  host: fc.constantFrom('', 'one.example.org', 'two.example.org'),
  node: fc.constantFrom('n1', 'n2', ''),
  running: fc.boolean(),
});
const imports = fc
  .array(anImport, { maxLength: 60 })
  .map((list) => list.map((one, n): Import => ({ ...one, key: `${one.namespace}/${n}` })));

test('nobody begins above a limit, and nobody waits for nothing', () => {
  fc.assert(
    fc.property(imports, (list) => {
      const turns = turnsOf(list, LIMITS);
      const going = list.filter((one) => one.running || !turns.has(one.key));
      const count = (of: (one: Import) => string, key: string, among: Import[]): number =>
        among.filter((one) => of(one) === key).length;
      const already = list.filter((one) => one.running);
      for (const node of ['n1', 'n2']) {
        expect(count((one) => one.node, node, going)).toBeLessThanOrEqual(
          Math.max(
            LIMITS.perNode,
            count((one) => one.node, node, already),
          ),
        );
      }
      for (const host of ['one.example.org', 'two.example.org']) {
        expect(count((one) => one.host, host, going)).toBeLessThanOrEqual(
          Math.max(
            LIMITS.perHost,
            count((one) => one.host, host, already),
          ),
        );
      }
      for (const [key, { full }] of turns) {
        const one = list.find((each) => each.key === key) as Import;
        if (full.what === 'nodes') {
          expect(one.node).toBe('');
          expect(going.length).toBeGreaterThanOrEqual(full.limit);
          continue;
        }
        const of = full.what === 'node' ? (each: Import) => each.node : (each: Import) => each.host;
        expect(count(of, of(one), going)).toBeGreaterThanOrEqual(full.limit);
      }
      expect([...turns.values()].map(({ place }) => place)).toEqual([...turns.keys()].map((_, n) => n + 1));
    }),
  );
});

test('a namespace with many does not keep one with few waiting', () => {
  const many = Array.from(
    { length: 50 },
    (_, n): Import => ({
      key: `many/${n}`,
      namespace: 'many',
      since: `2026-01-01T00:00:${String(n).padStart(2, '0')}Z`,
      host: '',
      node: 'n1',
      running: n < 2,
    }),
  );
  const few: Import = {
    key: 'few/0',
    namespace: 'few',
    since: '2026-01-01T01:00:00Z',
    host: '',
    node: 'n1',
    running: false,
  };
  const turns = turnsOf([...many, few], LIMITS);
  expect(turns.has('few/0')).toBe(false);
  expect(turns.get('many/2')).toMatchObject({ place: 1 });
});

const placed = (nodes: readonly string[], running: boolean): Import[] =>
  nodes.map((node, n) => ({
    key: `${running ? 'running' : 'waiting'}/${n}`,
    namespace: 'ns',
    since: `2026-01-01T00:00:0${n}Z`,
    host: '',
    node,
    running,
  }));
const began = (list: readonly Import[]): number =>
  list.filter(({ running }) => !running).length - turnsOf(list, LIMITS).size;
const FIVE = ['', '', '', '', ''];

test.each([
  ['no node is known', [], 3],
  ['the only one is full', ['n1', 'n1', 'n1'], 0],
  ['the only one has room', ['n1', 'n1'], 1],
  ['some are not placed yet', ['n1', '', ''], 0],
  ['of two, one has room', ['n1', 'n1', 'n1', 'n2'], 2],
  ['each got one', ['n1', 'n2', 'n3'], 5],
])('where the scheduler chooses, and %s', (_, running, expected) => {
  expect(began([...placed(running, true), ...placed(FIVE, false)])).toBe(expected);
});

interface Term {
  readonly key: string;
  readonly operator?: string;
  readonly values: string[];
}
const inside = (...terms: readonly (readonly Term[])[]): Stored<PersistentVolume> => ({
  metadata: { name: 'volume', uid: 'uid', resourceVersion: '1' },
  spec: {
    nodeAffinity: {
      required: {
        nodeSelectorTerms: terms.map((of) => ({
          matchExpressions: of.map(({ key, operator = 'In', values }) => ({ key, operator, values })),
        })),
      },
    },
  },
});

test.each<[string, Stored<PersistentVolume> | undefined, string | undefined]>([
  ['of Kubernetes', inside([{ key: 'kubernetes.io/hostname', values: ['n1'] }]), 'n1'],
  ['of a driver', inside([{ key: 'topology.hostpath.csi/node', values: ['n1'] }]), 'n1'],
  [
    'beside a zone',
    inside([
      { key: 'topology.kubernetes.io/zone', values: ['z'] },
      { key: 'openebs.io/nodename', values: ['n1'] },
    ]),
    'n1',
  ],
  ['of a zone', inside([{ key: 'topology.kubernetes.io/zone', values: ['z'] }]), undefined],
  ['of several nodes', inside([{ key: 'kubernetes.io/hostname', values: ['n1', 'n2'] }]), undefined],
  [
    'of one or another',
    inside(...['n1', 'n2'].map((node) => [{ key: 'kubernetes.io/hostname', values: [node] }])),
    undefined,
  ],
  ['of all but one', inside([{ key: 'kubernetes.io/hostname', operator: 'NotIn', values: ['n1'] }]), undefined],
  ['of everywhere', inside(), undefined],
  ['that is not there', undefined, undefined],
])('the node of a volume %s', (_, volume, expected) => {
  expect(nodeOf(volume)).toBe(expected);
});

test('a pod that no node is found for takes no place', () => {
  const of = (key: string, more: Partial<Import>): Import => ({
    ...{ key, namespace: 'a', since: '2026-01-01T00:00:00Z', host: '', node: '', running: false },
    ...more,
  });
  const pods = [1, 2, 3].map((n) => of(`a/${n}`, { running: true }));
  expect(turnsOf([...pods, of('a/waits', {})], LIMITS).get('a/waits')?.full).toEqual({
    ...{ what: 'nodes', name: '', limit: 3 },
  });
  const homeless = [...pods, ...pods].map((one) => ({ ...one, host: 'one.example.org', homeless: true }));
  expect(turnsOf([...homeless, of('a/waits', { host: 'one.example.org' })], LIMITS).size).toBe(0);
});

test('says the place in steps, what is full, and its limit', () => {
  const full = { what: 'node', name: 'n1', limit: 3 } as const;
  expect(waitsFor({ place: 2, full })).toBe(
    'waits for its turn, place 2: 3 imports are under way on node n1, which is the limit',
  );
  expect(waitsFor({ place: 1, full: { what: 'nodes', name: '', limit: 3 } })).toBe(
    'waits for its turn, place 1: on average 3 imports are under way on each node that has any, which is the limit',
  );
  const places = [1, 2, 3, 5, 6, 10, 11, 50, 100, 101, 1001];
  expect(places.map((place) => /turn, place (.*):/.exec(waitsFor({ place, full }))?.[1])).toEqual([
    ...['1', '2', '3 to 5', '3 to 5', '6 to 10', '6 to 10'],
    ...['11 to 100', '11 to 100', '11 to 100', '101 to 1000', '1001 to 10000'],
  ]);
});

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Import, turnsOf, waitsFor } from '../../src/controller/decide/turn.ts';

const LIMITS = { perNode: 3, perHost: 4 };
const anImport: fc.Arbitrary<Omit<Import, 'key'>> = fc.record({
  namespace: fc.constantFrom('a', 'b', 'c'),
  since: fc.integer({ min: 0, max: 99 }).map((n) => `2026-01-01T00:00:${String(n % 60).padStart(2, '0')}Z`),
  host: fc.constantFrom('', 'one.example.org', 'two.example.org'),
  node: fc.constantFrom('n1', 'n2'),
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
  expect(turns.get('many/2')).toMatchObject({ place: 1, waiting: 48 });
});

test('says the place, what is full, and its limit', () => {
  const full = { what: 'node', name: 'n1', limit: 3 } as const;
  expect(waitsFor({ place: 2, waiting: 7, full })).toBe(
    'waits for its turn, place 2 of 7: 3 imports are under way on node n1, which is the limit',
  );
  expect(waitsFor({ place: 48, waiting: 51, full })).toContain('place more than 20 of more than 50');
});

// What is known of objects, whatever comes late: a list, a watch, and answers to own writes never put back what was before.
import fc from 'fast-check';
import type { ConfigMap } from 'kubernetes-types/core/v1.js';
import { expect, test } from 'vitest';
import { keyOf, type Stored } from '../../src/api/meta.ts';
import { Cache, type Change } from '../../src/kube/cache.ts';
import { isAfter } from '../../src/kube/version.ts';

type Object = Stored<ConfigMap>;

/** What happened to objects in the API server: the change of version n + BEFORE at n. */
interface Event {
  readonly type: 'put' | 'delete';
  readonly object: Object;
}

/** So that versions get another digit on the way. */
const BEFORE = 90;

const NAMES = ['a', 'b', 'c'];

function objectOf(name: string, uid: string, version: number, data: Record<string, string>): Object {
  return { metadata: { namespace: 'default', name, uid, resourceVersion: String(version) }, data };
}

/** Makes, changes and deletes objects, each as it can be. */
function historyOf(
  wishes: readonly { readonly name: string; readonly deletes: boolean; readonly color: string }[],
): Event[] {
  const uids = new Map<string, string>();
  return wishes.map(({ name, deletes, color }, n) => {
    const version = BEFORE + n;
    const uid = uids.get(name);
    if (uid !== undefined && deletes) {
      uids.delete(name);
      return { type: 'delete', object: objectOf(name, uid, version, { color }) };
    }
    const own = uid ?? `uid-${version}`;
    uids.set(name, own);
    return { type: 'put', object: objectOf(name, own, version, { color }) };
  });
}

/** What there is after the first `count` events. */
function stateAfter(history: readonly Event[], count: number): Map<string, Object> {
  const state = new Map<string, Object>();
  for (const { type, object } of history.slice(0, count)) {
    if (type === 'put') state.set(keyOf(object), object);
    else state.delete(keyOf(object));
  }
  return state;
}

const sorted = (objects: Iterable<Object>): Object[] => [...objects].sort((a, b) => keyOf(a).localeCompare(keyOf(b)));

const wish = fc.record({
  name: fc.constantFrom(...NAMES),
  deletes: fc.boolean(),
  color: fc.constantFrom('red', 'green'),
});
/** An event of the watch, a list, or the answer to the write of an event: `which` of those that there are. */
const step = fc.record({ kind: fc.constantFrom('event', 'list', 'learn', 'learn'), which: fc.nat(1000) });

test('it comes to what there is, and never back to an older version', () => {
  fc.assert(
    fc.property(
      fc.array(wish, { minLength: 1, maxLength: 40 }),
      fc.array(step, { maxLength: 80 }),
      fc.nat(40),
      (wishes, steps, first) => {
        const history = historyOf(wishes);
        const cache = new Cache<ConfigMap>({ color: ({ data = {} }) => Object.values(data) });
        /** By what it tells alone. */
        const mirror = new Map<string, Object>();
        cache.watch(({ before, after }: Change<ConfigMap>) => {
          const key = keyOf((after ?? before) as Object);
          expect(mirror.get(key)).toBe(before);
          if (before && after) {
            expect(isAfter(after.metadata.resourceVersion, before.metadata.resourceVersion)).toBe(true);
          }
          if (after) mirror.set(key, after);
          else mirror.delete(key);
        });
        /** The latest answer for each object. */
        const learned = new Map<string, string>();
        /** Events that are in it. */
        let reached = 0;
        const list = (count: number): void => {
          const state = stateAfter(history, count);
          for (const object of state.values()) cache.take(object);
          cache.end(String(BEFORE + count - 1), new Set(state.keys()));
          reached = count;
        };
        const event = (): void => {
          const { type, object } = history[reached] as Event;
          if (type === 'put') cache.take(object);
          else cache.drop(object);
          cache.reach(object.metadata.resourceVersion);
          reached += 1;
        };
        const check = (): void => {
          expect(sorted(cache.list())).toEqual(sorted(mirror.values()));
          for (const color of ['red', 'green']) {
            const wanted = sorted(cache.list()).filter(({ data }) => data?.color === color);
            expect(sorted(cache.by('color', color))).toEqual(wanted);
          }
        };
        list(Math.min(first, history.length));
        for (const { kind, which } of steps) {
          const { type, object } = history[which % history.length] as Event;
          if (kind === 'learn' && type === 'put') {
            cache.learn(object);
            const { resourceVersion } = object.metadata;
            const before = learned.get(keyOf(object));
            if (before === undefined || isAfter(resourceVersion, before)) learned.set(keyOf(object), resourceVersion);
          } else if (kind === 'list') list(reached + (which % (history.length - reached + 1)));
          else if (kind === 'event' && reached < history.length) event();
          check();
          // What was learned stays until the watch tells of it, or of more.
          for (const [key, version] of learned) {
            if (!isAfter(version, String(BEFORE + reached - 1))) continue;
            const known = cache.get(key)?.metadata.resourceVersion ?? '';
            expect([key, known === version || isAfter(known, version)]).toEqual([key, true]);
          }
          // What is known is not older than what was listed or watched.
          for (const [key, object] of stateAfter(history, reached)) {
            const known = cache.get(key);
            if (known) expect(isAfter(object.metadata.resourceVersion, known.metadata.resourceVersion)).toBe(false);
          }
        }
        while (reached < history.length) event();
        check();
        expect(sorted(cache.list())).toEqual(sorted(stateAfter(history, history.length).values()));
      },
    ),
    { numRuns: 2000 },
  );
});

test('an own write is known at once, and a late answer does not bring back what was deleted', () => {
  const cache = new Cache<ConfigMap>();
  cache.end('10', new Set());
  const made = objectOf('a', 'u', 12, {});
  cache.learn(made);
  expect(cache.get('default/a')).toBe(made);
  cache.drop(objectOf('a', 'u', 15, {}));
  cache.reach('15');
  cache.learn(made);
  expect(cache.get('default/a')).toBeUndefined();
});

test('before the first list nothing is learned, and synced waits for it', async () => {
  const cache = new Cache<ConfigMap>();
  cache.learn(objectOf('a', 'u', 12, {}));
  expect([cache.size, cache.isSynced]).toEqual([0, false]);
  cache.end('12', new Set());
  await cache.synced;
  expect(cache.isSynced).toBe(true);
});

test('a store that went back to a backup is taken as it is, without a moment in which all is gone', () => {
  const cache = new Cache<ConfigMap>();
  for (const name of ['a', 'b']) cache.take(objectOf(name, `u-${name}`, 100, { color: 'red' }));
  cache.end('100', new Set(['default/a', 'default/b']));
  const gone: string[] = [];
  cache.watch(({ before, after }) => {
    if (before && !after) gone.push(keyOf(before));
  });
  cache.rewind();
  const old = objectOf('a', 'u-a', 40, { color: 'green' });
  cache.take(old);
  cache.end('50', new Set(['default/a']));
  expect([...cache.list()]).toEqual([old]);
  expect(gone).toEqual(['default/b']);
  cache.learn(objectOf('c', 'u', 51, {}));
  expect(cache.size).toBe(2);
});

test('versions that are no numbers are told apart, and own writes wait for the watch', () => {
  const cache = new Cache<ConfigMap>();
  const versioned = (resourceVersion: string): Object => ({
    metadata: { namespace: 'default', name: 'a', uid: 'u', resourceVersion },
  });
  cache.take(versioned('x1'));
  cache.end('x1', new Set(['default/a']));
  cache.learn(versioned('x3'));
  expect(cache.get('default/a')?.metadata.resourceVersion).toBe('x1');
  cache.take(versioned('x2'));
  expect(cache.get('default/a')?.metadata.resourceVersion).toBe('x2');
  cache.drop(versioned('x4'));
  expect(cache.size).toBe(0);
});

test('what is kept of an object is all that is known of it', () => {
  const cache = new Cache<ConfigMap>({ color: ({ data = {} }) => Object.values(data) });
  cache.keep = ({ data, ...rest }) => (data?.color === 'red' ? { ...rest, data: { color: 'kept' } } : undefined);
  cache.end('1', new Set());
  cache.learn(objectOf('a', 'u', 2, { color: 'red' }));
  cache.take(objectOf('b', 'u', 3, { color: 'green' }));
  expect(cache.by('color', 'kept')).toHaveLength(1);
  expect(cache.size).toBe(1);
  cache.take(objectOf('a', 'u', 4, { color: 'green' }));
  expect(cache.size).toBe(0);
  expect(() => cache.by('colour', 'x')).toThrow('no index colour');
});

test('who listens later is told of what is there', () => {
  const cache = new Cache<ConfigMap>();
  cache.take(objectOf('a', 'u', 2, {}));
  const told: string[] = [];
  cache.watch(({ after }) => void told.push(after ? keyOf(after) : 'none'));
  expect(told).toEqual(['default/a']);
});

test('versions are compared as numbers of any length', () => {
  const number = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
  fc.assert(fc.property(number, number, (a, b) => isAfter(String(a), String(b)) === a > b));
  expect([isAfter('x', 'x'), isAfter('x', 'y'), isAfter('1', ''), isAfter('01', '1')]).toEqual([
    false,
    undefined,
    undefined,
    undefined,
  ]);
});

// Keys that wait for controllers: whatever is added when, however long it takes and however often it fails.
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { KubeError } from '../../src/kube/error.ts';
import { Queue } from '../../src/kube/queue.ts';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
});
afterEach(() => {
  vi.useRealTimers();
});

const pause = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));
const never = new AbortController().signal;

test('each key that is added is handled after that, by one at a time, and until it succeeds', async () => {
  const step = fc.record({
    at: fc.integer({ min: 0, max: 500 }),
    key: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
    after: fc.option(fc.integer({ min: 0, max: 300 }), { nil: undefined }),
  });
  const handling = fc.record({ takes: fc.integer({ min: 0, max: 60 }), fails: fc.boolean() });
  const steps = fc.array(step, { maxLength: 40 });
  const handlings = fc.array(handling, { maxLength: 40 });
  await fc.assert(
    fc.asyncProperty(steps, handlings, fc.integer({ min: 1, max: 3 }), async (added, course, workers) => {
      const queue = new Queue();
      const stop = new AbortController();
      const active = new Set<string>();
      const begun: { readonly key: string; readonly at: number }[] = [];
      /** What is thrown in a handler is only tried again. */
      const wrong: string[] = [];
      let failures = 0;
      const start = performance.now();
      const handle = async (key: string): Promise<void> => {
        if (active.has(key)) wrong.push(`${key} is handled by two`);
        active.add(key);
        if (active.size > workers) wrong.push(`${active.size} are handled by ${workers}`);
        const { takes, fails } = course[begun.length] ?? { takes: 1, fails: false };
        begun.push({ key, at: performance.now() - start });
        if (takes > 0) await pause(takes);
        active.delete(key);
        if (!fails) return;
        failures += 1;
        throw new Error('not this time');
      };
      const running = queue.run(workers, handle, stop.signal);
      for (const { at, key, after } of added) {
        setTimeout(() => (after === undefined ? queue.add(key) : queue.addAfter(key, after)), at);
      }
      await vi.advanceTimersByTimeAsync(1_000_000);
      expect(wrong).toEqual([]);
      expect([queue.waiting, queue.active, queue.later, queue.failing, active.size]).toEqual([0, 0, 0, 0, 0]);
      // Also what is added for later, when an earlier time was asked for before.
      for (const { at, key } of added) expect(begun.some((one) => one.key === key && one.at >= at)).toBe(true);
      expect(begun.length).toBeLessThanOrEqual(added.length + failures);
      stop.abort();
      await running;
    }),
    { numRuns: 200 },
  );
});

test('first come, first served, and once however often it is added', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 9 }).map(String), { maxLength: 60 }), async (keys) => {
      const queue = new Queue();
      const stop = new AbortController();
      for (const key of keys) queue.add(key);
      const order: string[] = [];
      const running = queue.run(1, async (key) => void order.push(key), stop.signal);
      await vi.advanceTimersByTimeAsync(1);
      expect(order).toEqual([...new Set(keys)]);
      stop.abort();
      await running;
    }),
  );
});

test('a key that is added while it is handled is handled once more, behind those that waited', async () => {
  const queue = new Queue();
  const order: string[] = [];
  void queue.run(
    1,
    async (key) => {
      order.push(key);
      if (order.length > 1) return;
      queue.add('b');
      for (let times = 0; times < 3; times += 1) queue.add('a');
      await pause(10);
    },
    never,
  );
  queue.add('a');
  await vi.advanceTimersByTimeAsync(100);
  expect(order).toEqual(['a', 'b', 'a']);
});

test('the earliest of two times counts', async () => {
  for (const [first, second] of [
    [50, 500],
    [500, 50],
  ] as const) {
    const queue = new Queue();
    const at: number[] = [];
    const begun = performance.now();
    void queue.run(1, async () => void at.push(performance.now() - begun), never);
    queue.addAfter('a', first);
    queue.addAfter('a', second);
    await vi.advanceTimersByTimeAsync(2000);
    expect(at).toEqual([50]);
  }
});

test('a key that fails comes back later each time, within 5 minutes, and soon again after it succeeded', async () => {
  const delays: number[] = [];
  const queue = new Queue({ failed: (_key, _error, again) => void delays.push(again) });
  let fails = true;
  let handled = 0;
  const handle = async (): Promise<void> => {
    handled += 1;
    if (fails) throw new Error('not yet');
  };
  void queue.run(1, handle, never);
  queue.add('a');
  await vi.advanceTimersByTimeAsync(4 * 3_600_000);
  expect(handled).toBe(delays.length);
  expect(handled).toBeGreaterThan(40);
  for (const [times, delay] of delays.entries()) expect(delay).toBeLessThanOrEqual(Math.min(5 * 2 ** times, 300_000));
  expect(Math.max(...delays)).toBeGreaterThan(100_000);
  fails = false;
  await vi.advanceTimersByTimeAsync(300_000);
  expect(queue.failing).toBe(0);
  fails = true;
  delays.length = 0;
  queue.add('a');
  await vi.advanceTimersByTimeAsync(0);
  expect(delays[0]).toBeLessThanOrEqual(5);
});

test('an API server that wants to be left alone is, for that time', async () => {
  const queue = new Queue();
  const at: number[] = [];
  const begun = performance.now();
  const handle = async (): Promise<void> => {
    at.push(performance.now() - begun);
    if (at.length === 1) throw new KubeError('too many requests', { status: 429, retryAfter: 30 });
  };
  void queue.run(1, handle, never);
  queue.add('a');
  await vi.advanceTimersByTimeAsync(60_000);
  expect(at).toHaveLength(2);
  expect(at[1]).toBeGreaterThanOrEqual(30_000);
});

test('a stop waits for what was begun, and begins nothing', async () => {
  const queue = new Queue();
  const stop = new AbortController();
  const trace: string[] = [];
  const handle = async (key: string): Promise<void> => {
    trace.push(`${key} begins`);
    await pause(100);
    trace.push(`${key} ends`);
    throw new Error('and is not tried again');
  };
  let done = false;
  const running = queue.run(2, handle, stop.signal).then(() => {
    done = true;
  });
  for (const key of ['a', 'b', 'c']) queue.add(key);
  queue.addAfter('d', 50);
  await vi.advanceTimersByTimeAsync(10);
  stop.abort();
  queue.add('e');
  await vi.advanceTimersByTimeAsync(10);
  expect(done).toBe(false);
  await vi.advanceTimersByTimeAsync(1_000_000);
  await running;
  expect(trace).toEqual(['a begins', 'b begins', 'a ends', 'b ends']);
  expect(vi.getTimerCount()).toBe(0);
});

test('a hundred thousand keys are handled in the time of each', async () => {
  vi.useRealTimers();
  const queue = new Queue();
  const stop = new AbortController();
  const count = 100_000;
  let handled = 0;
  for (let n = 0; n < count; n += 1) queue.add(`default/disk-${n}`);
  const begun = performance.now();
  await queue.run(
    4,
    async () => {
      handled += 1;
      if (handled === count) stop.abort();
    },
    stop.signal,
  );
  expect(handled).toBe(count);
  // 0.2 s on one core; a queue that looks at all keys for each takes minutes.
  expect(performance.now() - begun).toBeLessThan(10_000);
});

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FerryError } from '../../src/dataplane/errors.ts';
import { head } from '../../src/dataplane/filters/head.ts';
import { parallel, WINDOW } from '../../src/dataplane/filters/parallel.ts';
import { progress } from '../../src/dataplane/filters/progress.ts';
import { pieces, rate } from '../../src/dataplane/filters/rate.ts';
import { retry, retrying } from '../../src/dataplane/filters/retry.ts';
import { INTERVAL, type Sample, Tuner } from '../../src/dataplane/filters/tuner.ts';
import { watchdog } from '../../src/dataplane/filters/watchdog.ts';
import { Pace } from '../../src/dataplane/pace.ts';
import type { Source, SourceFacts } from '../../src/dataplane/source.ts';
import { collect, testContext, thrown } from '../support/context.ts';

const content = randomBytes(6_000_000);

interface Script {
  readonly content?: Buffer;
  readonly facts?: Partial<SourceFacts>;
  readonly batch?: number;
  /** Before each batch; may wait or throw. `reads` counts reads from 1. */
  before?(at: number, reads: number, signal: AbortSignal): Promise<void> | void;
}

class Scripted implements Source {
  readonly facts: SourceFacts;
  readonly details = {};
  readonly name = 'scripted';
  readonly script: Script;
  readonly reads: { from: number; to?: number }[] = [];
  open = 0;
  most = 0;

  constructor(script: Script = {}) {
    this.script = script;
    const length = (script.content ?? content).length;
    this.facts = { ranges: true, length, validator: 'v', remote: true, ...script.facts };
  }

  async *read(range: { from: number; to?: number }, signal: AbortSignal) {
    const all = this.script.content ?? content;
    this.reads.push(range);
    const count = this.reads.length;
    this.open += 1;
    this.most = Math.max(this.most, this.open);
    try {
      const to = range.to ?? all.length;
      const step = this.script.batch ?? 500_000;
      for (let at = range.from; at < to; at += step) {
        await this.script.before?.(at, count, signal);
        signal.throwIfAborted();
        yield [Buffer.from(all.subarray(at, Math.min(to, at + step)))];
      }
    } finally {
      this.open -= 1;
    }
  }

  async [Symbol.asyncDispose]() {}
}

const passing = (code: 'IO' | 'STALLED' = 'IO', retryAfter?: number): FerryError =>
  new FerryError('cut', {
    code,
    stage: 'source',
    retryable: true,
    ...(retryAfter === undefined ? {} : { retryAfter }),
  });

describe('watchdog', () => {
  test('notices silence, even of a source that ignores its signal', async () => {
    const context = testContext({ stall: 100 });
    const source = watchdog(new Scripted({ before: (at) => (at > 0 ? new Promise(() => {}) : undefined) }), context);
    const began = performance.now();
    const error = await thrown(collect(source.read({ from: 0 }, context.signal)));
    expect(error).toMatchObject({ code: 'STALLED', retryable: true, message: 'scripted sent nothing for 0.1 s' });
    expect(performance.now() - began).toBeLessThan(1000);
  });

  test('does not fire while the consumer is the slow side', async () => {
    const context = testContext({ stall: 60 });
    const source = watchdog(new Scripted({ batch: 2_000_000 }), context);
    let bytes = 0;
    for await (const batch of source.read({ from: 0 }, context.signal)) {
      await sleep(150);
      bytes += batch.reduce((sum, chunk) => sum + chunk.length, 0);
    }
    expect(bytes).toBe(content.length);
  });
});

describe('retry', () => {
  test('goes on at the byte, any number of times, as long as there is progress', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.nat({ max: 11 }), { maxLength: 8 }),
        fc.nat({ max: content.length }),
        async (cuts, from) => {
          const left = [...cuts];
          const context = testContext();
          const inner = new Scripted({
            batch: 1_500_000,
            before: (at) => {
              if (at > from && left.length > 0 && left.shift()) throw passing('IO', 0);
            },
          });
          const got = await collect(retry(inner, context).read({ from }, context.signal));
          expect(got.equals(content.subarray(from))).toBe(true);
          expect(context.counters.retries).toBe(inner.reads.length - 1);
        },
      ),
      { numRuns: 30 },
    );
  });

  test.each(['CHANGED', 'DENIED', 'NOT_FOUND', 'UNSUPPORTED'] as const)('%s is final', async (code) => {
    const context = testContext();
    const inner = new Scripted({
      before: () => {
        throw new FerryError('no', { code, stage: 'source' });
      },
    });
    expect(await thrown(collect(retry(inner, context).read({ from: 0 }, context.signal)))).toMatchObject({ code });
    expect(inner.reads).toHaveLength(1);
  });

  test('patience is time without progress, not a count', async () => {
    const context = testContext({ patience: 400 });
    const inner = new Scripted({
      before: (at) => {
        if (at > 0) throw passing();
      },
    });
    const began = performance.now();
    const error = await thrown(collect(retry(inner, context).read({ from: 0, to: 600_000 }, context.signal)));
    expect(error.message).toMatch(/cut; gave up after \d s and \d+ attempts without progress/);
    expect(performance.now() - began).toBeGreaterThan(390);
    expect(performance.now() - began).toBeLessThan(2000);
  });

  test('Retry-After beyond patience is waited for as long as patience lasts', async () => {
    const context = testContext({ patience: 300 });
    const inner = new Scripted({
      before: () => {
        throw passing('IO', 3600);
      },
    });
    const began = performance.now();
    await thrown(collect(retry(inner, context).read({ from: 0 }, context.signal)));
    expect(performance.now() - began).toBeLessThan(1500);
    // A timer may fire a little early, and one more attempt is made then.
    expect(inner.reads.length).toBeLessThanOrEqual(3);
  });

  test('a wait ends with the signal', async () => {
    const context = testContext();
    setTimeout(() => context.abort.abort(), 50);
    const run = retrying(context, () => Promise.reject(passing('IO', 60)));
    const began = performance.now();
    expect(await thrown(run)).toMatchObject({ code: 'ABORTED' });
    expect(performance.now() - began).toBeLessThan(1000);
  });
});

describe('rate', () => {
  test('holds all reads together, smoothly', async () => {
    const context = testContext({ rate: new Pace(4_000_000) });
    const source = rate(new Scripted(), context);
    const came: [number, number][] = [];
    const began = performance.now();
    const one = async (from: number, to: number): Promise<void> => {
      for await (const batch of source.read({ from, to }, context.signal)) {
        came.push([performance.now() - began, batch.reduce((sum, chunk) => sum + chunk.length, 0)]);
      }
    };
    await Promise.all([one(0, 2_000_000), one(2_000_000, 4_000_000)]);
    const seconds = (performance.now() - began) / 1000;
    expect(seconds).toBeGreaterThan(0.85);
    expect(seconds).toBeLessThan(1.5);
    for (const [at] of came) {
      const burst = came.filter(([time]) => time >= at && time < at + 100).reduce((sum, [, bytes]) => sum + bytes, 0);
      // 100 ms of the rate, and 100 ms that may pass at once, and a timer's lateness.
      expect(burst).toBeLessThan(4_000_000 * 0.3);
    }
  });

  test('pieces are the batch, cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ minLength: 1, maxLength: 50 })),
        fc.integer({ min: 1, max: 60 }),
        (batch, most) => {
          const cut = [...pieces(batch, most)];
          for (const piece of cut) expect(Buffer.concat(piece).length).toBeLessThanOrEqual(most);
          expect(Buffer.concat(cut.flat()).equals(Buffer.concat(batch))).toBe(true);
        },
      ),
    );
  });
});

test('progress counts what came', async () => {
  const context = testContext();
  await collect(progress(new Scripted(), context).read({ from: 1_000_000 }, context.signal));
  expect(context.counters.received).toBe(5_000_000);
});

describe('head', () => {
  test.each([true, false])('is not fetched again (ranges: %s)', async (ranges) => {
    const context = testContext();
    const inner = new Scripted({ facts: { ranges } });
    const source = head(inner);
    const [one, two] = [await source.head(context.signal), await source.head(context.signal)];
    expect(content.subarray(0, 1024 * 1024).equals(one) && one.every((byte, at) => byte === two[at])).toBe(true);
    expect(
      (await collect(source.read({ from: 0, to: 3_000_001 }, context.signal))).equals(content.subarray(0, 3_000_001)),
    ).toBe(true);
    expect(inner.reads).toHaveLength(ranges ? 2 : 1);
    expect(inner.open).toBe(0);
  });

  test('can be asked for again after an error', async () => {
    const context = testContext();
    let fail = true;
    const source = head(
      new Scripted({
        before: () => {
          if (fail) throw passing();
        },
      }),
    );
    await thrown(source.head(context.signal));
    fail = false;
    expect(await source.head(context.signal)).toHaveLength(1024 * 1024);
  });

  test('a source that ends before is shorter', async () => {
    const context = testContext();
    for (const ranges of [true, false]) {
      const source = head(new Scripted({ content: Buffer.from('abc'), facts: { ranges } }));
      expect(Buffer.from(await source.head(context.signal)).toString()).toBe('abc');
      expect((await collect(source.read({ from: 0 }, context.signal))).toString()).toBe('abc');
    }
  });
});

const sample = (part: Partial<Sample>): Sample => ({
  bytes: 1000,
  milliseconds: INTERVAL,
  waited: INTERVAL * 0.9,
  busy: 0.1,
  retries: 0,
  ...part,
});

describe('the number of connections', () => {
  test('rises while that pays and stays where it does not', () => {
    const tuner = new Tuner(8);
    const seen: number[] = [];
    // A server that gives 10 MB/s a connection, and 25 MB/s at most.
    for (let count = 0; count < 10; count += 1) {
      tuner.observe(sample({ bytes: Math.min(25, tuner.connections * 10) * 1000 * INTERVAL }));
      seen.push(tuner.connections);
    }
    expect(seen).toEqual([2, 2, 2, 4, 4, 4, 8, 8, 4, 4]);
  });

  test('stays at one when we, or the thread, or the limit are what holds us up', () => {
    for (const part of [{ waited: INTERVAL * 0.2 }, { busy: 0.9 }, { bytes: 500_000 * INTERVAL }]) {
      const tuner = new Tuner(4);
      for (let count = 0; count < 5; count += 1) tuner.observe(sample(part));
      expect(tuner.connections).toBe(1);
    }
    const far = new Tuner(8, undefined, 40);
    expect(far.connections).toBe(4);
    far.observe(sample({ retries: 1 }));
    expect(far.connections).toBe(1);
    expect(new Tuner(2, undefined, 40).connections).toBe(2);

    const limited = new Tuner(4, 1);
    limited.observe(sample({ bytes: 2 * INTERVAL }));
    expect(limited.connections).toBe(1);
  });

  test('falls back to one when the server protests, and waits before it rises again', () => {
    const tuner = new Tuner(4);
    tuner.observe(sample({}));
    expect(tuner.connections).toBe(2);
    tuner.observe(sample({ retries: 1 }));
    expect(tuner.connections).toBe(1);
    for (let count = 0; count < 15; count += 1) tuner.observe(sample({}));
    expect(tuner.connections).toBe(1);
  });
});

describe('parallel', () => {
  test('a source that gives little to each connection is read over more, in order, within bounds', async () => {
    const large = randomBytes(60_000_000);
    // 10 MB/s a connection.
    const inner = new Scripted({ content: large, batch: 200_000, before: () => sleep(20) });
    const context = testContext({ connections: 4 });
    const source = parallel(inner, context);
    const got = await collect(source.read({ from: 5 }, context.signal));
    expect(got.equals(large.subarray(5))).toBe(true);
    // How many more is the tuner's affair, and depends on what else this machine does meanwhile.
    expect(inner.most).toBeGreaterThan(1);
    expect(inner.most).toBeLessThanOrEqual(4);
    expect(inner.open).toBe(0);
    expect(context.lines[0]).toBe('2 connections instead of 1');
  });

  test('memory is bounded when the consumer is slow', async () => {
    const large = Buffer.alloc(80_000_000);
    let given = 0;
    let taken = 0;
    let most = 0;
    let slow = false;
    const inner = new Scripted({
      content: large,
      batch: 200_000,
      before: async () => {
        await sleep(slow ? 0 : 10);
        given += 200_000;
        most = Math.max(most, given - taken);
      },
    });
    const context = testContext({ connections: 4 });
    for await (const batch of parallel(inner, context).read({ from: 0 }, context.signal)) {
      taken += batch.reduce((sum, chunk) => sum + chunk.length, 0);
      if (inner.most >= 2 && !slow) slow = true;
      if (slow) await sleep(2);
    }
    expect(inner.most).toBeGreaterThan(1);
    expect(most).toBeLessThanOrEqual(5 * WINDOW);
  });

  test('leaving early, and an error in a window ahead, leave nothing running', async () => {
    const inner = new Scripted({
      content: Buffer.alloc(60_000_000),
      batch: 200_000,
      before: (at) => {
        if (at > 40_000_000) throw new FerryError('gone', { code: 'CHANGED', stage: 'source' });
        return sleep(10);
      },
    });
    const context = testContext({ connections: 4 });
    const source = parallel(inner, context);
    expect(await thrown(collect(source.read({ from: 0 }, context.signal)))).toMatchObject({ code: 'CHANGED' });
    expect(inner.open).toBe(0);
    for await (const _ of source.read({ from: 0 }, context.signal)) break;
    expect(inner.open).toBe(0);
  });

  test('is not there for a source without ranges, or a local one', () => {
    const context = testContext();
    for (const facts of [{ ranges: false }, { remote: false }]) {
      const inner = new Scripted({ facts });
      expect(parallel(inner, context)).toBe(inner);
    }
  });
});

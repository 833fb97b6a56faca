import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Context } from '../../src/dataplane/context.ts';
import type { Source } from '../../src/dataplane/source.ts';
import { stackFilters } from '../../src/dataplane/stack.ts';
import type { FaultProxy } from '../faults/proxy.ts';
import { collect, testContext, thrown } from '../support/context.ts';

/** A place that a driver reads from, for one test. */
export interface Subject extends AsyncDisposable {
  /** What is there: at least 3 MiB. */
  readonly content: Buffer;
  open(context: Context): Promise<Source>;
  /** Puts something else of the same length there. Absent = cannot be. */
  replace?(): Promise<void>;
  /** Stands between the driver and the place. Absent = there is no network. */
  readonly proxy?: FaultProxy;
  /** Which connection is the first that carries the bytes. Default: the first. */
  readonly carrier?: number;
}

export interface Expectations {
  readonly ranges: boolean;
  readonly length: boolean;
  readonly validator: boolean;
  readonly remote: boolean;
  /** False where an object is known by its digest, so that there is never another. Default true. */
  readonly replaceable?: boolean;
}

/** What every source promises (src/dataplane/source.ts), proven on one. */
export function sourceContract(name: string, expected: Expectations, factory: () => Promise<Subject>): void {
  describe(`source contract: ${name}`, () => {
    let subject: Subject;
    let sources: Source[];
    beforeEach(async () => {
      sources = [];
      subject = await factory();
    });
    afterEach(async () => {
      for (const source of sources) await source[Symbol.asyncDispose]();
      await subject[Symbol.asyncDispose]();
    });
    const open = async (context: Context): Promise<Source> => {
      const source = await subject.open(context);
      sources.push(source);
      return source;
    };

    test('tells the facts', async () => {
      const { facts, name: shown } = await open(testContext());
      expect(facts.ranges).toBe(expected.ranges);
      expect(facts.length).toBe(expected.length ? subject.content.length : undefined);
      expect(facts.validator !== undefined).toBe(expected.validator);
      expect(shown.replace(/@sha256:[0-9a-f]{64}$/, '')).not.toMatch(/[?@]/);
    });

    test('reads the whole', async () => {
      const context = testContext();
      const source = await open(context);
      expect((await collect(source.read({ from: 0 }, context.signal))).equals(subject.content)).toBe(true);
    });

    test('reads from the beginning up to a byte', async () => {
      const context = testContext();
      const source = await open(context);
      const got = await collect(source.read({ from: 0, to: 1_234_567 }, context.signal));
      expect(got.equals(subject.content.subarray(0, 1_234_567))).toBe(true);
    });

    test('chunks belong to the consumer', async () => {
      const context = testContext();
      const source = stackFilters(await open(context), context);
      (await source.head(context.signal)).fill(0);
      const kept: Uint8Array[] = [];
      for await (const batch of source.read({ from: 0 }, context.signal)) kept.push(...batch);
      expect(Buffer.concat(kept).equals(subject.content)).toBe(true);
    });

    test('can be looked into before it is read, and nothing comes twice', async () => {
      const context = testContext();
      const source = stackFilters(await open(context), context);
      const head = await source.head(context.signal);
      expect(subject.content.subarray(0, 1024 * 1024).equals(head)).toBe(true);
      expect((await collect(source.read({ from: 0 }, context.signal))).equals(subject.content)).toBe(true);
      expect(context.counters.received).toBe(subject.content.length);
    });

    test('ends soon after the signal', async () => {
      const context = testContext();
      const source = stackFilters(await open(context), context);
      const reading = (async () => {
        for await (const _ of source.read({ from: 0 }, context.signal)) {
          context.abort.abort();
          await sleep(1);
        }
      })();
      const began = performance.now();
      expect((await thrown(reading)).code).toBe('ABORTED');
      expect(performance.now() - began).toBeLessThan(1000);
    });

    test('may be disposed twice, also in the middle of a read', async () => {
      const context = testContext();
      const source = await open(context);
      const reading = (async () => {
        for await (const _ of source.read({ from: 0 }, context.signal)) await source[Symbol.asyncDispose]();
      })();
      expect((await thrown(reading)).code).toBe('ABORTED');
      await source[Symbol.asyncDispose]();
    });

    test('may be left early', async () => {
      const context = testContext();
      const source = await open(context);
      for await (const batch of source.read({ from: 0 }, context.signal)) {
        expect(batch.length).toBeGreaterThan(0);
        break;
      }
      if (expected.ranges) {
        const from = subject.content.length - 10;
        expect((await collect(source.read({ from }, context.signal))).equals(subject.content.subarray(from))).toBe(
          true,
        );
      }
      await source[Symbol.asyncDispose]();
      await expect.poll(() => subject.proxy?.open ?? 0).toBe(0);
    });

    if (expected.ranges) {
      test('reads any range', async () => {
        const context = testContext();
        const source = stackFilters(await open(context), context);
        const { content } = subject;
        const offset = fc.nat({ max: content.length });
        await fc.assert(
          fc.asyncProperty(offset, offset, async (one, other) => {
            const [from, to] = [Math.min(one, other), Math.max(one, other)];
            const got = await collect(source.read({ from, to }, context.signal));
            expect(got.equals(content.subarray(from, to))).toBe(true);
          }),
          { numRuns: 15 },
        );
      });

      test('reads at the same time', async () => {
        const context = testContext();
        const source = await open(context);
        const middle = Math.floor(subject.content.length / 2);
        const [first, second, third] = await Promise.all([
          collect(source.read({ from: 0, to: middle }, context.signal)),
          collect(source.read({ from: middle }, context.signal)),
          collect(source.read({ from: 0 }, context.signal)),
        ]);
        expect(Buffer.concat([first, second]).equals(subject.content)).toBe(true);
        expect(third.equals(subject.content)).toBe(true);
      });
    } else {
      test('cannot be read from the middle or twice', async () => {
        const context = testContext();
        const source = await open(context);
        expect((await thrown(collect(source.read({ from: 1 }, context.signal)))).code).toBe('UNSUPPORTED');
        const again = await open(context);
        await collect(again.read({ from: 0 }, context.signal));
        expect((await thrown(collect(again.read({ from: 0 }, context.signal)))).code).toBe('UNSUPPORTED');
      });
    }

    if (expected.validator && expected.ranges && expected.replaceable !== false) {
      test('notices that it was replaced', async () => {
        if (!subject.replace) throw new Error('a subject with a validator must be able to be replaced');
        const context = testContext();
        const source = stackFilters(await open(context), context);
        await source.head(context.signal);
        await subject.replace();
        const error = await thrown(collect(source.read({ from: 2 * 1024 * 1024 }, context.signal)));
        expect(error.code).toBe('CHANGED');
        expect(context.counters.retries).toBe(0);
      });
    }

    if (expected.remote)
      describe('over a bad network', () => {
        const faulty = async (faults: FaultProxy['faults']): Promise<FaultProxy> => {
          if (!subject.proxy) throw new Error('a source over a network must be tested through a proxy');
          subject.proxy.faults = faults;
          return subject.proxy;
        };

        test('a cut is an error that may pass; with ranges and a validator it is gone on from there', async () => {
          const proxy = await faulty({ cut: 1_500_000 });
          const context = testContext();
          const bare = await open(context);
          const error = await thrown(collect(bare.read({ from: 0 }, context.signal)));
          expect(error).toMatchObject({ stage: 'source', retryable: true });
          const source = stackFilters(await open(context), context);
          const whole = collect(source.read({ from: 0 }, context.signal));
          if (expected.validator && expected.ranges) {
            expect((await whole).equals(subject.content)).toBe(true);
            expect(context.counters.retries).toBeGreaterThan(0);
            expect(context.counters.received).toBe(subject.content.length);
          } else {
            expect((await thrown(whole)).message).toMatch(/cannot be resumed/);
            expect(context.counters.retries).toBe(0);
          }
          expect(proxy.accepted).toBeGreaterThan(1);
        });

        test('a connection that ends in order before its time is no end', async () => {
          await faulty({ finish: 1_500_000, connections: subject.carrier ?? 1 });
          const context = testContext();
          const source = await open(context);
          expect(
            await thrown(
              collect(source.read({ from: 0 }, context.signal)).then((all) => {
                // The first request may have ended before the fault: then the rest came over another connection.
                if (all.equals(subject.content)) throw Object.assign(new Error('whole'), { retryable: true });
              }),
            ),
          ).toMatchObject({ retryable: true });
        });

        test('a stall is noticed, and passed where it can be', async () => {
          await faulty({ stall: 1_400_000, connections: subject.carrier ?? 1 });
          // Over several connections none would come as far as to stall.
          const context = testContext({ stall: 300, patience: 3000, connections: 1 });
          const source = stackFilters(await open(context), context);
          const whole = collect(source.read({ from: 0 }, context.signal));
          if (expected.validator && expected.ranges) {
            expect((await whole).equals(subject.content)).toBe(true);
            expect(context.lines.join()).toMatch(/sent nothing for 0.3 s; trying again/);
          } else expect(await thrown(whole)).toMatchObject({ code: 'STALLED', retryable: false });
        });
      });
  });
}

import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { stackFilters } from '../../src/dataplane/stack.ts';
import { collect, testContext, thrown } from '../support/context.ts';
import { sourceContract } from './source.ts';

function* chunks(content: Buffer): Generator<Buffer> {
  for (let at = 0; at < content.length; at += 65_536) yield content.subarray(at, at + 65_536);
}

sourceContract('standard input', { ranges: false, length: false, validator: false, remote: false }, async () => {
  const content = randomBytes(4_000_001);
  return {
    content,
    open: (context) =>
      openSource('-', { stdin: Readable.from(chunks(Buffer.from(content)), { objectMode: false }) }, context),
    [Symbol.asyncDispose]: async () => {},
  };
});

test('a stream that fails is an error, not an end', async () => {
  const context = testContext();
  const stdin = Readable.from(
    (async function* () {
      yield Buffer.alloc(10);
      throw new Error('the disk is gone');
    })(),
    { objectMode: false },
  );
  await using source = await openSource('-', { stdin }, context);
  expect(await thrown(collect(source.read({ from: 0 }, context.signal)))).toMatchObject({
    code: 'IO',
    message: /disk is gone/,
  });
});

test('a stream that is silent for long is not stalled', async () => {
  const context = testContext({ stall: 50 });
  const stdin = Readable.from(
    (async function* () {
      yield Buffer.from('a');
      await sleep(300);
      yield Buffer.from('b');
    })(),
    { objectMode: false },
  );
  await using source = stackFilters(await openSource('-', { stdin }, context), context);
  expect((await collect(source.read({ from: 0 }, context.signal))).toString()).toBe('ab');
});

test('a stream is not read ahead of its consumer without bound', async () => {
  const context = testContext();
  let pulled = 0;
  const stdin = new Readable({
    read() {
      pulled += 65_536;
      this.push(Buffer.alloc(65_536));
    },
  });
  await using source = await openSource('-', { stdin }, context);
  for await (const _ of source.read({ from: 0 }, context.signal)) {
    await sleep(100);
    break;
  }
  expect(pulled).toBeLessThan(4 * 1024 * 1024);
});

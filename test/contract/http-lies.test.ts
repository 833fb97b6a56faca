import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import type { SourceOptions } from '../../src/dataplane/source.ts';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { stackFilters } from '../../src/dataplane/stack.ts';
import { collect, type TestContext, testContext, thrown } from '../support/context.ts';

const content = randomBytes(3_000_000);
const FIRST = 1024 * 1024;

interface Ask {
  /** Counted from 0 over all connections. */
  readonly count: number;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly from: number;
  /** The byte after the last that was asked for, at most the content's length. */
  readonly to: number;
}

/** What is written back, as it is; undefined = the honest answer. */
type Liar = (ask: Ask, socket: Socket) => Reply | undefined;
interface Reply {
  readonly status?: string;
  readonly fields?: Readonly<Record<string, string | number | undefined>>;
  readonly body?: Buffer;
  /** Ends the connection after the answer. */
  readonly close?: boolean;
}

const running: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of running.splice(0)) await one[Symbol.asyncDispose]();
});

async function serve(liar: Liar): Promise<string> {
  let count = 0;
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    let text = '';
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1');
      for (let end = text.indexOf('\r\n\r\n'); end >= 0; end = text.indexOf('\r\n\r\n')) {
        const [first = '', ...lines] = text.slice(0, end).split('\r\n');
        text = text.slice(end + 4);
        const headers = Object.fromEntries(
          lines.map((line) => [
            line.slice(0, line.indexOf(':')).toLowerCase(),
            line.slice(line.indexOf(':') + 1).trim(),
          ]),
        );
        const range = /bytes=(\d+)-(\d*)/.exec(headers.range ?? '');
        const from = Number(range?.[1] ?? 0);
        const to = Math.min(content.length, range?.[2] ? Number(range[2]) + 1 : content.length);
        const ask = { count, path: first.split(' ')[1] ?? '', headers, from, to };
        count += 1;
        answer(socket, ask, liar(ask, socket) ?? {});
      }
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  running.push({
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  });
  const address = server.address();
  return `http://127.0.0.1:${address !== null && typeof address === 'object' ? address.port : 0}`;
}

function answer(socket: Socket, { from, to }: Ask, reply: Reply): void {
  const body = reply.body ?? content.subarray(from, to);
  const fields = {
    'Content-Range': `bytes ${from}-${to - 1}/${content.length}`,
    'Content-Length': body.length,
    ETag: '"one"',
    ...reply.fields,
  };
  const lines = Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`HTTP/1.1 ${reply.status ?? '206 Partial Content'}\r\n${lines.join('')}\r\n`);
  socket.write(body);
  if (reply.close) socket.end();
}

async function run(
  liar: Liar,
  limits = {},
  options: SourceOptions = {},
): Promise<{ got: Promise<Buffer>; context: TestContext }> {
  const url = await serve(liar);
  const context = testContext({ patience: 400, connections: 1, ...limits });
  const got = (async () => {
    await using source = stackFilters(await openSource(`${url}/disk.img`, options, context), context);
    return await collect(source.read({ from: 0 }, context.signal));
  })();
  got.catch(() => {});
  return { got, context };
}

const later =
  (reply: (ask: Ask) => Reply): Liar =>
  (ask) =>
    ask.count === 0 ? undefined : reply(ask);

describe('a server that lies', () => {
  test('an honest one is read', async () => {
    const { got, context } = await run(() => undefined);
    expect((await got).equals(content)).toBe(true);
    expect(context.counters.opened).toBe(2);
  });

  test.each<[string, Liar, string, RegExp]>([
    [
      'says another start in Content-Range',
      later(({ to }) => ({ fields: { 'Content-Range': `bytes 0-${to - 1}/${content.length}` } })),
      'UNSUPPORTED',
      /was asked for bytes 1048576 to 3000000 and answered with/,
    ],
    [
      'says an earlier end',
      later(({ from }) => ({ fields: { 'Content-Range': `bytes ${from}-${from + 9}/${content.length}` } })),
      'UNSUPPORTED',
      /answered with Content-Range/,
    ],
    [
      'says another total',
      later(({ from, to }) => ({ fields: { 'Content-Range': `bytes ${from}-${to - 1}/${content.length + 1}` } })),
      'CHANGED',
      /is 3000001 bytes long now and was 3000000/,
    ],
    [
      'says nonsense in Content-Range',
      later(() => ({ fields: { 'Content-Range': 'bytes banana' } })),
      'UNSUPPORTED',
      /Content-Range 'bytes banana'/,
    ],
    [
      'leaves Content-Range out',
      later(() => ({ fields: { 'Content-Range': undefined } })),
      'UNSUPPORTED',
      /Content-Range 'none'/,
    ],
    ['has another ETag', later(() => ({ fields: { ETag: '"two"' } })), 'CHANGED', /its ETag is another one/],
    ['has no ETag any more', later(() => ({ fields: { ETag: undefined } })), 'CHANGED', /its ETag is gone/],
    [
      'answers 412',
      later(() => ({ status: '412 Precondition Failed', body: Buffer.alloc(0) })),
      'CHANGED',
      /was replaced since it was opened \(answer 412\)/,
    ],
    [
      'answers 416',
      later(() => ({ status: '416 Range Not Satisfiable', body: Buffer.alloc(0) })),
      'CHANGED',
      /no longer has bytes/,
    ],
    [
      'stops honouring ranges',
      later(() => ({ status: '200 OK', body: content, fields: { 'Content-Range': undefined } })),
      'UNSUPPORTED',
      /stopped honouring ranges/,
    ],
    [
      'answers 200 with another object',
      later(() => ({ status: '200 OK', body: content, fields: { ETag: '"two"' } })),
      'CHANGED',
      /its ETag is another one/,
    ],
    [
      'compresses on the way',
      later(() => ({ fields: { 'Content-Encoding': 'gzip' } })),
      'CHANGED',
      /its Content-Encoding/,
    ],
    [
      'sends less than its Content-Length, always',
      later(({ from, to }) => ({
        body: content.subarray(from, from),
        close: true,
        fields: { 'Content-Length': to - from },
      })),
      'IO',
      /cut|ended/,
    ],
    [
      'promises less than the range',
      later(({ from }) => ({ body: content.subarray(from, from + 10) })),
      'IO',
      /sends 10 bytes for a range of 1951424/,
    ],
    [
      'promises more than the range',
      later(({ from, to }) => ({ body: Buffer.concat([content.subarray(from, to), Buffer.alloc(9)]) })),
      'IO',
      /sends 1951433 bytes for a range/,
    ],
    [
      'opens with another range',
      () => ({ fields: { 'Content-Range': `bytes 5-9/${content.length}` } }),
      'UNSUPPORTED',
      /was asked for bytes 0 to 1048576 and answered with 5 to 10/,
    ],
    [
      'does not know its length',
      () => ({ fields: { 'Content-Range': 'bytes 0-1048575/*' } }),
      'UNSUPPORTED',
      /does not say how long/,
    ],
    ['denies later', later(() => ({ status: '403 Forbidden', body: Buffer.alloc(0) })), 'DENIED', /answered 403/],
    [
      'loses the object',
      later(() => ({ status: '404 Not Found', body: Buffer.alloc(0) })),
      'NOT_FOUND',
      /answered 404/,
    ],
    [
      'speaks no HTTP',
      (_ask, socket) => {
        socket.write('SSH-2.0-x\r\n');
        return {};
      },
      'IO',
      /not HTTP/,
    ],
  ])('%s', async (_what, liar, code, message) => {
    const { got } = await run(liar);
    expect(await thrown(got)).toMatchObject({ code, message });
  });

  test('more than Content-Length without ranges is never taken for content', async () => {
    const { got } = await run(() => ({
      status: '200 OK',
      body: Buffer.concat([content, Buffer.from('more')]),
      fields: { 'Content-Range': undefined, 'Content-Length': content.length },
    }));
    // HTTP ends the body at its length: the disk is right, the rest is the server's affair.
    const result = await got.catch((error: unknown) => error);
    if (Buffer.isBuffer(result)) expect(result.equals(content)).toBe(true);
    else expect(result).toMatchObject({ stage: 'source' });
  });

  test('a chunked body that is longer than its range is refused', async () => {
    const chunk = (data: Buffer): Buffer =>
      Buffer.concat([Buffer.from(`${data.length.toString(16)}\r\n`), data, Buffer.from('\r\n')]);
    const { got } = await run(
      later(({ from, to }) => ({
        fields: { 'Content-Length': undefined, 'Transfer-Encoding': 'chunked' },
        body: Buffer.concat([chunk(content.subarray(from, to)), chunk(Buffer.from('more')), Buffer.from('0\r\n\r\n')]),
      })),
    );
    expect(await thrown(got)).toMatchObject({ code: 'IO', message: /sent more than the 1951424 bytes/ });
  });

  test('a body without a length ends where the server ends it', async () => {
    const { got, context } = await run(() => ({
      status: '200 OK',
      body: content,
      close: true,
      fields: { 'Content-Range': undefined, 'Content-Length': undefined },
    }));
    expect((await got).equals(content)).toBe(true);
    expect(context.counters.retries).toBe(0);
  });

  test('a header field that cannot be sent is told without its value', async () => {
    const url = await serve(() => undefined);
    for (const headers of [{ 'x-token': 'two\nsecrets' }, { expect: '100-continue' }, { 'bad name': 'x' }]) {
      const error = await thrown(openSource(url, { headers }, testContext()));
      expect(error).toMatchObject({ code: 'BAD_SPEC', message: /cannot be sent/ });
      expect(error.message).not.toContain('secrets');
    }
  });

  test('a body whose end cannot be known says so', async () => {
    const fields = { 'Content-Range': undefined, 'Content-Length': undefined };
    const url = await serve(() => ({ status: '200 OK', close: true, fields }));
    await using source = await openSource(url, {}, testContext());
    expect(source.facts.length).toBeUndefined();
    expect(source.details.end).toMatch(/a cut can look like the end/);
  });

  test('a cut in the middle is gone on from at the exact byte, with If-Match', async () => {
    const asked: Ask[] = [];
    const { got } = await run((ask) => {
      asked.push(ask);
      if (ask.count !== 1) return undefined;
      return {
        body: content.subarray(ask.from, ask.from + 700_000),
        fields: { 'Content-Length': ask.to - ask.from },
        close: true,
      };
    });
    expect((await got).equals(content)).toBe(true);
    expect(asked.map(({ from, to }) => [from, to])).toEqual([
      [0, FIRST],
      [FIRST, content.length],
      [FIRST + 700_000, content.length],
    ]);
    expect(asked.map(({ headers }) => headers['if-match'])).toEqual([undefined, '"one"', '"one"']);
    expect(asked[0]?.headers['accept-encoding']).toBe('identity');
  });

  test('Retry-After is honoured in both forms', async () => {
    for (const wait of [() => '1', () => new Date(Date.now() + 1500).toUTCString()]) {
      const { got, context } = await run(
        (ask) =>
          ask.count === 1
            ? { status: '429 Too Many Requests', body: Buffer.alloc(0), fields: { 'Retry-After': wait() } }
            : undefined,
        { patience: 5000 },
      );
      const began = performance.now();
      expect((await got).equals(content)).toBe(true);
      expect(performance.now() - began).toBeGreaterThan(300);
      expect(context.lines.join()).toMatch(/asks to wait \d+ s; trying again at byte 1048576 in/);
    }
  });

  test('without a strong validator nothing is resumed, unless a digest is demanded at the end', async () => {
    const cut: Liar = (ask) => ({
      fields: { ETag: 'W/"one"', 'Content-Length': ask.to - ask.from },
      ...(ask.count === 1 ? { body: content.subarray(ask.from, ask.from + 500_000), close: true } : {}),
    });
    const url = await serve(cut);
    const context = testContext();
    await using source = stackFilters(await openSource(url, {}, context), context);
    expect(source.details.resumable).toMatch(/weak ETag only/);
    const error = await thrown(collect(source.read({ from: 0 }, context.signal)));
    expect(error).toMatchObject({
      retryable: false,
      message: /cannot be resumed: the source has nothing that identifies it/,
    });
    await using verified = stackFilters(await openSource(await serve(cut), {}, context), context, { verified: true });
    expect((await collect(verified.read({ from: 0 }, context.signal))).equals(content)).toBe(true);
  });

  test('a digest that the server promises is told', async () => {
    const digest = createHash('sha256').update(content).digest();
    const url = await serve(() => ({ fields: { 'Repr-Digest': `sha-256=:${digest.toString('base64')}:` } }));
    await using source = await openSource(url, {}, testContext());
    expect(source.facts.digest).toEqual({ algorithm: 'sha256', hex: digest.toString('hex') });
  });

  test('credentials and headers stay with their origin; an expired address is resolved again', async () => {
    const seen: Ask[] = [];
    let valid = 'first';
    const mirror = await serve((ask) => {
      seen.push(ask);
      return ask.path.includes(valid) ? undefined : { status: '403 Forbidden', body: Buffer.alloc(0) };
    });
    const asked: Ask[] = [];
    const origin = await serve((ask) => {
      asked.push(ask);
      return {
        status: '302 Found',
        body: Buffer.alloc(0),
        fields: { Location: `${mirror}/disk.img?signature=${valid}`, 'Content-Range': undefined },
      };
    });
    const context = testContext();
    const options = { headers: { 'X-Token': 'secret' }, credentials: { username: 'me', password: 'secret' } };
    await using source = stackFilters(await openSource(`${origin}/disk.img`, options, context), context);
    await source.head(context.signal);
    valid = 'second';
    expect((await collect(source.read({ from: 0 }, context.signal))).equals(content)).toBe(true);
    expect(asked).toHaveLength(2);
    for (const { headers } of asked)
      expect(headers).toMatchObject({ 'x-token': 'secret', authorization: `Basic ${btoa('me:secret')}` });
    for (const { headers } of seen) expect(JSON.stringify(headers)).not.toMatch(/secret|authorization/);
  });

  test('a stalled body does not outlive its signal', async () => {
    const url = await serve((ask) =>
      ask.count === 0 ? undefined : { body: Buffer.alloc(0), fields: { 'Content-Length': ask.to - ask.from } },
    );
    const context = testContext();
    await using source = stackFilters(await openSource(url, {}, context), context);
    const reading = collect(source.read({ from: 0 }, context.signal));
    setTimeout(() => context.abort.abort(), 200);
    const began = performance.now();
    expect(await thrown(reading)).toMatchObject({ code: 'ABORTED' });
    expect(performance.now() - began).toBeLessThan(1200);
  });

  test('a silent server is noticed while opening', async () => {
    const silent = createServer(() => {}).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const address = silent.address();
    const url = `http://127.0.0.1:${address !== null && typeof address === 'object' ? address.port : 0}/`;
    const context = testContext({ stall: 300, patience: 200 });
    expect(await thrown(openSource(url, {}, context))).toMatchObject({
      code: 'STALLED',
      message: /did not answer in time/,
    });
    silent.close();
  });
});

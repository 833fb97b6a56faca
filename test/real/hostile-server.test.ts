// Servers that lie, stall, cut and replace: the right disk or a clear error, within bounded time, and never a splice.

import { createReadStream } from 'node:fs';
import { mkdir, rm, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { afterEach, describe, expect, test } from 'vitest';
import { FaultProxy } from '../faults/proxy.ts';
import { type Cli, type Ended, describe as told } from '../support/cli.ts';
import { type CountingServer, room } from '../support/counting-server.ts';
import { recognised } from '../support/devices.ts';
import { difference, MiB } from '../support/images.ts';
import { rudeServer } from '../support/rude-server.ts';
import { rawAndQcow2, site } from '../support/site.ts';

/** Seconds within which every one of these is over. */
const BOUND = 30;
const IMPATIENT = ['--stall', '1', '--patience', '4', '--json', '--progress', 'none'];
/** What a source may be blamed for. */
const BLAME = ['CHANGED', 'TRUNCATED', 'CORRUPT', 'STALLED', 'DENIED', 'NOT_FOUND', 'UNSUPPORTED', 'IO'];
const SIZE = 48 * MiB;

let program: Cli;
let server: CountingServer;

const at = site(async (opened) => {
  ({ program, server } = opened);
  await rawAndQcow2(at('www'), SIZE);
  await mkdir(at('newer'));
  await rawAndQcow2(at('newer'), SIZE);
});

afterEach(async () => {
  server.behave();
  server.nextRun();
  await rm(at('img'), { force: true });
});

/** Runs one import that the source makes hard: answers 'right' or the code of the error, and checks what is left. */
async function outcome(url: string, ...more: string[]): Promise<{ verdict: string; ended: Ended }> {
  const ended = await program.run(['import', url, at('img'), ...IMPATIENT, ...more]);
  expect(ended.seconds, told(ended)).toBeLessThan(BOUND);
  if (ended.code === 0) {
    expect(await difference(at('www/raw'), at('img')), told(ended)).toBeUndefined();
    return { verdict: 'right', ended };
  }
  expect(ended.stdout, told(ended)).toMatch(/^\{"error"/);
  const { error } = JSON.parse(ended.stdout) as { error: { code: string; message: string } };
  expect(BLAME, told(ended)).toContain(error.code);
  expect(error.message.length).toBeGreaterThan(20);
  if (await stat(at('img')).catch(() => undefined)) expect(await recognised(at('img'))).toEqual([]);
  return { verdict: error.code, ended };
}

/** Sends bytes of a file, and ends or not. */
async function pour(response: ServerResponse, path: string, from: number, to: number, end = true): Promise<void> {
  if (to > from) {
    for await (const chunk of createReadStream(path, { start: from, end: to - 1 })) {
      if (response.destroyed) return;
      if (!response.write(chunk)) await room(response);
    }
  }
  if (end) response.end();
}

interface Asked {
  readonly from: number;
  readonly to: number;
  readonly ranged: boolean;
}

/** What a request asks of a file of `length` bytes. */
function asked(request: IncomingMessage, length: number): Asked {
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  return {
    ranged: range !== null,
    from: Number(range?.[1] ?? 0),
    to: range?.[2] ? Math.min(Number(range[2]) + 1, length) : length,
  };
}

const usual = (length: number, etag = '"one"'): Record<string, string | number> => ({
  'content-type': 'application/octet-stream',
  'accept-ranges': 'bytes',
  'content-length': length,
  etag,
});

describe.each(['raw', 'qcow2'] as const)('%s', (kind) => {
  const path = (): string => at(`www/${kind}`);
  const url = (): string => `${server.url}/${kind}`;

  test('is replaced in the middle: never spliced, and the same command begins with the new one', async () => {
    const { size } = await stat(path());
    let sent = 0;
    server.manners.answer = (request, response) => {
      const { from, to, ranged } = asked(request, size);
      const isNew = sent > 12 * MiB;
      const etag = isNew ? '"two"' : '"one"';
      if (request.headers['if-match'] !== undefined && request.headers['if-match'] !== etag) {
        response.writeHead(412).end();
        return true;
      }
      const fits = request.headers['if-range'] === undefined || request.headers['if-range'] === etag;
      const part = ranged && fits;
      const [start, end] = part ? [from, to] : [0, size];
      sent += end - start;
      response.writeHead(part ? 206 : 200, {
        ...usual(end - start, etag),
        ...(part ? { 'content-range': `bytes ${start}-${end - 1}/${size}` } : {}),
      });
      void pour(response, isNew ? at(`newer/${kind}`) : path(), start, end);
      return true;
    };
    const proxied = await FaultProxy.start({ port: server.port }, { cut: 10 * MiB, connections: 3 });
    await using _proxy = proxied;
    const ended = await program.run(['import', `${proxied.url}/${kind}`, at('img'), ...IMPATIENT]);
    expect(ended.code, told(ended)).toBe(12);
    expect(ended.seconds).toBeLessThan(BOUND);
    expect(await recognised(at('img'))).toEqual([]);
    const report = await program.imported([`${proxied.url}/${kind}`, at('img')]);
    expect(report.resumes).toBe(0);
    expect(await difference(at('newer/raw'), at('img'))).toBeUndefined();
  });

  test('is replaced between a kill and going on', async () => {
    await program.killedAfter(4000, [url(), at('img'), '--rate', '8MB/s']);
    server.manners.etag = '"another"';
    const again = await program.run(['import', url(), at('img'), '--json', '--progress', 'lines']);
    expect(again.code, told(again)).toBe(0);
    expect(again.stderr).toMatch(/changed/);
    expect(await difference(at('www/raw'), at('img'))).toBeUndefined();
  });

  test('from a server that ignores Range after promising it', async () => {
    const { size } = await stat(path());
    let count = 0;
    server.manners.answer = (request, response) => {
      const { from, to, ranged } = asked(request, size);
      count += 1;
      if (ranged && count <= 1) {
        response.writeHead(206, { ...usual(to - from), 'content-range': `bytes ${from}-${to - 1}/${size}` });
        void pour(response, path(), from, to);
      } else {
        response.writeHead(200, usual(size));
        void pour(response, path(), 0, size);
      }
      return true;
    };
    await outcome(url());
  });

  test.each(['shifted by one', 'of another total', 'without its numbers', 'of another range'])(
    'with a Content-Range %s',
    async (lie) => {
      const { size } = await stat(path());
      let count = 0;
      server.manners.answer = (request, response) => {
        const { from, to, ranged } = asked(request, size);
        if (!ranged) {
          response.writeHead(200, usual(size));
          void pour(response, path(), 0, size);
          return true;
        }
        count += 1;
        const truth = `bytes ${from}-${to - 1}/${size}`;
        const lies: Record<string, string> = {
          'shifted by one': `bytes ${from + 1}-${to}/${size}`,
          'of another total': `bytes ${from}-${to - 1}/${size + 4096}`,
          'without its numbers': 'bytes */*',
          'of another range': `bytes 0-${to - from - 1}/${size}`,
        };
        response.writeHead(206, { ...usual(to - from), 'content-range': count < 3 ? truth : (lies[lie] ?? truth) });
        void pour(response, path(), from, to);
        return true;
      };
      await outcome(url());
    },
  );

  test('with other bytes in a 206 than it says: caught where a digest is given', async () => {
    const { size } = await stat(path());
    let count = 0;
    server.manners.answer = (request, response) => {
      const { from, to } = asked(request, size);
      count += 1;
      const shift = count > 2 ? Math.min(512, from) : 0;
      response.writeHead(206, { ...usual(to - from), 'content-range': `bytes ${from}-${to - 1}/${size}` });
      void pour(response, path(), from - shift, to - shift);
      return true;
    };
    const ended = await program.run(['import', url(), at('img'), ...IMPATIENT, '--digest', `sha256:${'0'.repeat(64)}`]);
    expect(ended.code, told(ended)).not.toBe(0);
    expect(ended.seconds).toBeLessThan(BOUND);
  });

  test('from a server that falls silent for good', async () => {
    await using proxy = await FaultProxy.start({ port: server.port }, { stall: 6 * MiB });
    const { size } = await stat(path());
    // A server that gives the same first MiB and no more, however often it is asked.
    server.manners.answer = (request, response) => {
      const { from, to } = asked(request, size);
      response.writeHead(206, { ...usual(to - from), 'content-range': `bytes ${from}-${to - 1}/${size}` });
      void pour(response, path(), from, Math.max(from, Math.min(to, 5 * MiB)), to <= 5 * MiB);
      return true;
    };
    const { verdict, ended } = await outcome(`${proxy.url}/${kind}`);
    expect(verdict, told(ended)).toBe('STALLED');
    // The same command goes on when the server is well again.
    delete server.manners.answer;
    server.manners.etag = '"one"';
    await program.imported([`${server.url}/${kind}`, at('img'), '--fresh']);
    expect(await difference(at('www/raw'), at('img'))).toBeUndefined();
  });

  test('from a server that falls silent once on each of its first connections', async () => {
    await using proxy = await FaultProxy.start({ port: server.port }, { stall: 3 * MiB, connections: 3 });
    expect((await outcome(`${proxy.url}/${kind}`)).verdict).toBe('right');
  });

  test.each([true, false])('cut every 5 MB (ranges: %s)', async (ranges) => {
    server.manners.ranges = ranges;
    await using proxy = await FaultProxy.start({ port: server.port }, { cut: 5_000_000 });
    const { verdict, ended } = await outcome(`${proxy.url}/${kind}`);
    if (ranges) expect(verdict, told(ended)).toBe('right');
    else expect(verdict, told(ended)).not.toBe('right');
  });

  test('ended in order every 5 MB, before its Content-Length', async () => {
    await using proxy = await FaultProxy.start({ port: server.port }, { finish: 5_000_000 });
    expect((await outcome(`${proxy.url}/${kind}`)).verdict).toBe('right');
  });

  test('that is shorter than its server says', async () => {
    const { size } = await stat(path());
    server.manners.answer = (request, response) => {
      const { from, to, ranged } = asked(request, size + MiB);
      const total = size + MiB;
      response.writeHead(ranged ? 206 : 200, {
        ...usual(to - from),
        'content-range': `bytes ${from}-${to - 1}/${total}`,
      });
      void pour(response, path(), Math.min(from, size), Math.min(to, size), false).then(() =>
        to > size ? response.destroy() : response.end(),
      );
      return true;
    };
    const { verdict, ended } = await outcome(url());
    // A qcow2 is whole without what follows its last cluster.
    if (kind === 'raw') expect(verdict, told(ended)).not.toBe('right');
  });

  test('whose server sends more than its Content-Length', async () => {
    const { size } = await stat(path());
    await using rude = await rudeServer((socket, head) => {
      const range = /range: bytes=(\d+)-(\d*)/i.exec(head);
      const from = Number(range?.[1] ?? 0);
      const to = range?.[2] ? Math.min(Number(range[2]) + 1, size) : size;
      socket.write(
        `HTTP/1.1 ${range ? '206 Partial Content' : '200 OK'}\r\nContent-Length: ${to - from}\r\nETag: "one"\r\nAccept-Ranges: bytes\r\n${range ? `Content-Range: bytes ${from}-${to - 1}/${size}\r\n` : ''}\r\n`,
      );
      const file = createReadStream(path(), { start: from, end: to - 1 });
      file.on('end', () => socket.write(Buffer.alloc(100_000, 7)));
      file.pipe(socket, { end: false });
    });
    await outcome(`${rude.url}/${kind}`);
  });

  test('from a server without lengths, ranges and tags', async () => {
    server.manners.answer = (request, response) => {
      response.writeHead(200, { 'content-type': 'application/octet-stream' });
      if (request.method === 'HEAD') response.end();
      else void pour(response, path(), 0, SIZE * 2);
      return true;
    };
    expect((await outcome(url())).verdict).toBe('right');
  });

  test('from a server that is busy now and then', async () => {
    let count = 0;
    server.manners.answer = (_request, response) => {
      count += 1;
      if (count % 3 !== 2) return false;
      response.writeHead(count % 2 === 0 ? 503 : 429, { 'retry-after': '1' }).end('busy');
      return true;
    };
    expect((await outcome(url())).verdict).toBe('right');
  });

  test('from a server that turns into a login page', async () => {
    let count = 0;
    server.manners.answer = (_request, response) => {
      count += 1;
      if (count < 4) return false;
      response.writeHead(200, { 'content-type': 'text/html', 'content-length': 20 }).end('<html>log in</html> ');
      return true;
    };
    const { verdict } = await outcome(url());
    if (count >= 4) expect(['DENIED', 'CHANGED', 'right']).toContain(verdict);
  });
});

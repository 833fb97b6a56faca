import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

export interface DemoServer extends AsyncDisposable {
  readonly url: string;
  /** Bytes of the image that were sent, over all connections. */
  readonly sent: number;
  /** Resolves when so many bytes were sent; never where the import needs fewer. */
  reached(bytes: number): Promise<void>;
  /** Breaks every connection, as a router that restarts would. Returns how many. */
  cut(): number;
}

/** Serves one file over HTTP on loopback, with ranges and a strong ETag (RFC 9110), at `rate` bytes a second in all. */
export async function serveFile(path: string, rate: number): Promise<DemoServer> {
  const { size, mtimeMs } = await stat(path);
  const etag = `"${size.toString(16)}-${Math.floor(mtimeMs).toString(16)}"`;
  const sockets = new Set<Socket>();
  let waiting: { bytes: number; done: () => void }[] = [];
  let sent = 0;
  let free = performance.now();

  /** Waits until `bytes` more may go out: one budget for all connections. */
  const admit = async (bytes: number) => {
    const now = performance.now();
    free = Math.max(free, now) + (bytes / rate) * 1000;
    await sleep(free - now);
  };
  const account = (bytes: number) => {
    sent += bytes;
    const due = waiting.filter((wait) => wait.bytes <= sent);
    waiting = waiting.filter((wait) => wait.bytes > sent);
    for (const { done } of due) done();
  };

  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    const headers = { 'accept-ranges': 'bytes', etag, 'content-type': 'application/octet-stream' };
    const match = request.headers['if-match'];
    if (match !== undefined && match !== etag) return void response.writeHead(412, headers).end();
    const ifRange = request.headers['if-range'];
    const asked =
      ifRange === undefined || ifRange === etag ? /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') : null;
    const from = asked ? Number(asked[1]) : 0;
    const to = Math.min(asked?.[2] ? Number(asked[2]) : size - 1, size - 1);
    if (from >= size) return void response.writeHead(416, { ...headers, 'content-range': `bytes */${size}` }).end();
    const length = { 'content-length': to - from + 1 };
    if (asked) response.writeHead(206, { ...headers, ...length, 'content-range': `bytes ${from}-${to}/${size}` });
    else response.writeHead(200, { ...headers, ...length });
    if (request.method === 'HEAD') return void response.end();
    for await (const chunk of createReadStream(path, { start: from, end: to })) {
      if (response.destroyed) return;
      await admit(chunk.length);
      account(chunk.length);
      if (!response.write(chunk)) await drained(response);
    }
    response.end();
  };

  const server = createServer((request, response) => {
    answer(request, response).catch(() => response.destroy());
  });
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const cut = () => {
    const count = sockets.size;
    for (const socket of sockets) socket.resetAndDestroy();
    return count;
  };
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/demo.qcow2`,
    get sent() {
      return sent;
    },
    reached: (bytes) => (bytes <= sent ? Promise.resolve() : new Promise((done) => void waiting.push({ bytes, done }))),
    cut,
    async [Symbol.asyncDispose]() {
      cut();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Room to write again, or the end of the connection. */
function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done);
      response.off('close', done);
      resolve();
    };
    response.on('drain', done);
    response.on('close', done);
  });
}

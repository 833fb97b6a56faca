import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { join } from 'node:path';

/** Bytes that one mark of what has been served stands for. */
const GRAIN = 4096;

/** How the server behaves, beyond what RFC 9110 asks of it. May be changed while it runs. */
export interface Manners {
  /** Answers 206 to a Range. Default true. */
  ranges?: boolean;
  /** Strong entity tag. Default: of length and time; null = none. */
  etag?: string | null;
  /** Bytes a second a connection. */
  rate?: number;
  /** Answers a request itself; true = done, else the file is served. */
  answer?: (request: IncomingMessage, response: ServerResponse) => boolean;
}

/** What one run of a client fetched. */
export interface Counted {
  /** Bodies, in bytes that were handed to the kernel. */
  readonly bytes: number;
  /** Of these, bytes that an earlier run had been sent already. */
  readonly again: number;
  readonly requests: readonly string[];
}

/** Serves the files of a directory over HTTP with ranges and strong entity tags, and counts. */
export class CountingServer implements AsyncDisposable {
  readonly manners: Manners;
  readonly #directory: string;
  readonly #server: Server;
  /** Path → one byte for each grain that an earlier run was sent, and what this run was. */
  readonly #before = new Map<string, Uint8Array>();
  readonly #now = new Map<string, Uint8Array>();
  #bytes = 0;
  #again = 0;
  #requests: string[] = [];

  private constructor(directory: string, manners: Manners) {
    this.#directory = directory;
    this.manners = manners;
    this.#server = createServer((request, response) => {
      this.#serve(request, response).catch((cause: unknown) => response.destroy(cause as Error));
    });
  }

  static async start(directory: string, manners: Manners = {}): Promise<CountingServer> {
    const server = new CountingServer(directory, manners);
    server.#server.listen(0, '127.0.0.1');
    await once(server.#server, 'listening');
    return server;
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('the server has no port');
    return address.port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Bytes of bodies sent in this run so far. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Behaves as a server should again. */
  behave(): void {
    for (const name of Object.keys(this.manners)) delete this.manners[name as keyof Manners];
  }

  /** Begins with a client that has been sent nothing yet. */
  forget(): void {
    this.nextRun();
    this.#before.clear();
  }

  /** What was counted since the last call; another run begins. */
  nextRun(): Counted {
    const counted = { bytes: this.#bytes, again: this.#again, requests: this.#requests };
    for (const [path, now] of this.#now) {
      const before = this.#before.get(path);
      if (before === undefined) this.#before.set(path, now);
      else
        now.forEach((mark, index) => {
          if (mark) before[index] = 1;
        });
    }
    this.#now.clear();
    this.#bytes = 0;
    this.#again = 0;
    this.#requests = [];
    return counted;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, 'close');
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = new URL(request.url ?? '/', this.url).pathname;
    const { range } = request.headers;
    this.#requests.push(`${request.method} ${path}${range === undefined ? '' : ` ${range}`}`);
    // Whatever the server answers counts as traffic, also what is no file.
    const plain = response.end.bind(response);
    if (this.manners.answer?.(request, response)) return;
    const file = join(this.#directory, path);
    const found = await stat(file).catch(() => undefined);
    if (!found?.isFile()) {
      response.writeHead(404, { 'content-type': 'text/plain' });
      plain('no such file\n');
      return;
    }
    const etag =
      this.manners.etag === undefined
        ? `"${found.size.toString(16)}-${found.mtimeMs.toString(16)}"`
        : this.manners.etag;
    const headers: Record<string, string | number> = { 'content-type': 'application/octet-stream' };
    if (etag !== null) headers.etag = etag;
    const ranges = this.manners.ranges !== false;
    if (ranges) headers['accept-ranges'] = 'bytes';
    const wanted = request.headers['if-match'];
    if (wanted !== undefined && wanted !== '*' && wanted !== etag) {
      response.writeHead(412, headers);
      plain();
      return;
    }
    const condition = request.headers['if-range'];
    const asked =
      ranges && (condition === undefined || condition === etag) ? /^bytes=(\d+)-(\d*)$/.exec(range ?? '') : null;
    let [from, to] = [0, found.size];
    if (asked) {
      from = Number(asked[1]);
      to = asked[2] ? Math.min(Number(asked[2]) + 1, found.size) : found.size;
      if (from >= found.size || to <= from) {
        response.writeHead(416, { ...headers, 'content-range': `bytes */${found.size}` });
        plain();
        return;
      }
      headers['content-range'] = `bytes ${from}-${to - 1}/${found.size}`;
    }
    headers['content-length'] = to - from;
    response.writeHead(asked ? 206 : 200, headers);
    if (request.method === 'HEAD') plain();
    else await this.#send(path, file, { from, to, size: found.size }, response);
  }

  async #send(
    path: string,
    file: string,
    part: { from: number; to: number; size: number },
    response: ServerResponse,
  ): Promise<void> {
    if (part.to === part.from) {
      response.end();
      return;
    }
    let at = part.from;
    for await (const chunk of createReadStream(file, {
      start: part.from,
      end: part.to - 1,
      highWaterMark: 128 * 1024,
    })) {
      const bytes = chunk as Buffer;
      if (response.destroyed) return;
      this.count(path, at, bytes.length, part.size);
      at += bytes.length;
      if (!response.write(bytes)) await room(response);
      const { rate } = this.manners;
      if (rate !== undefined) await new Promise((resolve) => setTimeout(resolve, (bytes.length / rate) * 1000));
    }
    response.end();
  }

  /** Counts `length` bytes of a file of `size` bytes as sent. */
  count(path: string, from: number, length: number, size: number): void {
    const grains = Math.ceil(size / GRAIN);
    const before = this.#before.get(path);
    let now = this.#now.get(path);
    if (now === undefined) {
      now = new Uint8Array(grains);
      this.#now.set(path, now);
    }
    this.#bytes += length;
    for (let at = from; at < from + length; ) {
      const grain = Math.floor(at / GRAIN);
      const end = Math.min((grain + 1) * GRAIN, from + length);
      if (before?.[grain]) this.#again += end - at;
      now[grain] = 1;
      at = end;
    }
  }
}

/** Resolves when a response takes more, or nobody wants more of it. */
export function room(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const over = (): void => {
      response.off('drain', over);
      response.off('close', over);
      resolve();
    };
    response.on('drain', over);
    response.on('close', over);
  });
}

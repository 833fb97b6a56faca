import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Dispatcher } from 'undici';
import type { Log } from '../../dataplane/context.ts';
import { type Code, FerryError, type Stage } from '../../dataplane/errors.ts';
import { Connections } from '../../dataplane/http/connection.ts';
import { shown, transportFailure } from '../../dataplane/http/failures.ts';
import type { Content } from './content.ts';

/** Sizes of the parts that are tried where something between here and the server takes no larger body. Bytes. */
const PARTS = [Number.POSITIVE_INFINITY, 64 << 20, 8 << 20, 1 << 19];
/** Milliseconds between two tries: doubled each time, up to the second. */
const FIRST_WAIT = 250;
const LONGEST_WAIT = 10_000;
/** Milliseconds for the head of an answer that needs no work. */
const PATIENCE = 60_000;
/** Bytes of an answer that are read. */
const ANSWER = 1024 * 1024;

export interface SendOptions {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly ca?: string;
  readonly environment: NodeJS.ProcessEnv;
  /** Milliseconds that it is tried again without any progress. */
  readonly patience: number;
  /** Bytes a second. */
  readonly rate?: number;
  readonly log: Log;
  /** Where an earlier process began. */
  readonly place?: string;
  /** The upload has a place now: another process could go on with it. */
  readonly begun: (place: string) => Promise<void>;
  /** Bytes that were sent and taken, retries counted once. */
  readonly watch: (offset: number, retries: number) => void;
}

/** What a server of ours answers; of others it is empty. */
export interface Sent {
  readonly diskDigest?: string;
  readonly sourceDigest?: string;
  readonly size?: number;
  readonly name?: string;
  readonly resumedAt: number;
  readonly retries: number;
}

/** Brings all of an image to a server, whatever the line does. */
export async function send(content: Content, options: SendOptions, signal: AbortSignal): Promise<Sent> {
  await using sender = new Sender(content, options, signal);
  return await sender.run();
}

class Sender implements AsyncDisposable {
  readonly #content: Content;
  readonly #options: SendOptions;
  readonly #signal: AbortSignal;
  readonly #connections: Connections;
  #place: URL | undefined;
  #part = 0;
  #retries = 0;
  #reached = 0;

  constructor(content: Content, options: SendOptions, signal: AbortSignal) {
    this.#content = content;
    this.#options = options;
    this.#signal = signal;
    this.#connections = new Connections(options.ca, options.environment);
    if (options.place !== undefined) this.#place = new URL(options.place, options.url);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#connections.destroy();
  }

  async run(): Promise<Sent> {
    const resumable = this.#place !== undefined || (await this.#persistently(() => this.#offersToResume()));
    const resumedAt = this.#place === undefined ? 0 : await this.#persistently(() => this.#offset());
    const answer = await this.#persistently(() => (resumable ? this.#goOn() : this.#atOnce()));
    return { ...answer, resumedAt, retries: this.#retries };
  }

  /** Tries again for as long as it comes on, and `patience` beyond. */
  async #persistently<T>(attempt: () => Promise<T>): Promise<T> {
    let wait = FIRST_WAIT;
    let since = performance.now();
    for (;;) {
      const before = this.#reached;
      try {
        return await attempt();
      } catch (thrown) {
        const error = thrown as FerryError;
        if (this.#signal.aborted)
          throw new FerryError('the upload was stopped', { code: 'ABORTED', stage: 'source', cause: thrown });
        if (!(error instanceof FerryError) || !error.retryable) throw thrown;
        if (this.#reached > before) [wait, since] = [FIRST_WAIT, performance.now()];
        if (performance.now() - since > this.#options.patience) throw thrown;
        this.#retries += 1;
        this.#options.log.info(`${error.message}: trying again`);
        await sleep(wait, undefined, { signal: this.#signal }).catch(() => undefined);
        wait = Math.min(wait * 2, LONGEST_WAIT);
      }
    }
  }

  async #offersToResume(): Promise<boolean> {
    const { headers } = await this.#ask('OPTIONS', this.#options.url, {});
    return headers['upload-limit'] !== undefined;
  }

  /** Where the server wants it to go on; begins an upload where there is none any more. */
  async #offset(): Promise<number> {
    if (this.#place !== undefined) {
      const { status, headers, body } = await this.#ask('HEAD', this.#place, {});
      if (status < 300) return this.#offsetIn(headers);
      if (status !== 404 && status !== 410) throw refusal(status, body, this.#place);
      this.#place = undefined;
    }
    const wanted = { 'upload-complete': '?0', 'upload-length': String(this.#content.length) };
    const { status, headers, body } = await this.#ask('PUT', this.#options.url, wanted, { from: 0, to: 0 });
    const { location } = headers;
    if (status !== 201 || typeof location !== 'string') throw refusal(status, body, this.#options.url);
    this.#place = new URL(location, this.#options.url);
    await this.#options.begun(location);
    return 0;
  }

  /** From where the server is to the end, in parts of the size that passes. */
  async #goOn(): Promise<object> {
    for (;;) {
      const offset = await this.#offset();
      const place = this.#place ?? this.#options.url;
      this.#came(offset);
      await this.#content.catchUp(offset, this.#signal);
      const to = Math.min(offset + (PARTS[this.#part] ?? 1), this.#content.length);
      const last = to === this.#content.length;
      const wanted = {
        'upload-offset': String(offset),
        'upload-complete': last ? '?1' : '?0',
        'content-type': 'application/partial-upload',
      };
      const { status, headers, body } = await this.#ask('PATCH', place, wanted, { from: offset, to });
      if (status < 300 && last) return this.#finished(body);
      if (status < 300) {
        const taken = this.#offsetIn(headers);
        if (taken <= offset) throw this.#stuck(offset, taken);
        this.#came(taken);
        continue;
      }
      // Not the server itself, which says what it says in JSON.
      const between = status === 413 && !body.startsWith('{');
      if (between && this.#part < PARTS.length - 1) {
        this.#part += 1;
        this.#options.log.info(`something on the way takes no body of ${to - offset} bytes: sending smaller parts`);
        continue;
      }
      // It knows of more or less than we thought: asked again.
      if (status === 409 && body.includes('offset')) throw this.#stuck(offset, headers['upload-offset']);
      throw refusal(status, body, place);
    }
  }

  #offsetIn(headers: Record<string, unknown>): number {
    const offset = Number(headers['upload-offset'] ?? Number.NaN);
    if (Number.isInteger(offset) && offset >= 0 && offset <= this.#content.length) return offset;
    const message = `the server goes on at '${headers['upload-offset']}', which is no byte of the ${this.#content.length} that are sent`;
    throw new FerryError(message, { code: 'IO', stage: 'target' });
  }

  #stuck(offset: number, answered: unknown): FerryError {
    const message = `a part was sent from byte ${offset} on, and the server is at ${answered} after it`;
    return new FerryError(message, { code: 'IO', stage: 'target', retryable: true });
  }

  /** To a server that cannot be gone on with: all of it, each time. */
  async #atOnce(): Promise<object> {
    const to = this.#content.length;
    const { status, body } = await this.#ask('PUT', this.#options.url, {}, { from: 0, to });
    if (status >= 300) throw refusal(status, body, this.#options.url);
    return this.#finished(body);
  }

  #finished(body: string): object {
    this.#came(this.#content.length);
    const digest = this.#content.digest();
    const answer = parsed(body);
    const { sourceDigest = digest } = answer as { sourceDigest?: string };
    if (sourceDigest !== digest) {
      const message = `the server has ${sourceDigest} where ${digest} was sent`;
      throw new FerryError(message, { code: 'DIGEST_MISMATCH', stage: 'verify' });
    }
    return { sourceDigest: digest, ...answer };
  }

  #came(offset: number): void {
    this.#reached = Math.max(this.#reached, offset);
    this.#options.watch(offset, this.#retries);
  }

  async *#body(from: number, to: number, stop: AbortSignal): AsyncIterable<Uint8Array> {
    const { rate } = this.#options;
    const began = performance.now();
    let at = from;
    for await (const chunk of this.#content.read(from, to, stop)) {
      yield chunk;
      at += chunk.length;
      this.#came(at);
      const early = rate === undefined ? 0 : ((at - from) / rate) * 1000 - (performance.now() - began);
      if (early > 1) await sleep(early, undefined, { signal: stop });
    }
  }

  async #ask(
    method: Dispatcher.HttpMethod,
    url: URL,
    headers: Readonly<Record<string, string>>,
    range?: { readonly from: number; readonly to: number },
  ): Promise<{ status: number; headers: Record<string, unknown>; body: string }> {
    const over = new AbortController();
    const stop = AbortSignal.any([this.#signal, over.signal]);
    const length = range && range.to - range.from;
    const stream =
      range && length !== 0 && Readable.from(this.#body(range.from, range.to, stop), { objectMode: false });
    // What ends it is told by the answer, or by the failure of the request.
    if (stream) stream.on('error', () => undefined);
    try {
      const answer = await this.#connections.dispatcher(url).request({
        origin: url.origin,
        path: url.pathname + url.search,
        method,
        headers: {
          ...this.#options.headers,
          ...headers,
          'user-agent': 'diskferry',
          ...(length === undefined ? {} : { 'content-length': String(length) }),
        },
        ...(stream ? { body: stream } : {}),
        // The last answer comes when the disk is whole.
        headersTimeout: stream ? 0 : PATIENCE,
        bodyTimeout: PATIENCE,
        signal: this.#signal,
      });
      const chunks: Buffer[] = [];
      let bytes = 0;
      for await (const chunk of answer.body) {
        bytes += (chunk as Buffer).length;
        if (bytes <= ANSWER) chunks.push(chunk as Buffer);
      }
      return { status: answer.statusCode, headers: answer.headers, body: Buffer.concat(chunks).toString('utf8') };
    } catch (thrown) {
      if (thrown instanceof FerryError) throw thrown;
      throw transportFailure(url, thrown, this.#connections.proxy(url));
    } finally {
      over.abort();
    }
  }
}

function parsed(text: string): object {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    return {};
  }
}

/** What the server said, as the error that it was there. */
function refusal(status: number, body: string, url: URL): FerryError {
  const { error } = parsed(body) as { error?: { code?: Code; stage?: Stage; message?: string } };
  if (error?.code !== undefined && error.message !== undefined) {
    const retryable = status >= 500 && error.code !== 'NO_SPACE';
    return new FerryError(error.message, { code: error.code, stage: error.stage ?? 'target', retryable });
  }
  const codes: Readonly<Record<number, Code>> = {
    401: 'DENIED',
    403: 'DENIED',
    404: 'NOT_FOUND',
    413: 'TOO_LARGE',
    507: 'NO_SPACE',
  };
  return new FerryError(`${shown(url)} answered ${status}`, {
    code: codes[status] ?? 'IO',
    stage: 'target',
    retryable: status === 408 || status === 429 || status === 502 || status === 503 || status === 504,
  });
}

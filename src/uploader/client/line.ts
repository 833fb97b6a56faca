import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Dispatcher } from 'undici';
import type { Log } from '../../dataplane/context.ts';
import { FerryError } from '../../dataplane/errors.ts';
import { Connections } from '../../dataplane/http/connection.ts';
import { transportFailure } from '../../dataplane/http/failures.ts';
import { Pace } from '../../dataplane/pace.ts';
import type { Answered } from './answers.ts';

/** Milliseconds between two tries: doubled each time, up to the second. */
const FIRST_WAIT = 250;
const LONGEST_WAIT = 10_000;
/** Milliseconds for the head of an answer that needs no work. */
const PATIENCE = 60_000;
/** Bytes of an answer that are read. */
const ANSWER = 1024 * 1024;

export interface LineOptions {
  /** Of the volume, or whatever takes the image. */
  readonly url: URL;
  /** Sent to the server of `url` alone: they hold its secret. */
  readonly headers: Readonly<Record<string, string>>;
  readonly ca?: string;
  readonly environment: NodeJS.ProcessEnv;
  /** Milliseconds that it is tried again without any progress. */
  readonly patience: number;
  /** Bytes a second, of all connections together. */
  readonly rate?: number;
  readonly log: Log;
}

export interface Request {
  readonly headers?: Readonly<Record<string, string>>;
  /** Bytes of the body; none = no body. */
  readonly length?: number;
  /** What yields them, until `stop`. */
  readonly bytes?: (stop: AbortSignal) => AsyncIterable<Uint8Array>;
  /** The answer comes when the server has done its work, however long that takes. */
  readonly worked?: boolean;
  /** Ends it. Default: that of the line. */
  readonly signal?: AbortSignal;
}

/** Requests to one server, each tried again for as long as all of it comes on. */
export class Line implements AsyncDisposable {
  readonly options: LineOptions;
  readonly signal: AbortSignal;
  readonly #connections: Connections;
  /** How far all of it is, in any unit that grows: what is tried again has patience since it last grew. */
  reached = 0;
  retries = 0;
  readonly #pace: Pace | undefined;

  constructor(options: LineOptions, signal: AbortSignal) {
    this.options = options;
    this.signal = signal;
    this.#connections = new Connections(options.ca, options.environment);
    this.#pace = options.rate === undefined ? undefined : new Pace(options.rate);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#connections.destroy();
  }

  /** Tries again for as long as it comes on, and `patience` beyond. */
  async persistently<T>(attempt: () => Promise<T>, signal = this.signal): Promise<T> {
    let wait = FIRST_WAIT;
    let since = performance.now();
    let before = this.reached;
    for (;;) {
      try {
        return await attempt();
      } catch (thrown) {
        const error = thrown as FerryError;
        if (signal.aborted)
          throw new FerryError('the upload was stopped', { code: 'ABORTED', stage: 'source', cause: thrown });
        if (!(error instanceof FerryError) || !error.retryable) throw thrown;
        if (this.reached > before) [wait, since, before] = [FIRST_WAIT, performance.now(), this.reached];
        if (performance.now() - since > this.options.patience) throw thrown;
        this.retries += 1;
        this.options.log.info(`${error.message}: trying again`);
        await sleep(wait, undefined, { signal }).catch(() => undefined);
        wait = Math.min(wait * 2, LONGEST_WAIT);
      }
    }
  }

  /** One request and its answer, whatever its status. IO and others where there is none; `retryable` says whether it may pass. */
  async ask(
    method: Dispatcher.HttpMethod,
    url: URL,
    { headers, length, bytes, worked, signal = this.signal }: Request = {},
  ): Promise<Answered> {
    const over = new AbortController();
    const stop = AbortSignal.any([signal, over.signal]);
    const stream = bytes && length !== 0 && Readable.from(this.#paced(bytes(stop), stop), { objectMode: false });
    // What ends it is told by the answer, or by the failure of the request.
    if (stream) stream.on('error', () => undefined);
    try {
      const answer = await this.#connections.dispatcher(url).request({
        origin: url.origin,
        path: url.pathname + url.search,
        method,
        headers: {
          ...(url.origin === this.options.url.origin ? this.options.headers : {}),
          ...headers,
          'user-agent': 'diskferry',
          ...(length === undefined ? {} : { 'content-length': String(length) }),
        },
        ...(stream ? { body: stream } : {}),
        headersTimeout: stream || worked ? 0 : PATIENCE,
        bodyTimeout: PATIENCE,
        signal,
      });
      const chunks: Buffer[] = [];
      let taken = 0;
      for await (const chunk of answer.body) {
        taken += (chunk as Buffer).length;
        if (taken <= ANSWER) chunks.push(chunk as Buffer);
      }
      return { status: answer.statusCode, headers: answer.headers, body: Buffer.concat(chunks).toString('utf8') };
    } catch (thrown) {
      if (thrown instanceof FerryError) throw thrown;
      throw transportFailure(url, thrown, this.#connections.proxy(url));
    } finally {
      over.abort();
    }
  }

  async *#paced(bytes: AsyncIterable<Uint8Array>, stop: AbortSignal): AsyncIterable<Uint8Array> {
    for await (const chunk of bytes) {
      yield chunk;
      await this.#pace?.pass(chunk.length, stop);
    }
  }
}

import { Agent, type Dispatcher } from 'undici';
import { KubeError, refusal } from './error.ts';

/** An API server of Kubernetes, and as whom it is asked: by a token, or by a certificate. */
export interface ApiServer {
  readonly url: string;
  /** PEM certificates; a function is asked before each request, since authorities are replaced while programs run. */
  readonly ca: string | (() => Promise<string>);
  /** Asked for each request: tokens of service accounts are replaced while they are in use. */
  readonly token?: () => Promise<string>;
  /** PEM, as kubeconfigs have them. */
  readonly cert?: string;
  readonly key?: string;
}

/** What is asked for, in the words of rights: `get`, `list`, `watch`, `create`, `patch`, `delete`; of which kind, by its plural. */
export interface About {
  readonly verb: string;
  readonly resource: string;
}

/** Told of each request that was sent: the status of HTTP that is answered, undefined for no answer. Must not throw. */
export type Asked = (about: About, status: number | undefined) => void;

export interface Question extends About {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  readonly path: string;
  readonly body?: unknown;
  /** Of `body`; JSON by itself. */
  readonly type?: string;
  readonly signal?: AbortSignal | undefined;
  /** Called just before it is sent; what it throws is thrown, and nothing is sent. */
  readonly guard?: (() => void) | undefined;
  /** Milliseconds without a byte of the answer after which it is given up. */
  readonly idle?: number;
}

/** Milliseconds for an answer; one that takes longer is no answer for who waits. */
export const PATIENCE = 10_000;
/**
 * Bytes of an object, and of an answer: etcd takes no larger one (1.5 MiB, etcd's --max-request-bytes), and JSON is longer than
 * what it stores.
 */
export const LONGEST = 8 * 1024 * 1024;

/** Requests to an API server. KubeError for everything that it does not answer, and for what it refuses. */
export class Connection implements AsyncDisposable {
  readonly #server: ApiServer;
  /** Those of earlier authorities end with their last request. */
  readonly #agents = new Set<Agent>();
  asked: Asked | undefined;
  #latest: { readonly ca: string; readonly agent: Agent } | undefined;
  #closed = false;

  constructor(server: ApiServer) {
    this.#server = server;
  }

  /** The JSON of an answer. */
  async ask<T>(question: Question): Promise<T> {
    const text = await this.#told(question, async ({ body }) => read(body));
    try {
      return JSON.parse(text) as T;
    } catch (cause) {
      throw new KubeError(`the API server's answer is no JSON: ${(cause as Error).message}`, { cause });
    }
  }

  /** The bytes of an answer as they come. */
  async *follow(question: Question, opened?: () => void): AsyncGenerator<Buffer> {
    const body = await this.#told(question, async (answer) => answer.body);
    opened?.();
    try {
      for await (const chunk of body) yield chunk as Buffer;
    } catch (cause) {
      throw lost(cause, question.signal);
    }
  }

  async #told<T>(question: Question, take: (answer: Dispatcher.ResponseData) => Promise<T>): Promise<T> {
    const { signal } = question;
    signal?.throwIfAborted();
    const { url, token } = this.#server;
    const agent = await this.#agent();
    const authorization = token && `Bearer ${await token()}`;
    question.guard?.();
    let status: number | undefined;
    try {
      const request = agent.request({
        origin: url,
        path: question.path,
        method: question.method,
        headers: {
          accept: 'application/json',
          'user-agent': 'diskferry',
          ...(authorization ? { authorization } : {}),
          ...(question.body === undefined ? {} : { 'content-type': question.type ?? 'application/json' }),
        },
        body: question.body === undefined ? null : JSON.stringify(question.body),
        headersTimeout: PATIENCE,
        bodyTimeout: question.idle ?? PATIENCE,
        signal: signal ?? null,
      });
      const answer = await unless(signal, request);
      status = answer.statusCode;
      if (answer.statusCode < 300) return await take(answer);
      const after = answer.headers['retry-after'];
      throw refusal(answer.statusCode, await read(answer.body), typeof after === 'string' ? after : undefined);
    } catch (cause) {
      throw lost(cause, signal);
    } finally {
      // Not of one that nobody waited for any more.
      if (status !== undefined || !signal?.aborted) this.asked?.(question, status);
    }
  }

  async #agent(): Promise<Agent> {
    const { ca: given, cert, key } = this.#server;
    const ca = typeof given === 'string' ? given : await given();
    if (this.#closed) throw new KubeError('the API server is asked after the end');
    if (this.#latest?.ca === ca) return this.#latest.agent;
    // Without HTTP/2: a stalled connection would be one of all watches, and its windows are small (undici#4705).
    const connect = { ca, timeout: PATIENCE, allowH2: false, ...(cert && key ? { cert, key } : {}) };
    const agent = new Agent({ connect, allowH2: false });
    const before = this.#latest?.agent;
    this.#latest = { ca, agent };
    this.#agents.add(agent);
    // Watches of before go on until they end by themselves: their connections are as trusted as they were.
    before?.close().then(
      () => this.#agents.delete(before),
      () => this.#agents.delete(before),
    );
    return agent;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#agents].map((agent) => agent.destroy()));
  }
}

/** What went wrong on the way; why it was aborted, where it was. */
function lost(cause: unknown, signal: AbortSignal | undefined): unknown {
  if (signal?.aborted) return signal.reason;
  if (cause instanceof KubeError) return cause;
  const { code, message } = cause as Error & { code?: unknown };
  const reason = code === 'UND_ERR_BODY_TIMEOUT' ? SILENT : '';
  return new KubeError(`the API server cannot be reached: ${message}`, { reason, cause });
}

/** What a request comes to, or the end of it at once: undici does not look at a signal before there is a connection. */
async function unless<T>(signal: AbortSignal | undefined, request: Promise<T>): Promise<T> {
  if (!signal) return request;
  const aborted = Promise.withResolvers<never>();
  const abort = (): void => aborted.reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  try {
    return await Promise.race([request, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

async function read(body: Dispatcher.ResponseData['body']): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body) {
    bytes += (chunk as Buffer).length;
    if (bytes > LONGEST) {
      throw new KubeError(`the API server's answer has more than ${LONGEST} bytes`, { reason: TOO_LONG });
    }
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Reason, ours, of an answer that began and did not go on. */
export const SILENT = 'Silent';
/** Reason, ours, of an answer that is longer than asked for. */
export const TOO_LONG = 'AnswerTooLong';

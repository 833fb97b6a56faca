import { Agent, type Dispatcher } from 'undici';

/** An API server of Kubernetes, and as whom it is asked. */
export interface ApiServer {
  readonly url: string;
  /** PEM certificates. */
  readonly ca: string;
  /** Asked for each request: tokens of service accounts are replaced while they are in use. */
  readonly token: () => Promise<string>;
}

/** Milliseconds for an answer; one that takes longer is no answer for who waits. */
const PATIENCE = 10_000;
/** Bytes of an object: etcd takes no larger one (1.5 MiB, etcd's --max-request-bytes), and JSON is longer than what it stores. */
const LONGEST = 8 * 1024 * 1024;

/** What the API server answered, in its own words. */
export class KubeError extends Error {
  override readonly name = 'KubeError';
  /** Of HTTP; 0 where there was no answer. */
  readonly status: number;

  constructor(message: string, status: number, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.status = status;
  }
}

/** Asks an API server. KubeError for everything that it does not answer. */
export class Kube implements AsyncDisposable {
  readonly #server: ApiServer;
  readonly #agent: Agent;

  constructor(server: ApiServer) {
    this.#server = server;
    this.#agent = new Agent({ connect: { ca: server.ca, timeout: PATIENCE } });
  }

  /** An object, undefined where there is none. `path` as in `/api/v1/namespaces/default/configmaps/a`. */
  async get<T>(path: string, signal?: AbortSignal): Promise<T | undefined> {
    const { statusCode, body } = await this.#ask(path, signal);
    const text = await all(body);
    if (statusCode === 200) return JSON.parse(text) as T;
    if (statusCode === 404) return undefined;
    throw new KubeError(`the API server answered ${statusCode}${said(text)}`, statusCode);
  }

  async #ask(path: string, signal: AbortSignal | undefined): Promise<Dispatcher.ResponseData> {
    const authorization = `Bearer ${await this.#server.token()}`;
    try {
      return await this.#agent.request({
        origin: this.#server.url,
        path,
        method: 'GET',
        headers: { accept: 'application/json', authorization, 'user-agent': 'diskferry' },
        headersTimeout: PATIENCE,
        bodyTimeout: PATIENCE,
        signal: signal ?? null,
      });
    } catch (cause) {
      throw new KubeError(`the API server cannot be reached: ${(cause as Error).message}`, 0, cause);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#agent.destroy();
  }
}

async function all(body: Dispatcher.ResponseData['body']): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body) {
    bytes += (chunk as Buffer).length;
    if (bytes > LONGEST) throw new KubeError(`the API server's answer has more than ${LONGEST} bytes`, 0);
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** The message of a Status (apimachinery, meta/v1). */
function said(text: string): string {
  try {
    const { message } = JSON.parse(text) as { message?: unknown };
    return typeof message === 'string' ? `: ${message}` : '';
  } catch {
    return '';
  }
}

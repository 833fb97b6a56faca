import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import type { Authorizer } from './authorizer.ts';
import { Connections } from './connection.ts';
import { type Answer, type Fields, send } from './exchange.ts';
import { concernsCertificate, showCertificate, statusFailure, transportFailure } from './failures.ts';
import { reasonOf } from './reason.ts';
import { type Arrival, follow } from './redirects.ts';

/** An object on a server that is asked by HTTP. */
export interface HttpSpec {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly authorization?: string;
  /** For servers that want more than fixed header fields. */
  readonly authorizer?: Authorizer;
  readonly ca?: string;
  /** The certificates of servers are not looked at. */
  readonly insecureTls?: boolean;
  readonly insecureRedirects: boolean;
  readonly environment: NodeJS.ProcessEnv;
  /** What people and checkpoints know the object by. Default: the URL without its query. */
  readonly name?: string;
  /** Fields that name the version of the object: beside the ETag they must be the same in every answer. */
  readonly versions?: readonly string[];
  /** Query parameters with which exactly the version of an answer is asked for. */
  readonly pin?: (fields: Fields) => Readonly<Record<string, string>>;
  /** Media types that are taken. Default: any. */
  readonly accept?: string;
  /** A coding that the server would undo if it were not accepted, which changes length and ranges. */
  readonly acceptEncoding?: string;
}

/** Refusals after which credentials may be renewed, and S3's way to name a bucket's region. */
const RENEWED = [301, 400, 401, 403];

/** Asks, with what each origin may be told, and remembers where the object was found. */
export class Client {
  readonly spec: HttpSpec;
  readonly context: Context;
  readonly connections: Connections;
  /** Milliseconds that the last answer's head took. */
  latency = 0;
  /** The last Authorization. */
  #sent: string[] = [];
  /** Where the last redirect led: later reads go there at once. */
  #final: URL;

  constructor(spec: HttpSpec, context: Context) {
    this.spec = spec;
    this.context = context;
    this.connections = new Connections(spec.ca, spec.environment, context.guard, spec.insecureTls);
    this.#final = spec.url;
  }

  /** The answer to a GET of [from, to), whatever it says. */
  async ask(from: number, to: number | undefined, match: string | undefined, signal: AbortSignal): Promise<Arrival> {
    const range = `bytes=${from}-${to === undefined ? '' : to - 1}`;
    const conditions = match === undefined ? { range } : { range, 'if-match': match };
    const ask = (url: URL): Promise<Answer> => this.#send(url, conditions, signal);
    let arrival = await follow(this.#final, this.spec.insecureRedirects, ask);
    if ([401, 403, 410].includes(arrival.answer.status) && this.#final.href !== this.spec.url.href) {
      // A signed address has expired: the original one gives a new one.
      arrival.answer.discard();
      arrival = await follow(this.spec.url, this.spec.insecureRedirects, ask);
    }
    this.#final = arrival.url;
    return arrival;
  }

  /** Kinds of credentials that an address is sent. */
  credentials(url: URL): string {
    const { authorizer } = this.spec;
    if (authorizer?.covers(url)) return authorizer.kind;
    if (url.origin !== this.spec.url.origin) return 'no credentials (the redirect led to another origin)';
    const kinds = this.spec.authorization === undefined ? [] : ['a user name and password'];
    const names = Object.keys(this.spec.headers);
    if (names.length > 0) kinds.push(`the header fields ${names.join(', ')}`);
    return kinds.length === 0 ? 'no credentials' : kinds.join(' and ');
  }

  failure(url: URL, error: unknown): FerryError {
    return transportFailure(url, error, this.connections.proxy(url));
  }

  /** What an answer that is no object means, with the server's own words. The answer is over. */
  async refusal(url: URL, answer: Answer): Promise<FerryError> {
    const { headers, url: asked } = this.spec;
    // A server may echo what it was sent: a header, or a signature in the address.
    const secrets = [
      ...Object.values(headers),
      ...asked.searchParams.values(),
      ...this.#sent,
      ...(this.#sent[0]?.split(' ') ?? []),
    ];
    const reason = await reasonOf(answer, secrets);
    return statusFailure(url, answer, this.credentials(url), reason);
  }

  /** Asks for this version of the object from now on. */
  pin(fields: Fields): void {
    for (const [name, value] of Object.entries(this.spec.pin?.(fields) ?? {})) {
      this.#final = new URL(this.#final);
      this.#final.searchParams.set(name, value);
    }
  }

  async #send(url: URL, conditions: Record<string, string>, signal: AbortSignal): Promise<Answer> {
    const { spec } = this;
    const own = url.origin === spec.url.origin;
    const headers: Record<string, string> = {};
    if (own && spec.authorization !== undefined) headers.authorization = spec.authorization;
    // What a person gives goes to the origin that it was given for, and never replaces what reading safely needs.
    if (own) for (const [name, value] of Object.entries(spec.headers)) headers[name.toLowerCase()] = value;
    const encoding = spec.acceptEncoding ?? 'identity';
    Object.assign(
      headers,
      { accept: spec.accept ?? '*/*', 'user-agent': 'diskferry', 'accept-encoding': encoding },
      conditions,
    );
    const { authorizer } = spec;
    if (!authorizer?.covers(url)) return this.#exchange(url, headers, signal);
    const answer = await this.#exchange(url, await authorizer.authorize(url, headers), signal);
    if (!RENEWED.includes(answer.status) || !(await authorizer.renew(answer))) return answer;
    answer.discard();
    return this.#exchange(url, await authorizer.authorize(url, headers), signal);
  }

  async #exchange(url: URL, headers: Readonly<Record<string, string>>, signal: AbortSignal): Promise<Answer> {
    const { connections, context } = this;
    this.#sent = headers.authorization === undefined ? [] : [headers.authorization];
    context.counters.opened += 1;
    try {
      const request = { url, headers, headersTimeout: context.limits.stall };
      const asked = performance.now();
      const answer = await send(connections.dispatcher(url), request, signal);
      this.latency = performance.now() - asked;
      return answer;
    } catch (error) {
      if (signal.aborted) throw stopped(signal);
      const proxy = connections.proxy(url);
      const peer =
        proxy === undefined && concernsCertificate(error, url) ? await showCertificate(url, context.guard) : undefined;
      throw transportFailure(url, error, proxy, peer);
    }
  }
}

export function stopped(signal: AbortSignal): FerryError {
  if (signal.reason instanceof FerryError) return signal.reason;
  return new FerryError('the transfer was stopped', { code: 'ABORTED', stage: 'source', cause: signal.reason });
}

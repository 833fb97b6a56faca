import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import { Client, type HttpSpec, stopped } from '../http/client.ts';
import { type Answer, type Fields, field } from '../http/exchange.ts';
import { shown } from '../http/failures.ts';
import { contentLength, entityTag, parseContentRange, parseUnsatisfied, promisedDigest } from '../http/fields.ts';
import type { Arrival } from '../http/redirects.ts';
import type { ByteStream, Source, SourceDetails, SourceDriver, SourceFacts, SourceOptions } from '../source.ts';
import { exactly } from './exactly.ts';
import { decode } from './object.ts';

/** The first request asks for this much: what a plan needs, and no more traffic than a plan may cost. */
const FIRST = 1024 * 1024;

export const http: SourceDriver<HttpSpec> = {
  schemes: ['http', 'https'],

  parse(text: string, options: SourceOptions): HttpSpec {
    const url = URL.parse(text);
    if (!url || url.hostname === '') {
      throw new FerryError('the source is not an URL of the form https://host/path', {
        code: 'BAD_SPEC',
        stage: 'source',
      });
    }
    const credentials =
      options.credentials ??
      (url.username === '' ? undefined : { username: decode(url.username), password: decode(url.password) });
    url.username = '';
    url.password = '';
    url.hash = '';
    return {
      url,
      headers: options.headers ?? {},
      ...(credentials ? { authorization: basic(credentials.username, credentials.password) } : {}),
      ...(options.ca === undefined ? {} : { ca: options.ca }),
      ...(options.insecureTls ? { insecureTls: true } : {}),
      insecureRedirects: options.insecureRedirects ?? false,
      environment: options.environment ?? process.env,
    };
  },

  open: openHttp,
};

/** Opens what a server has at an address, for this driver and for those of stores that speak HTTP. */
export async function openHttp(spec: HttpSpec, context: Context): Promise<Source> {
  const client = new Client(spec, context);
  try {
    return await openAt(client, await client.ask(0, FIRST, undefined, context.signal));
  } catch (error) {
    await client.connections.destroy();
    throw error;
  }
}

/** RFC 7617. */
function basic(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

/** What must be the same in every later answer. */
interface Pinned {
  readonly total: number | undefined;
  readonly etag: string | undefined;
  readonly modified: string | undefined;
  readonly encoding: string | undefined;
  /** Values of the fields that name the version. */
  readonly versions: readonly (string | undefined)[];
}

async function openAt(client: Client, arrival: Arrival): Promise<Source> {
  const { answer, url } = arrival;
  const fail = (message: string): FerryError => {
    answer.destroy();
    return new FerryError(message, { code: 'UNSUPPORTED', stage: 'source' });
  };
  const { status, fields } = answer;
  let ranges = false;
  let total: number | undefined;
  if (status === 206) {
    const text = field(fields, 'content-range') ?? '';
    const got = parseContentRange(text);
    if (got?.total === undefined)
      throw fail(`${shown(url)} answered 206 with Content-Range '${text}', which does not say how long it is`);
    const to = Math.min(FIRST, got.total);
    if (got.from !== 0 || got.to !== to) {
      throw fail(`${shown(url)} was asked for bytes 0 to ${to} and answered with ${got.from} to ${got.to}`);
    }
    ranges = true;
    total = got.total;
  } else if (status === 200) {
    total = contentLength(fields);
  } else if (status === 416 && parseUnsatisfied(field(fields, 'content-range') ?? '') === 0) {
    // An empty object has no first byte to ask for.
    ranges = true;
    total = 0;
  } else {
    throw await client.refusal(url, answer);
  }
  const tag = entityTag(fields);
  const digest = promisedDigest(fields, status === 200);
  const facts: SourceFacts = {
    ...(total === undefined ? {} : { length: total }),
    ranges,
    ...(tag?.strong ? { validator: tag.text } : {}),
    ...(digest ? { digest } : {}),
    // Without a length, or chunks as the last coding, a body lasts until the connection is closed, by whomever (RFC 9112
    // section 6.3, rules 4 and 8).
    ...(total === undefined && !/\bchunked\s*$/i.test(field(fields, 'transfer-encoding') ?? '')
      ? { openEnded: true }
      : {}),
    remote: true,
    latency: client.latency,
  };
  const pinned: Pinned = {
    total,
    etag: tag?.text,
    modified: field(fields, 'last-modified'),
    encoding: field(fields, 'content-encoding'),
    versions: versionsOf(client.spec, fields),
  };
  client.pin(fields);
  const first = await refuseWebPage(client, url, answer);
  return new HttpSource(client, facts, pinned, detailsOf(client, arrival, facts), { ...answer, next: first });
}

function versionsOf(spec: HttpSpec, fields: Fields): (string | undefined)[] {
  return (spec.versions ?? []).map((name) => field(fields, name));
}

/** Looks into a body that calls itself HTML. Gives the body's `next`, nothing taken from it. */
async function refuseWebPage(client: Client, url: URL, answer: Answer): Promise<Answer['next']> {
  const type = field(answer.fields, 'content-type') ?? '';
  if (!/^\s*(text\/html|application\/xhtml)/i.test(type)) return answer.next;
  const timer = setTimeout(() => answer.destroy(), client.context.limits.stall);
  const batch = await answer.next().catch((error: unknown) => {
    throw client.failure(url, error);
  });
  clearTimeout(timer);
  const head = Buffer.concat(batch ?? [])
    .subarray(0, 512)
    .toString('latin1');
  if (/^[\s\xef\xbb\xbf]*(<!--[\s\S]*?-->\s*)?<(!doctype\s+html|html|head|\?xml)/i.test(head)) {
    answer.destroy();
    throw new FerryError(`${shown(url)} answered with a web page (a login page?), not with an image`, {
      code: 'UNSUPPORTED',
      stage: 'source',
    });
  }
  let kept = batch;
  return () => {
    const now = kept;
    kept = undefined;
    return now ? Promise.resolve(now) : answer.next();
  };
}

function detailsOf(client: Client, arrival: Arrival, facts: SourceFacts): SourceDetails {
  const { fields } = arrival.answer;
  const tag = entityTag(fields);
  const details: Record<string, string | number | boolean | readonly string[]> = {
    connection: client.connections.proxy(arrival.url) ?? 'direct',
    etag: tag ? (tag.strong ? 'strong' : 'weak') : 'none',
  };
  if (arrival.hops.length > 0) details.redirects = arrival.hops;
  if (!facts.ranges) details.resumable = 'no: the server does not honour ranges';
  else if (facts.validator === undefined) {
    details.resumable = tag
      ? 'no: the server sends a weak ETag only'
      : 'no: the server sends no ETag, so a replaced object would not be noticed';
  } else details.resumable = 'yes';
  if (facts.openEnded) {
    details.end = 'not known: the server tells no length and sends no chunks, so a cut can look like the end';
  }
  for (const [key, name] of [
    ['server', 'server'],
    ['contentType', 'content-type'],
    ['contentEncoding', 'content-encoding'],
    ['lastModified', 'last-modified'],
  ] as const) {
    const value = field(fields, name);
    if (value !== undefined) details[key] = value.slice(0, 200);
  }
  const certificate = client.connections.certificate(arrival.url);
  if (certificate) {
    details.certificateSubject = certificate.subject;
    details.certificateIssuer = certificate.issuer;
    details.certificateValidTo = certificate.validTo;
  }
  return details;
}

class HttpSource implements Source {
  readonly facts: SourceFacts;
  readonly details: SourceDetails;
  readonly name: string;
  readonly #client: Client;
  readonly #pinned: Pinned;
  readonly #closed = new AbortController();
  /** The answer that came with opening; its body goes to the first read. */
  #opened: Answer | undefined;

  constructor(client: Client, facts: SourceFacts, pinned: Pinned, details: SourceDetails, opened: Answer) {
    this.#client = client;
    this.facts = facts;
    this.#pinned = pinned;
    this.details = details;
    this.name = client.spec.name ?? shown(client.spec.url);
    this.#opened = opened;
  }

  async *read(range: { from: number; to?: number }, signal: AbortSignal): ByteStream {
    const { from } = range;
    const total = this.facts.length;
    const to = total === undefined ? range.to : Math.min(range.to ?? total, total);
    const opened = this.#opened;
    this.#opened = undefined;
    if (!this.facts.ranges) {
      if (!opened || from > 0) {
        throw this.#error(
          'the server does not honour ranges, so this can be read once and from its beginning only',
          'UNSUPPORTED',
        );
      }
      yield* this.#body(opened, 0, to, total, signal);
      return;
    }
    if (to === undefined || from >= to) {
      opened?.discard();
      return;
    }
    let at = from;
    if (opened && from === 0) {
      const end = Math.min(FIRST, total ?? 0);
      yield* this.#body(opened, 0, Math.min(end, to), end, signal);
      at = end;
    } else opened?.discard();
    if (at >= to) return;
    const both = AbortSignal.any([signal, this.#closed.signal]);
    const answer = await this.#range(at, to, both);
    yield* this.#body(answer, at, to, to, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort(this.#error('the source was closed', 'ABORTED'));
    this.#opened?.destroy();
    await this.#client.connections.destroy();
  }

  /** The answer to a range request, proven to be the range of the object that was opened. */
  async #range(from: number, to: number, signal: AbortSignal): Promise<Answer> {
    const { answer, url } = await this.#client.ask(from, to, this.facts.validator, signal);
    if (![200, 206, 412, 416].includes(answer.status)) {
      if (answer.status !== 404 || !this.#client.spec.pin) throw await this.#client.refusal(url, answer);
      answer.discard();
      throw this.#error(`${shown(url)} was replaced or deleted since it was opened`, 'CHANGED');
    }
    try {
      this.#prove(answer, url, from, to);
      return answer;
    } catch (error) {
      answer.discard();
      throw error;
    }
  }

  #prove({ status, fields }: Answer, url: URL, from: number, to: number): void {
    const refuse = (what: string): FerryError => this.#error(`${shown(url)} ${what}`, 'CHANGED');
    if (status === 416) throw refuse(`no longer has bytes ${from} to ${to}: it was replaced since it was opened`);
    if (status === 412) throw refuse('was replaced since it was opened (answer 412)');
    const differs = this.#difference(fields);
    if (differs !== undefined) throw refuse(`was replaced since it was opened: ${differs}`);
    if (status === 200) {
      throw this.#error(
        `${shown(url)} stopped honouring ranges: it answered 200 to a request for bytes ${from} to ${to}`,
        'UNSUPPORTED',
      );
    }
    const text = field(fields, 'content-range') ?? 'none';
    const got = parseContentRange(text);
    if (!got) throw this.#error(`${shown(url)} answered 206 with Content-Range '${text.slice(0, 80)}'`, 'UNSUPPORTED');
    if (got.total !== undefined && got.total !== this.#pinned.total) {
      throw refuse(`is ${got.total} bytes long now and was ${this.#pinned.total} when it was opened`);
    }
    if (got.from !== from || got.to !== to || got.total === undefined) {
      throw this.#error(
        `${shown(url)} was asked for bytes ${from} to ${to} and answered with Content-Range '${text}'`,
        'UNSUPPORTED',
      );
    }
    const length = contentLength(fields);
    if (length !== undefined && length !== to - from) {
      throw this.#error(`${shown(url)} sends ${length} bytes for a range of ${to - from}`, 'IO', true);
    }
  }

  #difference(fields: Fields): string | undefined {
    const etag = entityTag(fields)?.text;
    // A server may leave the ETag out of a 206; one that sends another has another object.
    if (etag !== undefined && etag !== this.#pinned.etag) return 'its ETag is another one';
    if (etag === undefined && this.#pinned.etag !== undefined && this.facts.validator !== undefined)
      return 'its ETag is gone';
    const modified = field(fields, 'last-modified');
    if (etag === undefined && modified !== this.#pinned.modified) return 'its Last-Modified is another one';
    if (field(fields, 'content-encoding') !== this.#pinned.encoding) return 'its Content-Encoding is another one';
    if (versionsOf(this.#client.spec, fields).some((value, n) => value !== this.#pinned.versions[n]))
      return 'it has another version';
    return undefined;
  }

  /** Bytes [from, to) of a body that should end at `end`; left early when `to` lies before it. */
  async *#body(
    answer: Answer,
    from: number,
    to: number | undefined,
    end: number | undefined,
    signal: AbortSignal,
  ): ByteStream {
    const url = this.#client.spec.url;
    const stop = AbortSignal.any([signal, this.#closed.signal]);
    const onAbort = (): void => answer.destroy();
    stop.addEventListener('abort', onAbort, { once: true });
    try {
      const counted = exactly(batches(answer), { from, to, end, name: this.name });
      for await (const batch of counted) {
        if (stop.aborted) throw stopped(stop);
        yield batch;
      }
    } catch (error) {
      if (stop.aborted) throw stopped(stop);
      throw this.#client.failure(url, error);
    } finally {
      stop.removeEventListener('abort', onAbort);
      answer.destroy();
    }
  }

  #error(message: string, code: 'UNSUPPORTED' | 'CHANGED' | 'IO' | 'ABORTED', retryable = false): FerryError {
    return new FerryError(message, { code, stage: 'source', retryable });
  }
}

async function* batches(answer: Answer): ByteStream {
  for (let batch = await answer.next(); batch; batch = await answer.next()) yield batch;
}

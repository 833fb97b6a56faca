import { setTimeout as sleep } from 'node:timers/promises';
import type { Context } from '../context.ts';
import { asFerryError, FerryError } from '../errors.ts';
import { textOf } from '../http/body.ts';
import type { HttpSpec } from '../http/client.ts';
import { Connections } from '../http/connection.ts';
import { send } from '../http/exchange.ts';
import { shown, statusFailure, transportFailure } from '../http/failures.ts';
import { reasonOf } from '../http/reason.ts';
import type { Source, SourceDriver, SourceOptions } from '../source.ts';
import { http } from './http.ts';
import { imageio } from './imageio.ts';

/** Milliseconds that the engine may take for the head of an answer. */
const PATIENCE = 30_000;
/** What it says of a transfer are some kilobytes. */
const ANSWER_LIMIT = 1024 * 1024;
/** Milliseconds between two looks at a transfer that is being prepared. */
const LOOK = 500;
/** Seconds without reads after which the engine may end a transfer, which keeps the disk locked until then. */
const INACTIVITY = 300;
/** Seconds after which a disk that is locked is asked for again. */
const LOCKED = 5;
/** A disk's id is an UUID. */
const ID = '[0-9A-Fa-f-]{36}';

/** A disk that an oVirt engine is asked for: it opens a transfer, which ends with the source. */
export interface OvirtSpec {
  readonly http: HttpSpec;
  /** The engine's API, without a slash at its end. */
  readonly api: string;
  readonly disk: string;
  readonly options: SourceOptions;
}

/** https://ovirt.github.io/ovirt-engine-api-model/master/#services/image_transfers */
export const ovirt: SourceDriver<OvirtSpec> = {
  schemes: ['ovirt+https', 'ovirt+http'],

  parse(text: string, options: SourceOptions): OvirtSpec {
    const spec = http.parse(text.replace(/^ovirt\+/i, ''), options) as HttpSpec;
    const [, path, disk] = new RegExp(`^(.*)/disks/(${ID})$`).exec(spec.url.pathname) ?? [];
    if (path === undefined || disk === undefined) {
      throw new FerryError('the source is not of the form ovirt+https://ENGINE/ovirt-engine/api/disks/ID', {
        code: 'BAD_SPEC',
        stage: 'plan',
      });
    }
    if (options.credentials === undefined) {
      throw new FerryError('an oVirt engine wants a user and a password: give --credentials-file', {
        code: 'DENIED',
        stage: 'source',
      });
    }
    return { http: spec, api: spec.url.origin + path, disk, options };
  },

  async open(spec: OvirtSpec, context: Context): Promise<Source> {
    const engine = new Engine(spec, context);
    try {
      await engine.logIn();
      const transfer = await engine.begin();
      try {
        const address = `imageio+${await engine.ready(transfer)}`;
        const { credentials: _, headers: __, ...options } = spec.options;
        const disk = await imageio.open(imageio.parse(address, options), context);
        return {
          facts: disk.facts,
          details: { ...disk.details, kind: 'disk of an oVirt engine' },
          name: `ovirt+${spec.api}/disks/${spec.disk}`,
          read: (range, signal) => disk.read(range, signal),
          ...(disk.extents === undefined ? {} : { extents: disk.extents.bind(disk) }),
          [Symbol.asyncDispose]: async () => {
            await disk[Symbol.asyncDispose]();
            await engine.end(transfer);
          },
        };
      } catch (error) {
        await engine.end(transfer);
        throw error;
      }
    } catch (error) {
      await engine[Symbol.asyncDispose]();
      throw error;
    }
  },
};

interface Transfer {
  readonly id: string;
  readonly phase: string;
  readonly transfer_url?: string;
}

/** One session at an engine. */
class Engine implements AsyncDisposable {
  readonly #spec: OvirtSpec;
  readonly #context: Context;
  readonly #connections: Connections;
  readonly #ended = new Set<string>();
  #authorization: string | undefined;

  constructor(spec: OvirtSpec, context: Context) {
    this.#spec = spec;
    this.#context = context;
    this.#connections = new Connections(spec.http.ca, spec.http.environment, context.guard);
  }

  /** A token for user and password (RFC 6749 section 4.3), at the engine's own service. */
  async logIn(): Promise<void> {
    const { username = '', password = '' } = this.#spec.options.credentials ?? {};
    const body = new URLSearchParams({ grant_type: 'password', scope: 'ovirt-app-api', username, password });
    const url = new URL('/ovirt-engine/sso/oauth/token', this.#spec.api);
    const type = 'application/x-www-form-urlencoded';
    const { access_token: token } = await this.#ask(url, type, body.toString(), this.#context.signal);
    if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token)) throw unusable(url, 'no token');
    this.#authorization = `Bearer ${token}`;
  }

  async begin(): Promise<Transfer> {
    const wanted = {
      disk: { id: this.#spec.disk },
      direction: 'download',
      format: 'raw',
      inactivity_timeout: INACTIVITY,
    };
    try {
      return this.#transfer(await this.#api('', wanted, this.#context.signal));
    } catch (error) {
      // 409 with these words while somebody else has it: a snapshot that is made, an earlier transfer that has not ended.
      if (!/locked/i.test(asFerryError(error, 'source').message)) throw error;
      throw new FerryError(`the disk ${this.#spec.disk} is locked at the engine`, {
        code: 'BUSY',
        stage: 'source',
        retryable: true,
        retryAfter: LOCKED,
        cause: error,
      });
    }
  }

  /** Where its bytes are, once a host shows them. STALLED where none does in time, IO where the engine gives it up. */
  async ready({ id }: Transfer): Promise<string> {
    const { signal, limits } = this.#context;
    const until = performance.now() + limits.patience;
    for (;;) {
      const { phase, transfer_url: url } = this.#transfer(await this.#api(`/${id}`, undefined, signal));
      if (phase === 'transferring' && url !== undefined) return url;
      if (phase !== 'initializing' && phase !== 'transferring') {
        throw new FerryError(`the engine opened no transfer of the disk ${this.#spec.disk}: it is ${phase}`, {
          code: 'IO',
          stage: 'source',
          retryable: true,
        });
      }
      if (performance.now() > until) {
        const seconds = Math.round(limits.patience / 1000);
        throw new FerryError(`no host of the engine showed the disk ${this.#spec.disk} in ${seconds} s`, {
          code: 'STALLED',
          stage: 'source',
        });
      }
      await sleep(LOOK, undefined, { signal });
    }
  }

  /** Gives the disk back, also after a stop. May be called twice. */
  async end({ id }: Transfer): Promise<void> {
    if (this.#ended.has(id)) return;
    this.#ended.add(id);
    try {
      await this.#api(`/${id}/finalize`, {}, AbortSignal.timeout(PATIENCE));
    } catch (error) {
      const why = asFerryError(error, 'source').message;
      this.#context.log.warn(`the engine keeps the disk ${this.#spec.disk} locked for ${INACTIVITY} s more: ${why}`);
    }
    await this[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#connections.destroy();
  }

  #transfer(answer: Record<string, unknown>): Transfer {
    const { id, phase, transfer_url: url } = answer;
    if (typeof id !== 'string' || !/^[\w-]+$/.test(id) || typeof phase !== 'string' || !/^\w+$/.test(phase)) {
      throw unusable(new URL(`${this.#spec.api}/imagetransfers`), 'no transfer');
    }
    return { id, phase, ...(typeof url === 'string' && URL.canParse(url) ? { transfer_url: url } : {}) };
  }

  #api(path: string, body: unknown, signal: AbortSignal): Promise<Record<string, unknown>> {
    const url = new URL(`${this.#spec.api}/imagetransfers${path}`);
    return this.#ask(url, 'application/json', body === undefined ? undefined : JSON.stringify(body), signal);
  }

  async #ask(url: URL, type: string, body: string | undefined, signal: AbortSignal): Promise<Record<string, unknown>> {
    const dispatcher = this.#connections.dispatcher(url);
    const headers = {
      ...this.#spec.http.headers,
      accept: 'application/json',
      'user-agent': 'diskferry',
      ...(body === undefined ? {} : { 'content-type': type }),
      ...(this.#authorization === undefined ? {} : { authorization: this.#authorization }),
    };
    const request = {
      url,
      headers,
      headersTimeout: PATIENCE,
      ...(body === undefined ? {} : { method: 'POST' as const, body }),
    };
    const answer = await send(dispatcher, request, signal).catch((error: unknown) => {
      throw transportFailure(url, error, this.#connections.proxy(url));
    });
    const { password = '' } = this.#spec.options.credentials ?? {};
    if (answer.status < 200 || answer.status > 299) {
      throw statusFailure(url, answer, 'a user name and password', await reasonOf(answer, [password]));
    }
    try {
      return JSON.parse((await textOf(answer, ANSWER_LIMIT)) || '{}') as Record<string, unknown>;
    } catch (error) {
      if (error instanceof FerryError) throw error;
      throw unusable(url, 'no JSON');
    }
  }
}

function unusable(url: URL, what: string): FerryError {
  return new FerryError(`${shown(url)} answered ${what}: is it an oVirt engine?`, {
    code: 'UNSUPPORTED',
    stage: 'source',
  });
}

import { setTimeout as sleep } from 'node:timers/promises';
import type { Context } from '../context.ts';
import { asFerryError, FerryError } from '../errors.ts';
import { textOf } from '../http/body.ts';
import type { HttpSpec } from '../http/client.ts';
import { Connections } from '../http/connection.ts';
import { send } from '../http/exchange.ts';
import { shown, statusFailure, transportFailure } from '../http/failures.ts';
import { reasonOf } from '../http/reason.ts';

/** Milliseconds that the engine may take for the head of an answer. */
const PATIENCE = 30_000;
/** What it says of a transfer are some kilobytes; a list of snapshots has half of one for each. */
const ANSWER_LIMIT = 4 * 1024 * 1024;
/** Milliseconds between two looks at a transfer that is being prepared. */
const LOOK = 500;
/** Seconds without reads after which the engine may end a transfer, which keeps the disk locked until then. */
const INACTIVITY = 300;
/** Seconds after which a disk that is locked is asked for again. */
const LOCKED = 5;

/** An engine's API, without a slash at its end, and one of its disks. */
export interface Place {
  readonly http: HttpSpec;
  readonly api: string;
  readonly disk: string;
  readonly credentials: { readonly username: string; readonly password: string };
}

/** A state of the disk: what the engine calls a disk snapshot, and KubeVirt a checkpoint. */
export interface Snapshot {
  readonly id: string;
  /** The state before it; the first has none. */
  readonly parent?: string;
  /** What the disk is written to at the moment: not a state that stays. */
  readonly active: boolean;
}

export interface Transfer {
  readonly id: string;
  readonly phase: string;
  readonly transfer_url?: string;
}

type Answer = Readonly<Record<string, unknown>>;

/** One session at an engine: https://ovirt.github.io/ovirt-engine-api-model/master/ */
export class Engine implements AsyncDisposable {
  readonly #place: Place;
  readonly #context: Context;
  readonly #connections: Connections;
  readonly #ended = new Set<string>();
  #authorization: string | undefined;

  constructor(place: Place, context: Context) {
    this.#place = place;
    this.#context = context;
    const { ca, environment, insecureTls } = place.http;
    this.#connections = new Connections(ca, environment, context.guard, insecureTls);
  }

  /** A token for user and password (RFC 6749 section 4.3), at the engine's own service. */
  async logIn(): Promise<void> {
    const { username, password } = this.#place.credentials;
    const body = new URLSearchParams({ grant_type: 'password', scope: 'ovirt-app-api', username, password });
    const url = new URL('/ovirt-engine/sso/oauth/token', this.#place.api);
    const type = 'application/x-www-form-urlencoded';
    const { access_token: token } = await this.#ask(url, type, body.toString(), this.#context.signal);
    if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token)) throw unusable(url, 'no token');
    this.#authorization = `Bearer ${token}`;
  }

  /** The state of the disk with this id. NOT_FOUND where it has none. */
  async snapshot(id: string): Promise<Snapshot> {
    const { disk } = this.#place;
    const { signal } = this.#context;
    const found = await this.#api(`disks/${disk}`, undefined, signal);
    const active = idOf({ id: found.image_id }) === id;
    for (const domain of listOf(found.storage_domains, 'storage_domain')) {
      const path = `storagedomains/${idOf(domain)}/disksnapshots?include_active=true`;
      for (const one of listOf(await this.#api(path, undefined, signal), 'disk_snapshot')) {
        if (idOf(one) !== id || idOf(one.disk) !== disk) continue;
        const parent = idOf(one.parent);
        return { id, active, ...(parent === undefined ? {} : { parent }) };
      }
    }
    if (active) return { id, active };
    throw new FerryError(`the disk ${disk} has no snapshot ${id} at the engine: was it deleted or merged?`, {
      code: 'NOT_FOUND',
      stage: 'source',
    });
  }

  /**
   * Opens a download of the disk, or of a snapshot of it; `alone`: without those below it, which show as holes. BUSY
   * while somebody else has the disk.
   */
  async begin(snapshot: Snapshot | undefined, alone = false): Promise<Transfer> {
    const { disk } = this.#place;
    const wanted = {
      ...(snapshot === undefined || snapshot.active ? { disk: { id: disk } } : { snapshot: { id: snapshot.id } }),
      direction: 'download',
      format: 'raw',
      inactivity_timeout: INACTIVITY,
      ...(alone ? { shallow: true } : {}),
    };
    try {
      return this.#transfer(await this.#api('imagetransfers', wanted, this.#context.signal));
    } catch (error) {
      // 409 with these words while somebody else has it: a snapshot that is made, an earlier transfer that has not ended.
      if (!/locked/i.test(asFerryError(error, 'source').message)) throw error;
      throw new FerryError(`the disk ${disk} is locked at the engine`, {
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
    const { disk } = this.#place;
    const until = performance.now() + limits.patience;
    for (;;) {
      const { phase, transfer_url: url } = this.#transfer(await this.#api(`imagetransfers/${id}`, undefined, signal));
      if (phase === 'transferring' && url !== undefined) return url;
      if (phase !== 'initializing' && phase !== 'transferring') {
        throw new FerryError(`the engine opened no transfer of the disk ${disk}: it is ${phase}`, {
          code: 'IO',
          stage: 'source',
          retryable: true,
        });
      }
      if (performance.now() > until) {
        const seconds = Math.round(limits.patience / 1000);
        throw new FerryError(`no host of the engine showed the disk ${disk} in ${seconds} s`, {
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
      await this.#api(`imagetransfers/${id}/finalize`, {}, AbortSignal.timeout(PATIENCE));
    } catch (error) {
      const why = asFerryError(error, 'source').message;
      this.#context.log.warn(`the engine keeps the disk ${this.#place.disk} locked for ${INACTIVITY} s more: ${why}`);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#connections.destroy();
  }

  #transfer(answer: Answer): Transfer {
    const { phase, transfer_url: url } = answer;
    const id = idOf(answer);
    if (id === undefined || typeof phase !== 'string' || !/^\w+$/.test(phase)) {
      throw unusable(new URL(`${this.#place.api}/imagetransfers`), 'no transfer');
    }
    return { id, phase, ...(typeof url === 'string' && URL.canParse(url) ? { transfer_url: url } : {}) };
  }

  #api(path: string, body: unknown, signal: AbortSignal): Promise<Answer> {
    const url = new URL(`${this.#place.api}/${path}`);
    return this.#ask(url, 'application/json', body === undefined ? undefined : JSON.stringify(body), signal);
  }

  async #ask(url: URL, type: string, body: string | undefined, signal: AbortSignal): Promise<Answer> {
    const { http, credentials } = this.#place;
    const dispatcher = this.#connections.dispatcher(url);
    const headers = {
      ...http.headers,
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
    if (answer.status < 200 || answer.status > 299) {
      throw statusFailure(url, answer, 'a user name and password', await reasonOf(answer, [credentials.password]));
    }
    try {
      return JSON.parse((await textOf(answer, ANSWER_LIMIT)) || '{}') as Answer;
    } catch (error) {
      if (error instanceof FerryError) throw error;
      throw unusable(url, 'no JSON');
    }
  }
}

/** What stands in a path of the API must not lead out of it. */
function idOf(one: unknown): string | undefined {
  const { id } = (one ?? {}) as Answer;
  return typeof id === 'string' && /^[\w-]{1,64}$/.test(id) ? id : undefined;
}

/** The API has lists as `{"name": [...]}`. */
function listOf(one: unknown, name: string): Answer[] {
  const list = ((one ?? {}) as Answer)[name];
  return Array.isArray(list) ? list.filter((item) => typeof item === 'object' && item !== null) : [];
}

function unusable(url: URL, what: string): FerryError {
  return new FerryError(`${shown(url)} answered ${what}: is it an oVirt engine?`, {
    code: 'UNSUPPORTED',
    stage: 'source',
  });
}

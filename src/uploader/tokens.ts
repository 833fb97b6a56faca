import { createHmac, createSecretKey, type KeyObject } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { FerryError } from '../dataplane/errors.ts';
import { hostKey } from '../dataplane/hostkey.ts';
import { sign, verified } from '../pki/token.ts';
import type { Store } from '../store/store.ts';

/** What a token may be for: to put a disk into a volume, or to read the one that is in it. */
export const OPERATIONS = ['upload', 'download'] as const;
export type Operation = (typeof OPERATIONS)[number];

/** Which operation a request belongs to, and to which volume. */
export interface Errand {
  readonly operation: Operation;
  /** Default: the `name` in its path. */
  readonly volume?: (request: FastifyRequest) => string;
}

const ISSUER = 'diskferry serve';
/**
 * Tokens of one server: each for one operation on one volume, for a time. The key is made of the one that authenticates
 * journals, so they survive a restart, and no other server takes them.
 */
export class Tokens {
  readonly #store: Store;
  readonly #key: KeyObject;

  private constructor(store: Store, key: KeyObject) {
    this.#store = store;
    this.#key = key;
  }

  static async of(store: Store): Promise<Tokens> {
    const key = createHmac('sha256', await hostKey(store.stateDirectory))
      .update('diskferry tokens')
      .digest();
    return new Tokens(store, createSecretKey(key));
  }

  /** A token for the volume as it is now, also one that does not exist yet. */
  async issue(operation: Operation, name: string, seconds: number): Promise<{ token: string; expires: string }> {
    const params = { uid: await this.#store.incarnation(name) };
    const token = await sign({ issuer: ISSUER, key: this.#key }, { operation, name, params }, seconds * 1000);
    return { token, expires: new Date(Date.now() + seconds * 1000).toISOString() };
  }

  /** DENIED unless the token is for this, and for this very volume: not for another of its name. */
  async check(token: string, errand: Errand | undefined, request: FastifyRequest): Promise<void> {
    const scope = await verified(token, { issuer: ISSUER, key: this.#key });
    if ('refused' in scope) throw denied(scope.refused, 'plan');
    const { operation, name, params } = scope;
    const wanted = errand?.volume ? errand.volume(request) : (request.params as { readonly name?: string }).name;
    if (errand?.operation !== operation || wanted !== name) {
      throw denied(`the token is for the ${operation} of ${name}, and for nothing else`, 'target');
    }
    if ((await this.#store.incarnation(name)) !== params?.uid) {
      throw denied(`the token is for ${name} as it was: another disk was put there since, or none is left`, 'target');
    }
  }
}

/** Stage `plan`: a better token may help; else it is another one's right. */
function denied(message: string, stage: 'plan' | 'target'): FerryError {
  return new FerryError(message, { code: 'DENIED', stage });
}

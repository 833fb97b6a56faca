import { FerryError } from '../dataplane/errors.ts';
import type { Guard } from '../dataplane/guard.ts';
import type { Authorizer } from '../dataplane/http/authorizer.ts';
import { textOf } from '../dataplane/http/body.ts';
import { Connections } from '../dataplane/http/connection.ts';
import { type Answer, field, send } from '../dataplane/http/exchange.ts';
import { statusFailure, transportFailure } from '../dataplane/http/failures.ts';
import { reasonOf } from '../dataplane/http/reason.ts';
import type { Login } from './credentials.ts';

/** Milliseconds that a token server may take for the head of its answer. */
const PATIENCE = 30_000;
/** Tokens are some kilobytes. */
const TOKEN_LIMIT = 1024 * 1024;

export interface Challenge {
  readonly scheme: 'bearer' | 'basic';
  readonly parameters: Readonly<Record<string, string>>;
}

/** The first challenge of a `WWW-Authenticate` that is understood (RFC 9110 section 11.6.1). */
export function parseChallenge(text: string): Challenge | undefined {
  const match = /(?:^|,)\s*(bearer|basic)\s+/i.exec(text) ?? /(?:^|,)\s*(basic)\s*$/i.exec(text);
  if (!match) return undefined;
  const parameters: Record<string, string> = {};
  const pairs = text
    .slice(match.index + match[0].length)
    .matchAll(/\b([a-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))/gi);
  for (const [, name = '', quoted, bare] of pairs) {
    const value = quoted?.replace(/\\(.)/g, '$1') ?? bare ?? '';
    parameters[name.toLowerCase()] ??= value;
  }
  return { scheme: (match[1] ?? '').toLowerCase() as Challenge['scheme'], parameters };
}

/** Where a token is asked for (distribution, "Token Authentication Specification"). Undefined when the realm is no URL. */
export function tokenUrl({ parameters }: Challenge, repository: string): URL | undefined {
  const url = URL.parse(parameters.realm ?? '');
  if (!url || !['http:', 'https:'].includes(url.protocol)) return undefined;
  url.username = '';
  url.password = '';
  if (parameters.service !== undefined) url.searchParams.set('service', parameters.service);
  url.searchParams.set('scope', parameters.scope ?? `repository:${repository}:pull`);
  return url;
}

export interface RegistryAccess {
  readonly repository: string;
  /** Of the registry, where credentials are sent. */
  readonly origin: string;
  readonly login: Login | undefined;
  readonly ca: string | undefined;
  readonly environment: NodeJS.ProcessEnv;
  readonly guard: Guard | undefined;
}

/** Asks as anybody first; what the registry then demands, a token or a login, is sent from then on. */
export class RegistryAuthorizer implements Authorizer {
  kind: string;
  readonly #access: RegistryAccess;
  #authorization: string | undefined;

  constructor(access: RegistryAccess) {
    this.#access = access;
    this.kind = 'no credentials';
  }

  covers(url: URL): boolean {
    return url.origin === this.#access.origin;
  }

  async authorize(_url: URL, headers: Readonly<Record<string, string>>): Promise<Record<string, string>> {
    return this.#authorization === undefined ? { ...headers } : { ...headers, authorization: this.#authorization };
  }

  async renew({ status, fields }: Pick<Answer, 'status' | 'fields'>): Promise<boolean> {
    const challenge = status === 401 ? parseChallenge(field(fields, 'www-authenticate') ?? '') : undefined;
    if (!challenge) return false;
    const { login, repository } = this.#access;
    const before = this.#authorization;
    if (challenge.scheme === 'basic') {
      if (!login) return false;
      this.kind = 'a user name and password';
      this.#authorization = basic(login);
    } else {
      const url = tokenUrl(challenge, repository);
      if (!url) return false;
      // A registry that is reached safely must not have the password sent in the open.
      if (login && url.protocol === 'http:' && this.#access.origin.startsWith('https:')) {
        throw new FerryError(`the registry wants the password sent to ${url.origin}, which is not encrypted`, {
          code: 'UNSAFE',
          stage: 'source',
        });
      }
      this.kind = login ? 'a token for the user name and password' : 'a token for anybody';
      this.#authorization = `Bearer ${await this.#token(url)}`;
    }
    return this.#authorization !== before;
  }

  async #token(url: URL): Promise<string> {
    const { login, ca, environment, guard } = this.#access;
    const connections = new Connections(ca, environment, guard);
    const signal = AbortSignal.timeout(2 * PATIENCE);
    try {
      const headers = {
        accept: 'application/json',
        'user-agent': 'diskferry',
        ...(login ? { authorization: basic(login) } : {}),
      };
      const answer = await send(connections.dispatcher(url), { url, headers, headersTimeout: PATIENCE }, signal).catch(
        (error: unknown) => {
          throw transportFailure(url, error, connections.proxy(url));
        },
      );
      if (answer.status !== 200) {
        const reason = await reasonOf(answer, login ? [login.password] : []);
        throw statusFailure(url, answer, login ? 'a user name and password' : 'no credentials', reason);
      }
      const { token, access_token: other } = JSON.parse(await textOf(answer, TOKEN_LIMIT)) as Record<string, unknown>;
      const found = typeof token === 'string' && token !== '' ? token : other;
      if (typeof found !== 'string' || !/^[\x21-\x7e]+$/.test(found)) throw new SyntaxError('no token');
      return found;
    } catch (error) {
      if (error instanceof FerryError) throw error;
      throw new FerryError(`${url.origin}${url.pathname} gave no token that can be used`, {
        code: 'DENIED',
        stage: 'source',
        cause: error,
      });
    } finally {
      await connections.destroy();
    }
  }
}

function basic({ username, password }: Login): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

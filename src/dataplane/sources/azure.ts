import { createHmac } from 'node:crypto';
import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import type { Authorizer } from '../http/authorizer.ts';
import type { Source, SourceDriver, SourceOptions } from '../source.ts';
import { openHttp } from './http.ts';
import { encodePath, parseEndpoint, parseObject } from './object.ts';

export interface AzureSpec {
  readonly url: URL;
  readonly name: string;
  readonly authorizer: Authorizer;
  readonly options: SourceOptions;
}

/** The version of the protocol whose answers are expected; since 2011-08-18 ETags are quoted, since 2015 keys sign so. */
const VERSION = '2021-12-02';

/** Azure Blob Storage. */
export const azure: SourceDriver<AzureSpec> = {
  schemes: ['az'],

  parse(text: string, options: SourceOptions): AzureSpec {
    const environment = options.environment ?? process.env;
    const { container: account, name } = parseObject(text, 'az://account/container/blob');
    if (!/^[^/]+\/./.test(name)) {
      throw new FerryError('the source is not of the form az://account/container/blob', {
        code: 'BAD_SPEC',
        stage: 'plan',
      });
    }
    const known = connectionOf(environment, account);
    const base = known.endpoint ?? new URL(`https://${account}.blob.core.windows.net`);
    const url = new URL(`${base.origin}${base.pathname.replace(/\/$/, '')}/${encodePath(name)}`);
    const key = options.credentials?.username === account ? options.credentials.password : known.key;
    const sas = options.anonymous ? undefined : known.sas;
    if (sas !== undefined && (options.anonymous || key === undefined)) url.search = sas.replace(/^\?/, '');
    return {
      url,
      name: `az://${account}/${name}`,
      authorizer: new SharedKey(account, url.origin, options.anonymous ? undefined : key, sas !== undefined),
      options,
    };
  },

  open({ url, name, authorizer, options }: AzureSpec, context: Context): Promise<Source> {
    return openHttp(
      {
        url,
        headers: options.headers ?? {},
        authorizer,
        ...(options.ca === undefined ? {} : { ca: options.ca }),
        insecureRedirects: options.insecureRedirects ?? false,
        environment: options.environment ?? process.env,
        name,
        versions: ['x-ms-version-id'],
      },
      context,
    );
  },
};

interface Connection {
  readonly endpoint?: URL;
  readonly key?: string;
  readonly sas?: string;
}

/**
 * What the variables of Azure's own tools say of an account: AZURE_STORAGE_CONNECTION_STRING, or
 * AZURE_STORAGE_SAS_TOKEN and AZURE_STORAGE_KEY (of AZURE_STORAGE_ACCOUNT, where that is set). Throws BAD_SPEC.
 */
function connectionOf(environment: NodeJS.ProcessEnv, account: string): Connection {
  const text = environment.AZURE_STORAGE_CONNECTION_STRING;
  const parts = new Map<string, string>();
  for (const part of text?.split(';') ?? []) {
    const at = part.indexOf('=');
    if (at > 0) parts.set(part.slice(0, at).trim().toLowerCase(), part.slice(at + 1).trim());
  }
  if (parts.get('accountname') === account) {
    const blob = parts.get('blobendpoint');
    return {
      ...(blob ? { endpoint: parseEndpoint(blob, 'BlobEndpoint in AZURE_STORAGE_CONNECTION_STRING') } : {}),
      ...(parts.has('accountkey') ? { key: parts.get('accountkey') as string } : {}),
      ...(parts.has('sharedaccesssignature') ? { sas: parts.get('sharedaccesssignature') as string } : {}),
    };
  }
  if ((environment.AZURE_STORAGE_ACCOUNT ?? account) !== account) return {};
  const { AZURE_STORAGE_KEY: key, AZURE_STORAGE_SAS_TOKEN: sas } = environment;
  return { ...(key ? { key } : {}), ...(sas ? { sas } : {}) };
}

/** Shared Key ("Authorize with Shared Key", Azure Storage REST API): an HMAC over the request. */
class SharedKey implements Authorizer {
  readonly kind: string;
  readonly #account: string;
  readonly #origin: string;
  readonly #key: Buffer | undefined;

  constructor(account: string, origin: string, key: string | undefined, signed: boolean) {
    this.#account = account;
    this.#origin = origin;
    this.#key = key === undefined ? undefined : Buffer.from(key, 'base64');
    this.kind = key === undefined ? (signed ? 'a shared access signature' : 'no credentials') : 'an account key';
  }

  covers(url: URL): boolean {
    return url.origin === this.#origin;
  }

  async authorize(url: URL, headers: Readonly<Record<string, string>>): Promise<Record<string, string>> {
    const all: Record<string, string> = { ...headers, 'x-ms-version': VERSION };
    if (this.#key === undefined) return all;
    all['x-ms-date'] = new Date().toUTCString();
    const of = (name: string): string => all[name] ?? '';
    const own = Object.keys(all)
      .filter((name) => name.startsWith('x-ms-'))
      .sort()
      .map((name) => `${name}:${of(name)}\n`);
    const parameters = [...url.searchParams].map(([name, value]) => `\n${name.toLowerCase()}:${value}`).sort();
    const text = [
      'GET',
      ...['content-encoding', 'content-language', 'content-length', 'content-md5', 'content-type', 'date'].map(of),
      ...['if-modified-since', 'if-match', 'if-none-match', 'if-unmodified-since', 'range'].map(of),
      `${own.join('')}/${this.#account}${url.pathname}${parameters.join('')}`,
    ].join('\n');
    const signature = createHmac('sha256', this.#key).update(text, 'utf8').digest('base64');
    return { ...all, authorization: `SharedKey ${this.#account}:${signature}` };
  }

  /** A key does not expire, and a signature of the environment stays what it is. */
  async renew(): Promise<boolean> {
    return false;
  }
}

import { readFile } from 'node:fs/promises';
import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import type { Authorizer } from '../http/authorizer.ts';
import type { HttpSpec } from '../http/client.ts';
import { field } from '../http/exchange.ts';
import type { Source, SourceDriver, SourceOptions } from '../source.ts';
import { openHttp } from './http.ts';
import { parseEndpoint, parseObject } from './object.ts';

export interface GcsSpec {
  readonly bucket: string;
  readonly object: string;
  readonly generation?: string;
  readonly endpoint: URL;
  readonly options: SourceOptions;
}

const ENDPOINT = new URL('https://storage.googleapis.com');
const SCOPE = 'https://www.googleapis.com/auth/devstorage.read_only';

/** Google Cloud Storage, by the media download of its JSON API. */
export const gcs: SourceDriver<GcsSpec> = {
  schemes: ['gs'],

  parse(text: string, options: SourceOptions): GcsSpec {
    const environment = options.environment ?? process.env;
    // An object's name may have a '#'; only digits after the last one are a generation.
    const [, object = text, generation] = /^(.*)#(\d{1,19})$/s.exec(text) ?? [];
    const { container, name } = parseObject(object, 'gs://bucket/object');
    const emulator = environment.STORAGE_EMULATOR_HOST;
    return {
      bucket: container,
      object: name,
      ...(generation === undefined ? {} : { generation }),
      endpoint: emulator ? parseEndpoint(emulator, 'STORAGE_EMULATOR_HOST in the environment') : ENDPOINT,
      options,
    };
  },

  open(spec: GcsSpec, context: Context): Promise<Source> {
    const { bucket, object, generation, endpoint, options } = spec;
    const path = `/storage/v1/b/${encodeURIComponent(bucket)}/o/${encodeURIComponent(object)}`;
    const url = new URL(`${endpoint.origin}${path}?alt=media`);
    if (generation !== undefined) url.searchParams.set('generation', generation);
    const http: HttpSpec = {
      url,
      headers: options.headers ?? {},
      authorizer: new Bearer(endpoint.origin, options),
      ...(options.ca === undefined ? {} : { ca: options.ca }),
      insecureRedirects: options.insecureRedirects ?? false,
      environment: options.environment ?? process.env,
      name: `gs://${bucket}/${object}`,
      versions: ['x-goog-generation'],
      pin: (fields) => {
        const found = field(fields, 'x-goog-generation');
        return found === undefined ? {} : { generation: found };
      },
      // What is stored with Content-Encoding gzip would be unpacked on the way ("Transcoding of gzip-compressed files").
      acceptEncoding: 'gzip',
    };
    return openHttp(http, context);
  },
};

/** Access tokens of a service account's key, workload identity, `gcloud` or the metadata server. */
class Bearer implements Authorizer {
  kind = 'no credentials';
  readonly #origin: string;
  readonly #options: SourceOptions;
  #client: { getAccessToken(): Promise<{ token?: string | null }> } | undefined;
  #token: string | undefined;
  #none = false;

  constructor(origin: string, options: SourceOptions) {
    this.#origin = origin;
    this.#options = options;
  }

  covers(url: URL): boolean {
    return url.origin === this.#origin;
  }

  async authorize(_url: URL, headers: Readonly<Record<string, string>>): Promise<Record<string, string>> {
    const token = await this.#find();
    return token === undefined ? { ...headers } : { ...headers, authorization: `Bearer ${token}` };
  }

  async renew(): Promise<boolean> {
    const before = this.#token;
    if (before === undefined) return false;
    this.#client = undefined;
    return (await this.#find()) !== before;
  }

  async #find(): Promise<string | undefined> {
    if (this.#options.anonymous || this.#none) return undefined;
    try {
      this.#client ??= await this.#open();
      this.#token = (await this.#client?.getAccessToken())?.token ?? undefined;
    } catch (error) {
      throw new FerryError(`no Google credentials could be had: ${(error as Error).message}`, {
        code: 'DENIED',
        stage: 'source',
        cause: error,
      });
    }
    this.#none = this.#token === undefined;
    this.kind = this.#none ? 'no credentials: none were found' : 'an access token';
    return this.#token;
  }

  /** Undefined when there are no credentials: public objects need none. */
  async #open(): Promise<{ getAccessToken(): Promise<{ token?: string | null }> } | undefined> {
    // The package is CommonJS, of which a bundle has the default export only.
    const { GoogleAuth } = (await import('google-auth-library')).default;
    const environment = this.#options.environment ?? process.env;
    if (this.#options.instanceMetadata === false && !environment.GOOGLE_APPLICATION_CREDENTIALS) return undefined;
    if (this.#options.instanceMetadata === false)
      await refuseOtherKeys(environment.GOOGLE_APPLICATION_CREDENTIALS ?? '');
    try {
      // Without a project the library asks another service for one (its findAndCacheProjectId); no request here has it.
      return await new GoogleAuth({ scopes: [SCOPE], projectId: 'none' }).getClient();
    } catch (error) {
      // The library has no other sign for it (its GoogleAuthExceptionMessages.NO_ADC_FOUND).
      if (/Could not load the default credentials/.test((error as Error).message)) return undefined;
      throw error;
    }
  }
}

/**
 * Where only what was given counts, a key of a service account is taken: other kinds of files name addresses to ask, and
 * programs to run, for credentials (google-auth-library, "external_account"). Throws DENIED.
 */
async function refuseOtherKeys(path: string): Promise<void> {
  const refuse = (what: string, cause?: unknown): FerryError =>
    new FerryError(`the Google credentials given are ${what}: give the JSON key of a service account`, {
      code: 'DENIED',
      stage: 'source',
      ...(cause === undefined ? {} : { cause }),
    });
  let key: { type?: unknown; token_uri?: unknown };
  try {
    key = JSON.parse(await readFile(path, 'utf8')) as typeof key;
  } catch (error) {
    throw refuse('no JSON that can be read', error);
  }
  if (key.type !== 'service_account') throw refuse('of another kind');
  const asked = URL.parse(String(key.token_uri ?? 'https://oauth2.googleapis.com/token'));
  if (asked?.protocol !== 'https:' || !/(^|\.)googleapis\.com$/.test(asked.hostname)) {
    throw refuse('for a token server that is not googleapis.com');
  }
}

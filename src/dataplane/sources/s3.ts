import { setTimeout as sleep } from 'node:timers/promises';
import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import type { Authorizer } from '../http/authorizer.ts';
import type { HttpSpec } from '../http/client.ts';
import { type Answer, field } from '../http/exchange.ts';
import type { Source, SourceDriver, SourceOptions } from '../source.ts';
import { openHttp } from './http.ts';
import { decode, encodePath, parseEndpoint, parseObject } from './object.ts';

export interface S3Spec {
  readonly bucket: string;
  readonly key: string;
  readonly version?: string;
  readonly endpoint?: URL;
  readonly region: string;
  readonly options: SourceOptions;
}

/** Where buckets are that say nothing else; S3 names the right region in its refusal. */
const REGION = 'us-east-1';
/** Milliseconds for all providers of credentials together: the SDK's own waits have no end. */
const PATIENCE = 20_000;

/** Amazon S3, and servers that speak its protocol. */
export const s3: SourceDriver<S3Spec> = {
  schemes: ['s3'],

  parse(text: string, options: SourceOptions): S3Spec {
    const environment = options.environment ?? process.env;
    const [, object = text, version] = /^(.*)\?versionId=([^?&#]+)$/s.exec(text) ?? [];
    const { container, name } = parseObject(object, 's3://bucket/key');
    const given = options.s3?.endpoint ?? environment.AWS_ENDPOINT_URL_S3 ?? environment.AWS_ENDPOINT_URL;
    const place = options.s3?.endpoint === undefined ? 'AWS_ENDPOINT_URL in the environment' : '--s3-endpoint';
    return {
      bucket: container,
      key: name,
      ...(version === undefined ? {} : { version: decode(version) }),
      ...(given ? { endpoint: parseEndpoint(given, place) } : {}),
      region: options.s3?.region ?? environment.AWS_REGION ?? environment.AWS_DEFAULT_REGION ?? REGION,
      options,
    };
  },

  async open(spec: S3Spec, context: Context): Promise<Source> {
    const authorizer = new Signer(spec);
    try {
      return await openHttp(at(spec, spec.region, authorizer), context);
    } catch (error) {
      const { region } = authorizer;
      if (region === spec.region) throw error;
      context.log.info(`the bucket ${spec.bucket} is in ${region}`);
      return openHttp(at(spec, region, authorizer), context);
    }
  },
};

function at(spec: S3Spec, region: string, authorizer: Signer): HttpSpec {
  const { bucket, key, version, endpoint, options } = spec;
  const url = addressOf(bucket, key, region, endpoint);
  if (version !== undefined) url.searchParams.set('versionId', version);
  return {
    url,
    headers: options.headers ?? {},
    authorizer,
    ...(options.ca === undefined ? {} : { ca: options.ca }),
    insecureRedirects: options.insecureRedirects ?? false,
    environment: options.environment ?? process.env,
    ...(endpoint === undefined ? { name: `s3://${bucket}/${key}` } : {}),
    versions: ['x-amz-version-id'],
  };
}

/** Buckets of Amazon are names of hosts, where a certificate can be for them; others are the first part of the path. */
export function addressOf(bucket: string, key: string, region: string, endpoint: URL | undefined): URL {
  if (endpoint !== undefined) {
    const base = `${endpoint.origin}${endpoint.pathname.replace(/\/$/, '')}`;
    return new URL(`${base}/${bucket}/${encodePath(key)}`);
  }
  const domain = region.startsWith('cn-') ? 'amazonaws.com.cn' : 'amazonaws.com';
  const host = `s3.${region}.${domain}`;
  return /^[a-z0-9-]+$/.test(bucket)
    ? new URL(`https://${bucket}.${host}/${encodePath(key)}`)
    : new URL(`https://${host}/${bucket}/${encodePath(key)}`);
}

interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
  readonly expiration?: Date;
}

/** Milliseconds before their end at which credentials are looked up again. */
const MARGIN = 60_000;

/** Signature version 4 of each request ("Authenticating Requests: Using the Authorization Header", S3 API reference). */
class Signer implements Authorizer {
  /** Of the bucket, as far as it is known. */
  region: string;
  kind = 'no credentials';
  readonly #options: SourceOptions;
  readonly #endpoint: URL | undefined;
  #credentials: Credentials | undefined;

  constructor({ region, endpoint, options }: S3Spec) {
    this.region = region;
    this.#endpoint = endpoint;
    this.#options = options;
  }

  covers(url: URL): boolean {
    if (this.#endpoint !== undefined) return url.origin === this.#endpoint.origin;
    return (
      url.protocol === 'https:' && /\.s3\.|^s3\./.test(url.hostname) && /\.amazonaws\.com(\.cn)?$/.test(url.hostname)
    );
  }

  async authorize(url: URL, headers: Readonly<Record<string, string>>): Promise<Record<string, string>> {
    const credentials = await this.#find();
    if (!credentials) return { ...headers };
    const [{ SignatureV4 }, { Hash }] = await Promise.all([
      import('@smithy/signature-v4'),
      import('@smithy/hash-node'),
    ]);
    const signer = new SignatureV4({
      service: 's3',
      region: this.region,
      credentials,
      sha256: Hash.bind(null, 'sha256'),
      // Keys are encoded once (same page, "URI encode").
      uriEscapePath: false,
      applyChecksum: false,
    });
    const signed = await signer.sign({
      method: 'GET',
      protocol: url.protocol,
      hostname: url.hostname,
      path: url.pathname,
      query: Object.fromEntries(url.searchParams),
      // The others may be changed by a proxy.
      headers: { host: url.host, 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD' },
    });
    const { host: _host, ...added } = signed.headers as Record<string, string>;
    return { ...headers, ...added };
  }

  async renew({ status, fields }: Pick<Answer, 'status' | 'fields'>): Promise<boolean> {
    const region = field(fields, 'x-amz-bucket-region');
    if (region !== undefined && /^[a-z0-9-]{1,40}$/.test(region) && region !== this.region) {
      // Another region is another host, so the object is opened anew.
      this.region = region;
      return false;
    }
    if (status === 301) return false;
    const before = this.#credentials;
    if (!before) return false;
    this.#credentials = undefined;
    const now = await this.#find();
    return now?.accessKeyId !== before.accessKeyId || now.sessionToken !== before.sessionToken;
  }

  /** Undefined when there are none: public objects need none. Throws DENIED when a provider fails. */
  async #find(): Promise<Credentials | undefined> {
    if (this.#options.anonymous) return undefined;
    const known = this.#credentials;
    if (known && (known.expiration?.getTime() ?? Number.POSITIVE_INFINITY) > Date.now() + MARGIN) return known;
    try {
      const late = sleep(PATIENCE, undefined, { ref: false }).then(() => {
        throw new Error(`no answer within ${PATIENCE / 1000} s`);
      });
      this.#credentials = await Promise.race([this.#ask(), late]);
      this.kind = this.#credentials.sessionToken === undefined ? 'an access key' : 'an access key and a session token';
      return this.#credentials;
    } catch (error) {
      const { name, message, tryNextLink } = error as Error & { tryNextLink?: boolean };
      // The end of the chain says that it is final, as a provider that failed does.
      const none = tryNextLink !== false || message.includes('from any providers');
      if (name === 'CredentialsProviderError' && none) {
        this.kind = 'no credentials: none were found in the environment, a profile or the instance';
        return undefined;
      }
      throw new FerryError(`no AWS credentials could be had: ${message}`, {
        code: 'DENIED',
        stage: 'source',
        cause: error,
      });
    }
  }

  async #ask(): Promise<Credentials> {
    const given = this.#options.credentials;
    if (given) return { accessKeyId: given.username, secretAccessKey: given.password };
    const { createCredentialChain, fromEnv, fromIni, fromNodeProviderChain, fromTokenFile } = await import(
      '@aws-sdk/credential-providers'
    );
    // Profiles are read again when they are asked again: what renews them writes to the file.
    const init = { ignoreCache: true, clientConfig: { region: this.region } };
    if (this.#options.instanceMetadata === false) {
      return createCredentialChain(fromEnv(), fromIni(init), fromTokenFile(init))();
    }
    // A machine that is no instance has nothing at the metadata's address: one try, one second.
    return fromNodeProviderChain({ ...init, timeout: 1000, maxRetries: 0 })();
  }
}

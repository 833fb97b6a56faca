import { RegistryAuthorizer } from '../../oci/auth.ts';
import { loginOf } from '../../oci/credentials.ts';
import { ACCEPT, ownPlatform, type Platform, parsePlatform } from '../../oci/manifest.ts';
import { HUB_HOST, parseReference, type Reference } from '../../oci/reference.ts';
import type { Context } from '../context.ts';
import { asFerryError, FerryError } from '../errors.ts';
import type { HttpSpec } from '../http/client.ts';
import type { Source, SourceDriver, SourceOptions } from '../source.ts';
import { openHttp } from './http.ts';
import { type Blobs, openImage } from './image.ts';

export interface RegistrySpec {
  readonly reference: Reference;
  readonly platform: Platform;
  readonly options: SourceOptions;
}

/** An image in a container registry (OCI distribution-spec 1.1): a containerDisk, a path in an image, or an artifact. */
export const registry: SourceDriver<RegistrySpec> = {
  schemes: ['docker'],

  parse(text: string, options: SourceOptions): RegistrySpec {
    const { platform } = options;
    return {
      reference: parseReference(text.slice(text.indexOf('://') + 3)),
      platform: platform === undefined ? ownPlatform() : parsePlatform(platform),
      options,
    };
  },

  async open(spec: RegistrySpec, context: Context): Promise<Source> {
    const { reference, platform, options } = spec;
    const { path } = options;
    const wanted = { reference: reference.digest ?? reference.tag ?? 'latest', platform, ...(path ? { path } : {}) };
    const hosts = [...(options.registry?.mirrors ?? []), reference.registry];
    for (const [n, host] of hosts.entries()) {
      try {
        return await openImage(await blobsOf(host, reference, options, context), wanted, context);
      } catch (thrown) {
        const error = asFerryError(thrown, 'source');
        if (n === hosts.length - 1 || !['IO', 'NOT_FOUND', 'DENIED', 'STALLED'].includes(error.code)) throw error;
        context.log.warn(`the mirror ${host} did not give the image: ${error.message}`);
      }
    }
    throw new FerryError('no registry was asked', { code: 'BAD_SPEC', stage: 'plan' });
  },
};

async function blobsOf(host: string, reference: Reference, options: SourceOptions, context: Context): Promise<Blobs> {
  const environment = options.environment ?? process.env;
  const { repository } = reference;
  const scheme = options.registry?.insecure ? 'http' : 'https';
  const base = URL.parse(`${scheme}://${host === 'docker.io' ? HUB_HOST : host}/`);
  if (!base) throw new FerryError(`${host} is no host of a registry`, { code: 'BAD_SPEC', stage: 'plan' });
  const login = options.anonymous
    ? undefined
    : (options.credentials ?? (await loginOf(host, options.registry?.authfile, environment)));
  const access = { repository, origin: base.origin, login, ca: options.ca, environment, guard: context.guard };
  // One for all: the token of the manifest serves its blobs.
  const authorizer = new RegistryAuthorizer(access);
  const open = (path: string, accept: string): Promise<Source> => {
    const spec: HttpSpec = {
      url: new URL(`/v2/${repository}/${path}`, base),
      headers: options.headers ?? {},
      accept,
      authorizer,
      ...(options.ca === undefined ? {} : { ca: options.ca }),
      insecureRedirects: options.insecureRedirects ?? options.registry?.insecure ?? false,
      environment,
    };
    return openHttp(spec, context);
  };
  return {
    name: `docker://${reference.registry}/${repository}`,
    manifest: (tag) => open(`manifests/${tag}`, ACCEPT),
    blob: ({ digest }) => open(`blobs/${digest}`, '*/*'),
  };
}

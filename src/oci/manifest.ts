import { createHash } from 'node:crypto';
import { FerryError } from '../dataplane/errors.ts';
import { DIGEST } from './reference.ts';

/** Of a manifest or an index in bytes; registries take no larger ones (distribution-spec, "Pushing Manifests"). */
export const MANIFEST_LIMIT = 4 * 1024 * 1024;

/** What is asked for (image-spec media-types.md, and Docker's image manifest version 2, schema 2). */
export const ACCEPT = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.docker.distribution.manifest.v2+json',
].join(', ');

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  /** Bytes. */
  readonly size: number;
  /** `org.opencontainers.image.title` and the like. */
  readonly annotations: Readonly<Record<string, string>>;
}

export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string;
}

export type Manifest =
  | { readonly kind: 'index'; readonly manifests: readonly (Descriptor & { readonly platform?: Platform })[] }
  /** Lowest layer first. */
  | { readonly kind: 'image'; readonly layers: readonly Descriptor[]; readonly config?: Descriptor };

function bad(what: string, code: 'CORRUPT' | 'UNSUPPORTED' = 'CORRUPT'): FerryError {
  return new FerryError(`the registry's manifest ${what}`, { code, stage: 'plan' });
}

/** Throws DIGEST_MISMATCH when `bytes` are not what `digest` names. */
export function verify(bytes: Uint8Array, digest: string): void {
  const [algorithm = ''] = digest.split(':');
  const found = `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`;
  if (found !== digest) {
    throw new FerryError(`the registry's answer hashes to ${found}, ${digest} was asked for`, {
      code: 'DIGEST_MISMATCH',
      stage: 'plan',
    });
  }
}

/** Throws CORRUPT when the text is no manifest, UNSUPPORTED when it is of a kind that has no layers. */
export function parseManifest(text: string): Manifest {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw bad('is not JSON');
  }
  if (typeof parsed !== 'object' || parsed === null) throw bad('is no object');
  const { schemaVersion, manifests, layers, config } = parsed as Record<string, unknown>;
  if (schemaVersion === 1)
    throw bad('is of schema 1, which registries no longer serve: push the image again', 'UNSUPPORTED');
  if (Array.isArray(manifests)) {
    return {
      kind: 'index',
      manifests: manifests.map((one: unknown) => {
        const platform = platformOf((one as { platform?: unknown } | null)?.platform);
        return { ...descriptor(one), ...(platform ? { platform } : {}) };
      }),
    };
  }
  if (!Array.isArray(layers)) throw bad('has neither layers nor manifests', 'UNSUPPORTED');
  return { kind: 'image', layers: layers.map(descriptor), ...(config ? { config: descriptor(config) } : {}) };
}

function descriptor(value: unknown): Descriptor {
  const { mediaType, digest, size, annotations } = (value ?? {}) as Record<string, unknown>;
  if (typeof digest !== 'string' || !DIGEST.test(digest))
    throw bad('names something without a sha256 or sha512 digest');
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) throw bad(`gives ${digest} no size`);
  const notes = Object.entries(typeof annotations === 'object' && annotations !== null ? annotations : {});
  return {
    mediaType: typeof mediaType === 'string' ? mediaType.slice(0, 200) : '',
    digest,
    size,
    annotations: Object.fromEntries(notes.filter((one): one is [string, string] => typeof one[1] === 'string')),
  };
}

function platformOf(value: unknown): Platform | undefined {
  const { os, architecture, variant } = (value ?? {}) as Record<string, unknown>;
  if (typeof os !== 'string' || typeof architecture !== 'string') return undefined;
  return { os, architecture, ...(typeof variant === 'string' ? { variant } : {}) };
}

/** `linux/amd64` or `linux/arm64/v8`. Throws BAD_SPEC. */
export function parsePlatform(text: string): Platform {
  const match = /^([a-z0-9]+)\/([a-z0-9_]+)(?:\/([a-z0-9.]+))?$/.exec(text);
  if (!match) {
    throw new FerryError(`'${text}' is no platform: write linux/amd64`, { code: 'BAD_SPEC', stage: 'plan' });
  }
  const [, os = '', architecture = '', variant] = match;
  return { os, architecture, ...(variant === undefined ? {} : { variant }) };
}

/** That of this machine, by the names that images use (image-spec image-index.md: GOOS and GOARCH). */
export function ownPlatform(): Platform {
  const names: Partial<Record<NodeJS.Architecture, string>> = { x64: 'amd64', ia32: '386' };
  return { os: 'linux', architecture: names[process.arch] ?? process.arch };
}

/** The image of an index for a platform; of an index with one image that image. Throws NOT_FOUND with those there are. */
export function choose(index: Extract<Manifest, { kind: 'index' }>, platform: Platform): Descriptor {
  // Attestations of build tools are no images (their platform is unknown/unknown).
  const images = index.manifests.filter((one) => one.platform?.os !== 'unknown');
  const [only] = images;
  if (only && images.length === 1) return only;
  const fits = images.filter(
    (one) =>
      one.platform?.os === platform.os &&
      one.platform.architecture === platform.architecture &&
      (platform.variant === undefined || one.platform.variant === platform.variant),
  );
  const [found] = fits;
  if (found) return found;
  const show = (one: Platform | undefined): string =>
    one ? [one.os, one.architecture, one.variant].filter(Boolean).join('/') : 'one without a platform';
  throw new FerryError(
    `the image has nothing for ${show(platform)}; it has ${images
      .slice(0, 10)
      .map((one) => show(one.platform))
      .join(', ')}: choose with --platform`,
    { code: 'NOT_FOUND', stage: 'plan' },
  );
}

/** Whether it is the configuration of an image: artifacts have others, of which nothing is known. */
export function isConfiguration({ mediaType }: Descriptor): boolean {
  return /^application\/vnd\.(oci\.image\.config|docker\.container\.image)\.v1\+json$/.test(mediaType);
}

/** Whether a layer is a file system's, packed with tar; others (of artifacts) are what they hold. */
export function isArchive({ mediaType }: Descriptor): boolean {
  return /\btar\b/.test(mediaType.replace(/[.+]/g, ' ')) || /rootfs\.diff/.test(mediaType);
}

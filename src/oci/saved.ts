import { FerryError } from '../dataplane/errors.ts';

/** An image as `docker save` lists it (moby's image spec v1.2, "Combined Image JSON + Filesystem Changeset Format"). */
export interface Saved {
  /** `repository:tag`. */
  readonly names: readonly string[];
  /** Paths of its configuration, and of its layers, the lowest first. */
  readonly config: string;
  readonly layers: readonly string[];
}

/** The same as other images are described. */
export interface SavedImage {
  /** Text of a manifest. */
  readonly manifest: string;
  /** Digest → path in the archive. */
  readonly layers: ReadonlyMap<string, string>;
}

const bad = (what: string): FerryError =>
  new FerryError(`the archive's list of images ${what}`, { code: 'CORRUPT', stage: 'plan' });

/** Reads `manifest.json`. Throws CORRUPT. */
export function savedImages(text: string): Saved[] {
  const list = parsed(text, 'is not JSON');
  if (!Array.isArray(list)) throw bad('is no list');
  const strings = (value: unknown): readonly string[] => {
    const all: unknown[] = Array.isArray(value) ? value : [];
    return all.filter((one): one is string => typeof one === 'string');
  };
  return list.map((one: unknown) => {
    const { Config: config, RepoTags, Layers } = (one ?? {}) as Record<string, unknown>;
    if (typeof config !== 'string') throw bad('names no configuration');
    return { names: strings(RepoTags), config, layers: strings(Layers) };
  });
}

/** The manifest of an image, made from what `docker save` leaves. `sizes`: path → bytes. Throws CORRUPT. */
export function savedManifest({ layers }: Saved, config: string, sizes: ReadonlyMap<string, number>): SavedImage {
  const { rootfs } = (parsed(config, 'has a configuration that is not JSON') ?? {}) as {
    rootfs?: { diff_ids?: unknown };
  };
  const ids: readonly unknown[] = Array.isArray(rootfs?.diff_ids) ? rootfs.diff_ids : [];
  const paths = new Map<string, string>();
  const described = layers.map((path, n) => {
    const digest = digestOf(path, ids.length === layers.length ? ids[n] : undefined);
    paths.set(digest, path);
    return { mediaType: 'application/vnd.docker.image.rootfs.diff.tar', digest, size: sizes.get(path) ?? 0 };
  });
  return { manifest: JSON.stringify({ schemaVersion: 2, layers: described }), layers: paths };
}

/**
 * A layer's digest is its name where it lies among blobs; else the configuration has that of the plain tar which it is, and
 * skopeo calls it by the same. Throws CORRUPT.
 */
function digestOf(path: string, id: unknown): string {
  const [, algorithm, blob] = /(?:^|\/)blobs\/(sha256|sha512)\/([0-9a-f]+)$/.exec(path) ?? [];
  if (blob !== undefined) return `${algorithm}:${blob}`;
  const [, name] = /^([0-9a-f]{64})\.tar$/.exec(path) ?? [];
  if (id === undefined && name === undefined) throw bad(`has no digest for its layer ${path.slice(0, 200)}`);
  return id === undefined ? `sha256:${name}` : String(id);
}

function parsed(text: string, otherwise: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw bad(otherwise);
  }
}

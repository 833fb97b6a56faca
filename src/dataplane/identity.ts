import { formatDigest } from './digests.ts';
import type { Digest, Source } from './source.ts';

/** What a checkpoint says of the source it belongs to. Holds no userinfo, no query, no secret. */
export interface Identity {
  readonly name: string;
  readonly validator?: string;
  readonly length?: number;
  /** The digest that was demanded or promised, as `sha256:<hex>`. */
  readonly digest?: string;
  /** --size, --path, --disk, --source-format and the kind of file that is written, since with others it is something else. */
  readonly size?: number;
  readonly path?: string;
  readonly disk?: string;
  readonly format?: string;
  readonly output?: string;
  /** State that the disk was in, where it has a name. */
  readonly state?: string;
  /** State of the disk that only the changes since are carried of. */
  readonly changedSince?: string;
}

export function identityOf(
  source: Source,
  digest: Digest | undefined,
  { size, path, disk, format, output }: Pick<Identity, 'size' | 'path' | 'disk' | 'format' | 'output'>,
): Identity {
  const { validator, length, state, changedSince } = source.facts;
  return {
    name: source.name,
    ...(validator === undefined ? {} : { validator }),
    ...(length === undefined ? {} : { length }),
    ...(digest === undefined ? {} : { digest: formatDigest(digest) }),
    ...(size === undefined ? {} : { size }),
    ...(path === undefined ? {} : { path }),
    ...(disk === undefined ? {} : { disk }),
    ...(format === undefined ? {} : { format }),
    ...(output === undefined ? {} : { output }),
    ...(state === undefined ? {} : { state }),
    ...(changedSince === undefined ? {} : { changedSince }),
  };
}

/** `same`: go on. `changed`: the same place holds something else now. `other`: another source. */
export type Likeness = 'same' | 'changed' | 'other';

export function compareIdentity(found: Identity, mine: Identity): Likeness {
  const sameDisk =
    found.size === mine.size &&
    found.path === mine.path &&
    found.disk === mine.disk &&
    found.format === mine.format &&
    found.output === mine.output &&
    found.changedSince === mine.changedSince;
  // With a digest, digest and length are enough: another mirror may go on.
  if (
    mine.digest !== undefined &&
    /^sha(256|512):/.test(mine.digest) &&
    found.digest === mine.digest &&
    found.length === mine.length
  ) {
    return sameDisk ? 'same' : 'changed';
  }
  if (found.name !== mine.name) return 'other';
  const same = found.validator === mine.validator && found.length === mine.length && found.digest === mine.digest;
  return same && sameDisk ? 'same' : 'changed';
}

/** Undefined when the text is not an identity, as after a cut in the last step of finishing. */
export function parseIdentity(text: string): Identity | undefined {
  try {
    const parsed: unknown = JSON.parse(text);
    return typeof parsed === 'object' && parsed !== null && 'name' in parsed ? (parsed as Identity) : undefined;
  } catch {
    return undefined;
  }
}

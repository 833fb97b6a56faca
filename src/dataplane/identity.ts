import type { Digest, Source } from './source.ts';

/** What a checkpoint says of the source it belongs to. Holds no userinfo, no query, no secret. */
export interface Identity {
  readonly name: string;
  readonly validator?: string;
  readonly length?: number;
  /** The digest that was demanded, as `sha256:<hex>`. */
  readonly digest?: string;
  /** --size, since another size is another disk. */
  readonly size?: number;
}

export function identityOf(source: Source, digest: Digest | undefined, size: number | undefined): Identity {
  const { validator, length } = source.facts;
  return {
    name: source.name,
    ...(validator === undefined ? {} : { validator }),
    ...(length === undefined ? {} : { length }),
    ...(digest === undefined ? {} : { digest: `${digest.algorithm}:${digest.hex}` }),
    ...(size === undefined ? {} : { size }),
  };
}

/** `same`: go on. `changed`: the same place holds something else now. `other`: another source. */
export type Likeness = 'same' | 'changed' | 'other';

export function compareIdentity(found: Identity, mine: Identity): Likeness {
  const sameSize = found.size === mine.size;
  // With a digest, digest and length are enough: another mirror may go on.
  if (mine.digest !== undefined && found.digest === mine.digest && found.length === mine.length) {
    return sameSize ? 'same' : 'changed';
  }
  if (found.name !== mine.name) return 'other';
  const same = found.validator === mine.validator && found.length === mine.length && found.digest === mine.digest;
  return same && sameSize ? 'same' : 'changed';
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

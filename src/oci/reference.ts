import { FerryError } from '../dataplane/errors.ts';

/** An image in a registry (distribution/reference, "Grammar"). */
export interface Reference {
  /** Host, with its port where it has one. */
  readonly registry: string;
  readonly repository: string;
  readonly tag?: string;
  /** `sha256:<hex>`; wins over the tag. */
  readonly digest?: string;
}

/** Where Docker's own images are: known by one name, asked by another. */
const HUB = 'docker.io';
export const HUB_HOST = 'registry-1.docker.io';

const COMPONENT = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const TAG = /^\w[\w.-]{0,127}$/;
export const DIGEST = /^sha256:[0-9a-f]{64}$|^sha512:[0-9a-f]{128}$/;

/** `[registry/]repository[:tag][@digest]`, as `docker pull` reads it. Throws BAD_SPEC. */
export function parseReference(text: string): Reference {
  const bad = (what: string): FerryError =>
    new FerryError(`'${text.slice(0, 200)}' is no image in a registry: ${what}`, { code: 'BAD_SPEC', stage: 'plan' });
  const at = text.indexOf('@');
  const digest = at < 0 ? undefined : text.slice(at + 1);
  if (digest !== undefined && !DIGEST.test(digest)) throw bad('what follows the @ is no sha256 or sha512 digest');
  let name = at < 0 ? text : text.slice(0, at);
  const colon = name.lastIndexOf(':');
  let tag: string | undefined;
  if (colon > name.lastIndexOf('/')) {
    tag = name.slice(colon + 1);
    name = name.slice(0, colon);
    if (!TAG.test(tag)) throw bad('what follows the last colon is no tag');
  }
  const slash = name.indexOf('/');
  const first = slash < 0 ? '' : name.slice(0, slash);
  // A first part that could not be one of a repository is a host.
  const hosted = /[.:]/.test(first) || first === 'localhost' || first !== first.toLowerCase();
  const registry = hosted ? first : HUB;
  if (hosted && !/^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?$/.test(first)) throw bad('its registry is no host');
  let repository = hosted ? name.slice(slash + 1) : name;
  if (registry === HUB && !repository.includes('/')) repository = `library/${repository}`;
  if (!repository.split('/').every((part) => COMPONENT.test(part))) {
    throw bad('write docker://registry.example.org/path/name:tag');
  }
  return {
    registry,
    repository,
    ...(digest === undefined ? { tag: tag ?? 'latest' } : { digest, ...(tag === undefined ? {} : { tag }) }),
  };
}

/** As people know it. */
export function formatReference({ registry, repository, tag, digest }: Reference): string {
  return `${registry}/${repository}${digest === undefined ? `:${tag}` : `@${digest}`}`;
}

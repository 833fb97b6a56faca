import type { Log } from '../dataplane/context.ts';
import { digestFromList } from '../dataplane/digest-list.ts';
import { parseDigest } from '../dataplane/digests.ts';
import { FerryError } from '../dataplane/errors.ts';
import type { Digest, SourceOptions } from '../dataplane/source.ts';

/** The digest that `--digest` or `--digests` demands of the source. Throws BAD_SPEC when they cannot be understood. */
export async function digestFromOptions(
  flags: { readonly source: string; readonly digest?: string; readonly digests?: string },
  options: SourceOptions,
  signal: AbortSignal,
  log: Log,
): Promise<Digest | undefined> {
  const { source, digest, digests } = flags;
  if (digest !== undefined && digests !== undefined) {
    throw new FerryError('--digest and --digests are given both: one says what the other looks up', {
      code: 'BAD_SPEC',
      stage: 'plan',
    });
  }
  if (digest !== undefined) return parseDigest(digest);
  if (digests === undefined) return undefined;
  return digestFromList(digests, fileName(source), options, signal, log);
}

/** The name that a list of digests knows a source by: the last part of its path, without query. */
export function fileName(source: string): string {
  if (source === '-') {
    throw new FerryError('standard input has no name that --digests could look up: give --digest sha256:<hex>', {
      code: 'BAD_SPEC',
      stage: 'plan',
    });
  }
  const path = /^https?:/i.test(source) && URL.canParse(source) ? decodeURIComponent(new URL(source).pathname) : source;
  return path.slice(path.lastIndexOf('/') + 1);
}

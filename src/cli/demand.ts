import { type Context, DEFAULT_LIMITS, type Log } from '../dataplane/context.ts';
import { LIST_LIMIT, parseDigest, pickDigest } from '../dataplane/digests.ts';
import { FerryError } from '../dataplane/errors.ts';
import type { Digest, SourceOptions } from '../dataplane/source.ts';
import { openSource } from '../dataplane/sources/index.ts';

function usage(message: string): FerryError {
  return new FerryError(message, { code: 'BAD_SPEC', stage: 'plan' });
}

/**
 * The digest that `--digest` or `--digests` demands of the source. Throws BAD_SPEC when they cannot be understood or the
 * list does not have the source's name, and whatever reading the list throws.
 */
export async function digestFromOptions(
  flags: { readonly source: string; readonly digest?: string; readonly digests?: string },
  options: SourceOptions,
  signal: AbortSignal,
  log: Log,
): Promise<Digest | undefined> {
  const { source, digest, digests } = flags;
  if (digest !== undefined && digests !== undefined) {
    throw usage('--digest and --digests are given both: one says what the other looks up');
  }
  if (digest !== undefined) return parseDigest(digest);
  if (digests === undefined) return undefined;
  const name = fileName(source);
  return pickDigest(await readList(digests, optionsFor(digests, source, options), signal, log), name);
}

/** The name that a list of digests knows a source by: the last part of its path, without query. Throws BAD_SPEC. */
export function fileName(source: string): string {
  if (source === '-') {
    throw usage('standard input has no name that --digests could look up: give --digest sha256:<hex>');
  }
  if (/^(blank|exec):/i.test(source)) {
    throw usage(
      `${source.slice(0, source.indexOf(':') + 1)} has no name that --digests could look up: give --digest sha256:<hex>`,
    );
  }
  const path = URL.canParse(source) ? decoded(new URL(source).pathname) : source;
  const name = path.slice(path.lastIndexOf('/') + 1);
  if (name === '') throw usage(`${path} names no file that --digests could look up: give --digest sha256:<hex>`);
  return name;
}

/** What a URL's path says; as it is where its percent signs encode nothing. */
function decoded(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

/** Headers and credentials are for the source's own server: another that holds the list gets neither. */
export function optionsFor(list: string, source: string, options: SourceOptions): SourceOptions {
  const origin = (text: string) => (URL.canParse(text) ? new URL(text).origin : undefined);
  if (origin(list) === origin(source)) return options;
  const { headers: _headers, credentials: _credentials, ...others } = options;
  return others;
}

async function readList(place: string, options: SourceOptions, signal: AbortSignal, log: Log): Promise<string> {
  if (place === '-') throw usage('--digests takes a file or a URL, not standard input');
  const context: Context = { signal, log, limits: DEFAULT_LIMITS, counters: { received: 0, retries: 0, opened: 0 } };
  await using list = await openSource(place, options, context);
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const batch of list.read({ from: 0 }, signal)) {
    for (const chunk of batch) {
      length += chunk.length;
      if (length > LIST_LIMIT)
        throw usage(`${list.name} has more than ${LIST_LIMIT} bytes: that is no list of digests`);
      chunks.push(chunk);
    }
  }
  return Buffer.concat(chunks).toString('utf8');
}

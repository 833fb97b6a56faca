import type { Context, Log } from './context.ts';
import { DEFAULT_LIMITS } from './context.ts';
import { LIST_LIMIT, pickDigest } from './digests.ts';
import { FerryError } from './errors.ts';
import type { Digest, SourceOptions } from './source.ts';
import { openSource } from './sources/index.ts';
import { stackFilters } from './stack.ts';

/** Fetches a list such as SHA256SUMS (a URL or a path, at most 4 MiB) and picks the digest of `name`. */
export async function digestFromList(
  list: string,
  name: string,
  options: SourceOptions,
  signal: AbortSignal,
  log: Log,
): Promise<Digest> {
  const context: Context = { signal, log, limits: DEFAULT_LIMITS, counters: { received: 0, retries: 0, opened: 0 } };
  await using opened = await openSource(list, options, context);
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const batch of stackFilters(opened, context).read({ from: 0 }, signal)) {
    for (const chunk of batch) {
      bytes += chunk.length;
      chunks.push(chunk);
    }
    if (bytes > LIST_LIMIT) {
      throw new FerryError(`${opened.name} has more than ${LIST_LIMIT} bytes, too many for a list of digests`, {
        code: 'TOO_LARGE',
        stage: 'plan',
      });
    }
  }
  return pickDigest(Buffer.concat(chunks).toString('utf8'), name);
}

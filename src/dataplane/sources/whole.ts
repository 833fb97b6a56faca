import { FerryError } from '../errors.ts';
import type { Source } from '../source.ts';

/** All of a source that is short. Throws TOO_LARGE when it has more than `limit` bytes, naming it as `what`. */
export async function whole(source: Source, limit: number, what: string, signal: AbortSignal): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const batch of source.read({ from: 0 }, signal)) {
    for (const chunk of batch) {
      length += chunk.length;
      parts.push(chunk);
    }
    if (length > limit) {
      throw new FerryError(`${what} of ${source.name} is longer than ${limit} bytes`, {
        code: 'TOO_LARGE',
        stage: 'plan',
      });
    }
  }
  return Buffer.concat(parts);
}

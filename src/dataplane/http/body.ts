import { FerryError } from '../errors.ts';
import type { Answer } from './exchange.ts';

/** A body of at most `limit` bytes as text. Throws UNSUPPORTED when it is longer. */
export async function textOf(answer: Answer, limit: number): Promise<string> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for (let batch = await answer.next(); batch; batch = await answer.next()) {
    for (const chunk of batch) {
      length += chunk.length;
      parts.push(chunk);
    }
    if (length > limit) {
      answer.destroy();
      throw new FerryError(`the answer is longer than ${limit} bytes`, { code: 'UNSUPPORTED', stage: 'source' });
    }
  }
  return Buffer.concat(parts).toString('utf8');
}

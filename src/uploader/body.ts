import type { IncomingMessage } from 'node:http';
import { FerryError } from '../dataplane/errors.ts';

/** A body as it comes. STALLED when its sender is silent for `stall` milliseconds while more is wanted; it is closed then. */
export async function* chunks(body: IncomingMessage, stall: number): AsyncGenerator<Buffer> {
  const silent = (): void => {
    const message = `nothing was sent for ${Math.round(stall / 1000)} s`;
    body.destroy(new FerryError(message, { code: 'STALLED', stage: 'source' }));
  };
  let timer = setTimeout(silent, stall);
  try {
    for await (const chunk of body) {
      clearTimeout(timer);
      yield chunk as Buffer;
      timer = setTimeout(silent, stall);
    }
  } finally {
    clearTimeout(timer);
  }
}

/** All of a body that has at most `most` bytes. TOO_LARGE, STALLED. */
export async function whole(body: IncomingMessage, most: number, stall: number): Promise<Buffer> {
  const all: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of chunks(body, stall)) {
    bytes += chunk.length;
    if (bytes > most) {
      throw new FerryError(`the body has more than the ${most} bytes that it may have`, {
        code: 'TOO_LARGE',
        stage: 'plan',
      });
    }
    all.push(chunk);
  }
  return Buffer.concat(all);
}

/** A body that is JSON, whatever its type says, since `curl -d` says that it is a form. BAD_SPEC, and as [`whole`]. */
export async function json(body: IncomingMessage, most: number, stall: number): Promise<unknown> {
  const bytes = await whole(body, most, stall);
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    throw new FerryError('the body is no JSON', { code: 'BAD_SPEC', stage: 'plan' });
  }
}

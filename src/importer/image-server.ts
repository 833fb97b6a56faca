import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, request } from 'undici';
import { FerryError } from '../dataplane/errors.ts';
import { labelsOfVariables } from '../oci/labels.ts';

/** The server in this pod of the disk of an image that the node has pulled (native/imageserver). */
export interface ImageServer {
  /** `http://127.0.0.1:8100` */
  readonly origin: string;
  /** Is there as soon as it serves. */
  readonly ready: string;
}

/** Milliseconds: the node may still pull the image, where it is told to start the importer first. */
const PATIENCE = 10 * 60_000;
const LOOK = 250;
const ANSWER = 5000;
/** Bytes: the environment of an image is far below. */
const LONGEST = 4 * 1024 * 1024;

/**
 * Waits until it serves, also again after it was killed. Gives the labels that the image asks for. Throws STALLED after ten
 * minutes, and the reason of an abort.
 */
export async function labelsServed(
  { origin, ready }: ImageServer,
  signal: AbortSignal,
): Promise<Record<string, string>> {
  // Not by a proxy, whatever the environment says.
  const agent = new Agent();
  let last = `there is no ${ready}`;
  try {
    for (const until = Date.now() + PATIENCE; Date.now() < until; await sleep(LOOK)) {
      if (signal.aborted) throw signal.reason;
      if (!existsSync(ready)) continue;
      const info = await infoOf(agent, origin).catch((error: Error) => error);
      if (!(info instanceof Error)) return labelsOfVariables((info as { env?: unknown } | null)?.env);
      last = info.message;
    }
  } finally {
    await agent.destroy();
  }
  const within = `not served within ${PATIENCE / 1000} s: ${last}`;
  throw new FerryError(`the disk of the image is ${within}; the log of the container server of this pod says why`, {
    code: 'STALLED',
    stage: 'source',
  });
}

async function infoOf(dispatcher: Agent, origin: string): Promise<unknown> {
  const { statusCode, headers, body } = await request(`${origin}/info`, {
    dispatcher,
    signal: AbortSignal.timeout(ANSWER),
  });
  const length = Number(headers['content-length']);
  if (statusCode === 200 && length <= LONGEST) return body.json();
  body.destroy();
  throw new Error(`${origin}/info answered ${statusCode} with ${length} bytes`);
}

import { IncomingMessage, type ServerResponse } from 'node:http';
import type { Log } from '../dataplane/context.ts';
import type { Code } from '../dataplane/errors.ts';
import { shownPath } from './access.ts';

/** nginx's status of a request whose client went before it was answered (its access logs have it as this). */
const GONE = 499;
/** Bytes of a body from which its rate is told: smaller ones are over in a packet or two. */
const RATED = 1024 * 1024;

/** Lines on standard error; those of `info` only where somebody wants to read much. */
export function logOf(verbose: boolean): Log {
  const line = (message: string, fields: Readonly<Record<string, unknown>> = {}): void => {
    const details = Object.entries(fields).map(
      ([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`,
    );
    process.stderr.write(`${new Date().toISOString()} ${[message, ...details].join(' ')}\n`);
  };
  return { info: (message, fields) => verbose && line(message, fields), warn: line };
}

/** A request that knows how much of its body was read: a connection carries several, one after the other. */
export class Counted extends IncomingMessage {
  /** Of the body, without what frames its chunks. */
  bytes = 0;
  /** Pattern of the route that it came to. */
  route: string | undefined;
  /** It was answered past its response, whose end may come much later. */
  answered: () => void = () => undefined;
  /** Why it was refused, and when (performance.now). */
  refused: { readonly code: Code; readonly at: number } | undefined;

  /** Its client may take a while to read why: that is not counted. */
  refuse(code: Code): void {
    this.refused = { code, at: performance.now() };
  }

  /** What the parser calls with all that it takes of the connection. */
  override push(chunk: unknown, encoding?: BufferEncoding): boolean {
    if (chunk instanceof Uint8Array) this.bytes += chunk.length;
    return super.push(chunk, encoding);
  }
}

/** A request that is over. */
export interface Over {
  readonly method: string;
  readonly route: string | undefined;
  readonly status: number;
  readonly seconds: number;
}

/** Writes the line of a request, once, when it is over: answered and sent, or its connection gone. `then` is told too. */
export function logged(
  request: Counted,
  response: ServerResponse,
  log: Log,
  then: (over: Over) => void = () => undefined,
): void {
  const began = performance.now();
  let told = false;
  const tell = (): void => {
    if (told) return;
    told = true;
    const { method = '', url = '', bytes, route, refused } = request;
    // What is refused may be answered past the response (dismiss.ts).
    const status = response.headersSent || refused !== undefined ? response.statusCode : GONE;
    const seconds = ((refused?.at ?? performance.now()) - began) / 1000;
    log.info(`${method} ${shownPath(url)}`, {
      status,
      seconds: Math.round(seconds * 1000) / 1000,
      read: bytes,
      ...(bytes < RATED ? {} : { rate: Math.round(bytes / seconds) }),
      ...(refused === undefined ? {} : { outcome: refused.code }),
    });
    then({ method, route, status, seconds });
  };
  request.answered = tell;
  response.once('close', tell);
}

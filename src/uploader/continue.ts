import type { IncomingMessage, RequestListener, Server, ServerResponse } from 'node:http';

/**
 * Bytes of a body that are read while nobody takes it, beyond which reading stops: less than what is read at once (64 KiB, libuv),
 * so one read alone waits where it is not known yet whether the image can be taken.
 */
export const AHEAD = 32 * 1024;

const waiting = new WeakSet<IncomingMessage>();

/**
 * Hands requests with `Expect: 100-continue` on like all others, but for the answer that they wait for: Node would give it
 * before anybody has looked at them, and the body would be sent whatever comes of it (RFC 9110 section 10.1.1).
 */
export function holdBack<R extends typeof IncomingMessage>(server: Server<R>, handler: RequestListener<R>): void {
  server.on('checkContinue', (request, response) => {
    waiting.add(request);
    handler(request, response);
  });
}

/** The body may be sent. */
export function letSend(request: IncomingMessage, response: ServerResponse): void {
  if (waiting.delete(request)) response.writeContinue();
}

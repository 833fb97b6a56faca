import { createServer } from 'node:http';
import { type Listening, listen } from './listen.ts';

/** What is asked by the kubelet. */
export interface Health {
  /** Whether everything was seen that decisions rest on; also of one that waits for its turn to act. */
  readonly isReady: () => boolean;
}

/**
 * Answers `/healthz` as long as the event loop turns, and `/readyz` when it may act. Without TLS and without a login: it says
 * nothing but that.
 */
export function serveHealth(port: number, { isReady }: Health): Promise<Listening> {
  const server = createServer((request, response) => {
    const path = request.url?.split('?')[0];
    const [status, text] =
      path === '/healthz'
        ? [200, 'ok']
        : path === '/readyz'
          ? isReady()
            ? [200, 'ok']
            : [503, 'not ready']
          : [404, 'not found'];
    response.writeHead(status as number, { 'content-type': 'text/plain', connection: 'close' }).end(`${text}\n`);
  });
  return listen(server, port);
}

import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import { Agent, request as ask } from 'node:https';
import type { SecureContextOptions } from 'node:tls';
import { FerryError } from '../../dataplane/errors.ts';
import { letSend } from '../continue.ts';
import { dismiss, isUnread } from '../dismiss.ts';

/** Milliseconds to reach the pod. */
const CONNECT = 10_000;
/** Milliseconds of silence after which the kernel asks whether the other side is still there. */
const ALIVE = 30_000;
/** Bytes of an answer that are passed on: a pod's is a sentence. */
const LONGEST_ANSWER = 64 * 1024;

/** Of one connection alone (RFC 9110 section 7.6.1), and what is not the pod's: our name, and the token. */
const OURS = new Set([
  ...['connection', 'keep-alive', 'proxy-connection', 'proxy-authenticate', 'proxy-authorization'],
  ...['te', 'trailer', 'transfer-encoding', 'upgrade', 'host', 'authorization', 'cookie'],
]);

/**
 * Passes a request on and its answer back, as they come: nothing waits here but what the sockets hold. The body is asked of the
 * client when the pod asks for it, and not before. IO, retryable, where the pod cannot be reached or goes before it answers;
 * ABORTED where the client goes.
 */
export async function forward(
  request: IncomingMessage,
  response: ServerResponse,
  url: URL,
  certificates: SecureContextOptions,
  headers: Readonly<Record<string, string>>,
): Promise<void> {
  // One connection for one request: certificates are renewed, and a pod takes one upload.
  const agent = new Agent({ keepAlive: false });
  const upstream = ask(url, {
    ...certificates,
    agent,
    method: request.method ?? 'GET',
    headers: { ...passed(request.headers), 'user-agent': request.headers['user-agent'] ?? 'diskferry uploadproxy' },
  });
  const late = setTimeout(() => upstream.destroy(new Error(`no connection within ${CONNECT / 1000} s`)), CONNECT);
  request.socket.setKeepAlive(true, ALIVE);
  try {
    const answer = await new Promise<IncomingMessage>((resolve, reject) => {
      // Also after its answer: the pod parts while we still write to it, and that is no failure of ours.
      upstream.on('error', reject).once('response', resolve);
      upstream.once('socket', (socket) => {
        socket.setKeepAlive(true, ALIVE).setNoDelay(true);
        socket.once('secureConnect', () => clearTimeout(late));
      });
      const begin = (): void => {
        letSend(request, response);
        request.pipe(upstream);
      };
      if (request.headers.expect === undefined) begin();
      else upstream.once('continue', begin);
      response.once('close', () => {
        if (response.writableFinished) return;
        const gone = new FerryError('the client went before it was answered', { code: 'ABORTED', stage: 'source' });
        upstream.destroy(gone);
        reject(gone);
      });
    });
    const status = answer.statusCode ?? 502;
    const text = await all(answer);
    const more = { ...headers, ...typed(answer.headers) };
    if (isUnread(request)) dismiss(response, status, more, text);
    else response.writeHead(status, more).end(request.method === 'HEAD' ? '' : text);
  } catch (thrown) {
    if (thrown instanceof FerryError) throw thrown;
    const message = `the upload pod ${url.host}: ${(thrown as Error).message}`;
    throw new FerryError(message, { code: 'IO', stage: 'target', retryable: true, cause: thrown });
  } finally {
    clearTimeout(late);
    upstream.destroy();
    agent.destroy();
  }
}

function passed(headers: IncomingHttpHeaders): Record<string, string | string[]> {
  const named = new Set((headers.connection ?? '').split(',').map((name) => name.trim().toLowerCase()));
  const kept = Object.entries(headers).filter(([name]) => !OURS.has(name) && !named.has(name));
  // A body without a length comes in chunks here too.
  const chunked = headers['transfer-encoding'] === undefined ? {} : { 'transfer-encoding': 'chunked' };
  return { ...(Object.fromEntries(kept) as Record<string, string | string[]>), ...chunked };
}

function typed({ 'content-type': type, 'retry-after': wait }: IncomingHttpHeaders): Record<string, string> {
  return {
    ...(type === undefined ? {} : { 'content-type': type }),
    ...(wait === undefined ? {} : { 'retry-after': wait }),
  };
}

async function all(answer: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of answer) {
    bytes += (chunk as Buffer).length;
    if (bytes <= LONGEST_ANSWER) chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks).toString('utf8');
}

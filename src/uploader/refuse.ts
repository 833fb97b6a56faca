import { STATUS_CODES } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Log } from '../dataplane/context.ts';
import { shownPath } from './access.ts';
import { answerOf } from './answers.ts';

/** Milliseconds that a client may take to read why it was refused. */
const LINGER = 5000;

/**
 * Answers that a request is refused, and ends its connection without reading what else is sent. It is closed for writing
 * first: a connection that is closed while bytes of the client are unread is reset, and the client never learns why (RFC 9112
 * section 9.6).
 */
export function refuse(request: FastifyRequest, reply: FastifyReply, thrown: unknown, log: Log): void {
  const { status, body, error } = answerOf(thrown);
  const headers: Record<string, string> = {
    ...(status === 401 ? { 'www-authenticate': 'Basic realm="diskferry", charset="UTF-8"' } : {}),
    ...(error.retryAfter === undefined ? {} : { 'retry-after': String(error.retryAfter) }),
  };
  const unread = request.raw.headers['content-length'] !== '0' && !request.raw.readableEnded && hasBody(request);
  if (!unread || reply.raw.headersSent) {
    void reply.code(status).headers(headers).send(body);
    return;
  }
  const { socket } = request.raw;
  reply.hijack();
  request.raw.pause();
  const text = `${JSON.stringify(body)}\n`;
  const lines = Object.entries({
    ...headers,
    'content-type': 'application/json; charset=utf-8',
    'content-length': String(Buffer.byteLength(text)),
    connection: 'close',
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n${text}`);
  const late = setTimeout(() => socket.destroy(), LINGER);
  socket.once('close', () => {
    clearTimeout(late);
    log.info(`${request.method} ${shownPath(request.url)} was refused`, { status, read: socket.bytesRead });
  });
}

function hasBody({ headers }: FastifyRequest): boolean {
  return headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined;
}

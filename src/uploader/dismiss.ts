import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http';
import { Counted } from './log.ts';

/** Milliseconds that a client may take to read why it was refused. */
const LINGER = 5000;

/** Whether the client of a request may have more of its body to send. */
export function isUnread({ headers, readableEnded }: IncomingMessage): boolean {
  const body = headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';
  return body && !readableEnded;
}

/**
 * Answers a request whose body is not read any further, and ends its connection. It is closed for writing first: a connection
 * that is closed while bytes of the client are unread is reset, and the client never learns why (RFC 9112 section 9.6).
 * Nothing may have been written of the answer.
 */
export function dismiss(
  response: ServerResponse,
  status: number,
  headers: Readonly<Record<string, string>>,
  text: string,
): void {
  const { req: request } = response;
  const { socket } = request;
  // Nothing is sent by it: the log asks it.
  response.statusCode = status;
  request.unpipe();
  request.pause();
  const lines = Object.entries({
    ...headers,
    'content-length': String(Buffer.byteLength(text)),
    connection: 'close',
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n${lines.join('')}\r\n${text}`, () => {
    if (request instanceof Counted) request.answered();
  });
  const late = setTimeout(() => socket.destroy(), LINGER);
  socket.once('close', () => clearTimeout(late));
}

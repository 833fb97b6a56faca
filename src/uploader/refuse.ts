import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Log } from '../dataplane/context.ts';
import { shownPath } from './access.ts';
import { answerOf } from './answers.ts';
import { dismiss, isUnread } from './dismiss.ts';

/** Answers that a request is refused, and ends its connection without reading what else is sent. */
export function refuse(request: FastifyRequest, reply: FastifyReply, thrown: unknown, log: Log): void {
  const { status, body, error } = answerOf(thrown);
  const headers: Record<string, string> = {
    ...(status === 401 ? { 'www-authenticate': 'Basic realm="diskferry", charset="UTF-8"' } : {}),
    ...(error.retryAfter === undefined ? {} : { 'retry-after': String(error.retryAfter) }),
  };
  if (!isUnread(request.raw) || reply.raw.headersSent) {
    void reply.code(status).headers(headers).send(body);
    return;
  }
  reply.hijack();
  const { socket } = request.raw;
  const type = { 'content-type': 'application/json; charset=utf-8' };
  dismiss(request.raw, status, { ...headers, ...type }, `${JSON.stringify(body)}\n`, () => {
    log.info(`${request.method} ${shownPath(request.url)} was refused`, { status, read: socket.bytesRead });
  });
}

import type { FastifyReply, FastifyRequest } from 'fastify';
import { answerOf } from './answers.ts';
import { dismiss, isUnread } from './dismiss.ts';
import type { Counted } from './log.ts';

/** Answers that a request is refused, and ends its connection without reading what else is sent. */
export function refuse(request: FastifyRequest, reply: FastifyReply, thrown: unknown): void {
  const { status, body, error } = answerOf(thrown);
  (request.raw as Counted).refuse(error.code);
  const headers: Record<string, string> = {
    ...(status === 401 ? { 'www-authenticate': 'Basic realm="diskferry", charset="UTF-8"' } : {}),
    ...(error.retryAfter === undefined ? {} : { 'retry-after': String(error.retryAfter) }),
  };
  if (!isUnread(request.raw) || reply.raw.headersSent) {
    void reply.code(status).headers(headers).send(body);
    return;
  }
  reply.hijack();
  const type = { 'content-type': 'application/json; charset=utf-8' };
  dismiss(reply.raw, status, { ...headers, ...type }, `${JSON.stringify(body)}\n`);
}

import type { Code } from '../dataplane/errors.ts';
import { asFerryError, type FerryError } from '../dataplane/errors.ts';

/** Status of an answer for each code (RFC 9110 section 15; 507: RFC 4918 section 11.5). */
const STATUS: Readonly<Record<Code, number>> = {
  BAD_SPEC: 400,
  DENIED: 403,
  NOT_FOUND: 404,
  STALLED: 408,
  CHANGED: 409,
  BUSY: 409,
  TOO_LARGE: 413,
  UNSUPPORTED: 415,
  UNSAFE: 415,
  ENCRYPTED: 415,
  NEEDS_SCRATCH: 415,
  TRUNCATED: 422,
  CORRUPT: 422,
  DIGEST_MISMATCH: 422,
  NO_SPACE: 507,
  IO: 500,
  ABORTED: 503,
};

export function statusOf(error: FerryError): number {
  // No password or another one: what is asked for is a right one.
  if (error.code === 'DENIED' && error.stage === 'plan') return 401;
  // To be tried again soon: not because of what was asked for.
  return error.code === 'BUSY' && error.retryAfter !== undefined ? 503 : STATUS[error.code];
}

/** What clients are told of an error: `{"error": {code, stage, message, retryable}}`. */
export function answerOf(thrown: unknown): {
  readonly status: number;
  readonly error: FerryError;
  readonly body: object;
} {
  const error = asFerryError(thrown, 'target');
  const { code, stage, message, retryable } = error;
  return { status: statusOf(error), error, body: { error: { code, stage, message, retryable } } };
}

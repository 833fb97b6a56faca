/** What went wrong. Part of the public contract: see docs/errors.md for the exit code of each. */
export const CODES = [
  'BAD_SPEC',
  'NOT_FOUND',
  'DENIED',
  'CHANGED',
  'TRUNCATED',
  'CORRUPT',
  'UNSAFE',
  'ENCRYPTED',
  'UNSUPPORTED',
  'TOO_LARGE',
  'NO_SPACE',
  'BUSY',
  'STALLED',
  'NEEDS_SCRATCH',
  'DIGEST_MISMATCH',
  'IO',
  'ABORTED',
] as const;
export type Code = (typeof CODES)[number];

/** Where in the way of the bytes it went wrong. */
export type Stage = 'plan' | 'source' | 'decode' | 'format' | 'target' | 'verify';

export interface FerryErrorInit {
  readonly code: Code;
  readonly stage: Stage;
  /** Whether the same attempt may succeed later without anybody changing anything. Default false. */
  readonly retryable?: boolean;
  readonly cause?: unknown;
  /** Seconds that the other side asked us to wait (Retry-After), where it did. */
  readonly retryAfter?: number;
}

/** The one error class. The message is a sentence with the numbers and, where there is one, the remedy. */
export class FerryError extends Error {
  override readonly name = 'FerryError';
  readonly code: Code;
  readonly stage: Stage;
  readonly retryable: boolean;
  readonly retryAfter: number | undefined;

  constructor(message: string, init: FerryErrorInit) {
    super(message, init.cause === undefined ? undefined : { cause: init.cause });
    this.code = init.code;
    this.stage = init.stage;
    this.retryable = init.retryable ?? false;
    this.retryAfter = init.retryAfter;
  }
}

/** Anything thrown, as a FerryError: unknown errors keep their message under the given stage. */
export function asFerryError(thrown: unknown, stage: Stage): FerryError {
  if (thrown instanceof FerryError) return thrown;
  if (thrown instanceof Error) {
    if (thrown.name === 'AbortError') {
      return new FerryError('the transfer was stopped', { code: 'ABORTED', stage, cause: thrown });
    }
    return new FerryError(thrown.message, { code: 'IO', stage, cause: thrown });
  }
  return new FerryError(String(thrown), { code: 'IO', stage });
}

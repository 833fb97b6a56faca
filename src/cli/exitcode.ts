import { CODES, type Code, FerryError } from '../dataplane/errors.ts';

export const OK = 0;
/** A defect of diskferry, or something that no code describes. */
export const UNEXPECTED = 1;
/** The command line cannot be understood. */
export const USAGE = 2;

/** Stable: scripts rely on them (docs/errors.md). A new code takes a number that was never used. */
export const EXIT_CODES: Readonly<Record<Code, number>> = {
  BAD_SPEC: USAGE,
  NOT_FOUND: 10,
  DENIED: 11,
  CHANGED: 12,
  TRUNCATED: 13,
  CORRUPT: 14,
  UNSAFE: 15,
  ENCRYPTED: 16,
  UNSUPPORTED: 17,
  TOO_LARGE: 18,
  NO_SPACE: 19,
  BUSY: 20,
  STALLED: 21,
  NEEDS_SCRATCH: 22,
  DIGEST_MISMATCH: 23,
  IO: 24,
  ABORTED: 25,
};

/** 128 + the signal's number, as shells have it (POSIX.1-2017 XCU 2.8.2; SIGINT is 2, SIGTERM 15). */
export const SIGNAL_EXIT = { SIGINT: 130, SIGTERM: 143 } as const;
export type StopSignal = keyof typeof SIGNAL_EXIT;

/** The exit code for what was thrown; `by` is the signal that asked us to stop, if one did. */
export function exitCode(thrown: unknown, by?: StopSignal): number {
  if (!(thrown instanceof FerryError) || !CODES.includes(thrown.code)) return UNEXPECTED;
  if (thrown.code === 'ABORTED' && by) return SIGNAL_EXIT[by];
  return EXIT_CODES[thrown.code];
}

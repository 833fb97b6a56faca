import { FerryError } from '../dataplane/errors.ts';

/**
 * `blank`: made, and nothing is in it. `receiving`: a transfer is under way. `unfinished`: one was, and may go on.
 * `failed`: it cannot. `ready`: whole and verified. `busy`: another program has it open, such as a virtual machine.
 */
export const STATES = ['blank', 'receiving', 'unfinished', 'failed', 'ready', 'busy'] as const;
export type State = (typeof STATES)[number];

/** A disk of the directory, as people are shown it. Sizes in bytes. */
export interface Volume {
  readonly name: string;
  readonly state: State;
  /** Of the disk; absent while it is not known. */
  readonly size?: number;
  /** That it takes of the file system. */
  readonly allocated?: number;
  /** `dd1:<hex>` of what is in it. */
  readonly diskDigest?: string;
  /** Where it came from. */
  readonly source?: string;
  readonly changed?: string;
  readonly progress?: Progress;
  /** Why the last transfer into it ended otherwise, until the next one or a restart. */
  readonly failure?: Failure;
}

export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly at: string;
}

/** Of what is on its way into a volume. */
export interface Progress {
  /** Bytes of the source that were taken, and all of them where that is known. */
  readonly bytes: number;
  readonly length?: number;
  /** Bytes a second. */
  readonly rate: number;
  readonly secondsLeft?: number;
  readonly phase: string;
}

/** Names are part of a path and of an URL: letters, digits, `.`, `_` and `-`, and no dot at the beginning. */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$/;

export function isVolumeName(text: string): boolean {
  return NAME.test(text);
}

/** The name, or BAD_SPEC: whatever could lead out of the directory is none. */
export function volumeName(text: string): string {
  if (isVolumeName(text)) return text;
  throw new FerryError(
    'a volume has a name of 1 to 100 letters, digits, dots, underscores and dashes, which does not begin with a dot or dash',
    { code: 'BAD_SPEC', stage: 'plan' },
  );
}

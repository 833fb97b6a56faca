import type PQueue from 'p-queue';
import type { Log } from '../dataplane/context.ts';
import type { Guard } from '../dataplane/guard.ts';
import type { SharedWindows } from '../dataplane/memory-budget.ts';
import type { Pace } from '../dataplane/pace.ts';
import type { Store } from '../store/store.ts';
import type { Access } from './access.ts';
import type { Metrics } from './metrics.ts';
import type { Tokens } from './tokens.ts';
import type { Uploads } from './uploads.ts';

export interface ServerOptions {
  readonly store: Store;
  readonly access: Access;
  readonly log: Log;
  /** Transfers at once; more wait. */
  readonly transfers: number;
  /** Of all transfers together. */
  readonly rate?: Pace;
  /** What decoders of all transfers have together for large windows. */
  readonly memory: SharedWindows;
  /** Which addresses images may be imported from. */
  readonly guard: Guard;
  /** Milliseconds of silence after which a sender is given up. */
  readonly stall: number;
  /** Milliseconds after which an upload that nobody goes on with is dropped. */
  readonly expiry: number;
  readonly version: string;
}

/** What the protocols are given. */
export interface Service extends ServerOptions {
  readonly uploads: Uploads;
  readonly queue: PQueue;
  readonly tokens: Tokens;
  readonly metrics: Metrics;
}

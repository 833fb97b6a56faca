import type { Guard } from './guard.ts';
import { Pace } from './pace.ts';

/** What every stage of one transfer is given. */
export interface Context {
  /** Ends the transfer. */
  readonly signal: AbortSignal;
  readonly log: Log;
  readonly limits: TransportLimits;
  /** Counted by the filters, told in the report. */
  readonly counters: Counters;
  /** Which addresses may be connected to. Absent = all. */
  readonly guard?: Guard;
}

/** One line a call; fields never hold secrets. */
export interface Log {
  info(message: string, fields?: Readonly<Record<string, unknown>>): void;
  warn(message: string, fields?: Readonly<Record<string, unknown>>): void;
}

export interface TransportLimits {
  /** Most connections at once. Default 4. */
  readonly connections: number;
  /** Of this transfer, or shared by several; undefined = no limit. */
  readonly rate?: Pace;
  /** Milliseconds without a byte, while we are waiting, after which a source counts as stalled. Default 30 000. */
  readonly stall: number;
  /** Milliseconds that retries may go on without any progress. Default 120 000. */
  readonly patience: number;
}

export interface Counters {
  /** Bytes that came from the source, retries included. */
  received: number;
  retries: number;
  /** Requests or reads opened on the source. */
  opened: number;
}

export const DEFAULT_LIMITS: TransportLimits = { connections: 4, stall: 30_000, patience: 120_000 };

/** What a transfer is given of its command. */
export interface ContextOptions {
  readonly connections: number;
  readonly stall?: number;
  readonly patience?: number;
  /** Bytes a second, or what several transfers share. */
  readonly rate?: number | Pace;
  readonly guard?: Guard;
}

export function contextOf(options: ContextOptions, signal: AbortSignal, log: Log): Context {
  const { rate } = options;
  return {
    signal,
    log,
    limits: {
      connections: options.connections,
      stall: options.stall ?? DEFAULT_LIMITS.stall,
      patience: options.patience ?? DEFAULT_LIMITS.patience,
      ...(rate === undefined ? {} : { rate: typeof rate === 'number' ? new Pace(rate) : rate }),
    },
    counters: { received: 0, retries: 0, opened: 0 },
    ...(options.guard === undefined ? {} : { guard: options.guard }),
  };
}

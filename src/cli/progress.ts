import type { Log } from '../dataplane/context.ts';
import type { Snapshot } from '../dataplane/transfer.ts';
import { percent } from './progress/figures.ts';
import { barLine, jsonLine, logLine } from './progress/text.ts';

export const PROGRESS_MODES = ['auto', 'bar', 'lines', 'json', 'none'] as const;
export type ProgressMode = (typeof PROGRESS_MODES)[number];

/** Milliseconds between two lines in a log, and between two objects for a program. */
const LINE_EVERY = 5000;
const JSON_EVERY = 1000;
/** Columns where the terminal does not say. */
const COLUMNS = 80;

/** Where progress goes: standard error, or a stand-in in tests. */
export interface Screen {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

export interface ProgressDisplay {
  update(snapshot: Snapshot): void;
  /** Prints a line of text without breaking the bar. */
  note(text: string): void;
  /** Leaves the cursor on a fresh line. May be called twice. */
  close(): void;
  readonly last: Snapshot | undefined;
}

/** Shows snapshots on the screen in the mode given; `auto` is a bar on a terminal and lines elsewhere. */
export function showProgress(
  screen: Screen,
  mode: ProgressMode,
  now: () => number = () => performance.now(),
): ProgressDisplay {
  const chosen = mode === 'auto' ? (screen.isTTY ? 'bar' : 'lines') : mode;
  let last: Snapshot | undefined;
  let due = chosen === 'lines' ? now() + LINE_EVERY : Number.NEGATIVE_INFINITY;
  let drawn = 0;

  // Spaces and not an escape sequence wipe what a longer line left, so that any terminal and any capture will do.
  const draw = (line: string) => {
    screen.write(`\r${line.padEnd(drawn)}`);
    drawn = line.length;
  };
  const periodic = (every: number, line: string, phase: Snapshot['phase']) => {
    if (now() < due && phase !== 'done') return;
    due = now() + every;
    screen.write(`${line}\n`);
  };

  return {
    update(snapshot) {
      // The last column stays free: some terminals wrap as soon as it is filled.
      if (chosen === 'bar') draw(barLine(snapshot, (screen.columns || COLUMNS) - 1));
      if (chosen === 'lines') periodic(LINE_EVERY, logLine(snapshot), snapshot.phase);
      if (chosen === 'json') periodic(JSON_EVERY, jsonLine(snapshot), snapshot.phase);
      last = snapshot;
    },
    note(text) {
      if (drawn > 0) screen.write(`\r${' '.repeat(drawn)}\r`);
      drawn = 0;
      screen.write(chosen === 'json' ? `${JSON.stringify({ note: text })}\n` : `${text}\n`);
      if (chosen === 'bar' && last) draw(barLine(last, (screen.columns || COLUMNS) - 1));
    },
    close() {
      if (drawn > 0) screen.write('\n');
      drawn = 0;
    },
    get last() {
      return last;
    },
  };
}

/** The log of a command: warnings always, what is merely of interest with --verbose. */
export function logTo(display: ProgressDisplay, verbose: boolean): Log {
  const line = (kind: string, message: string, fields?: Readonly<Record<string, unknown>>) => {
    const details = Object.entries(fields ?? {}).map(
      ([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`,
    );
    display.note(`diskferry: ${kind}${[message, ...details].join(' ')}`);
  };
  return {
    info: (message, fields) => {
      if (verbose) line('', message, fields);
    },
    warn: (message, fields) => line('note: ', message, fields),
  };
}

/** What to tell who stopped a transfer: how far it came and how to go on. */
export function howToGoOn(last: Snapshot | undefined, source: string, goesOn: boolean): string {
  const share = last && percent(last);
  if (!last || last.phase === 'opening' || last.phase === 'planning') {
    return 'stopped before anything was written: run the same command again to begin';
  }
  const at = share === undefined ? `after ${last.source.bytes} bytes of the source` : `at ${share} %`;
  if (!goesOn) return `stopped ${at}: nothing was left behind; the same command begins anew`;
  return source === '-'
    ? `stopped ${at}: run the same command with the same input again to go on`
    : `stopped ${at}: run the same command again to go on`;
}

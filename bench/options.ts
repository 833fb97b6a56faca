import { parseArgs } from 'node:util';
import { cacheDirectory, ROWS, type Row } from './data.ts';

export const USAGE = `Usage: npm run bench -- [options]
  --scale N         part of the full size of 8 GiB of disk, 1.8 GiB of content (default 1)
  --rounds N        runs of each candidate, in turn (default 3)
  --rows A,B        only these rows: ${ROWS.join(', ')}
  --only A,B        only candidates whose name contains one of these
  --cgroup A,B      also run diskferry within so much memory (default 160M,128M; none: not at all)
  --delay MS        round trip of the slow link (default 20; none: no link)
  --diskferry CMD   how diskferry is run (default: this Node with bin/diskferry.js)
  --cache DIR       where the data is kept (default ~/.cache/diskferry/bench)
  --json FILE       write every figure
  --markdown FILE   write the tables`;

export interface BenchOptions {
  readonly scale: number;
  readonly rounds: number;
  readonly rows: readonly Row[];
  readonly only: readonly string[];
  /** Bytes of each memory control group. */
  readonly limits: readonly number[];
  /** Milliseconds; undefined: no link. */
  readonly delay?: number;
  readonly diskferry: string;
  readonly cache: string;
  readonly json?: string;
  readonly markdown?: string;
}

/** Throws with a sentence when the command line cannot be understood. */
export function readOptions(args: readonly string[]): BenchOptions | 'help' {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    args: [...args],
    options: {
      scale: { ...text, default: '1' },
      rounds: { ...text, default: '3' },
      rows: { ...text, default: ROWS.join(',') },
      only: { ...text, default: '' },
      cgroup: { ...text, default: '160M,128M' },
      delay: { ...text, default: '20' },
      diskferry: { ...text, default: `"${process.execPath}" bin/diskferry.js` },
      cache: { ...text, default: cacheDirectory() },
      json: text,
      markdown: text,
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return 'help';
  return {
    scale: positive('--scale', values.scale),
    rounds: positive('--rounds', values.rounds),
    rows: list(values.rows).map(asRow),
    only: list(values.only),
    limits: values.cgroup === 'none' ? [] : list(values.cgroup).map(asMebibytes),
    ...(values.delay === 'none' ? {} : { delay: positive('--delay', values.delay) }),
    diskferry: values.diskferry,
    cache: values.cache,
    ...(values.json === undefined ? {} : { json: values.json }),
    ...(values.markdown === undefined ? {} : { markdown: values.markdown }),
  };
}

const list = (text: string) => text.split(',').filter(Boolean);

function positive(name: string, text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new Error(`${name} wants a number above 0, not ${text}`);
  return value;
}

function asRow(text: string): Row {
  const row = ROWS.find((name) => name === text);
  if (!row) throw new Error(`there is no row ${text}: ${ROWS.join(', ')}`);
  return row;
}

function asMebibytes(text: string): number {
  const [, digits] = /^(\d+)M$/.exec(text) ?? [];
  if (!digits) throw new Error(`--cgroup wants mebibytes such as 160M, not ${text}`);
  return Number(digits) * 1024 * 1024;
}

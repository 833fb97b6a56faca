import { formatSize } from '../dataplane/sizes.ts';
import type { TransferReport } from '../dataplane/transfer.ts';
import { duration } from './progress/figures.ts';

/** Rows of label and value in two columns; a row without a value is left out. */
export function columns(rows: readonly (readonly [label: string, value: string | undefined])[]): string {
  const shown = rows.filter((row): row is [string, string] => row[1] !== undefined && row[1] !== '');
  const width = Math.max(...shown.map(([label]) => label.length));
  return shown.map(([label, value]) => `${label.padEnd(width)}  ${value}\n`).join('');
}

/** `1.50 GiB (1610612736 bytes)`: for reading and for reckoning. */
export function exactly(bytes: number): string {
  const human = formatSize(bytes);
  return human === `${bytes} bytes` || human === `${bytes} B` ? human : `${human} (${bytes} bytes)`;
}

function times(count: number, one: string, many: string): string | undefined {
  return count === 0 ? undefined : `${count} ${count === 1 ? one : many}`;
}

/** What an image is, outermost first: `qcow2 in xz`. */
export function imageKind(format: string, codecs: readonly string[]): string {
  return [format, ...[...codecs].reverse()].join(' in ');
}

/** The report for people. */
export function reportText(report: TransferReport): string {
  if (report.outcome === 'already-done') {
    return columns([
      ['done before', `${report.target} already holds this disk; nothing was fetched or written`],
      ['disk', exactly(report.virtualSize)],
      ['disk digest', report.diskDigest],
      ...report.notes.map((note) => ['note', note] as const),
    ]);
  }
  const took = report.seconds < 10 ? `${report.seconds.toFixed(1)}s` : duration(report.seconds);
  const resumed =
    report.resumes > 0 && report.resumedAt !== undefined
      ? `, the last from byte ${report.resumedAt} of the source`
      : '';
  return columns([
    ['done', `${report.target} is complete and verified`],
    ['source', `${report.source}, ${imageKind(report.format, report.codecs)}, way: ${report.way}`],
    ['source bytes', exactly(report.sourceBytes)],
    ['received', report.receivedBytes === report.sourceBytes ? undefined : exactly(report.receivedBytes)],
    ['disk', exactly(report.virtualSize)],
    ['  written', exactly(report.written)],
    ['  zeroed', exactly(report.zeroed)],
    ['  skipped', exactly(report.skipped)],
    ['  read back', report.reread === 0 ? undefined : exactly(report.reread)],
    ['source digest', report.sourceDigest],
    ['disk digest', report.diskDigest],
    ['time', `${took}, ${formatSize(report.rate)}/s on average`],
    ['resumes', times(report.resumes, 'resume', 'resumes')?.concat(resumed)],
    ['retries', times(report.retries, 'retry', 'retries')],
    ...report.leftOut.map((what) => ['left out', what] as const),
    ...report.notes.map((note) => ['note', note] as const),
  ]);
}

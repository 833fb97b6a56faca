import { formatExactSize, formatRate } from '../dataplane/sizes.ts';
import type { TransferReport } from '../dataplane/transfer.ts';
import { duration } from './progress/figures.ts';

/** Rows of label and value in two columns; a row without a value is left out. */
export function columns(rows: readonly (readonly [label: string, value: string | undefined])[]): string {
  const shown = rows.filter((row): row is [string, string] => row[1] !== undefined && row[1] !== '');
  const width = Math.max(...shown.map(([label]) => label.length));
  return shown.map(([label, value]) => `${label.padEnd(width)}  ${value}\n`).join('');
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
      ['disk', formatExactSize(report.virtualSize)],
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
    ['source bytes', formatExactSize(report.sourceBytes)],
    ['received', report.receivedBytes === report.sourceBytes ? undefined : formatExactSize(report.receivedBytes)],
    ['disk', formatExactSize(report.virtualSize)],
    ['  written', formatExactSize(report.written)],
    ['  zeroed', formatExactSize(report.zeroed)],
    ['  skipped', formatExactSize(report.skipped)],
    ['  read back', report.reread === 0 ? undefined : formatExactSize(report.reread)],
    ['source digest', report.sourceDigest],
    ['disk digest', report.diskDigest],
    ['time', `${took}, ${formatRate(report.rate)} on average`],
    ['resumes', times(report.resumes, 'resume', 'resumes')?.concat(resumed)],
    ['retries', times(report.retries, 'retry', 'retries')],
    ...report.leftOut.map((what) => ['left out', what] as const),
    ...report.notes.map((note) => ['note', note] as const),
  ]);
}

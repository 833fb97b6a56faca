import type { ArchiveReport } from '../dataplane/archive.ts';
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
    ['time', timeOf(report)],
    ['resumes', times(report.resumes, 'resume', 'resumes')?.concat(resumed)],
    ['retries', times(report.retries, 'retry', 'retries')],
    ...report.leftOut.map((what) => ['left out', what] as const),
    ...report.notes.map((note) => ['note', note] as const),
  ]);
}

/** The report of an archive for people. */
export function archiveText(report: ArchiveReport): string {
  return columns([
    ['done', `${report.target} holds all of the archive`],
    ['source', `${report.source}, ${imageKind('tar', report.codecs)}`],
    ['source bytes', formatExactSize(report.sourceBytes)],
    ['received', report.receivedBytes === report.sourceBytes ? undefined : formatExactSize(report.receivedBytes)],
    ['entries', String(report.entries)],
    ['files', formatExactSize(report.bytes)],
    ['source digest', report.sourceDigest],
    ['time', timeOf(report)],
    ['retries', times(report.retries, 'retry', 'retries')],
    ['left out', times(report.passed, 'entry of a kind that is not known', 'entries of kinds that are not known')],
  ]);
}

function timeOf({ seconds, rate }: { readonly seconds: number; readonly rate: number }): string {
  return `${seconds < 10 ? `${seconds.toFixed(1)}s` : duration(seconds)}, ${formatRate(rate)} on average`;
}

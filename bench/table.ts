import type { BenchData } from './data.ts';
import { FILES, ROWS } from './data.ts';
import { type Mark, median, medianWall, type Series } from './marks.ts';
import type { Measurement } from './measure.ts';

const MIB = 1024 * 1024;

/** The figures as Markdown, which reads well on a terminal too: columns are padded. */
export function report(
  about: readonly string[],
  data: BenchData,
  series: readonly Series[],
  marks: readonly Mark[],
): string {
  const parts = [about.map((line) => `- ${line}`).join('\n'), dataTable(data)];
  for (const row of ROWS) {
    const ofRow = series.filter((one) => one.row === row);
    if (ofRow.length > 0) parts.push(`### ${row}`, seriesTable(ofRow));
  }
  if (marks.length > 0) parts.push('### Marks', marksTable(marks));
  return `${parts.join('\n\n')}\n`;
}

function dataTable(data: BenchData): string {
  const rows = ROWS.flatMap((row) => {
    const size = data.sizes[row];
    return size === undefined ? [] : [[row, FILES[row], mib(size)]];
  });
  return `Disk: ${mib(data.virtualSize)} MiB, of which ${mib(data.allocated)} MiB are allocated.\n\n${table(['row', 'file', 'MiB'], rows)}`;
}

function seriesTable(series: readonly Series[]): string {
  const head = [
    'candidate',
    'wall s, median',
    'all',
    'CPU s',
    'resident MiB',
    'with cache MiB',
    'written MiB',
    'allocated MiB',
    'scratch MiB',
    'disk',
  ];
  const rows = series.map((one) => {
    const middle = (of: (run: Measurement) => number) => median(one.runs.map(of));
    const worst = (of: (run: Measurement) => number) => Math.max(...one.runs.map(of));
    return [
      conditions(one),
      figure(medianWall(one)),
      one.runs.map(({ wall, status }) => (status === 0 ? wall.toFixed(2) : `failed (${status})`)).join(' '),
      figure(middle((run) => run.cpu)),
      mib(worst((run) => run.resident)),
      mib(worst((run) => run.charged)),
      mib(middle((run) => run.written)),
      mib(middle((run) => run.allocated)),
      mib(worst((run) => run.scratch)),
      one.identical === undefined ? '' : one.identical ? 'identical' : 'DIFFERS',
    ];
  });
  return table(head, rows);
}

function conditions({ candidate, network, limit }: Series): string {
  const where = network === 'loopback' ? '' : `, ${network}`;
  return `${candidate}${where}${limit === undefined ? '' : `, within ${limit / MIB} MiB`}`;
}

function marksTable(marks: readonly Mark[]): string {
  const verdict = ({ pass }: Mark) => (pass === undefined ? '' : pass ? 'PASS' : 'FAIL');
  return table(
    ['row', 'mark', 'value', 'bar', ''],
    marks.map((mark) => [mark.row, mark.what, figure(mark.value), mark.bar, verdict(mark)]),
  );
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((name, column) => Math.max(3, name.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n');
}

const figure = (value: number) => (Number.isFinite(value) ? String(Number(value.toFixed(value < 100 ? 3 : 0))) : '–');
const mib = (bytes: number) =>
  Number.isFinite(bytes) ? (bytes / MIB).toFixed(bytes > 0 && bytes < 10 * MIB ? 1 : 0) : '–';

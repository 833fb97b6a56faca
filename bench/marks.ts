import { CURL, DIRECT, DISKFERRY, LOCAL, LOCAL_W, PIPE, PLAIN_GZ, SCRATCH, SHA } from './candidates.ts';
import { isOutput, type Row } from './data.ts';
import type { Measurement } from './measure.ts';

const MIB = 1024 * 1024;

/** All runs of one candidate under the same conditions. */
export interface Series {
  readonly row: Row;
  /** `loopback`, or the link with its round trip. */
  readonly network: string;
  /** Milliseconds of delay that were asked for; undefined on loopback. */
  readonly delay?: number;
  /** Bytes that the memory control group allowed. */
  readonly limit?: number;
  readonly candidate: string;
  readonly runs: Measurement[];
  /** The first finished disk was compared with the original. */
  identical?: boolean;
}

/** One bar of the acceptance. */
export interface Mark {
  readonly row: Row;
  readonly what: string;
  readonly value: number;
  readonly bar: string;
  /** Undefined where there is no bar: said for comparison. */
  readonly pass?: boolean;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length % 2 === 1) return sorted[middle] ?? Number.NaN;
  return ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2;
}

export const succeeded = (series: Series): Measurement[] => series.runs.filter(({ status }) => status === 0);

/** NaN when any run failed: a median of the lucky ones would flatter. */
export function medianWall(series: Series | undefined): number {
  if (!series || series.runs.length === 0 || succeeded(series).length < series.runs.length) return Number.NaN;
  return median(series.runs.map(({ wall }) => wall));
}

/** Time against local `qemu-img convert -m 16`, the better of with and without -W; and against the pipe of tools. */
const QCOW2_BARS: Partial<Record<Row, number>> = { 'qcow2-zlib': 0.55, 'qcow2-zstd': 0.85, 'qcow2-plain': 0.8 };
const PIPE_BARS: Partial<Record<Row, number>> = { 'raw-gz': 0.7, 'raw-zst': 0.7, 'raw-xz': 1.0 };
const SCRATCH_BARS: Partial<Record<Row, number>> = {
  'qcow2-zlib': 0.5,
  'qcow2-zstd': 0.5,
  'qcow2-plain': 0.5,
  vmdk: 0.7,
  ova: 0.7,
};
/** A qcow2 that is written: time and size against the better of both ways of qemu-img. */
const OUTPUT_TIME_BAR = 1;
const OUTPUT_SIZE_BAR = 1.02;
const PLAIN_GZ_BARS: Partial<Record<Row, number>> = { container: 1.15 };
const RAW_BAR = 0.85;
const DELAY_BAR = 1.25;
const MEMORY_BAR = 160 * MIB;
const LIMITED_BAR = 0.9;
const WRITTEN_BAR = 1.01;

/** Every mark that the series allow to be computed. */
export function marksOf(all: readonly Series[]): Mark[] {
  const rows = [...new Set(all.map(({ row }) => row))];
  return rows.flatMap((row) => {
    const series = all.filter((one) => one.row === row);
    const ours = series.find((one) => isPlain(one) && one.candidate === DISKFERRY);
    return ours
      ? [...speedMarks(row, ours, series), ...delayMarks(row, ours, series), ...thriftMarks(row, ours, series)]
      : [];
  });
}

const isPlain = (series: Series) => series.network === 'loopback' && series.limit === undefined;

function speedMarks(row: Row, ours: Series, series: readonly Series[]): Mark[] {
  const wall = medianWall(ours);
  const named = (name: string) => medianWall(series.find((one) => isPlain(one) && one.candidate === name));
  const marks: Mark[] = [];
  const atMost = (what: string, value: number, bar: number | undefined) => {
    if (bar !== undefined && wanted(series, what))
      marks.push({ row, what, value, bar: `≤ ${bar}`, pass: value <= bar });
  };
  const local = least(named(LOCAL), named(LOCAL_W));
  atMost(`time / better of local ${LOCAL} and -W`, wall / local, isOutput(row) ? OUTPUT_TIME_BAR : QCOW2_BARS[row]);
  if (isOutput(row)) {
    const size = (name: string) =>
      median(
        series
          .filter((one) => isPlain(one) && one.candidate === name)
          .flatMap(({ runs }) => runs.map(({ allocated }) => allocated)),
      );
    const what = `size / smaller of local ${LOCAL} and -W`;
    atMost(what, size(DISKFERRY) / least(size(LOCAL), size(LOCAL_W)), OUTPUT_SIZE_BAR);
  }
  atMost(`time / ${SCRATCH}`, wall / named(SCRATCH), SCRATCH_BARS[row]);
  atMost(`time / ${PIPE}`, wall / named(PIPE), PIPE_BARS[row]);
  atMost(`time / ${PLAIN_GZ}`, wall / named(PLAIN_GZ), PLAIN_GZ_BARS[row]);
  if (row === 'raw') {
    const slowest = Math.max(named(CURL), named(SHA), named(DIRECT));
    const value = slowest / wall;
    marks.push({
      row,
      what: `speed / slowest of ${CURL}, ${SHA}, ${DIRECT}`,
      value,
      bar: `≥ ${RAW_BAR}`,
      pass: value >= RAW_BAR,
    });
  }
  return marks;
}

/** A mark whose candidate was left out by --only or is not installed is not a failure; one that ran and failed is. */
function wanted(series: readonly Series[], what: string): boolean {
  return series.some(({ candidate }) => candidate !== DISKFERRY && what.includes(candidate));
}

const least = (a: number, b: number) => (Number.isNaN(a) ? b : Number.isNaN(b) ? a : Math.min(a, b));

function delayMarks(row: Row, ours: Series, series: readonly Series[]): Mark[] {
  const links = series.filter(
    (one) => one.delay !== undefined && one.limit === undefined && one.candidate === DISKFERRY,
  );
  const near = links.find(({ delay }) => delay === 0);
  return links
    .filter(({ delay }) => delay !== 0)
    .flatMap((far) => {
      const value = medianWall(far) / medianWall(ours);
      const marks: Mark[] = [
        {
          row,
          what: `time with ${far.network} / time on loopback`,
          value,
          bar: `≤ ${DELAY_BAR}`,
          pass: value <= DELAY_BAR,
        },
      ];
      if (near) {
        const fair = medianWall(far) / medianWall(near);
        marks.push({
          row,
          what: `time with ${far.network} / time over the same link without delay`,
          value: fair,
          bar: '',
        });
      }
      return marks;
    });
}

function thriftMarks(row: Row, ours: Series, series: readonly Series[]): Mark[] {
  const worst = (of: (run: Measurement) => number) => Math.max(...ours.runs.map(of));
  const resident = worst((run) => run.resident) / MIB;
  const written = worst((run) => run.written / run.allocated);
  const scratch = worst((run) => run.scratch);
  const marks: Mark[] = [
    { row, what: 'peak resident memory, MiB', value: resident, bar: '≤ 160', pass: resident * MIB <= MEMORY_BAR },
    { row, what: 'peak with page cache (control group), MiB', value: worst((run) => run.charged) / MIB, bar: '' },
    { row, what: 'scratch bytes', value: scratch, bar: '0', pass: scratch === 0 },
    { row, what: 'bytes written / allocated', value: written, bar: `≤ ${WRITTEN_BAR}`, pass: written <= WRITTEN_BAR },
  ];
  for (const limited of series) {
    if (limited.limit === undefined || limited.candidate !== DISKFERRY || limited.network !== 'loopback') continue;
    const value = medianWall(ours) / medianWall(limited);
    const what = `speed within ${limited.limit / MIB} MiB / unlimited`;
    marks.push(
      limited.limit === MEMORY_BAR
        ? { row, what, value, bar: `≥ ${LIMITED_BAR}`, pass: value >= LIMITED_BAR }
        : { row, what, value, bar: '' },
    );
  }
  return marks;
}

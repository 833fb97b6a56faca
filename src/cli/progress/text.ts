import { formatRate, formatSize } from '../../dataplane/sizes.ts';
import type { Snapshot } from '../../dataplane/transfer.ts';
import { duration, percent } from './figures.ts';

/** A piece of the line; where the line is too narrow the highest rank goes first. */
interface Piece {
  readonly text: string;
  readonly rank: number;
}

const SEPARATOR = '  ';
const PHASES: Readonly<Record<Snapshot['phase'], string>> = {
  opening: 'opening the source',
  planning: 'reading its head',
  scanning: 'looking for zeros',
  moving: '',
  verifying: 'verifying',
  finishing: 'finishing',
  done: 'done',
};

function pieces(snapshot: Snapshot): Piece[] {
  const { source, disk, phase } = snapshot;
  const share = percent(snapshot);
  const of = (bytes: number, length: number | undefined) =>
    length === undefined ? formatSize(bytes) : `${formatSize(bytes)} of ${formatSize(length)}`;
  const out: Piece[] = [{ text: share === undefined ? '  ?%' : `${String(share).padStart(3)}%`, rank: 0 }];
  if (phase === 'opening' || phase === 'planning') return [...out, { text: PHASES[phase], rank: 1 }];
  out.push({ text: `source ${of(source.bytes, source.length)}`, rank: 4 });
  if (phase === 'scanning') return [...out, { text: PHASES[phase], rank: 1 }];
  out.push({ text: `disk ${of(disk.bytes, disk.length)}`, rank: 5 });
  if (phase !== 'moving') return [...out, { text: PHASES[phase], rank: 1 }];
  out.push({ text: formatRate(snapshot.rate), rank: 1 });
  if (snapshot.secondsLeft !== undefined) out.push({ text: `${duration(snapshot.secondsLeft)} left`, rank: 3 });
  if (snapshot.bottleneck !== 'none') out.push({ text: snapshot.bottleneck, rank: 2 });
  if (snapshot.retries > 0)
    out.push({ text: `${snapshot.retries} ${snapshot.retries === 1 ? 'retry' : 'retries'}`, rank: 6 });
  return out;
}

/**
 * One line of at most `columns` characters: percent, bytes of source and disk, rate, time left and the bottleneck in one
 * word. Pieces are left out, the least wanted first, until it fits; a drawn bar takes what room is over.
 */
export function barLine(snapshot: Snapshot, columns: number): string {
  let kept = pieces(snapshot);
  const width = () => kept.reduce((sum, { text }) => sum + text.length, 0) + SEPARATOR.length * (kept.length - 1);
  while (kept.length > 1 && width() > columns) {
    const worst = Math.max(...kept.map(({ rank }) => rank));
    kept = kept.filter(({ rank }) => rank !== worst);
  }
  const texts = kept.map(({ text }) => text);
  const room = Math.min(24, columns - width() - SEPARATOR.length - 2);
  if (room >= 8) {
    const full = Math.floor(((percent(snapshot) ?? 0) / 100) * room);
    texts.splice(1, 0, `[${'='.repeat(full)}${' '.repeat(room - full)}]`);
  }
  return texts.join(SEPARATOR).slice(0, Math.max(columns, 0));
}

/** The whole line, however long: for logs. */
export function logLine(snapshot: Snapshot): string {
  return pieces(snapshot)
    .map(({ text }) => text.trim())
    .join(', ');
}

/** One JSON object (docs/use.md has its fields), without a line end. */
export function jsonLine(snapshot: Snapshot): string {
  return JSON.stringify({ progress: { ...snapshot, percent: percent(snapshot) } });
}

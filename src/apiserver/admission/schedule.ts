import { parseDuration } from '../../api/duration.ts';
import { quoted } from './cause.ts';

interface Field {
  readonly name: string;
  readonly least: number;
  readonly most: number;
  /** In lower case. */
  readonly words?: Readonly<Record<string, number>>;
}

const words = (least: number, text: string): Record<string, number> =>
  Object.fromEntries(text.split(' ').map((word, n) => [word, n + least]));

const FIELDS: readonly Field[] = [
  { name: 'minute', least: 0, most: 59 },
  { name: 'hour', least: 0, most: 23 },
  { name: 'day of the month', least: 1, most: 31 },
  { name: 'month', least: 1, most: 12, words: words(1, 'jan feb mar apr may jun jul aug sep oct nov dec') },
  { name: 'day of the week', least: 0, most: 6, words: words(0, 'sun mon tue wed thu fri sat') },
];
const DESCRIPTORS = ['@yearly', '@annually', '@monthly', '@weekly', '@daily', '@midnight', '@hourly'];

/**
 * What is wrong with a schedule, in words; undefined where Kubernetes' own CronJobs take it: they read it with robfig/cron's
 * ParseStandard, whose grammar this is. (Libraries for JavaScript have other ones: seconds, L, W, #, and 7 for Sunday.)
 */
export function wrongSchedule(schedule: string): string | undefined {
  const zoned = /^(?:CRON_)?TZ=(\S*) /.exec(schedule);
  if (zoned && !isZone(zoned[1] ?? '')) return `there is no time zone ${quoted(zoned[1])}`;
  const text = zoned ? schedule.slice(zoned[0].length).trim() : schedule;
  if (text.startsWith('@')) return wrongDescriptor(text);
  const fields = text.split(/\s+/).filter(Boolean);
  if (fields.length !== FIELDS.length)
    return `it has ${fields.length} fields of 5: minute, hour, day of the month, month, day of the week`;
  for (const [n, field] of FIELDS.entries()) {
    const wrong = wrongField(fields[n] ?? '', field);
    if (wrong !== undefined) return `its ${field.name} is ${quoted(fields[n])}: ${wrong}`;
  }
  return undefined;
}

function wrongDescriptor(text: string): string | undefined {
  if (DESCRIPTORS.includes(text)) return undefined;
  if (!text.startsWith('@every '))
    return `${quoted(text)} is none of ${DESCRIPTORS.join(', ')}, and @every with a duration`;
  return parseDuration(text.slice('@every '.length)) === undefined
    ? `${quoted(text)} has no duration: write it as @every 1h30m`
    : undefined;
}

function wrongField(text: string, field: Field): string | undefined {
  const parts = text.split(',').filter(Boolean);
  if (parts.length === 0) return 'it names nothing';
  return parts.map((part) => wrongRange(part, field)).find((wrong) => wrong !== undefined);
}

// `*`, `5`, `1-5`, each perhaps with a step: `*/15`; a number with one goes on to the end.
function wrongRange(text: string, field: Field): string | undefined {
  const { least, most } = field;
  const [range = '', step, ...steps] = text.split('/');
  if (steps.length > 0) return `${quoted(text)} has more than one /`;
  if (step !== undefined && numberOf(step) === undefined) return `the step ${quoted(step)} is no number`;
  if (step !== undefined && numberOf(step) === 0) return 'a step is 1 or more';
  const [low = '', high, ...more] = range.split('-');
  if (low === '*' || low === '?') return undefined;
  if (more.length > 0) return `${quoted(range)} has more than one -`;
  const from = placeOf(low, field);
  const to = high === undefined ? (step === undefined ? from : most) : placeOf(high, field);
  if (from === undefined || to === undefined) return `${quoted(range)} is no number`;
  if (from < least || to > most) return `it goes from ${least} to ${most}`;
  return from > to ? `${quoted(range)} ends before it begins` : undefined;
}

function placeOf(text: string, { words = {} }: Field): number | undefined {
  const word = text.toLowerCase();
  return Object.hasOwn(words, word) ? words[word] : numberOf(text);
}

function numberOf(text: string): number | undefined {
  return /^\+?\d{1,18}$/.test(text) ? Number(text) : undefined;
}

function isZone(name: string): boolean {
  if (name === '' || name === 'Local') return true;
  try {
    return new Intl.DateTimeFormat('en', { timeZone: name }).format(0) !== '';
  } catch {
    return false;
  }
}

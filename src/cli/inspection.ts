import type { Inspection, TargetInspection } from '../dataplane/inspect.ts';
import type { Recovered } from '../dataplane/native.ts';
import { formatExactSize, formatRate, formatSize } from '../dataplane/sizes.ts';
import { columns, imageKind } from './report.ts';

type Row = readonly [label: string, value: string | undefined];

/** What `inspect` says of a source, for people. */
export function sourceText(found: Inspection): string {
  const { source, image, plan } = found;
  const refusal = plan.refusal ?? image.refusal;
  return columns([
    ['source', source.name],
    ['length', source.length === undefined ? 'not known before the end' : formatExactSize(source.length)],
    ['ranges', source.ranges ? 'yes' : 'no'],
    ['validator', source.validator ?? 'none'],
    ...Object.entries(source.details).map(([name, value]): Row => [spaced(name), detail(value)]),
    ['image', image.unseen ? 'behind the first MiB of an archive' : imageKind(image.format, image.codecs)],
    ['member', image.member?.name],
    ['disk', image.virtualSize === undefined ? 'size known only at the end' : formatExactSize(image.virtualSize)],
    ['features', image.features.join(', ')],
    ...image.leftOut.map((what): Row => ['left out', what]),
    ['decoder', image.window === 0 ? undefined : `needs a window of ${formatSize(image.window)}`],
    ['plan', plan.way === 'refuse' ? 'refuse' : `${plan.way}: ${plan.why}`],
    ['refused', refusal && `${refusal.message} (${refusal.code})`],
    ...plan.notes.map((note): Row => ['note', note]),
    ['resumable', plan.way === 'refuse' ? undefined : `${plan.resumable ? 'yes' : 'no'}: ${plan.resumeWhy}`],
    ['speed', found.rate === undefined ? undefined : `${formatRate(found.rate)} while looking`],
    ['traffic', `${formatExactSize(found.traffic)} to learn this`],
  ]);
}

/** `validUntil` → `valid until`. */
function spaced(name: string): string {
  return name.replace(/([a-z])([A-Z])/g, (_, before: string, after: string) => `${before} ${after.toLowerCase()}`);
}

function detail(value: string | number | boolean | readonly string[]): string {
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  return Array.isArray(value) ? value.join(' → ') : String(value);
}

/** What `inspect` says of a target, for people. */
export function targetText(found: TargetInspection): string {
  return columns([
    ['target', found.path],
    ['kind', found.kind === 'block' ? 'block device' : found.kind],
    ['length', formatExactSize(found.length)],
    ...recoveredRows(found),
  ]);
}

function recoveredRows({ recovered, foreign, path }: TargetInspection): Row[] {
  switch (recovered.kind) {
    case 'nothing':
      return [['holds', foreign ?? 'nothing: import can use it']];
    case 'foreign':
      return [['holds', `${foreign ?? 'something that is not ours'}: import wants --force to overwrite it`]];
    case 'finished':
      return [
        ['holds', 'a finished disk'],
        ['from', sourceOf(recovered)],
        ['disk', formatExactSize(recovered.virtualSize)],
        ['disk digest', recovered.diskDigest],
      ];
    default:
      return [
        ['holds', recovered.kind === 'finishing' ? 'a transfer cut while finishing' : 'an unfinished transfer'],
        ['from', sourceOf(recovered)],
        ['way', recovered.way],
        ['done', `${formatExactSize(recovered.watermark)} of the source are on the target`],
        ['disk', recovered.virtualSize === undefined ? undefined : formatExactSize(recovered.virtualSize)],
        ['resumes', recovered.resumes === 0 ? undefined : String(recovered.resumes)],
        ['go on', 'run the same import again'],
        ['drop it', `diskferry forget ${path}`],
      ];
  }
}

/** The source's name in the identity that the transfer left, as it is where it cannot be read. */
function sourceOf(recovered: Extract<Recovered, { identity: string }>): string {
  try {
    const identity: unknown = JSON.parse(recovered.identity);
    for (const key of ['name', 'source']) {
      const value = (identity as Record<string, unknown> | null)?.[key];
      if (typeof value === 'string') return value;
    }
  } catch {
    // Not JSON: shown as it is.
  }
  return recovered.identity;
}

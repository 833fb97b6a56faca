import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import { filtered } from '../filters/filtered.ts';
import { retrying } from '../filters/retry.ts';
import type { Source, SourceDriver, SourceOptions } from '../source.ts';
import { azure } from './azure.ts';
import { blank } from './blank.ts';
import { exec } from './exec.ts';
import { file } from './file.ts';
import { gcs } from './gcs.ts';
import { http } from './http.ts';
import { imageArchive } from './image-archive.ts';
import { imageio } from './imageio.ts';
import { layout } from './layout.ts';
import { nbd } from './nbd.ts';
import { ovirt } from './ovirt.ts';
import { registry } from './registry.ts';
import { s3 } from './s3.ts';
import { stdin } from './stdin.ts';

/** Every driver. A new source is one file and one line here. */
const DRIVERS: readonly SourceDriver<unknown>[] = [
  http as SourceDriver<unknown>,
  s3 as SourceDriver<unknown>,
  gcs as SourceDriver<unknown>,
  azure as SourceDriver<unknown>,
  registry as SourceDriver<unknown>,
  layout as SourceDriver<unknown>,
  imageArchive as SourceDriver<unknown>,
  nbd as SourceDriver<unknown>,
  imageio as SourceDriver<unknown>,
  ovirt as SourceDriver<unknown>,
  file as SourceDriver<unknown>,
  stdin as SourceDriver<unknown>,
  blank as SourceDriver<unknown>,
  exec as SourceDriver<unknown>,
];

/** Schemes after which no slashes are wanted. */
const OPAQUE = ['file', ...DRIVERS.filter((one) => one.opaque).flatMap((one) => one.schemes)];

/** Scheme of `text`: `-`, what stands before `:` and `//` (or before `:` alone, where no slashes are wanted), else `file`. */
export function schemeOf(text: string): string {
  if (text === '-') return '-';
  const match = /^([a-z][a-z0-9+.-]*):(\/\/)?/i.exec(text);
  if (!match || (match[2] === undefined && !OPAQUE.includes((match[1] ?? '').toLowerCase()))) return 'file';
  return (match[1] ?? '').toLowerCase();
}

/**
 * Opens what `text` names. Opening is tried again like reading is, but for 15 s at most unless the server asks for
 * more: a wrong port should be told soon. Throws BAD_SPEC when no driver has the scheme.
 */
export async function openSource(text: string, options: SourceOptions, context: Context): Promise<Source> {
  const scheme = schemeOf(text);
  const driver = DRIVERS.find((one) => one.schemes.includes(scheme));
  if (!driver) {
    const known = DRIVERS.flatMap(({ schemes, opaque }) =>
      schemes.map((one) => (one === '-' ? one : `${one}:${opaque ? '' : '//'}`)),
    );
    throw new FerryError(`there is no source '${scheme}://'; there are ${known.join(', ')} and paths of files`, {
      code: 'BAD_SPEC',
      stage: 'source',
    });
  }
  const spec = driver.parse(text, options);
  const source = await retrying(context, () => driver.open(spec, context));
  if (options.changedSince !== undefined && source.facts.changedSince === undefined) {
    await source[Symbol.asyncDispose]();
    throw new FerryError(
      `${source.name} does not tell what has changed since ${options.changedSince}: NBD exports with a dirty bitmap, imageio tickets of an incremental backup and snapshots of an oVirt engine do`,
      { code: 'UNSUPPORTED', stage: 'source' },
    );
  }
  return options.unchanged ? vouched(source) : source;
}

/** A source that nothing identifies, of which a person says that nobody writes to it. */
function vouched(source: Source): Source {
  const { facts, details } = source;
  if (facts.validator !== undefined || !facts.ranges || facts.length === undefined) return source;
  return {
    ...filtered(source, (range, signal) => source.read(range, signal)),
    facts: { ...facts, validator: 'unchanged' },
    details: { ...details, resumable: 'yes, as long as nobody writes to it (--source-unchanged)' },
  };
}

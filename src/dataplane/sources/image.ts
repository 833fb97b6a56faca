import { createHash } from 'node:crypto';
import { labelsOf } from '../../oci/labels.ts';
import {
  choose,
  type Descriptor,
  isArchive,
  isConfiguration,
  MANIFEST_LIMIT,
  type Manifest,
  type Platform,
  parseManifest,
  verify,
} from '../../oci/manifest.ts';
import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import { filtered } from '../filters/filtered.ts';
import { native, type Told } from '../native.ts';
import { probed } from '../sniff.ts';
import type { Digest, Source } from '../source.ts';
import { stackFilters } from '../stack.ts';
import { whole } from './whole.ts';

/** Where the parts of an image are: a registry, a directory. */
export interface Blobs {
  /** For people and checkpoints, without secrets: `docker://registry/repository`. */
  readonly name: string;
  /** Opens what a tag or digest names. */
  manifest(reference: string): Promise<Source>;
  blob(descriptor: Descriptor): Promise<Source>;
}

export interface Wanted {
  /** Tag or digest. */
  readonly reference: string;
  readonly platform: Platform;
  /** Of the disk in its layer, or the title of the layer that is the disk. */
  readonly path?: string;
  /** Finds the digest of the image in what `reference` names, where that is not for one image only. */
  readonly among?: (text: string) => string;
}

/** Where a containerDisk has its disk (KubeVirt, "containerDisk": the only file of this directory). */
const DISKS: Told = { directory: 'disk' };

/**
 * The layer of an image that holds the disk, as a source of the layer's bytes. Layers are looked through from the top,
 * each only as far as is needed; those below the one that has the disk are not fetched.
 */
export async function openImage(blobs: Blobs, wanted: Wanted, context: Context): Promise<Source> {
  const { image, digest } = await imageOf(blobs, wanted, context);
  const name = `${blobs.name}@${digest}`;
  const labels = await labelsIn(blobs, image.config, context);
  const artifact = artifactOf(image.layers, wanted.path);
  if (artifact) return labelled(asBlob(await blobs.blob(artifact), artifact, name), labels);
  const disk = wanted.path === undefined ? DISKS : { path: wanted.path };
  const layers = [...image.layers].reverse();
  for (const [above, layer] of layers.entries()) {
    const found = await holds(blobs, layer, disk, context).catch((error: unknown) => {
      throw unreadable(error, layer, layers.length - above);
    });
    if (found === 'yes') return labelled(asBlob(await blobs.blob(layer), layer, name, disk), labels);
    if (found === 'hidden') break;
    context.log.info(`layer ${layers.length - above} of ${layers.length} has no disk`);
  }
  const what = wanted.path === undefined ? 'no file in /disk' : `no file ${wanted.path}`;
  throw new FerryError(
    `${name} has ${what} in its ${layers.length} layers${wanted.path === undefined ? ': name the disk with --path' : ''}`,
    { code: 'NOT_FOUND', stage: 'plan' },
  );
}

async function imageOf(
  blobs: Blobs,
  { reference, platform, among }: Wanted,
  context: Context,
): Promise<{ image: Extract<Manifest, { kind: 'image' }>; digest: string }> {
  let next = reference;
  if (among) next = among(Buffer.from(await wholeOf(await blobs.manifest(reference), context)).toString('utf8'));
  // An index names images, and no other index (image-spec image-index.md allows it; nobody reads it).
  for (let level = 0; level < 2; level += 1) {
    const bytes = await wholeOf(await blobs.manifest(next), context);
    if (next.includes(':')) verify(bytes, next);
    const digest = next.includes(':') ? next : `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
    const manifest = parseManifest(Buffer.from(bytes).toString('utf8'));
    if (manifest.kind === 'image') return { image: manifest, digest };
    next = choose(manifest, platform).digest;
  }
  throw new FerryError('an index in an index is not read: give the digest of the image', {
    code: 'UNSUPPORTED',
    stage: 'plan',
  });
}

async function wholeOf(opened: Source, context: Context): Promise<Uint8Array> {
  await using source = opened;
  return await whole(source, MANIFEST_LIMIT, 'the manifest', context.signal);
}

type Labels = Readonly<Record<string, string>>;

/** What the configuration of an image says of the disk's machine. The disk is the disk without it too. */
async function labelsIn(blobs: Blobs, config: Descriptor | undefined, context: Context): Promise<Labels> {
  if (config === undefined || !isConfiguration(config)) return {};
  try {
    const bytes = await wholeOf(await blobs.blob(config), context);
    verify(bytes, config.digest);
    return labelsOf(Buffer.from(bytes).toString('utf8'));
  } catch (error) {
    if (context.signal.aborted) throw error;
    context.log.warn(`the image's labels are not known: ${(error as Error).message}`);
    return {};
  }
}

function labelled(source: Source, labels: Labels): Source {
  const list = Object.entries(labels).map((pair) => pair.join('='));
  if (list.length === 0) return source;
  return {
    ...filtered(source, (range, signal) => source.read(range, signal)),
    facts: { ...source.facts, labels },
    details: { ...source.details, labels: list },
  };
}

/** The title of a file in an artifact (ORAS, "org.opencontainers.image.title"). */
const titleOf = (layer: Descriptor): string => layer.annotations['org.opencontainers.image.title'] ?? layer.digest;

/** The layer of an artifact that is the disk itself; undefined for images of file systems. Throws UNSUPPORTED. */
function artifactOf(layers: readonly Descriptor[], path: string | undefined): Descriptor | undefined {
  const files = layers.filter((layer) => !isArchive(layer));
  if (files.length === 0) return undefined;
  const named = path === undefined ? files : files.filter((layer) => titleOf(layer) === path);
  const [only] = named;
  if (only && named.length === 1) return only;
  if (files.length < layers.length) return undefined;
  throw new FerryError(`the artifact has ${files.map(titleOf).slice(0, 5).join(', ')}: name the disk with --path`, {
    code: named.length === 0 ? 'NOT_FOUND' : 'UNSUPPORTED',
    stage: 'plan',
  });
}

function digestOf(text: string): Digest {
  const [algorithm, hex = ''] = text.split(':');
  return { algorithm: algorithm as Digest['algorithm'], hex };
}

/** A source of a blob: its digest is what it is, wherever it comes from. */
function asBlob(source: Source, { digest, size }: Descriptor, name: string, disk?: Told): Source {
  const { length = size } = source.facts;
  if (length !== size) {
    throw new FerryError(`the layer ${digest} has ${length} bytes, its manifest says ${size}`, {
      code: 'CORRUPT',
      stage: 'source',
    });
  }
  return {
    name,
    details: { ...source.details, layer: digest, resumable: source.facts.ranges ? 'yes' : 'no: no ranges' },
    facts: { ...source.facts, length: size, validator: digest, digest: digestOf(digest), ...(disk ? { disk } : {}) },
    read: (range, signal) => source.read(range, signal),
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}

/** Whether a layer has the file, or hides it from those below. One without it is read whole, and verified. */
async function holds(blobs: Blobs, layer: Descriptor, disk: Told, context: Context): Promise<'yes' | 'no' | 'hidden'> {
  await using source = stackFilters(asBlob(await blobs.blob(layer), layer, blobs.name), context);
  const head = await source.head(context.signal);
  const sniffed = native().sniff(head, layer.size, {}, disk);
  if (!sniffed.codecs.includes('tar')) {
    if (sniffed.refusal) throw new FerryError(sniffed.refusal.message, sniffed.refusal);
    throw new FerryError('it is no tar archive', { code: 'CORRUPT', stage: 'source' });
  }
  if (!sniffed.unseen) {
    if (sniffed.refusal?.code !== 'NOT_FOUND') return 'yes';
    verify(head, layer.digest);
    return sniffed.hides ? 'hidden' : 'no';
  }
  const hash = createHash(layer.digest.split(':')[0] ?? 'sha256');
  const found = await probed(source, head, {}, disk, context.signal, (chunk) => hash.update(chunk));
  if (found.probe) return 'yes';
  if (hash.digest('hex') !== digestOf(layer.digest).hex) {
    throw new FerryError('its bytes are not what its digest says', { code: 'DIGEST_MISMATCH', stage: 'verify' });
  }
  return found.hides ? 'hidden' : 'no';
}

function unreadable(error: unknown, { digest }: Descriptor, number: number): unknown {
  if (!(error instanceof FerryError) || error.code === 'ABORTED') return error;
  const { code, stage, retryable } = error;
  return new FerryError(`layer ${number} (${digest.slice(0, 19)}…): ${error.message}`, {
    code,
    stage,
    retryable,
    cause: error,
  });
}

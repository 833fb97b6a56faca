import { resolve } from 'node:path';
import { ownPlatform, type Platform, parsePlatform } from '../../oci/manifest.ts';
import { DIGEST } from '../../oci/reference.ts';
import { type SavedImage, savedImages, savedManifest } from '../../oci/saved.ts';
import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import type { Source, SourceDriver, SourceOptions } from '../source.ts';
import { file } from './file.ts';
import { type Blobs, openImage } from './image.ts';
import { INDEX, named } from './layout.ts';
import { Members } from './members.ts';
import { textSource } from './text.ts';
import { whole } from './whole.ts';

/** Lists and configurations of images are text of some kilobytes. */
const TEXT_LIMIT = 4 * 1024 * 1024;
/** What `docker save` calls the list of its images. */
const LIST = 'manifest.json';

export interface ImageArchiveSpec {
  readonly scheme: 'oci-archive' | 'docker-archive';
  readonly path: string;
  /** Name of the image; absent = the only one. */
  readonly name?: string;
  readonly platform: Platform;
  /** Of the disk in the image. */
  readonly disk?: string;
}

/**
 * Images in a tar archive: a layout (image-spec image-layout.md), as `skopeo copy … oci-archive:` and `podman save
 * --format oci-archive` write it, or what `docker save` writes. The archive is not unpacked: its layers are read where they lie.
 */
export const imageArchive: SourceDriver<ImageArchiveSpec> = {
  schemes: ['oci-archive', 'docker-archive'],
  opaque: true,

  parse(text: string, options: SourceOptions): ImageArchiveSpec {
    const [, scheme = '', path = '', name] =
      /^(oci-archive|docker-archive):(?:\/\/)?([^:]+)(?::(.+))?$/.exec(text) ?? [];
    if (path === '') {
      const [given = ''] = text.split(':');
      throw new FerryError(`the source is not of the form ${given}:FILE[:name]`, { code: 'BAD_SPEC', stage: 'plan' });
    }
    return {
      scheme: scheme as ImageArchiveSpec['scheme'],
      path: resolve(path),
      platform: options.platform === undefined ? ownPlatform() : parsePlatform(options.platform),
      ...(name === undefined ? {} : { name }),
      ...(options.path === undefined ? {} : { disk: options.path }),
    };
  },

  async open({ scheme, path, name, platform, disk }: ImageArchiveSpec, context: Context): Promise<Source> {
    const members = await Members.of(await file.open({ path }, context), path, context.signal);
    const open = async (member: string): Promise<Source> => members.open(member, await file.open({ path }, context));
    const place = `${scheme}:${path}`;
    const wanted = { platform, ...(disk === undefined ? {} : { path: disk }) };
    if (scheme === 'docker-archive') {
      const image = await savedIn(open, place, name, context);
      const blobs: Blobs = {
        name: place,
        manifest: async () => textSource(place, image.manifest),
        blob: ({ digest }) => open(image.layers.get(digest) ?? digest),
      };
      return openImage(blobs, { reference: LIST, ...wanted }, context);
    }
    const blob = (digest: string): Promise<Source> => {
      // Checked where it was read: no path can be hidden in it.
      if (!DIGEST.test(digest)) throw new FerryError(`${digest} is no digest`, { code: 'CORRUPT', stage: 'plan' });
      return open(`blobs/${digest.replace(':', '/')}`);
    };
    const blobs: Blobs = {
      name: place,
      manifest: (reference) => (reference === INDEX ? open(INDEX) : blob(reference)),
      blob: ({ digest }) => blob(digest),
    };
    const among = (text: string): string => named(text, place, name, platform);
    return openImage(blobs, { reference: INDEX, ...wanted, among }, context);
  },
};

/** The image of `docker save` with a name, or the only one. */
async function savedIn(
  open: (member: string) => Promise<Source>,
  place: string,
  name: string | undefined,
  context: Context,
): Promise<SavedImage> {
  const read = async (member: string): Promise<string> => {
    await using source = await open(member);
    return (await whole(source, TEXT_LIMIT, member, context.signal)).toString('utf8');
  };
  const images = savedImages(await read(LIST));
  const fits = images.filter(({ names }) => name === undefined || names.includes(name));
  const [only] = fits;
  if (!only || (name === undefined && fits.length > 1)) {
    const names = images.flatMap(({ names }) => (names.length === 0 ? ['one without a name'] : names)).slice(0, 10);
    throw new FerryError(`${place} has ${names.join(', ') || 'no image'}: write ${place}:NAME`, {
      code: 'NOT_FOUND',
      stage: 'plan',
    });
  }
  const sizes = new Map<string, number>();
  for (const layer of only.layers) {
    await using source = await open(layer);
    sizes.set(layer, source.facts.length ?? 0);
  }
  return savedManifest(only, await read(only.config), sizes);
}

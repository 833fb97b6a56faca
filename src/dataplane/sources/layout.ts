import { join, resolve } from 'node:path';
import { choose, ownPlatform, type Platform, parseManifest, parsePlatform } from '../../oci/manifest.ts';
import { DIGEST } from '../../oci/reference.ts';
import type { Context } from '../context.ts';
import { FerryError } from '../errors.ts';
import type { Source, SourceDriver, SourceOptions } from '../source.ts';
import { file } from './file.ts';
import { openImage } from './image.ts';

export interface LayoutSpec {
  readonly directory: string;
  /** Name of the image in its index; absent = the only one. */
  readonly name?: string;
  readonly platform: Platform;
  readonly path?: string;
}

/** An image in a directory (image-spec image-layout.md), as skopeo, buildah and umoci write it. */
export const layout: SourceDriver<LayoutSpec> = {
  schemes: ['oci'],
  opaque: true,

  parse(text: string, options: SourceOptions): LayoutSpec {
    const [, directory = '', name] = /^oci:(?:\/\/)?([^:]+)(?::(.+))?$/.exec(text) ?? [];
    if (directory === '') {
      throw new FerryError('the source is not of the form oci:DIRECTORY[:name]', { code: 'BAD_SPEC', stage: 'plan' });
    }
    return {
      directory: resolve(directory),
      ...(name === undefined ? {} : { name }),
      platform: options.platform === undefined ? ownPlatform() : parsePlatform(options.platform),
      ...(options.path === undefined ? {} : { path: options.path }),
    };
  },

  async open({ directory, name, platform, path }: LayoutSpec, context: Context): Promise<Source> {
    const openFile = (...parts: string[]): Promise<Source> => file.open({ path: join(directory, ...parts) }, context);
    const openBlob = (digest: string): Promise<Source> => {
      // Checked where it was read: no path can be hidden in it.
      if (!DIGEST.test(digest)) throw new FerryError(`${digest} is no digest`, { code: 'CORRUPT', stage: 'plan' });
      return openFile('blobs', ...digest.split(':'));
    };
    return openImage(
      {
        name: `oci:${directory}`,
        manifest: (reference) => (reference === INDEX ? openFile('index.json') : openBlob(reference)),
        blob: ({ digest }) => openBlob(digest),
      },
      {
        reference: INDEX,
        platform,
        ...(path === undefined ? {} : { path }),
        among: (text) => named(text, `oci:${directory}`, name, platform),
      },
      context,
    );
  },
};

export const INDEX = 'index.json';

/** The digest of the manifest that has a name in the index; `place` as it is written. Throws NOT_FOUND with the names that there are. */
export function named(text: string, place: string, name: string | undefined, platform: Platform): string {
  const index = parseManifest(text);
  if (index.kind !== 'index') {
    throw new FerryError(`the index.json of ${place} is no index`, { code: 'CORRUPT', stage: 'plan' });
  }
  const nameOf = (annotations: Readonly<Record<string, string>>): string =>
    annotations['org.opencontainers.image.ref.name'] ?? 'one without a name';
  const fits = index.manifests.filter((one) => name === undefined || nameOf(one.annotations) === name);
  if (fits.length === 0 || (name === undefined && new Set(fits.map((one) => nameOf(one.annotations))).size > 1)) {
    const names = index.manifests.map((one) => nameOf(one.annotations)).slice(0, 10);
    throw new FerryError(`${place} has ${names.join(', ') || 'no image'}: write ${place}:NAME`, {
      code: 'NOT_FOUND',
      stage: 'plan',
    });
  }
  return choose({ kind: 'index', manifests: fits }, platform).digest;
}

import { ANNOTATION } from '../../api/claim.ts';
import type { DataVolumeSource, ImportSource } from '../../api/datavolume.ts';

/** What a claim is to be filled with. */
export interface Wanted {
  readonly source: ImportSource;
  readonly contentType?: string;
  readonly preallocation?: boolean;
}

const IMPORTED = ['http', 's3', 'gcs', 'registry', 'imageio', 'vddk', 'blank'] as const;

/** Which of the sources an import has; undefined where there is none, or another one. */
export function importedFrom(source: DataVolumeSource | undefined): (typeof IMPORTED)[number] | undefined {
  return IMPORTED.find((kind) => source?.[kind] !== undefined);
}

/** Disks, unless it says archive: what is not known is a disk. */
export function contentOf(contentType: string | undefined): 'kubevirt' | 'archive' {
  return contentType === 'archive' ? 'archive' : 'kubevirt';
}

/** The annotations by which a claim says what it is to be filled with. */
export function annotationsOf({ source, contentType, preallocation }: Wanted): Record<string, string> {
  const said: Record<string, string | undefined> = {
    [ANNOTATION.contentType]: contentOf(contentType),
    [ANNOTATION.preallocationRequested]: String(preallocation ?? false),
    ...ofSource(source),
  };
  return Object.fromEntries(
    Object.entries(said).filter((entry): entry is [string, string] => entry[1] !== undefined && entry[1] !== ''),
  );
}

function ofSource(source: ImportSource): Record<string, string | undefined> {
  const kind = importedFrom(source);
  const of = (
    name: string,
    { url, secretRef, certConfigMap }: { url?: string; secretRef?: string; certConfigMap?: string },
  ): Record<string, string | undefined> => ({
    [ANNOTATION.source]: name,
    [ANNOTATION.endpoint]: url,
    [ANNOTATION.secret]: secretRef,
    [ANNOTATION.certConfigMap]: certConfigMap,
  });
  switch (kind) {
    case 'http': {
      const http = source.http as NonNullable<ImportSource['http']>;
      const numbered = (prefix: string, values: readonly string[] = []): [string, string][] =>
        values.map((value, n) => [`${prefix}${n}`, value]);
      return {
        ...of('http', http),
        [ANNOTATION.checksum]: http.checksum,
        ...Object.fromEntries(numbered(ANNOTATION.extraHeaders, http.extraHeaders)),
        ...Object.fromEntries(numbered(ANNOTATION.secretExtraHeaders, http.secretExtraHeaders)),
        ...(http.insecureSkipVerify ? { [ANNOTATION.insecureSkipVerify]: 'true' } : {}),
      };
    }
    case 's3':
      return of('s3', source.s3 ?? {});
    case 'gcs':
      return of('gcs', source.gcs ?? {});
    case 'registry': {
      const registry = source.registry ?? {};
      return {
        ...of('registry', registry),
        ...(registry.imageStream === undefined
          ? {}
          : { [ANNOTATION.endpoint]: registry.imageStream, [ANNOTATION.registryStream]: 'true' }),
        [ANNOTATION.registryMethod]: registry.pullMethod,
        [ANNOTATION.registryArchitecture]: registry.platform?.architecture,
      };
    }
    case 'imageio': {
      const imageio = source.imageio as NonNullable<ImportSource['imageio']>;
      return {
        ...of('imageio', imageio),
        [ANNOTATION.diskId]: imageio.diskId,
        ...(imageio.insecureSkipVerify ? { [ANNOTATION.insecureSkipVerify]: 'true' } : {}),
      };
    }
    case 'vddk': {
      const vddk = source.vddk ?? {};
      return {
        ...of('vddk', vddk),
        [ANNOTATION.uuid]: vddk.uuid,
        [ANNOTATION.backingFile]: vddk.backingFile,
        [ANNOTATION.thumbprint]: vddk.thumbprint,
      };
    }
    default:
      // The word for a blank disk.
      return { [ANNOTATION.source]: 'none' };
  }
}

import type {
  DataVolumeSource,
  ImageioSource,
  ObjectRef,
  RegistrySource,
  SourceReference,
  VddkSource,
} from '../../api/datavolume.ts';
import { type Cause, invalid, quoted } from './cause.ts';
import { checkChecksum } from './checksum.ts';
import { checkControlCharacters, controlCharacterIn } from './control-characters.ts';
import { checkUrl, LOGIN, WEB, withUserinfo } from './url.ts';

const CONTENT_TYPES = ['', 'kubevirt', 'archive'];

export function checkContentType(contentType: string | undefined, field: string): Cause[] {
  if (CONTENT_TYPES.includes(contentType ?? '')) return [];
  const message = `ContentType not one of: kubevirt, archive: it is ${quoted(contentType)}; left out it is kubevirt, the image of a disk`;
  return [invalid(field, message)];
}

/** What of the sources is there, whatever is in it. */
export function membersOf(source: DataVolumeSource | undefined): readonly (keyof DataVolumeSource)[] {
  return Object.entries(source ?? {})
    .filter(([, member]) => member !== undefined && member !== null)
    .map(([name]) => name as keyof DataVolumeSource);
}

/** The one source that there is. */
export function checkSource(source: DataVolumeSource, contentType: string | undefined, field: string): Cause[] {
  const { http, s3, gcs, registry, imageio, vddk, blank, pvc, snapshot } = source;
  const at = (member: string, name = 'url'): string => `${field}.${member}.${name}`;
  return [
    ...(http ? [...checkUrl(http.url, at('http')), ...checkChecksum(http.checksum, at('http', 'checksum'))] : []),
    ...(s3 ? checkUrl(s3.url, at('s3')) : []),
    ...(gcs ? checkUrl(gcs.url, at('gcs'), { ...WEB, secret: 'credentials.json' }) : []),
    ...(blank && contentType === 'archive'
      ? [
          invalid(
            `${field}.blank`,
            'SourceType cannot be blank and the contentType be archive: an empty disk is no archive; leave contentType out',
          ),
        ]
      : []),
    ...(registry ? checkRegistry(registry, contentType, `${field}.registry`) : []),
    ...(imageio ? checkImageio(imageio, `${field}.imageio`) : []),
    ...(vddk ? checkVddk(vddk, `${field}.vddk`) : []),
    ...(pvc ? checkObject(pvc, `${field}.pvc`) : []),
    ...(snapshot ? checkObject(snapshot, `${field}.snapshot`) : []),
    ...checkControlCharacters(source, field),
  ];
}

function checkRegistry(registry: RegistrySource, contentType: string | undefined, field: string): Cause[] {
  const { url, imageStream, pullMethod } = registry;
  const found: Cause[] = [];
  if (contentType && contentType !== 'kubevirt') {
    const message = `SourceType registry must have the contentType kubevirt: it is ${quoted(contentType)}; leave contentType out`;
    found.push(invalid(field, message));
  }
  const isWritten = (text: string | undefined | null): text is string => text !== undefined && text !== null;
  if (!isWritten(url) && !isWritten(imageStream))
    found.push(invalid(field, `${field} has neither url nor imageStream: write where the image is, as docker://…`));
  if (isWritten(url) && isWritten(imageStream))
    found.push(invalid(field, `${field} has both url and imageStream: write one of them`));
  if (isWritten(url)) found.push(...checkImage(url, `${field}.url`));
  if (isWritten(pullMethod) && pullMethod !== 'pod' && pullMethod !== 'node') {
    const message = `ImportMethod ${quoted(pullMethod)} is neither pod nor node: left out it is pod`;
    found.push(invalid(`${field}.pullMethod`, message));
  }
  if (imageStream === '')
    found.push(invalid(`${field}.imageStream`, `${field}.imageStream is empty: write its name, or url in place of it`));
  else if (isWritten(imageStream) && pullMethod !== 'node') {
    const message = `${field}.imageStream is only for the pullMethod node: write that, or url in place of imageStream`;
    found.push(invalid(`${field}.imageStream`, message));
  }
  return found;
}

/** Where a container image is. Of a reference what the registry says is right or wrong. */
function checkImage(url: string, field: string): Cause[] {
  const known = 'write docker://registry/image:tag, or oci-archive:// and a path';
  const at = controlCharacterIn(url, 'no tabs');
  if (at >= 0)
    return [invalid(field, `${field} has a control character at place ${at + 1} of ${url.length}: a URL is one line`)];
  const [, scheme, rest] = /^([a-z][a-z0-9+.-]*):\/*(.*)$/i.exec(url) ?? [];
  if (scheme === undefined) return [invalid(field, `Illegal registry URL: ${field} has no scheme; ${known}`)];
  if (!['docker', 'oci-archive'].includes(scheme.toLowerCase()))
    return [invalid(field, `Illegal registry URL scheme ${quoted(scheme)} in ${field}: ${known}`)];
  if (rest === '') return [invalid(field, `Illegal registry URL: ${field} names no image; ${known}`)];
  // Of `docker://fedora@sha256:…` the @ stands before a digest.
  const host = rest?.replace(/@[a-z0-9+._-]+:[0-9a-f]{32,}$/i, '').split('/')[0];
  return scheme.toLowerCase() === 'docker' && host?.includes('@') ? [withUserinfo(field, LOGIN)] : [];
}

function checkImageio(imageio: ImageioSource, field: string): Cause[] {
  const { url, secretRef, diskId, certConfigMap, insecureSkipVerify } = imageio;
  const found: Cause[] = [];
  if (!secretRef) found.push(missing(`${field}.secretRef`, `the Secret with ${LOGIN} of the engine`));
  if (!diskId) found.push(missing(`${field}.diskId`, 'the ID of the disk'));
  if (!certConfigMap && !insecureSkipVerify) {
    const message = `${field}.certConfigMap is empty: name a ConfigMap with the certificate of the engine's authority; or set insecureSkipVerify, which trusts everyone`;
    found.push(invalid(`${field}.certConfigMap`, message));
  }
  return [...found, ...checkUrl(url, `${field}.url`)];
}

function checkVddk(vddk: VddkSource, field: string): Cause[] {
  const needed = {
    secretRef: `the Secret with ${LOGIN} of the server`,
    uuid: 'the UUID of the virtual machine',
    backingFile: 'the path of the disk, as [datastore] folder/file.vmdk',
    thumbprint: "the SHA-1 of the server's certificate, as VMware shows it",
  } as const;
  const found = Object.entries(needed).flatMap(([name, what]) =>
    vddk[name as keyof typeof needed] ? [] : [missing(`${field}.${name}`, what)],
  );
  return [...found, ...checkUrl(vddk.url, `${field}.url`)];
}

function checkObject({ namespace, name }: ObjectRef, field: string): Cause[] {
  return [
    ...(namespace ? [] : [missing(`${field}.namespace`, 'the namespace of what is cloned')]),
    ...(name ? [] : [missing(`${field}.name`, 'the name of what is cloned')]),
  ];
}

/** In place of a source. That it exists is not looked at: it may come later. */
export function checkSourceRef({ kind, name }: SourceReference, field: string): Cause[] {
  if (!kind) return [missing(`${field}.kind`, 'DataSource')];
  if (kind !== 'DataSource')
    return [invalid(`${field}.kind`, `${field}.kind is ${quoted(kind)}: it can be DataSource only`)];
  return name ? [] : [missing(`${field}.name`, 'the name of the DataSource')];
}

function missing(field: string, what: string): Cause {
  return invalid(field, `${field} is empty: write ${what}`);
}

import { createHash } from 'node:crypto';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { parseOverhead } from '../api/overhead.ts';
import { parseBytes } from '../api/quantity.ts';
import type { Claim } from '../dataplane/claim.ts';
import { parseChecksum } from '../dataplane/digests.ts';
import type { FerryError } from '../dataplane/errors.ts';
import { Guard } from '../dataplane/guard.ts';
import type { Digest, SourceOptions } from '../dataplane/source.ts';
import { decode } from '../dataplane/sources/object.ts';
import type { ImageServer } from './image-server.ts';

/** What the pod is to do, read from its environment: the contract of CDI's importer (docs/importer.md). */
export interface Job {
  /** As CDI names it in its messages: http, s3, gcs, registry, none. */
  readonly kind: string;
  /** A disk, or a tar of files. */
  readonly content: 'kubevirt' | 'archive';
  /** As `diskferry import` takes it. */
  readonly source: string;
  readonly options: SourceOptions;
  readonly claim: Claim;
  readonly preallocate: boolean;
  readonly checksum?: Digest;
  /** Label of the progress metric. */
  readonly owner: string;
  /** Where it may connect to. */
  readonly guard: Guard;
  /** Where the node has pulled the image, and its disk is served in this pod. */
  readonly served?: ImageServer;
  /** Authenticates the journal: nobody who had the volume before knows it. */
  readonly journalKey: Uint8Array;
}

/** What a file or directory of the pod holds; undefined where there is none. */
export interface Mounts {
  /** Contents of the PEM files below a directory. */
  certificates(directory: string): string | undefined;
  /** Header lines of secrets, in order. */
  headers(): readonly string[];
}

/** Ends the pod with a text in the termination message. */
export class JobError extends Error {}

/** Throws JobError in CDI's words where clients match on them. */
export function jobOf(env: NodeJS.ProcessEnv, mounts: Mounts): Job {
  const served = servedBy(env);
  // The controller says http, since that is how the disk comes (CDI).
  const kind = served ? 'registry' : (env.IMPORTER_SOURCE ?? '');
  // What is not known is a disk, as CDI has it.
  const content = env.IMPORTER_CONTENTTYPE === 'archive' ? 'archive' : 'kubevirt';
  if (kind === 'none' && content === 'archive') {
    throw new JobError('Cannot create empty disk with content type archive');
  }
  if (kind === 'registry' && content === 'archive') {
    throw new JobError('a container image holds a disk: the content type archive is not imported from a registry');
  }
  if (kind === 'imageio' && content === 'archive') {
    throw new JobError('an oVirt engine shows disks: the content type archive is not imported from imageio');
  }
  const claim = claimOf(env);
  const uid = env.DISKFERRY_CLAIM_UID || env.OWNER_UID || '';
  if (uid === '') throw new JobError('neither DISKFERRY_CLAIM_UID nor OWNER_UID says whose volume this is');
  return {
    kind,
    content,
    source: served ? `${served.origin}/disk.img` : sourceOf(kind, env),
    // No proxy, nobody's credentials.
    options: served ? { anonymous: true, instanceMetadata: false, environment: {} } : optionsOf(kind, env, mounts),
    claim,
    preallocate: bool(env, 'PREALLOCATION'),
    ...(env.IMPORTER_CHECKSUM ? { checksum: checksumOf(env.IMPORTER_CHECKSUM) } : {}),
    owner: env.OWNER_UID ?? uid,
    guard: guardOf(env, served ? [LOOPBACK] : []),
    ...(served ? { served } : {}),
    journalKey: createHash('sha256').update(`diskferry journal of claim ${uid}`).digest(),
  };
}

const LOOPBACK = '127.0.0.1';

/**
 * Only whoever makes the pod says that there is a server in it, and where it is says nobody: an URL of a user leads to
 * loopback neither by itself nor by this.
 */
function servedBy(env: NodeJS.ProcessEnv): ImageServer | undefined {
  if (env.IMPORTER_PULL_METHOD !== 'node') return undefined;
  const { IMPORTER_READY_FILE: ready = '/shared/ready', DISKFERRY_ROOT: root = '' } = env;
  // CDI's port; tests have another.
  return { origin: `http://${LOOPBACK}:${env.DISKFERRY_IMAGE_PORT ?? 8100}`, ready: join(root, ready) };
}

/** Bits of the addresses around the API server's that are taken for the cluster's services: their network is not told. */
const SERVICES = { 4: 16, 6: 112 } as const;

function guardOf(env: NodeJS.ProcessEnv, ours: readonly string[]): Guard {
  const list = (name: string): string[] => (env[name] ?? '').split(/[,\s]+/).filter((net) => net !== '');
  const api = env.KUBERNETES_SERVICE_HOST ?? '';
  const family = isIP(api);
  const cluster = family === 4 || family === 6 ? { api, services: `${api}/${SERVICES[family]}` } : {};
  // Of a scheme that it does not know, URL takes no host.
  const named = URL.parse((env.IMPORTER_ENDPOINT ?? '').replace(/^[a-z0-9+-]+:\/\//i, 'http://'))?.hostname;
  const remedy = 'if it is meant, allow it with DISKFERRY_ALLOW_ADDRESSES';
  try {
    const [refused, allowed] = [list('DISKFERRY_REFUSE_ADDRESSES'), list('DISKFERRY_ALLOW_ADDRESSES')];
    return new Guard(refused, [...allowed, ...ours], remedy, { ...cluster, ...(named ? { named: [named] } : {}) });
  } catch (error) {
    throw new JobError(`the addresses to refuse or to allow cannot be read: ${(error as Error).message}`);
  }
}

function claimOf(env: NodeJS.ProcessEnv): Claim {
  const overhead = parseOverhead(env.FILESYSTEM_OVERHEAD || '0');
  if (overhead === undefined) throw new JobError(`FILESYSTEM_OVERHEAD ${env.FILESYSTEM_OVERHEAD} is no part of 1`);
  const text = env.IMPORTER_IMAGE_SIZE ?? '';
  const size = parseBytes(text);
  if (size === undefined) throw new JobError(`IMPORTER_IMAGE_SIZE '${text}' is no size of a volume`);
  return { size, overhead };
}

function bool(env: NodeJS.ProcessEnv, name: string): boolean {
  const text = env[name] ?? '';
  if (!/^(1|t|true|0|f|false|)$/i.test(text)) throw new JobError(`${name} '${text}' is neither true nor false`);
  return /^(1|t|true)$/i.test(text);
}

function checksumOf(text: string): Digest {
  try {
    return parseChecksum(text.replaceAll(' ', ''));
  } catch (error) {
    throw new JobError(`the checksum cannot be demanded: ${(error as Error).message}`);
  }
}

function sourceOf(kind: string, env: NodeJS.ProcessEnv): string {
  const endpoint = env.IMPORTER_ENDPOINT ?? '';
  const url = URL.parse(endpoint);
  const needs = (what: string): JobError => new JobError(`Unable to connect to ${kind} data source: ${what}`);
  switch (kind) {
    case 'none':
      // One sector: the disk grows to what is usable of the claim, and a device is zeroed to its end.
      return 'blank:512';
    case 'http':
      if (!url || !/^(https?|gs):$/.test(url.protocol)) throw needs(`the endpoint is no http:// or https:// URL`);
      return endpoint;
    case 's3': {
      const [, bucket = '', key = ''] = /^\/([^/]+)\/(.+)$/.exec(url?.pathname ?? '') ?? [];
      if (!url || bucket === '') throw needs('the endpoint is not of the form https://host/bucket/key');
      return `s3://${bucket}/${decode(key)}`;
    }
    case 'gcs': {
      if (/^gs:\/\//.test(endpoint)) return endpoint;
      const [, bucket = '', object = ''] = /^\/([^/]+)\/(.+)$/.exec(url?.pathname ?? '') ?? [];
      if (bucket === '') throw needs('the endpoint is not of the form gs://bucket/object');
      return `gs://${bucket}/${decode(object)}`;
    }
    case 'registry':
      if (!/^docker:\/\/./.test(endpoint)) throw needs('the endpoint is not of the form docker://registry/image');
      return endpoint;
    case 'imageio': {
      if (!url || !/^https?:$/.test(url.protocol)) throw needs('the endpoint is no http:// or https:// URL');
      const snapshot = env.IMPORTER_CURRENT_CHECKPOINT ? `?snapshot=${env.IMPORTER_CURRENT_CHECKPOINT}` : '';
      return `ovirt+${url.origin}${url.pathname.replace(/\/$/, '')}/disks/${env.IMPORTER_DISK_ID ?? ''}${snapshot}`;
    }
    case 'vddk':
      throw needs(
        "VMware's library is not part of this image: export the disk as an OVA or VMDK, or run `diskferry import exec:COMMAND` where nbdkit has it",
      );
    default:
      throw new JobError(`Unknown data source: ${kind}`);
  }
}

function optionsOf(kind: string, env: NodeJS.ProcessEnv, mounts: Mounts): SourceOptions {
  const { IMPORTER_ACCESS_KEY_ID: username = '', IMPORTER_SECRET_KEY: password = '' } = env;
  const endpoint = URL.parse(env.IMPORTER_ENDPOINT ?? '');
  const insecure = bool(env, 'INSECURE_TLS');
  const directories = [env.IMPORTER_CERT_DIR, env.IMPORTER_PROXY_CERT_DIR].filter(
    (one) => one !== undefined && one !== '',
  );
  const certificates = (directories as string[]).map((one) => mounts.certificates(one)).filter(Boolean);
  const architecture = env.IMPORTER_REGISTRY_IMAGE_ARCHITECTURE;
  return {
    headers: headersOf(env, mounts),
    // Both or none, as CDI has it.
    ...(username !== '' && password !== '' ? { credentials: { username, password } } : {}),
    ...(username === '' && !env.GOOGLE_APPLICATION_CREDENTIALS ? { anonymous: true } : {}),
    ...(certificates.length === 0 ? {} : { ca: certificates.join('\n') }),
    ...(kind === 's3' && endpoint ? { s3: s3Of(endpoint) } : {}),
    ...(kind === 'registry' ? { registry: { insecure } } : {}),
    ...(kind === 'http' || kind === 'imageio' ? { insecureTls: insecure } : {}),
    // A stage after the first: only what has changed since the one before it.
    ...(kind === 'imageio' && env.IMPORTER_PREVIOUS_CHECKPOINT
      ? { changedSince: env.IMPORTER_PREVIOUS_CHECKPOINT }
      : {}),
    ...(architecture ? { platform: `linux/${architecture}` } : {}),
    // Only what the job was given counts in a pod.
    instanceMetadata: false,
    environment: {
      HTTP_PROXY: env.http_proxy,
      HTTPS_PROXY: env.https_proxy,
      NO_PROXY: env.no_proxy,
      GOOGLE_APPLICATION_CREDENTIALS: env.GOOGLE_APPLICATION_CREDENTIALS,
      ...(kind === 'gcs' && endpoint && endpoint.protocol !== 'gs:' ? { STORAGE_EMULATOR_HOST: endpoint.origin } : {}),
    },
  };
}

/** The region as CDI finds it: by the name of Amazon's host, else the first part of whatever it is called. */
function s3Of(endpoint: URL): NonNullable<SourceOptions['s3']> {
  const region = /s3\.(.+)\.amazonaws\.com$/.exec(endpoint.hostname)?.[1];
  return region === undefined ? { endpoint: endpoint.origin } : { region };
}

function headersOf(env: NodeJS.ProcessEnv, mounts: Mounts): Record<string, string> {
  const lines: string[] = [];
  for (let n = 0; env[`IMPORTER_EXTRA_HEADER_${n}`] !== undefined; n += 1)
    lines.push(env[`IMPORTER_EXTRA_HEADER_${n}`] ?? '');
  const headers: Record<string, string> = {};
  for (const line of [...lines, ...mounts.headers()]) {
    const colon = line.indexOf(':');
    const [name, value] = [line.slice(0, Math.max(colon, 0)).trim(), line.slice(colon + 1).trim()];
    if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name) || /[\r\n\0]/.test(value)) {
      throw new JobError('an extra header is not of the form "Name: value"');
    }
    headers[name.toLowerCase()] = value;
  }
  return headers;
}

/** Whether an error is the source's at its opening, for which CDI has a sentence of its own. */
export function concernsSource(error: FerryError): boolean {
  return (
    error.stage === 'source' && ['NOT_FOUND', 'DENIED', 'IO', 'STALLED', 'UNSUPPORTED', 'UNSAFE'].includes(error.code)
  );
}

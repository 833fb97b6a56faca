import { readFile, stat } from 'node:fs/promises';
import { type Command, Option } from 'commander';
import { FerryError } from '../dataplane/errors.ts';
import type { SourceOptions } from '../dataplane/source.ts';

/** Where a person says to find what the source wants of them. */
export interface SourceFlags {
  readonly ca?: string;
  readonly headersFile?: string;
  readonly credentialsFile?: string;
  readonly insecureRedirects?: boolean;
  /** Path of the disk in an archive. */
  readonly path?: string;
  /** Name or number of the disk in an archive. */
  readonly disk?: string;
  readonly sourceFormat?: string;
  readonly sourceUnchanged?: boolean;
  readonly changedSince?: string;
  readonly platform?: string;
  readonly registryMirror?: readonly string[];
  readonly registryInsecure?: boolean;
  readonly authfile?: string;
  readonly anonymous?: boolean;
  readonly s3Endpoint?: string;
  readonly s3Region?: string;
}

/** What an image can be said to be; QEMU calls VHD vpc. */
const FORMATS = ['raw', 'qcow2', 'vmdk', 'vhd', 'vpc', 'vhdx', 'vdi', 'parallels', 'qed', 'dmg'];

/** The options that import and inspect have for their source. */
export function addSourceFlags(command: Command): Command {
  return command
    .option('--path <path>', 'the disk in an archive or container image that has several files')
    .option('--disk <name>', 'of an archive with several disks the one of this name, or of this number from 1')
    .addOption(
      new Option(
        '--source-format <format>',
        'accept nothing else, whatever the image looks like (default: by its header)',
      ).choices(FORMATS),
    )
    .option(
      '--source-unchanged',
      'nobody writes to the source: go on after an interruption though nothing identifies it (NBD, devices)',
    )
    .option(
      '--changed-since <name>',
      'only what has changed since that dirty bitmap (NBD) or snapshot (oVirt), onto the disk as it was then',
    )
    .option('--ca <file>', 'PEM certificates to trust beside those of the system')
    .option('--headers-file <file>', 'request headers, a "Name: value" a line; also in $DISKFERRY_HEADERS')
    .option('--insecure-redirects', 'follow redirects from https to http')
    .option(
      '--credentials-file <file>',
      'user:password for the server, or access key:secret for S3; also in $DISKFERRY_USERNAME and $DISKFERRY_PASSWORD',
    )
    .option('--anonymous', 'ask S3, Google Cloud Storage, Azure or a registry without credentials')
    .option('--s3-endpoint <url>', "an S3 that is not Amazon's; also in $AWS_ENDPOINT_URL")
    .option('--s3-region <region>', 'region that requests to S3 are signed for; also in $AWS_REGION')
    .option('--platform <os/arch>', "of a container image that there is for several (default: this machine's)")
    .option('--authfile <file>', 'logins for registries, as docker login writes them (default: where it does)')
    .addOption(
      // Not variadic: it would take the source for one more.
      new Option(
        '--registry-mirror <host>',
        'registry to ask before the one that is named; may be given again',
      ).argParser((host: string, before: readonly string[] = []) => [...before, host]),
    )
    .option('--registry-insecure', 'speak to the registry by http, without TLS');
}

/** Larger than any list of headers or bundle of certificates (Debian's is 220 kB), so that a slip is noticed. */
const FILE_LIMIT = 4 * 1024 * 1024;
/** A field name is a token (RFC 9110, section 5.6.2). */
const FIELD_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** Field values are visible ASCII, space, tab and obs-text (RFC 9110, section 5.5). */
const FIELD_VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;

function usage(message: string, cause?: unknown): FerryError {
  return new FerryError(message, { code: 'BAD_SPEC', stage: 'plan', cause });
}

/**
 * Headers, credentials and trusted certificates, from files and the environment and never from arguments, which every
 * user of the machine can read. A file wins over the environment. Throws BAD_SPEC naming the line that is wrong,
 * without quoting it: it may hold a secret.
 */
export async function sourceOptions(flags: SourceFlags, env: NodeJS.ProcessEnv = process.env): Promise<SourceOptions> {
  const headers = {
    ...(env.DISKFERRY_HEADERS ? parseHeaders(env.DISKFERRY_HEADERS, 'DISKFERRY_HEADERS') : {}),
    ...(flags.headersFile ? parseHeaders(await readText(flags.headersFile), flags.headersFile) : {}),
  };
  const credentials = flags.credentialsFile
    ? parseCredentials(await readText(flags.credentialsFile), flags.credentialsFile)
    : credentialsFromEnvironment(env);
  const ca = flags.ca ? await readText(flags.ca) : undefined;
  if (ca !== undefined && !ca.includes('-----BEGIN CERTIFICATE-----')) {
    throw usage(`${flags.ca} holds no PEM certificate: --ca wants a file with BEGIN CERTIFICATE lines`);
  }
  return {
    ...(Object.keys(headers).length > 0 ? { headers } : {}),
    ...(credentials ? { credentials } : {}),
    ...(ca === undefined ? {} : { ca }),
    ...(flags.insecureRedirects ? { insecureRedirects: true } : {}),
    ...(flags.anonymous ? { anonymous: true } : {}),
    ...(flags.path === undefined ? {} : { path: flags.path }),
    ...(flags.disk === undefined ? {} : { disk: flags.disk }),
    ...(flags.sourceFormat === undefined ? {} : { format: flags.sourceFormat }),
    ...(flags.sourceUnchanged ? { unchanged: true } : {}),
    ...(flags.changedSince === undefined ? {} : { changedSince: flags.changedSince }),
    ...(flags.platform === undefined ? {} : { platform: flags.platform }),
    registry: {
      ...(flags.registryMirror === undefined ? {} : { mirrors: flags.registryMirror }),
      ...(flags.registryInsecure ? { insecure: true } : {}),
      ...(flags.authfile === undefined ? {} : { authfile: flags.authfile }),
    },
    s3: {
      ...(flags.s3Endpoint === undefined ? {} : { endpoint: flags.s3Endpoint }),
      ...(flags.s3Region === undefined ? {} : { region: flags.s3Region }),
    },
    stdin: process.stdin,
    programs: true,
  };
}

/** A URL with a user or password in it is refused: the argument list is public. */
export function refuseSecretsInArguments(source: string): void {
  if (!URL.canParse(source)) return;
  const { username, password } = new URL(source);
  if (username || password) {
    throw usage(
      'the URL carries a user name or password, which every user of this machine can see: leave it out and put user:password in a file for --credentials-file, or set DISKFERRY_USERNAME and DISKFERRY_PASSWORD',
    );
  }
}

/** Lines of `Name: value`; empty lines and lines that begin with # are passed over. Names come out in lower case. */
export function parseHeaders(text: string, place: string): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const colon = line.indexOf(':');
    const name = line.slice(0, Math.max(colon, 0));
    const value = line.slice(colon + 1).trim();
    if (!FIELD_NAME.test(name) || !FIELD_VALUE.test(value)) {
      throw usage(`line ${index + 1} of ${place} is no header: each line is "Name: value"`);
    }
    headers[name.toLowerCase()] = value;
  }
  return headers;
}

function parseCredentials(text: string, place: string): { username: string; password: string } {
  const line = text.split(/\r?\n/, 1)[0] ?? '';
  const colon = line.indexOf(':');
  if (colon < 1) throw usage(`the first line of ${place} must be user:password`);
  return { username: line.slice(0, colon), password: line.slice(colon + 1) };
}

function credentialsFromEnvironment(env: NodeJS.ProcessEnv): { username: string; password: string } | undefined {
  const username = env.DISKFERRY_USERNAME;
  const password = env.DISKFERRY_PASSWORD;
  if (!username && !password) return undefined;
  if (!username) throw usage('DISKFERRY_PASSWORD is set and DISKFERRY_USERNAME is not: set both, or neither');
  return { username, password: password ?? '' };
}

async function readText(path: string): Promise<string> {
  try {
    const { size } = await stat(path);
    if (size > FILE_LIMIT)
      throw usage(`${path} has ${size} bytes, more than the ${FILE_LIMIT} that are read of such a file`);
    return await readFile(path, 'utf8');
  } catch (thrown) {
    if (thrown instanceof FerryError) throw thrown;
    throw usage(`${path} cannot be read: ${(thrown as Error).message}`, thrown);
  }
}

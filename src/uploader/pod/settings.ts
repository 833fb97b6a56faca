import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type { SecureContextOptions } from 'node:tls';
import { parseOverhead } from '../../api/overhead.ts';
import { parseBytes } from '../../api/quantity.ts';
import type { Claim } from '../../dataplane/claim.ts';
import { FerryError } from '../../dataplane/errors.ts';
import { TLS_VERSIONS, tlsContext, tlsRulesIn } from '../../pki/tls.ts';
import type { CertificateFiles } from '../certificates.ts';

/** What the pod is to do, from its environment: the contract of CDI's upload server (docs/uploadserver.md). */
export interface Settings {
  readonly host: string;
  readonly port: number;
  /** Without it, it speaks plain HTTP, to anybody. */
  readonly tls?: {
    readonly files: Required<CertificateFiles>;
    readonly versions: SecureContextOptions;
  };
  /** Common name that the certificate of a client must have. */
  readonly client: string;
  /** File or device. */
  readonly destination: string;
  readonly claim: Claim | undefined;
  readonly preallocate: boolean;
  /** Milliseconds since 1970 when it ends without an upload. */
  readonly deadline: number | undefined;
  readonly journalKey: Uint8Array;
}

/** Where a block volume is; else the destination is a file. */
const DEVICE = '/dev/cdi-block-volume';
const FILE = '/data/disk.img';

/** Throws BAD_SPEC with the name of what is wrong. `root` stands in front of paths, for tests. */
export function settingsOf(env: NodeJS.ProcessEnv, root: string): Settings {
  const { TLS_KEY_FILE: key, TLS_CERT_FILE: certificate, CLIENT_CERT_FILE: clients } = env;
  const destination = join(root, env.DESTINATION || FILE);
  const overhead = parseOverhead(env.FILESYSTEM_OVERHEAD || '0');
  if (overhead === undefined) throw wrong(`FILESYSTEM_OVERHEAD ${env.FILESYSTEM_OVERHEAD} is no part of 1`);
  const port = Number(env.LISTEN_PORT || '8443');
  if (!Number.isInteger(port) || port < 0 || port > 65_535) throw wrong(`LISTEN_PORT ${env.LISTEN_PORT} is no port`);
  const preallocate = env.PREALLOCATION ?? '';
  if (!/^(1|t|true|0|f|false|)$/i.test(preallocate))
    throw wrong(`PREALLOCATION '${preallocate}' is neither true nor false`);
  const deadline = env.DEADLINE ? Date.parse(env.DEADLINE) : undefined;
  if (Number.isNaN(deadline)) throw wrong(`DEADLINE '${env.DEADLINE}' is no time (RFC 3339)`);
  if (key && !(certificate && clients))
    throw wrong('TLS_KEY_FILE is set, and TLS_CERT_FILE or CLIENT_CERT_FILE is not');
  const rules = tlsRulesIn(env);
  if (!rules) throw wrong(`TLS_MIN_VERSION '${env.TLS_MIN_VERSION}' is none of ${TLS_VERSIONS.join(', ')}`);
  const uid = env.DISKFERRY_CLAIM_UID;
  return {
    host: env.LISTEN_ADDRESS || '0.0.0.0',
    port,
    ...(key && certificate && clients
      ? {
          tls: {
            files: { key, certificate, authorities: clients },
            versions: tlsContext(rules),
          },
        }
      : {}),
    client: env.CLIENT_NAME || 'client.upload-server.cdi.kubevirt.io',
    destination,
    claim: env.DESTINATION === DEVICE ? undefined : { size: sizeOf(env.UPLOAD_IMAGE_SIZE ?? ''), overhead },
    preallocate: /^(1|t|true)$/i.test(preallocate),
    deadline,
    journalKey: uid ? createHash('sha256').update(`diskferry journal of claim ${uid}`).digest() : randomBytes(32),
  };
}

function sizeOf(text: string): number {
  const size = parseBytes(text);
  if (size === undefined) throw wrong(`UPLOAD_IMAGE_SIZE '${text}' is no size of a volume`);
  return size;
}

function wrong(message: string): FerryError {
  return new FerryError(message, { code: 'BAD_SPEC', stage: 'plan' });
}

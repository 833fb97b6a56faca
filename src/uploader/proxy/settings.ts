import { createPublicKey, type KeyObject } from 'node:crypto';
import { join } from 'node:path';
import { FerryError } from '../../dataplane/errors.ts';
import type { CertificateFiles } from '../certificates.ts';

/** What the proxy is to do, from its environment: the contract of CDI's upload proxy (docs/uploadproxy.md). */
export interface Settings {
  readonly host: string;
  readonly port: number;
  /** Of whom tokens are. */
  readonly tokenKey: KeyObject;
  /** Shown to clients. */
  readonly server: CertificateFiles;
  /** Shown to upload pods. */
  readonly client: CertificateFiles;
  /** Name of the ConfigMap with the authorities of upload pods, in the proxy's own namespace. */
  readonly bundle: string;
}

/** Where CDI's operator mounts its secrets. */
const CERTIFICATES = '/var/run/certs';

/** Throws BAD_SPEC with the name of what is wrong. `root` stands in front of paths, for tests. */
export function settingsOf(env: NodeJS.ProcessEnv, root: string): Settings {
  const { APISERVER_PUBLIC_KEY: pem } = env;
  if (!pem) throw wrong('APISERVER_PUBLIC_KEY is not set: the public key that upload tokens are signed with, as PEM');
  const port = Number(env.LISTEN_PORT || '8443');
  if (!Number.isInteger(port) || port < 0 || port > 65_535) throw wrong(`LISTEN_PORT ${env.LISTEN_PORT} is no port`);
  const mounted = (secret: string, file: string): string => join(root, CERTIFICATES, secret, file);
  const [shown, own] = ['cdi-uploadproxy-server-cert', 'cdi-uploadserver-client-cert'];
  return {
    host: env.LISTEN_ADDRESS || '0.0.0.0',
    port,
    tokenKey: keyOf(pem),
    server: {
      certificate: env.SERVER_CERT_FILE || mounted(shown, 'tls.crt'),
      key: env.SERVER_KEY_FILE || mounted(shown, 'tls.key'),
    },
    client: {
      certificate: env.UPLOAD_CLIENT_CERT_FILE || mounted(own, 'tls.crt'),
      key: env.UPLOAD_CLIENT_KEY_FILE || mounted(own, 'tls.key'),
    },
    bundle: env.UPLOAD_SERVER_CA_BUNDLE_CONFIG_MAP || 'cdi-uploadserver-signer-bundle',
  };
}

function keyOf(pem: string): KeyObject {
  try {
    return createPublicKey(pem);
  } catch (cause) {
    throw wrong('APISERVER_PUBLIC_KEY is no public key in PEM', cause);
  }
}

function wrong(message: string, cause?: unknown): FerryError {
  return new FerryError(message, { code: 'BAD_SPEC', stage: 'plan', ...(cause === undefined ? {} : { cause }) });
}

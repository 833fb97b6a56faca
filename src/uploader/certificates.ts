import { readFileSync, unwatchFile, watchFile } from 'node:fs';
import type { Server } from 'node:https';
import type { SecureContextOptions } from 'node:tls';
import type { Log } from '../dataplane/context.ts';

/** Milliseconds between two looks at the files of the certificates: a secret of Kubernetes changes in place. */
const LOOK = 5000;

/** Paths of PEM files. */
export interface CertificateFiles {
  readonly key: string;
  readonly certificate: string;
  /** Authorities whose certificates are trusted. */
  readonly authorities?: string;
}

/** What the files hold now. Throws what reading them does. */
export function certificatesIn({ key, certificate, authorities }: CertificateFiles): SecureContextOptions {
  return {
    key: readFileSync(key),
    cert: readFileSync(certificate),
    ...(authorities === undefined ? {} : { ca: readFileSync(authorities) }),
  };
}

/**
 * New certificates count for new connections; a pair that does not fit together yet is looked at again. `more` is said of the
 * context each time. Ends by the answer.
 */
export function followCertificates(
  server: Server,
  files: CertificateFiles,
  more: SecureContextOptions,
  log: Log,
): () => void {
  const reload = (): void => {
    try {
      server.setSecureContext({ ...certificatesIn(files), ...more });
      log.info('the certificates were read again');
    } catch (error) {
      log.warn(`the certificates stay as they were: ${(error as Error).message}`);
    }
  };
  const watched = Object.values(files);
  for (const file of watched) watchFile(file, { interval: LOOK, persistent: false }, reload);
  return () => {
    for (const file of watched) unwatchFile(file, reload);
  };
}

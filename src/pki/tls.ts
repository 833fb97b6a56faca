import { getCiphers, type SecureContextOptions } from 'node:tls';
import type { TlsRules } from '../api/tls-rules.ts';

type Context = Required<Pick<SecureContextOptions, 'minVersion' | 'ciphers'>>;

/** Go's names of versions. What is older than TLS 1.2 is deprecated (RFC 8996), and never spoken. */
const VERSIONS: Readonly<Record<string, Context['minVersion']>> = {
  VersionTLS10: 'TLSv1.2',
  VersionTLS11: 'TLSv1.2',
  VersionTLS12: 'TLSv1.2',
  VersionTLS13: 'TLSv1.3',
};
export const TLS_VERSIONS: readonly string[] = Object.keys(VERSIONS);
/** Those of OpenSSL here, without its words for many at once. */
const KNOWN: ReadonlySet<string> = new Set(getCiphers().map((name) => name.toUpperCase()));
/** RFC 8446, appendix B.4; not CCM, which no profile has. */
const OF_13 = ['TLS_AES_128_GCM_SHA256', 'TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256'];

/**
 * A secure context that speaks so: taken by createServer and setSecureContext, whatever is asked for. Ciphers that OpenSSL does
 * not know are left out; where none is left, they are Node's. Those of TLS 1.3 are there wherever none of them is named: Go,
 * whose profiles these are, lets nobody choose among them.
 */
export function tlsContext({ minVersion, ciphers }: TlsRules): Partial<Context> & Pick<Context, 'minVersion'> {
  const known = ciphers.filter((name) => KNOWN.has(name));
  const chosen = known.some((name) => name.startsWith('TLS_')) ? known : [...OF_13, ...known];
  return {
    minVersion: VERSIONS[minVersion] ?? 'TLSv1.2',
    ...(known.length > 0 ? { ciphers: chosen.join(':') } : {}),
  };
}

/** What a pod was told of it; undefined where it names a version that there is not. */
export function tlsRulesIn({ TLS_MIN_VERSION, TLS_CIPHERS }: NodeJS.ProcessEnv): TlsRules | undefined {
  const minVersion = TLS_MIN_VERSION || 'VersionTLS12';
  if (!Object.hasOwn(VERSIONS, minVersion)) return undefined;
  return { minVersion, ciphers: (TLS_CIPHERS ?? '').split(',').filter((name) => name !== '') };
}

/** As in the environment of a pod. */
export function tlsEnvironment({ minVersion, ciphers }: TlsRules): { TLS_MIN_VERSION: string; TLS_CIPHERS: string } {
  return { TLS_MIN_VERSION: minVersion, TLS_CIPHERS: ciphers.join(',') };
}

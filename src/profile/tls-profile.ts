import type { TlsSecurityProfile } from '../api/config.ts';
import type { TlsRules } from '../api/tls-rules.ts';

/** https://wiki.mozilla.org/Security/Server_Side_TLS, version 5.0, as OpenShift's TLSSecurityProfile has it. */
const MODERN = ['TLS_AES_128_GCM_SHA256', 'TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256'];
const INTERMEDIATE = [
  ...MODERN,
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
  'DHE-RSA-AES128-GCM-SHA256',
  'DHE-RSA-AES256-GCM-SHA384',
];
const OLD = [
  ...INTERMEDIATE,
  'DHE-RSA-CHACHA20-POLY1305',
  'ECDHE-ECDSA-AES128-SHA256',
  'ECDHE-RSA-AES128-SHA256',
  'ECDHE-ECDSA-AES128-SHA',
  'ECDHE-RSA-AES128-SHA',
  'ECDHE-ECDSA-AES256-SHA384',
  'ECDHE-RSA-AES256-SHA384',
  'ECDHE-ECDSA-AES256-SHA',
  'ECDHE-RSA-AES256-SHA',
  'DHE-RSA-AES128-SHA256',
  'DHE-RSA-AES256-SHA256',
  'AES128-GCM-SHA256',
  'AES256-GCM-SHA384',
  'AES128-SHA256',
  'AES256-SHA256',
  'AES128-SHA',
  'AES256-SHA',
  'DES-CBC3-SHA',
];

const DEFAULT: TlsRules = { minVersion: 'VersionTLS12', ciphers: INTERMEDIATE };
const PROFILES: ReadonlyMap<string | undefined, TlsRules> = new Map([
  ['Old', { minVersion: 'VersionTLS10', ciphers: OLD }],
  ['Intermediate', DEFAULT],
  ['Modern', { minVersion: 'VersionTLS13', ciphers: MODERN }],
]);

/** What a profile says. `custom` holds wherever it is there, whatever `type` says; what it leaves out is Intermediate's. */
export function tlsRules(profile: TlsSecurityProfile | undefined): TlsRules {
  const { custom } = profile ?? {};
  // The schema allows null.
  if (!custom) return PROFILES.get(profile?.type) ?? DEFAULT;
  return {
    minVersion: custom.minTLSVersion || DEFAULT.minVersion,
    ciphers: custom.ciphers?.length ? custom.ciphers : DEFAULT.ciphers,
  };
}

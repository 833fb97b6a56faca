import { createSecureContext } from 'node:tls';
import { describe, expect, test } from 'vitest';
import type { TlsSecurityProfile } from '../../src/api/config.ts';
import { tlsRules } from '../../src/profile/tls-profile.ts';

describe('rules', () => {
  test.each<[TlsSecurityProfile | undefined, string, number]>([
    [undefined, 'VersionTLS12', 11],
    [{}, 'VersionTLS12', 11],
    [{ type: 'Unheard' }, 'VersionTLS12', 11],
    [{ type: 'constructor' }, 'VersionTLS12', 11],
    [{ type: 'Intermediate', intermediate: {} }, 'VersionTLS12', 11],
    [{ type: 'Modern', modern: {} }, 'VersionTLS13', 3],
    [{ type: 'Old', old: {} }, 'VersionTLS10', 29],
    [{ type: 'Custom', custom: { ciphers: ['AES128-SHA'], minTLSVersion: 'VersionTLS11' } }, 'VersionTLS11', 1],
    [{ type: 'Modern', custom: { ciphers: ['AES128-SHA'], minTLSVersion: 'VersionTLS11' } }, 'VersionTLS11', 1],
    [{ type: 'Custom', custom: {} }, 'VersionTLS12', 11],
    [{ type: 'Old', custom: null } as unknown as TlsSecurityProfile, 'VersionTLS10', 29],
  ])('of %j', (profile, minVersion, count) => {
    const rules = tlsRules(profile);
    expect([rules.minVersion, rules.ciphers.length]).toEqual([minVersion, count]);
  });

  test('begin with what is wanted most', () => {
    expect(tlsRules(undefined).ciphers.slice(0, 4)).toEqual([
      'TLS_AES_128_GCM_SHA256',
      'TLS_AES_256_GCM_SHA384',
      'TLS_CHACHA20_POLY1305_SHA256',
      'ECDHE-ECDSA-AES128-GCM-SHA256',
    ]);
    expect(tlsRules({ type: 'Old' }).ciphers.at(-1)).toBe('DES-CBC3-SHA');
  });

  test.each(['Old', 'Intermediate', 'Modern'])('of %s are ones that OpenSSL takes', (type) => {
    const { ciphers } = tlsRules({ type });
    expect(() => createSecureContext({ ciphers: ciphers.join(':') })).not.toThrow();
  });
});

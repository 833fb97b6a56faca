import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { authority, issue } from '../../src/pki/authority.ts';
import { isDue, renewed, rotated } from '../../src/pki/rotation.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { tool } from '../support/tools.ts';

const HOUR = 3_600_000;
const LIFE = { duration: 48 * HOUR, renewBefore: 24 * HOUR };
const NOW = Date.now();
let home: TempDir;
const at = (name: string): string => join(home.path, name);
beforeAll(async () => {
  home = await tempdir();
});
afterAll(() => home?.[Symbol.asyncDispose]());

/** What OpenSSL says: `error` lines where it does not hold. */
async function verified(
  certificate: string,
  bundle: readonly string[],
  purpose: string,
  hours: number,
  more: string[] = [],
): Promise<string> {
  await writeFile(at('bundle.pem'), bundle.join('\n'));
  await writeFile(at('leaf.pem'), certificate);
  const time = String(Math.floor((NOW + hours * HOUR) / 1000));
  const args = [
    'verify',
    '-x509_strict',
    '-purpose',
    purpose,
    '-attime',
    time,
    '-CAfile',
    at('bundle.pem'),
    ...more,
    at('leaf.pem'),
  ];
  const done = await promisify(execFile)(tool('openssl', 'openssl'), args).catch((error: { stderr: string }) => error);
  return 'stdout' in done && done.stdout ? done.stdout : done.stderr;
}

test('a certificate is good for its names and its use, while it is valid, to OpenSSL', async () => {
  const root = await authority('an authority, of "ours"', 10 * HOUR, NOW);
  const wanted = { commonName: 'cdi-upload-x.ns.svc', names: ['cdi-upload-x.ns.svc', '10.0.0.1'], duration: 4 * HOUR };
  const leaf = await issue(root, { ...wanted, use: 'server' }, NOW);
  const bundle = [root.certificate];
  expect(
    await verified(leaf.certificate, bundle, 'sslserver', 1, ['-verify_hostname', 'cdi-upload-x.ns.svc']),
  ).toContain('OK');
  expect(await verified(leaf.certificate, bundle, 'sslserver', 1, ['-verify_ip', '10.0.0.1'])).toContain('OK');
  expect(await verified(leaf.certificate, bundle, 'sslserver', 1, ['-verify_hostname', 'other.svc'])).toContain(
    'hostname mismatch',
  );
  expect(await verified(leaf.certificate, bundle, 'sslclient', 1)).toMatch(/purpose/);
  expect(await verified(leaf.certificate, bundle, 'sslserver', 5)).toContain('expired');
  const client = await issue(root, { commonName: 'client', duration: 100 * HOUR, use: 'client' }, NOW);
  expect(await verified(client.certificate, bundle, 'sslclient', 9)).toContain('OK');
  // Not longer than its authority.
  expect(await verified(client.certificate, [...bundle], 'sslclient', 11)).toContain('expired');
  // A leaf signs nothing.
  const forged = await issue(leaf, { ...wanted, use: 'server' }, NOW);
  expect(await verified(forged.certificate, [...bundle, leaf.certificate], 'sslserver', 1)).toMatch(/error/);
});

test('a rotation overlaps: what either authority signed is good to who has the bundle', async () => {
  const first = await rotated(undefined, 'signer', LIFE, NOW);
  const wanted = { commonName: 'server', names: ['server'], duration: 24 * HOUR, use: 'server' as const };
  const old = await renewed(undefined, first, wanted, { renewBefore: 12 * HOUR }, NOW);
  expect(await rotated(first, 'signer', LIFE, NOW + 23 * HOUR)).toBe(first);
  const second = await rotated(first, 'signer', LIFE, NOW + 25 * HOUR);
  expect(second.bundle).toEqual([second.signer.certificate, first.signer.certificate]);
  const fresh = await renewed(old, second, wanted, { renewBefore: 12 * HOUR }, NOW + 25 * HOUR);
  expect(fresh).not.toBe(old);
  expect(await verified(fresh.certificate, second.bundle, 'sslserver', 26)).toContain('OK');
  expect(await verified(old.certificate, second.bundle, 'sslserver', 20)).toContain('OK');
  expect(await verified(fresh.certificate, first.bundle, 'sslserver', 26)).toMatch(/error/);
  const third = await rotated(second, 'signer', LIFE, NOW + 50 * HOUR);
  expect(third.bundle).toHaveLength(2);
  expect(third.bundle).not.toContain(first.signer.certificate);
});

test('a certificate is kept while it lasts and its signer is trusted', async () => {
  const trust = await rotated(undefined, 'signer', LIFE, NOW);
  const wanted = { commonName: 'c', duration: 24 * HOUR, use: 'client' as const };
  const renew = { renewBefore: HOUR };
  const pair = await renewed(undefined, trust, wanted, renew, NOW);
  expect(await renewed(pair, trust, wanted, renew, NOW + 22 * HOUR)).toBe(pair);
  expect(await renewed(pair, trust, wanted, renew, NOW + 23.5 * HOUR)).not.toBe(pair);
  const other = await rotated(undefined, 'signer', LIFE, NOW);
  expect(await renewed(pair, other, wanted, renew, NOW)).not.toBe(pair);
  expect(await renewed({ ...pair, certificate: 'none' }, trust, wanted, renew, NOW)).not.toBe(pair);
  expect(isDue(pair.certificate, renew, NOW - HOUR)).toBe(true);
});

// Tokens: of one signer, for one thing, for a time. OpenSSL reads what is signed, and signs as CDI does.
import {
  createHmac,
  createPrivateKey,
  createPublicKey,
  createSecretKey,
  generateKeyPairSync,
  type KeyObject,
} from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Scope, sign, verified } from '../../src/pki/token.ts';
import { run } from '../support/images.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';

const HOUR = 3_600_000;
const ISSUER = 'cdi-apiserver';
const SCOPE: Scope = {
  operation: 'Upload',
  name: 'disk',
  namespace: 'default',
  resource: { group: '', version: 'v1', resource: 'persistentvolumeclaims' },
};
let home: TempDir;
const at = (name: string): string => join(home.path, name);
beforeAll(async () => {
  home = await tempdir();
});
afterAll(() => home?.[Symbol.asyncDispose]());

const RSA = generateKeyPairSync('rsa', { modulusLength: 2048 });
const KEYS: Record<string, { privateKey: KeyObject; publicKey: KeyObject }> = {
  RSA,
  'P-256': generateKeyPairSync('ec', { namedCurve: 'prime256v1' }),
  Ed25519: generateKeyPairSync('ed25519'),
};
const encoded = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');

describe.each(Object.keys(KEYS))('a token signed with %s', (kind) => {
  const { privateKey, publicKey } = KEYS[kind] as (typeof KEYS)[string];
  const signer = { issuer: ISSUER, key: privateKey };
  const reader = { issuer: ISSUER, key: publicKey };

  test('says what its bearer may do, until it expires', async () => {
    const now = Date.now();
    const token = await sign(signer, SCOPE, HOUR, now);
    expect(await verified(token, reader, now)).toEqual(SCOPE);
    expect(await verified(token, signer, now + HOUR)).toEqual(SCOPE);
    expect(await verified(token, reader, now + HOUR + 11_000)).toMatchObject({
      refused: expect.stringMatching(/expired/),
    });
    expect(await verified(token, reader, now - 12_000)).toMatchObject({ refused: expect.stringMatching(/nbf/) });
  });

  test('is of this signer alone, and as it was signed', async () => {
    const token = await sign(signer, SCOPE, HOUR);
    const [head = '', body = '', signature = ''] = token.split('.');
    const other = await sign({ issuer: 'another', key: privateKey }, SCOPE, HOUR);
    const claims = { ...JSON.parse(Buffer.from(body, 'base64url').toString()), name: 'another' };
    const confused = `${encoded({ alg: 'HS256' })}.${body}`;
    const hmac = createHmac('sha256', publicKey.export({ type: 'spki', format: 'pem' }));
    const forged: Record<string, string> = {
      'of another issuer': other,
      'with another name': `${head}.${encoded(claims)}.${signature}`,
      'without a signature': `${encoded({ alg: 'none' })}.${body}.`,
      'the public key taken for a secret': `${confused}.${hmac.update(confused).digest('base64url')}`,
      'cut off': token.slice(0, -20),
      'no token at all': 'x',
    };
    for (const [what, one] of Object.entries(forged)) {
      expect(await verified(one, reader), what).toMatchObject({ refused: expect.any(String) });
    }
    const stranger = generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey;
    expect(await verified(token, { issuer: ISSUER, key: stranger })).toMatchObject({ refused: expect.any(String) });
  });
});

test('a secret that both sides know signs too', async () => {
  const key = createSecretKey(Buffer.alloc(32, 7));
  const token = await sign({ issuer: 'a', key }, SCOPE, HOUR);
  expect(await verified(token, { issuer: 'a', key })).toEqual(SCOPE);
});

test("CDI's token, PS256 with the keys as its Secret holds them, is read; ours is verified by OpenSSL", async () => {
  // id_rsa is PKCS #1, id_rsa.pub SPKI.
  await writeFile(at('id_rsa'), RSA.privateKey.export({ type: 'pkcs1', format: 'pem' }));
  await writeFile(at('id_rsa.pub'), RSA.publicKey.export({ type: 'spki', format: 'pem' }));
  const pss = ['-sigopt', 'rsa_padding_mode:pss', '-sigopt', 'rsa_pss_saltlen:32'];
  const now = Math.floor(Date.now() / 1000);
  const claims = { iss: ISSUER, iat: now, nbf: now, exp: now + 300, ...SCOPE };
  const text = `${encoded({ alg: 'PS256', kid: '' })}.${encoded(claims)}`;
  await writeFile(at('text'), text);
  await run('openssl', 'openssl', [
    'dgst',
    '-sha256',
    ...pss,
    '-sign',
    at('id_rsa'),
    '-out',
    at('signature'),
    at('text'),
  ]);
  const signature = (await readFile(at('signature'))).toString('base64url');
  const key = createPublicKey(await readFile(at('id_rsa.pub')));
  expect(await verified(`${text}.${signature}`, { issuer: ISSUER, key })).toEqual(SCOPE);

  const own = await sign({ issuer: ISSUER, key: createPrivateKey(await readFile(at('id_rsa'))) }, SCOPE, HOUR);
  const [head, body, third = ''] = own.split('.');
  await writeFile(at('text'), `${head}.${body}`);
  await writeFile(at('signature'), Buffer.from(third, 'base64url'));
  const args = ['-sha256', ...pss, '-verify', at('id_rsa.pub'), '-signature', at('signature'), at('text')];
  expect(await run('openssl', 'openssl', ['dgst', ...args])).toContain('Verified OK');
});

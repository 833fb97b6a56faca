import './reflection.ts';
import type { webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';

/** A certificate and its key, as PEM. */
export interface Pair {
  readonly certificate: string;
  /** PKCS #8. */
  readonly key: string;
}

/** For what a certificate may be shown. */
export type Use = 'server' | 'client';

export interface Wanted {
  readonly commonName: string;
  /** DNS names and addresses. */
  readonly names?: readonly string[];
  readonly use: Use;
  /** Milliseconds that it is valid. */
  readonly duration: number;
}

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
/** Clocks of others may be behind: certificates are valid from so many milliseconds before they are made. */
export const BEFORE = 5 * 60_000;

/** An authority of its own: signs itself, and certificates for `duration` milliseconds. */
export async function authority(commonName: string, duration: number, now = Date.now()): Promise<Pair> {
  const keys = await generated();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: nameOf(commonName),
    notBefore: new Date(now - BEFORE),
    notAfter: new Date(now + duration),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate: certificate.toString('pem'), key: await exported(keys.privateKey) };
}

/** A certificate of the authority's. */
export async function issue(by: Pair, wanted: Wanted, now = Date.now()): Promise<Pair> {
  const keys = await generated();
  const issuer = new X509Certificate(by.certificate);
  const { names = [], use } = wanted;
  const kinds = names.map((value) => ({ type: isIP(value) ? ('ip' as const) : ('dns' as const), value }));
  const certificate = await X509CertificateGenerator.create({
    subject: nameOf(wanted.commonName),
    issuer: issuer.subject,
    notBefore: new Date(now - BEFORE),
    // Not longer than whoever signs it.
    notAfter: new Date(Math.min(now + wanted.duration, issuer.notAfter.getTime())),
    signingAlgorithm: ALGORITHM,
    publicKey: keys.publicKey,
    signingKey: await imported(by.key),
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([use === 'server' ? ExtendedKeyUsage.serverAuth : ExtendedKeyUsage.clientAuth]),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
      await AuthorityKeyIdentifierExtension.create(await issuer.publicKey.export(ALGORITHM, ['verify'])),
      ...(kinds.length === 0 ? [] : [new SubjectAlternativeNameExtension(kinds)]),
    ],
  });
  return { certificate: certificate.toString('pem'), key: await exported(keys.privateKey) };
}

/** RFC 4514: what would end a name or begin another is escaped. */
function nameOf(commonName: string): string {
  return `CN=${commonName.replace(/[\\,+"<>;=#]/g, (character) => `\\${character}`)}`;
}

async function generated(): Promise<webcrypto.CryptoKeyPair> {
  return (await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair;
}

async function exported(key: webcrypto.CryptoKey): Promise<string> {
  const text = Buffer.from(await crypto.subtle.exportKey('pkcs8', key)).toString('base64');
  return `-----BEGIN PRIVATE KEY-----\n${text.replace(/.{64}/g, '$&\n')}\n-----END PRIVATE KEY-----\n`;
}

async function imported(pem: string): Promise<webcrypto.CryptoKey> {
  const text = pem.replace(/-----[^-]+-----|\s/g, '');
  return await crypto.subtle.importKey('pkcs8', Buffer.from(text, 'base64'), ALGORITHM, false, ['sign']);
}

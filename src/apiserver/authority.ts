import { createPrivateKey, X509Certificate } from 'node:crypto';
import type { Cdi } from '../api/config.ts';
import { parseDuration } from '../api/duration.ts';
import { BEFORE, type Pair } from '../pki/authority.ts';
import { type Lifetime, renewed, rotated, validity } from '../pki/rotation.ts';

/** What the replicas share: the pair that signs, what API servers trust, and the pair that is shown to them. */
export interface Held {
  readonly signer: Pair | undefined;
  /** PEM certificates, the newest first. */
  readonly bundle: readonly string[];
  readonly server: Pair | undefined;
}

export interface Lives {
  readonly ca: Lifetime;
  readonly server: Lifetime;
  /** Milliseconds after which every API server has heard of a new authority: before, nothing is shown that it signed. */
  readonly settle: number;
}

/** To whom the certificate is. */
export interface Subject {
  readonly commonName: string;
  readonly names: readonly string[];
}

const HOUR = 3_600_000;
/** As CDI has them (pkg/operator/resources/cert/factory.go); of a minute API servers need a second. */
export const LIVES: Lives = {
  ca: { duration: 48 * HOUR, renewBefore: 24 * HOUR },
  server: { duration: 24 * HOUR, renewBefore: 12 * HOUR },
  settle: 60_000,
};
export const AUTHORITY = 'cdi-apiserver-signer';
/** Milliseconds: of a certificate, times are in seconds. */
const SECOND = 1000;

/**
 * Lives as the installation has them configured; what is no duration, or would never be renewed, is not taken. An authority has
 * to last for longer than what it signs is renewed before its end.
 */
export function livesOf(cdi: Cdi | undefined): Lives {
  const asked = cdi?.spec?.certConfig;
  const ca = life(asked?.ca, LIVES.ca);
  const server = life(asked?.server, LIVES.server);
  return { ...LIVES, ca, server: { ...server, renewBefore: Math.min(server.renewBefore, ca.renewBefore / 2) } };
}

function life(
  asked: { readonly duration?: string; readonly renewBefore?: string } | undefined,
  otherwise: Lifetime,
): Lifetime {
  const duration = parseDuration(asked?.duration ?? '') ?? otherwise.duration;
  const renewBefore = parseDuration(asked?.renewBefore ?? '') ?? Math.min(otherwise.renewBefore, duration / 2);
  return renewBefore > 0 && renewBefore < duration ? { duration, renewBefore } : otherwise;
}

/**
 * What is to be held now. A certificate is shown only when its authority is trusted everywhere: a new authority signs nothing
 * before it has settled, as long as what the one before it signed is good.
 */
export async function next(
  held: Held,
  lives: Lives,
  { commonName, names }: Subject,
  now: number,
): Promise<Held & { readonly signer: Pair; readonly server: Pair }> {
  const isTrusted = (one: string): boolean => validity(one)[1] > now;
  const able = held.signer && isOurs(held.signer) && isTrusted(held.signer.certificate) ? held.signer : undefined;
  const known = [held.signer?.certificate ?? '', ...held.bundle].map((one) => one.trim());
  const bundle = [...new Set(known)].filter(isTrusted);
  // What is not to go on is replaced as what cannot be read.
  const before = { signer: able && !isLonger(able, lives.ca) ? able : { certificate: '', key: '' }, bundle };
  const trust = await rotated(before, AUTHORITY, lives.ca, now);
  // Signed by the one that is there, also where another takes its place just now.
  const signing = { signer: able ?? trust.signer, bundle: able ? bundle : trust.bundle };
  const isSettled = able !== undefined && now - validity(able.certificate)[0] - BEFORE >= lives.settle;
  const isFit = held.server && isPair(held.server) && !(isSettled && isLonger(held.server, lives.server));
  const wanted = { commonName, names, use: 'server', duration: lives.server.duration } as const;
  const life = isSettled ? lives.server : { renewBefore: 0 };
  const server = await renewed(isFit ? held.server : undefined, signing, wanted, life, now);
  return { signer: trust.signer, bundle: trust.bundle, server };
}

/** Whether a pair is longer good than it may be by now: the configuration is another one. */
function isLonger({ certificate }: Pair, { duration }: Lifetime): boolean {
  const [from, to] = validity(certificate);
  return to - from > duration + BEFORE + SECOND;
}

/** Whether the pair is one that can sign here. CDI's own operator makes RSA keys in another form. */
function isOurs(pair: Pair): boolean {
  return (
    isPair(pair) && pair.key.includes('BEGIN PRIVATE KEY') && createPrivateKey(pair.key).asymmetricKeyType === 'ec'
  );
}

function isPair({ certificate, key }: Pair): boolean {
  try {
    return new X509Certificate(certificate).checkPrivateKey(createPrivateKey(key));
  } catch {
    return false;
  }
}

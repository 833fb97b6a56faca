import { X509Certificate } from 'node:crypto';
import { authority, issue, type Pair, type Wanted } from './authority.ts';

/** An authority over time: the pair that signs, and all certificates that are trusted, the newest first. */
export interface Trust {
  readonly signer: Pair;
  /** PEM certificates: those that were issued by an earlier signer are still good. */
  readonly bundle: readonly string[];
}

export interface Lifetime {
  /** Milliseconds that one is valid, and before its end that another takes its place. */
  readonly duration: number;
  readonly renewBefore: number;
}

/** Whether a certificate is to be replaced: it ends soon, is not valid yet, or cannot be read. */
export function isDue(certificate: string, { renewBefore }: Pick<Lifetime, 'renewBefore'>, now = Date.now()): boolean {
  const [from, to] = validity(certificate);
  return !(from <= now && now < to - renewBefore);
}

/**
 * The authority as it should be now: the same while its signer lasts; else a new signer, and a bundle of both, so that
 * whoever has only the one or the other goes on. What has ended leaves the bundle.
 */
export async function rotated(
  before: Trust | undefined,
  name: string,
  life: Lifetime,
  now = Date.now(),
): Promise<Trust> {
  const good = (before?.bundle ?? []).filter((one) => validity(one)[1] > now);
  if (before && !isDue(before.signer.certificate, life, now)) {
    return good.length === before.bundle.length ? before : { ...before, bundle: good };
  }
  const signer = await authority(name, life.duration, now);
  return { signer, bundle: [signer.certificate, ...good] };
}

/** The certificate as it should be now: the same while it lasts and its signer is trusted, else a new one. */
export async function renewed(
  before: Pair | undefined,
  trust: Trust,
  wanted: Wanted,
  life: Pick<Lifetime, 'renewBefore'>,
  now = Date.now(),
): Promise<Pair> {
  if (before && !isDue(before.certificate, life, now) && trust.bundle.some((one) => signed(before.certificate, one)))
    return before;
  return issue(trust.signer, wanted, now);
}

function signed(certificate: string, by: string): boolean {
  try {
    return new X509Certificate(certificate).verify(new X509Certificate(by).publicKey);
  } catch {
    return false;
  }
}

/** Milliseconds since 1970 from and to which it is valid; nothing where it is none. */
export function validity(certificate: string): [from: number, to: number] {
  try {
    const { validFrom, validTo } = new X509Certificate(certificate);
    return [Date.parse(validFrom), Date.parse(validTo)];
  } catch {
    return [0, 0];
  }
}

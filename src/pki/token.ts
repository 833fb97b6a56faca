import { createPublicKey, type KeyObject } from 'node:crypto';
import { errors, type JWTPayload, jwtVerify, SignJWT } from 'jose';

/** What the bearer of a token may do. The names of the fields are those in CDI's tokens (pkg/token/token.go). */
export interface Scope {
  /** Such as `Upload`. */
  readonly operation: string;
  /** Of the object that it is done to. */
  readonly name: string;
  readonly namespace?: string;
  readonly resource?: { readonly group: string; readonly version: string; readonly resource: string };
  /** `uid`: the token is of this object alone, and not of another one of its name. */
  readonly params?: Readonly<Record<string, string>>;
}

/** Of whom tokens are, and what proves it: a pair of keys, or one that both sides know. */
export interface Signer {
  readonly issuer: string;
  readonly key: KeyObject;
}

/** Why a token gives no right. */
export interface Refusal {
  readonly refused: string;
}

/** Seconds that clocks may differ, as CDI has it. */
const LEEWAY = 10;

/** A token in the compact form (RFC 7519), good for `duration` milliseconds from now on. */
export async function sign({ issuer, key }: Signer, scope: Scope, duration: number, now = Date.now()): Promise<string> {
  const from = Math.floor(now / 1000);
  return new SignJWT({ ...scope })
    .setProtectedHeader({ alg: algorithmOf(key) })
    .setIssuer(issuer)
    .setIssuedAt(from)
    .setNotBefore(from)
    .setExpirationTime(from + Math.ceil(duration / 1000))
    .sign(key);
}

/** What a token says, where it is of the signer and good now. Of a private key the public half is what counts. */
export async function verified(token: string, { issuer, key }: Signer, now = Date.now()): Promise<Scope | Refusal> {
  try {
    const { payload } = await jwtVerify(token, key.type === 'private' ? createPublicKey(key) : key, {
      // Of the key, never of what the token says that it was signed with.
      algorithms: [algorithmOf(key)],
      issuer,
      clockTolerance: LEEWAY,
      currentDate: new Date(now),
      requiredClaims: ['exp'],
    });
    return scopeOf(payload);
  } catch (thrown) {
    if (thrown instanceof errors.JWTExpired) return { refused: 'the token has expired: ask for a new one' };
    if (thrown instanceof errors.JWTClaimValidationFailed)
      return { refused: `the token is not good here or now: its claim ${thrown.claim} is not as it should be` };
    if (thrown instanceof errors.JOSEError) return { refused: 'the token was not signed by whom this server trusts' };
    throw thrown;
  }
}

/** RFC 7518 section 3.1, RFC 8037: the one algorithm that a key is used with; PS256 is CDI's. */
function algorithmOf({ asymmetricKeyType: type, asymmetricKeyDetails }: KeyObject): string {
  if (type === undefined) return 'HS256';
  if (type === 'rsa') return 'PS256';
  if (type === 'ed25519') return 'EdDSA';
  if (type === 'ec' && asymmetricKeyDetails?.namedCurve === 'prime256v1') return 'ES256';
  throw new Error(`a key of kind ${type} signs no tokens: RSA, P-256 or Ed25519`);
}

function scopeOf(claims: JWTPayload): Scope | Refusal {
  const { operation, name, namespace, resource, params } = claims as Partial<Scope>;
  if (typeof operation !== 'string' || typeof name !== 'string') return { refused: 'the token names no operation' };
  return {
    operation,
    name,
    ...(typeof namespace === 'string' ? { namespace } : {}),
    ...(typeof resource === 'object' && resource !== null ? { resource } : {}),
    ...(typeof params === 'object' && params !== null ? { params } : {}),
  };
}

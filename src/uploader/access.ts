import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { FerryError } from '../dataplane/errors.ts';

/** Who may do everything: whoever knows the secret, or everybody. */
export type Access = { readonly secret: string } | 'open';

/** What a request is of, for the log: without what would let others go on with an upload. */
export function shownPath(url: string): string {
  const [path = ''] = url.split('?', 1);
  return path.replace(/^(\/(?:tus|uploads|images)\/[0-9a-f]{8})[0-9a-f]+/, '$1…');
}

/** Names of this machine that a browser can have reached it by. */
const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/;

/**
 * Throws DENIED for what a page of another site asks a person's browser to do here: the browser would send the password too,
 * and without one (`--open`) the page could have made a name of its own lead here (DNS rebinding). Following a link to here is
 * no such thing.
 */
export function refuseForeign(access: Access, { method, headers }: IncomingMessage): void {
  const { host = '', origin } = headers;
  // What browsers say where they trust the connection (Fetch Metadata), whatever a proxy made of the name; else the names.
  const site = headers['sec-fetch-site'];
  const followed = method === 'GET' && headers['sec-fetch-dest'] === 'document';
  const own =
    site === undefined
      ? origin === undefined || URL.parse(origin)?.host === host
      : site === 'same-origin' || site === 'none' || followed;
  if (!own) {
    const message = `pages of other sites may ask nothing here (a proxy in front passes the Host that it was asked for)`;
    throw new FerryError(message, { code: 'DENIED', stage: 'target' });
  }
  const name = URL.parse(`http://${host}`)?.hostname ?? '';
  if (access === 'open' && !LOOPBACK.test(name)) {
    const message = `a server without a secret answers to localhost and loopback addresses, not to '${name}'`;
    throw new FerryError(message, { code: 'DENIED', stage: 'target' });
  }
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

/**
 * What a request brings: a bearer token (RFC 6750 section 2.1), or the password of whatever user (RFC 7617), which browsers and
 * `curl -u` ask for.
 */
export function credentialIn({ authorization = '' }: IncomingHttpHeaders): string | undefined {
  const [, scheme, value = ''] = /^(Bearer|Basic) +(\S+)$/i.exec(authorization) ?? [];
  if (scheme === undefined) return undefined;
  if (scheme.toLowerCase() === 'bearer') return value;
  const text = Buffer.from(value, 'base64').toString('utf8');
  return text.slice(text.indexOf(':') + 1);
}

/** Whether a request may do everything. */
export function isTrusted(access: Access, credential: string | undefined): boolean {
  if (access === 'open') return true;
  // Digests are of one length, and tell nothing by the time that their comparison takes.
  return credential !== undefined && timingSafeEqual(digest(credential), digest(access.secret));
}

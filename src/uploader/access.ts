import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { FerryError } from '../dataplane/errors.ts';

/** Who may use the server: whoever knows the secret, or everybody. */
export type Access = { readonly secret: string } | 'open';

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

/**
 * Throws DENIED unless the secret is given: as a bearer token (RFC 6750 section 2.1), or as the password of whatever user
 * (RFC 7617), which browsers and `curl -u` ask for.
 */
export function authorize(access: Access, { authorization = '' }: IncomingHttpHeaders): void {
  if (access === 'open') return;
  const [, scheme = '', value = ''] = /^(Bearer|Basic) +(\S+)$/i.exec(authorization) ?? [];
  const basic = scheme.toLowerCase() === 'basic';
  const text = basic ? Buffer.from(value, 'base64').toString('utf8') : value;
  const given = basic ? text.slice(text.indexOf(':') + 1) : text;
  // Digests are of one length, and tell nothing by the time that their comparison takes.
  if (scheme !== '' && timingSafeEqual(digest(given), digest(access.secret))) return;
  throw new FerryError(
    scheme === ''
      ? 'this server wants its secret: as a bearer token, or as the password of any user'
      : 'the secret is another one',
    { code: 'DENIED', stage: 'plan' },
  );
}

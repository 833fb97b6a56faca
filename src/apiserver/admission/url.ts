import { type Cause, invalid, quoted } from './cause.ts';
import { controlCharacterIn } from './control-characters.ts';

/** What a URL names where it may come from, and what is to be done with what stands before its @. */
export interface UrlRule {
  readonly schemes: readonly string[];
  /** Keys of the Secret that secretRef names, where the source has one. */
  readonly secret?: string;
}

/** Of web servers, S3, oVirt and VMware. */
export const LOGIN = 'accessKeyId and secretKey';
/** What CDI takes of every URL (pkg/apiserver/webhooks). */
export const WEB: UrlRule = { schemes: ['http', 'https', 'gs'], secret: LOGIN };
const SCHEME = /^([a-z][a-z0-9+.-]*):/i;
/** RFC 3986 section 3.2: what stands between // and the next /, ? or #. */
const AUTHORITY = /^[^:]*:\/\/([^/?#]*)/;

/** The URL that something is fetched from. A message never repeats it: what is wrong may be a password. */
export function checkUrl(url: string | undefined, field: string, { schemes, secret }: UrlRule = WEB): Cause[] {
  const known = schemes.map((one) => `${one}://`).join(' or ');
  if (!url) return [invalid(field, `${field} is empty: write a URL, which begins with ${known}`)];
  const at = controlCharacterIn(url, 'no tabs');
  if (at >= 0)
    return [invalid(field, `${field} has a control character at place ${at + 1} of ${url.length}: a URL is one line`)];
  const scheme = SCHEME.exec(url)?.[1]?.toLowerCase();
  if (scheme === undefined) return [invalid(field, `${field} is no URL: it has no scheme; a URL begins with ${known}`)];
  if (!schemes.includes(scheme))
    return [invalid(field, `${field} has the scheme ${quoted(scheme)}, and this source takes ${known}`)];
  const parsed = URL.parse(url);
  // Of what cannot be read, and of what is read in another way than it is written.
  if (AUTHORITY.exec(url)?.[1]?.includes('@') || parsed?.username || parsed?.password)
    return [withUserinfo(field, secret)];
  if (!parsed || /%(?![0-9a-f]{2})/i.test(parsed.pathname))
    return [invalid(field, `${field} is no URL that can be read: look at its host, its port and what follows a %`)];
  return parsed.host === '' ? [invalid(field, `${field} names no host`)] : [];
}

/** There is a user, and perhaps a password, before the host. */
export function withUserinfo(field: string, secret = LOGIN): Cause {
  const where = field.replace(/url$/i, 'secretRef');
  return invalid(
    field,
    `${field} has credentials in it, before the @: whoever may read this object would read them too. Put them into a Secret with ${secret}, and name that in ${where}`,
  );
}

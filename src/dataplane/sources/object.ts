import { FerryError } from '../errors.ts';

/** `scheme://container/name`, where the name is whatever follows, slashes, question marks and all. Throws BAD_SPEC. */
export function parseObject(text: string, example: string): { container: string; name: string } {
  const match = /^[a-z0-9]+:\/\/([^/]+)\/(.+)$/is.exec(text);
  const [, container, name] = match ?? [];
  if (container === undefined || name === undefined || !/^[\w.-]+$/.test(container)) {
    throw new FerryError(`the source is not of the form ${example}`, { code: 'BAD_SPEC', stage: 'plan' });
  }
  // Paths of URLs have no such parts: they would be taken out on the way, also when they are encoded.
  if (name.split('/').some((part) => part === '.' || part === '..')) {
    throw new FerryError(`an object whose name has a part '.' or '..' cannot be asked for by HTTP`, {
      code: 'BAD_SPEC',
      stage: 'plan',
    });
  }
  return { container, name };
}

/** All but the unreserved characters of RFC 3986 encoded, as signatures want it; slashes stay. */
export function encodePath(name: string): string {
  return name.split('/').map(encodeStrictly).join('/');
}

export function encodeStrictly(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** What percent signs encode; the text as it is where they encode nothing. */
export function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** An address of a server that a person or the environment gives. Throws BAD_SPEC naming where it stands. */
export function parseEndpoint(text: string, place: string): URL {
  const url = URL.parse(text.includes('://') ? text : `http://${text}`);
  if (!url || !['http:', 'https:'].includes(url.protocol) || url.hostname === '' || url.username !== '') {
    throw new FerryError(`${place} is not an http:// or https:// URL without a user name`, {
      code: 'BAD_SPEC',
      stage: 'plan',
    });
  }
  return url;
}

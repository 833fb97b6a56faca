import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { proxyFor } from '../../src/dataplane/http/connection.ts';
import {
  entityTag,
  parseContentRange,
  parseRetryAfter,
  parseUnsatisfied,
  promisedDigest,
} from '../../src/dataplane/http/fields.ts';

describe('header fields', () => {
  test('Content-Range', () => {
    expect(parseContentRange('bytes 0-99/1000')).toEqual({ from: 0, to: 100, total: 1000 });
    expect(parseContentRange('BYTES 5-5/*')).toEqual({ from: 5, to: 6 });
    for (const text of [
      '',
      'bytes */10',
      'bytes 5-4/10',
      'bytes 0-10/10',
      'bytes 0-9/10, 20-29/30',
      'items 0-1/2',
      'bytes -5/10',
      'bytes 0-9007199254740991/*',
      'bytes 0x0-1/2',
    ]) {
      expect(parseContentRange(text), text).toBeUndefined();
    }
    expect(parseUnsatisfied('bytes */0')).toBe(0);
  });

  test('Content-Range: what is written is read, and nothing impossible is', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.maxSafeNat(), fc.maxSafeNat(), (from, last, total) => {
        const got = parseContentRange(`bytes ${from}-${last}/${total}`);
        const possible = from <= last && last < total && Number.isSafeInteger(last + 1);
        expect(got).toEqual(possible ? { from, to: last + 1, total } : undefined);
      }),
    );
    fc.assert(
      fc.property(fc.string(), (text) => {
        const got = parseContentRange(`bytes ${text}`);
        if (got) expect(got.to).toBeGreaterThan(got.from);
      }),
    );
  });

  test('Retry-After', () => {
    const now = Date.parse('Sun, 06 Nov 1994 08:49:00 GMT');
    expect(parseRetryAfter(' 120 ', now)).toBe(120);
    expect(parseRetryAfter('Sun, 06 Nov 1994 08:49:37 GMT', now)).toBe(37);
    expect(parseRetryAfter('Sunday, 06-Nov-94 08:49:37 GMT', now)).toBe(37);
    expect(parseRetryAfter('Sun, 06 Nov 1994 08:00:00 GMT', now)).toBe(0);
    for (const text of ['', '-5', '1.5', 'soon', '1e9']) expect(parseRetryAfter(text, now), text).toBeUndefined();
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.nat().map(String),
          fc.date({ noInvalidDate: true }).map((date) => date.toUTCString()),
        ),
        (text) => {
          const seconds = parseRetryAfter(text, now);
          if (seconds !== undefined) expect(seconds).toBeGreaterThanOrEqual(0);
        },
      ),
    );
  });

  test('entity tags', () => {
    expect(entityTag({ etag: '"abc"' })).toEqual({ text: '"abc"', strong: true });
    expect(entityTag({ etag: 'W/"abc"' })).toEqual({ text: 'W/"abc"', strong: false });
    for (const etag of ['abc', '"a"b"', '', undefined, '"a", "b"']) expect(entityTag({ etag }), etag).toBeUndefined();
  });

  test('digests that the server promises', () => {
    const hash = createHash('sha256').update('x').digest();
    const expected = { algorithm: 'sha256', hex: hash.toString('hex') };
    const base64 = hash.toString('base64');
    expect(promisedDigest({ digest: `md5=abc,SHA-256=${base64}` }, false)).toEqual(expected);
    expect(promisedDigest({ 'repr-digest': `sha-256=:${base64}:` }, false)).toEqual(expected);
    expect(promisedDigest({ 'content-digest': `sha-256=:${base64}:` }, true)).toEqual(expected);
    expect(promisedDigest({ 'content-digest': `sha-256=:${base64}:` }, false)).toBeUndefined();
    expect(promisedDigest({ 'x-amz-checksum-sha256': base64 }, false)).toEqual(expected);
    expect(
      promisedDigest({ 'x-amz-checksum-sha256': base64, 'x-amz-checksum-type': 'COMPOSITE' }, false),
    ).toBeUndefined();
    expect(promisedDigest({ 'x-amz-checksum-sha256': `${base64}-3` }, false)).toBeUndefined();
    expect(promisedDigest({ digest: 'sha-256=AAAA' }, false)).toBeUndefined();
  });
});

describe('proxies by the environment', () => {
  const http = new URL('http://files.example.org/x');
  const https = new URL('https://files.example.org:8443/x');

  test('in either case, with and without a scheme', () => {
    expect(proxyFor(http, { HTTP_PROXY: 'http://proxy:3128' })?.host).toBe('proxy:3128');
    expect(proxyFor(http, { http_proxy: 'proxy:3128', HTTP_PROXY: 'http://other' })?.host).toBe('proxy:3128');
    expect(proxyFor(https, { HTTP_PROXY: 'http://proxy:3128' })).toBeUndefined();
    expect(proxyFor(https, { HTTPS_PROXY: 'http://proxy:3128' })?.host).toBe('proxy:3128');
    expect(() => proxyFor(http, { HTTP_PROXY: 'socks5://user:secret@proxy' })).toThrow(
      /^HTTP_PROXY in the environment is not/,
    );
  });

  test.each([
    ['*', true],
    ['example.org', true],
    ['.example.org', true],
    ['FILES.example.org:8443', true],
    ['files.example.org:443', false],
    ['ample.org', false],
    ['a, b example.org', true],
    ['', false],
  ])('NO_PROXY=%j bypasses: %s', (list, bypassed) => {
    expect(proxyFor(https, { HTTPS_PROXY: 'http://proxy', NO_PROXY: list }) === undefined).toBe(bypassed);
  });

  test('NO_PROXY with IPv6', () => {
    const url = new URL('http://[::1]:8080/');
    for (const list of ['::1', '[::1]', '[::1]:8080'])
      expect(proxyFor(url, { http_proxy: 'http://p', no_proxy: list }), list).toBeUndefined();
    expect(proxyFor(url, { http_proxy: 'http://p', no_proxy: '[::1]:81' })).toBeDefined();
  });
});

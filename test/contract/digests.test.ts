import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { formatDigest, parseDigest, pickDigest } from '../../src/dataplane/digests.ts';

const A = 'a'.repeat(64);
const B = 'b'.repeat(64);
const refused = (message: RegExp): unknown =>
  expect.objectContaining({ code: 'BAD_SPEC', message: expect.stringMatching(message) });

describe('digests', () => {
  test('parse and print', () => {
    expect(parseDigest(`SHA256:${A.toUpperCase()}`)).toEqual({ algorithm: 'sha256', hex: A });
    expect(formatDigest(parseDigest(`sha512:${A}${B}`))).toBe(`sha512:${A}${B}`);
    for (const text of ['', A, `sha256:${A}0`, `sha512:${A}`, `md5:${'0'.repeat(32)}`, `sha256:${'g'.repeat(64)}`]) {
      expect(() => parseDigest(text)).toThrow(refused(/is not a digest/));
    }
  });

  test.each([
    ['GNU', `${B}  other.img\n${A}  disk.img\n`],
    ['GNU binary', `${A} *disk.img\n`],
    ['CRLF', `${A}  disk.img\r\n${B}  other.img\r\n`],
    ['a path', `${A}  ./images/disk.img\n${B}  x\n`],
    ['BSD', `# disk.img: 5 bytes\nMD5 (disk.img) = ${'0'.repeat(32)}\nSHA256 (disk.img) = ${A}\n`],
    ['a bare digest', `${A}\n`],
    ['the same twice', `${A}  disk.img\n${A} *disk.img\n`],
    ['both kinds', `${A}${B}  disk.img\n${A}  disk.img\n`],
    [
      'PGP',
      `-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n${A} *disk.img\n-----BEGIN PGP SIGNATURE-----\n\n${B}\n-----END PGP SIGNATURE-----\n`,
    ],
  ])('are picked from a list: %s', (_what, list) => {
    expect(pickDigest(list, 'https://host/images/disk.img')).toEqual({ algorithm: 'sha256', hex: A });
  });

  test('an escaped name', () => {
    expect(pickDigest(`\\${A}  a\\\\b\\nc\n${B}  x`, 'a\\b\nc').hex).toBe(A);
  });

  test.each([
    ['no line', `${A}  other.img\n${B}  another.img\n`, /no line for 'disk.img'; it has 2: other.img, another.img/],
    ['two answers', `${A}  a/disk.img\n${B}  b/disk.img\n`, /2 different sha256 digests/],
    ['no digest at all', '<html>not found</html>', /has no line with a sha256/],
    ['a digest that is cut', `${A.slice(1)}  disk.img\n`, /has no line with a sha256/],
    ['several bare digests', `${A}\n${B}\n`, /no line for/],
  ])('a list with %s is refused', (_what, list, message) => {
    expect(() => pickDigest(list, 'disk.img')).toThrow(refused(message));
  });

  test('any list in either style gives back what was put in', () => {
    const hex = fc.string({ unit: fc.constantFrom(...'0123456789abcdef'), minLength: 64, maxLength: 64 });
    const name = fc.stringMatching(/^[A-Za-z0-9._+ -]{0,20}[A-Za-z0-9]$/).filter((text) => text.trim() === text);
    const style = fc.constantFrom('gnu', 'binary', 'bsd');
    const lines = fc.uniqueArray(fc.tuple(name, hex, style), { minLength: 1, maxLength: 10, selector: ([one]) => one });
    fc.assert(
      fc.property(lines, fc.constantFrom('\n', '\r\n'), (entries, end) => {
        const list = entries.map(([file, digest, kind]) =>
          kind === 'bsd' ? `SHA256 (${file}) = ${digest}` : `${digest} ${kind === 'gnu' ? ' ' : '*'}${file}`,
        );
        for (const [file, digest] of entries) expect(pickDigest(list.join(end), file).hex).toBe(digest);
      }),
    );
  });

  test('any text is a list or is refused', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 500 }), (text) => {
        expect(() => pickDigest(text, 'disk.img')).toThrow(expect.objectContaining({ code: 'BAD_SPEC' }));
      }),
    );
  });
});

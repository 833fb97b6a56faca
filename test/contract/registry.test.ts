import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { SourceOptions } from '../../src/dataplane/source.ts';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { stackFilters } from '../../src/dataplane/stack.ts';
import { parseChallenge, tokenUrl } from '../../src/oci/auth.ts';
import { loginIn } from '../../src/oci/credentials.ts';
import { choose, isArchive, parseManifest, parsePlatform } from '../../src/oci/manifest.ts';
import { formatReference, parseReference } from '../../src/oci/reference.ts';
import { FaultProxy } from '../faults/proxy.ts';
import { collect, testContext, thrown } from '../support/context.ts';
import { LOGIN, type Registry, startRegistry } from '../support/registry.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { type Subject, sourceContract } from './source.ts';

const content = randomBytes(4_000_001);
const DISK = { content, mediaType: 'application/vnd.diskferry.test.disk' };
let home: TempDir;
let open: Registry;
let token: Registry;
let login: Registry;

beforeAll(async () => {
  home = await tempdir();
  [open, token, login] = await Promise.all([
    startRegistry({ access: 'anyone' }),
    startRegistry({ access: 'token', tls: true }),
    startRegistry({ access: 'login' }),
  ]);
  for (const registry of [open, token, login]) await registry.push('images/disk', 'latest', [DISK]);
});
afterAll(async () => {
  for (const registry of [open, token, login]) await registry?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

const INSECURE: SourceOptions = { registry: { insecure: true }, anonymous: true };

sourceContract(
  'registry',
  { ranges: true, length: true, validator: true, remote: true, replaceable: false },
  async () => {
    const proxy = await FaultProxy.start({ port: open.port });
    const subject: Subject = {
      content,
      proxy,
      // The manifest comes over the first.
      carrier: 3,
      open: (context) => openSource(`docker://127.0.0.1:${proxy.port}/images/disk`, INSECURE, context),
      [Symbol.asyncDispose]: () => proxy[Symbol.asyncDispose](),
    };
    return subject;
  },
);

describe('who asks', () => {
  const whole = async (registry: Registry, options: SourceOptions): Promise<Buffer> => {
    const context = testContext();
    await using source = await openSource(`docker://${registry.host}/images/disk`, options, context);
    return await collect(source.read({ from: 0 }, context.signal));
  };

  test('a token is asked for with the login, over TLS with an authority of its own', async () => {
    const { ca } = token.authority;
    expect((await whole(token, { credentials: LOGIN, ca })).equals(content)).toBe(true);
    const nobody = await thrown(whole(token, { anonymous: true, ca }));
    expect(nobody).toMatchObject({
      code: 'DENIED',
      message: expect.stringMatching(/token answered 401 \(UNAUTHORIZED: /),
    });
    const untrusted = await thrown(whole(token, { credentials: LOGIN }));
    expect(untrusted).toMatchObject({ code: 'DENIED', message: expect.stringContaining('--ca') });
  });

  test('a token that ends in the middle is replaced, and the transfer goes on', async () => {
    const context = testContext();
    const options = { credentials: LOGIN, ca: token.authority.ca };
    await using source = await openSource(`docker://${token.host}/images/disk`, options, context);
    const first = await collect(source.read({ from: 0, to: 2_000_000 }, context.signal));
    token.revoke();
    const second = await collect(source.read({ from: 2_000_000 }, context.signal));
    expect(Buffer.concat([first, second]).equals(content)).toBe(true);
    expect(context.counters.retries).toBe(0);
  });

  test('a login from a config.json; a wrong one is denied, and not told', async () => {
    const authfile = join(home.path, 'config.json');
    const write = (password: string): Promise<void> => {
      const auth = Buffer.from(`${LOGIN.username}:${password}`).toString('base64');
      return writeFile(authfile, JSON.stringify({ auths: { [login.host]: { auth } } }));
    };
    await write(LOGIN.password);
    const options: SourceOptions = { registry: { insecure: true, authfile } };
    expect((await whole(login, options)).equals(content)).toBe(true);
    await write('wrong-password');
    const denied = await thrown(whole(login, options));
    expect(denied).toMatchObject({ code: 'DENIED', message: expect.stringMatching(/a user name and password$/) });
    expect(denied.message).not.toContain('wrong-password');
  });

  test('a registry that is busy is waited for', async () => {
    open.busy = 3;
    expect((await whole(open, INSECURE)).equals(content)).toBe(true);
    expect(open.busy).toBe(0);
  });

  test('a mirror is asked first, and the registry where that fails', async () => {
    const before = open.fetched.length;
    const options: SourceOptions = { anonymous: true, registry: { insecure: true, mirrors: [open.host] } };
    const context = testContext();
    await using source = await openSource('docker://registry.invalid/images/disk', options, context);
    expect((await collect(source.read({ from: 0 }, context.signal))).equals(content)).toBe(true);
    expect(open.fetched.length).toBeGreaterThan(before);
    const dead: SourceOptions = { anonymous: true, registry: { insecure: true, mirrors: ['127.0.0.1:1'] } };
    const again = testContext({ patience: 300 });
    await using direct = await openSource(`docker://${open.host}/images/disk`, dead, again);
    expect(direct.facts.length).toBe(content.length);
    expect(again.lines.join()).toMatch(/the mirror 127\.0\.0\.1:1 did not give the image/);
  });
});

describe('what is there', () => {
  const opening = (name: string, options: SourceOptions = {}): Promise<Error & { code?: string }> =>
    thrown(openSource(`docker://${open.host}/${name}`, { ...INSECURE, ...options }, testContext()));

  test('no such image, no such tag', async () => {
    expect(await opening('images/none')).toMatchObject({ code: 'NOT_FOUND' });
    const tag = await opening('images/disk:none');
    expect(tag).toMatchObject({ code: 'NOT_FOUND', message: expect.stringMatching(/MANIFEST_UNKNOWN/) });
  });

  test('the image of a platform, by its digest too', async () => {
    const other = await open.push('images/many', 'arm', [{ ...DISK, content: Buffer.from('arm') }]);
    const mine = await open.push('images/many', 'amd', [DISK]);
    const index = await open.pushIndex('images/many', 'latest', { 'linux/amd64': mine, 'linux/arm64': other });
    for (const reference of ['images/many', `images/many@${index}`, `images/many:latest@${index}`]) {
      const context = testContext();
      const options = { ...INSECURE, platform: 'linux/arm64' };
      await using source = await openSource(`docker://${open.host}/${reference}`, options, context);
      expect(source.facts.length).toBe(3);
      expect(source.name).toBe(`docker://${open.host}/images/many@${other}`);
    }
    const none = await opening('images/many', { platform: 'linux/s390x' });
    expect(none).toMatchObject({ code: 'NOT_FOUND', message: expect.stringMatching(/linux\/amd64, linux\/arm64/) });
  });

  test('a layer that is not what its digest says is found out', async () => {
    const context = testContext();
    const proxy = await FaultProxy.start({ port: open.port }, { corrupt: 3_000_000 });
    await using source = stackFilters(
      await openSource(`docker://127.0.0.1:${proxy.port}/images/disk`, INSECURE, context),
      context,
    );
    // The engine compares; here it is only told what to demand.
    expect(source.facts.digest?.algorithm).toBe('sha256');
    expect(source.facts.validator).toBe(`sha256:${source.facts.digest?.hex}`);
    await proxy[Symbol.asyncDispose]();
  });

  test('artifacts with several files want a name', async () => {
    const titled = (title: string): typeof DISK & { annotations: Record<string, string> } => ({
      ...DISK,
      content: Buffer.from(title),
      annotations: { 'org.opencontainers.image.title': title },
    });
    await open.push('images/two', 'latest', [titled('one.raw'), titled('other.raw')]);
    expect(await opening('images/two')).toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(/one\.raw, other\.raw/),
    });
    const context = testContext();
    await using source = await openSource(
      `docker://${open.host}/images/two`,
      { ...INSECURE, path: 'other.raw' },
      context,
    );
    expect((await collect(source.read({ from: 0 }, context.signal))).toString()).toBe('other.raw');
  });
});

describe('pure', () => {
  test.each([
    ['ubuntu', 'docker.io/library/ubuntu:latest'],
    ['ubuntu:24.04', 'docker.io/library/ubuntu:24.04'],
    ['kubevirt/fedora', 'docker.io/kubevirt/fedora:latest'],
    ['quay.io/a/b/c:v1', 'quay.io/a/b/c:v1'],
    ['localhost/x', 'localhost/x:latest'],
    ['localhost:5000/x:y', 'localhost:5000/x:y'],
    ['[::1]:5000/x', '[::1]:5000/x:latest'],
    [`r.io/x@sha256:${'a'.repeat(64)}`, `r.io/x@sha256:${'a'.repeat(64)}`],
  ])('reference %s', (text, expected) => {
    expect(formatReference(parseReference(text))).toBe(expected);
  });
  test.each(['', 'UPPER', 'a//b', 'a:', 'a@sha256:1', 'r.io/', 'r.io/a b', 'r.io/../x', 'user@host/x', 'r.io/a:b:c'])(
    'no reference: %s',
    (text) => {
      expect(() => parseReference(text)).toThrow(/is no image in a registry/);
    },
  );

  test('challenges', () => {
    const text = 'Bearer realm="https://auth.example/token?a=b",service="a \\"b\\"",scope="repository:x:pull,push"';
    const challenge = parseChallenge(text);
    expect(challenge).toMatchObject({
      scheme: 'bearer',
      parameters: { service: 'a "b"', scope: 'repository:x:pull,push' },
    });
    expect(challenge && tokenUrl(challenge, 'x')?.href).toBe(
      'https://auth.example/token?a=b&service=a+%22b%22&scope=repository%3Ax%3Apull%2Cpush',
    );
    expect(parseChallenge('Basic realm="x"')).toMatchObject({ scheme: 'basic' });
    expect(parseChallenge('Negotiate, Basic realm=x')).toMatchObject({ scheme: 'basic' });
    for (const none of ['', 'Negotiate', 'Digest realm="x"']) expect(parseChallenge(none)).toBeUndefined();
    expect(tokenUrl({ scheme: 'bearer', parameters: { realm: 'file:///etc/passwd' } }, 'x')).toBeUndefined();
  });

  test('logins', () => {
    const auth = Buffer.from('me:se:cret').toString('base64');
    const text = JSON.stringify({
      auths: { 'https://index.docker.io/v1/': { auth }, 'r.io': { username: 'u', password: 'p' }, 'h.io': {} },
      credsStore: 'desktop',
      credHelpers: { 'gcr.io': 'gcloud' },
    });
    expect(loginIn(text, 'docker.io', 'f')).toEqual({ username: 'me', password: 'se:cret' });
    expect(loginIn(text, 'r.io', 'f')).toEqual({ username: 'u', password: 'p' });
    expect(loginIn(text, 'else.io', 'f')).toBeUndefined();
    expect(() => loginIn(text, 'gcr.io', 'f')).toThrow(/docker-credential-gcloud, which is not run/);
    expect(() => loginIn(text, 'h.io', 'f')).toThrow(/docker-credential-desktop/);
    expect(() => loginIn('no', 'h.io', 'f')).toThrow(/not JSON/);
  });

  test('manifests', () => {
    const digest = `sha256:${'0'.repeat(64)}`;
    const layer = { mediaType: 'x', digest, size: 1 };
    for (const [text, what] of [
      ['{', 'not JSON'],
      ['null', 'no object'],
      ['{"schemaVersion":1}', 'schema 1'],
      ['{"schemaVersion":2}', 'neither layers'],
      [JSON.stringify({ layers: [{ ...layer, digest: '../../etc/passwd' }] }), 'without a sha256'],
      [JSON.stringify({ layers: [{ ...layer, size: -1 }] }), 'no size'],
      [JSON.stringify({ layers: [{ ...layer, size: 1e300 }] }), 'no size'],
      [JSON.stringify({ layers: [null] }), 'without a sha256'],
    ] as const) {
      expect(() => parseManifest(text)).toThrow(what);
    }
    const index = parseManifest(
      JSON.stringify({
        manifests: [
          { ...layer, platform: { os: 'linux', architecture: 'arm64' } },
          { ...layer, platform: { os: 'unknown', architecture: 'unknown' } },
        ],
      }),
    );
    expect(index.kind === 'index' && choose(index, parsePlatform('linux/amd64')).digest).toBe(digest);
    for (const [mediaType, archive] of [
      ['application/vnd.oci.image.layer.v1.tar+gzip', true],
      ['application/vnd.docker.image.rootfs.diff.tar.gzip', true],
      ['application/vnd.oci.image.layer.v1.tar', true],
      ['application/octet-stream', false],
      ['application/vnd.kubevirt.disk.qcow2', false],
    ] as const) {
      expect(isArchive({ mediaType, digest, size: 1, annotations: {} })).toBe(archive);
    }
  });
});

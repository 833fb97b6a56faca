import { randomBytes } from 'node:crypto';
import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { stackFilters } from '../../src/dataplane/stack.ts';
import { FaultProxy } from '../faults/proxy.ts';
import { collect, testContext, thrown } from '../support/context.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { type Subject, sourceContract } from './source.ts';

let home: TempDir;
let server: Nginx;
const content = randomBytes(4_000_001);

beforeAll(async () => {
  home = await tempdir();
  const at = (name: string): string => join(home.path, name);
  await writeFile(at('small.img'), content.subarray(0, 1000));
  await writeFile(at('empty.img'), '');
  await writeFile(at('login.html'), '<!DOCTYPE html>\n<html><body>Please log in</body></html>');
  await writeFile(at('odd.html'), content);
  // user:secret, as htpasswd -d would write it with {PLAIN}.
  await writeFile(at('passwords'), 'user:{PLAIN}s@cr%t\n');
  server = await nginx({
    root: home.path,
    http: 'limit_req_zone $binary_remote_addr zone=one:1m rate=1r/s;',
    server: `
      location /plain/ { alias ${home.path}/; max_ranges 0; }
      location /untagged/ { alias ${home.path}/; etag off; }
      location /slow/ { alias ${home.path}/; limit_rate 2m; }
      location /private/ { alias ${home.path}/; auth_basic "images"; auth_basic_user_file ${at('passwords')}; }
      location /busy/ { alias ${home.path}/; limit_req zone=one; limit_req_status 429; }
      location = /forbidden { return 403; }
      location = /away { return 503; }
      location = /loop { return 302 /loop2; }
      location = /loop2 { return 302 /loop?again; }
      location = /moved { return 301 /small.img?token=secret; }
      location = /nowhere { return 302 "ftp://127.0.0.1/x"; }
      location ~ ^/chain/(?<n>.*)$ { return 307 /chain/x$n; }
      location = /login { try_files /login.html =404; }
    `,
  });
});
afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

let subjects = 0;
async function subject(prefix: string): Promise<Subject> {
  subjects += 1;
  const name = `disk-${subjects}.img`;
  const path = join(home.path, name);
  await writeFile(path, content);
  const proxy = await FaultProxy.start({ port: server.port });
  return {
    content,
    proxy,
    open: (context) => openSource(`${proxy.url}${prefix}/${name}?token=secret`, {}, context),
    async replace() {
      await writeFile(`${path}.new`, randomBytes(content.length - 1));
      await rename(`${path}.new`, path);
    },
    [Symbol.asyncDispose]: () => proxy[Symbol.asyncDispose](),
  };
}

sourceContract('http with ranges', { ranges: true, length: true, validator: true, remote: true }, () => subject(''));
sourceContract('http without ranges', { ranges: false, length: true, validator: true, remote: true }, () =>
  subject('/plain'),
);
sourceContract('http without an ETag', { ranges: true, length: true, validator: false, remote: true }, () =>
  subject('/untagged'),
);
sourceContract('http at a limited rate', { ranges: true, length: true, validator: true, remote: true }, () =>
  subject('/slow'),
);

describe('http', () => {
  const opening = (path: string, limits = {}): Promise<Error & { code?: string; retryable?: boolean }> =>
    thrown(openSource(server.url + path, {}, testContext({ patience: 500, ...limits })));

  test('a whole image costs one request when it is small, two when it is not', async () => {
    for (const [name, requests] of [
      ['small.img', 1],
      ['odd.html', 2],
    ] as const) {
      const context = testContext();
      await using source = stackFilters(await openSource(`${server.url}/${name}`, {}, context), context);
      await source.head(context.signal);
      await collect(source.read({ from: 0 }, context.signal));
      expect(context.counters.opened).toBe(requests);
    }
  });

  test('an empty object has no bytes', async () => {
    for (const prefix of ['', '/plain']) {
      const context = testContext();
      await using source = stackFilters(await openSource(`${server.url}${prefix}/empty.img`, {}, context), context);
      expect(source.facts.length).toBe(0);
      expect(await source.head(context.signal)).toHaveLength(0);
      expect(await collect(source.read({ from: 0 }, context.signal))).toHaveLength(0);
    }
  });

  test('details for people', async () => {
    const context = testContext();
    await using source = await openSource(`${server.url}/moved`, {}, context);
    expect(source.name).toBe(`${server.url}/moved`);
    expect(source.details).toMatchObject({
      connection: 'direct',
      etag: 'strong',
      resumable: 'yes',
      redirects: [server.url],
    });
    expect(JSON.stringify([source.name, source.details])).not.toContain('secret');
    await using untagged = await openSource(`${server.url}/untagged/small.img`, {}, context);
    expect(untagged.details.resumable).toMatch(/no ETag/);
    await using plain = await openSource(`${server.url}/plain/small.img`, {}, context);
    expect(plain.details.resumable).toMatch(/does not honour ranges/);
  });

  test.each([
    ['/missing', 'NOT_FOUND', /answered 404: there is no such object/],
    ['/forbidden', 'DENIED', /answered 403: access denied; sent were no credentials$/],
    ['/away', 'IO', /answered 503: the server is busy; gave up after/],
    ['/loop', 'UNSUPPORTED', /redirects in a loop/],
    ['/chain/', 'UNSUPPORTED', /redirects more than 10 times/],
    ['/nowhere', 'UNSUPPORTED', /redirects to a ftp:/],
    ['/login', 'UNSUPPORTED', /web page \(a login page\?\)/],
  ])('%s is %s', async (path, code, message) => {
    const error = await opening(`${path}?token=secret`);
    expect(error).toMatchObject({ code, retryable: false, message });
    expect(error.message).not.toContain('secret');
  });

  test('an image that is called HTML is an image', async () => {
    const context = testContext();
    await using source = await openSource(`${server.url}/odd.html`, {}, context);
    expect((await collect(source.read({ from: 0 }, context.signal))).equals(content)).toBe(true);
  });

  test('basic credentials from the URL and from the options, never told', async () => {
    const context = testContext();
    const url = `${server.url}/private/small.img`;
    const denied = await thrown(openSource(url.replace('//', '//user:wrong-one@'), {}, context));
    expect(denied).toMatchObject({ code: 'DENIED', message: /sent were a user name and password/ });
    expect(denied.message).not.toMatch(/wrong-one|user:/);
    for (const [text, options] of [
      [url.replace('//', '//user:s%40cr%25t@'), {}],
      [url, { credentials: { username: 'user', password: 's@cr%t' } }],
      [url, { headers: { Authorization: `Basic ${btoa('user:s@cr%t')}` } }],
    ] as const) {
      await using source = await openSource(text, options, context);
      expect(source.name).toBe(url);
      expect(await collect(source.read({ from: 0 }, context.signal))).toHaveLength(1000);
    }
  });

  test('429 is waited for', async () => {
    const context = testContext({ patience: 10_000 });
    const url = `${server.url}/busy/small.img`;
    for (let count = 0; count < 2; count += 1) {
      await using source = await openSource(url, {}, context);
      await collect(source.read({ from: 0 }, context.signal));
    }
    expect(context.counters.retries).toBeGreaterThan(0);
    expect(context.lines[0]).toMatch(/answered 429: the server is busy; trying again while opening/);
  });

  test('no host, no server', async () => {
    const nobody = await thrown(openSource('http://127.0.0.1:1/x', {}, testContext({ patience: 300 })));
    expect(nobody).toMatchObject({ code: 'IO', message: /127.0.0.1:1 refuses connections/ });
    const unknown = await thrown(openSource('http://no-such-host.invalid/x', {}, testContext({ patience: 300 })));
    expect(unknown.message).toMatch(/no-such-host.invalid/);
    expect(['NOT_FOUND', 'IO']).toContain(unknown.code);
    expect(await thrown(openSource('http://', {}, testContext()))).toMatchObject({ code: 'BAD_SPEC' });
  });

  test('cuts every 5 MB are passed', async () => {
    const large = randomBytes(32_000_000);
    await writeFile(join(home.path, 'large.img'), large);
    await using proxy = await FaultProxy.start({ port: server.port }, { cut: 5_000_000 });
    const context = testContext();
    await using source = stackFilters(await openSource(`${proxy.url}/large.img`, {}, context), context);
    expect((await collect(source.read({ from: 0 }, context.signal))).equals(large)).toBe(true);
    expect(context.counters.retries).toBeGreaterThanOrEqual(5);
    expect(context.counters.received).toBe(large.length);
  });

  test('what is corrupted on the way goes through: TCP alone cannot tell', async () => {
    await using proxy = await FaultProxy.start({ port: server.port }, { corrupt: 1_000_000 });
    const context = testContext();
    await using source = await openSource(`${proxy.url}/odd.html`, {}, context);
    const got = await collect(source.read({ from: 0 }, context.signal));
    const wrong = got.reduce((sum, byte, at) => sum + (byte === content[at] ? 0 : 1), 0);
    expect(wrong).toBe(1);
  });

  test('a server that goes away is named when patience is over', async () => {
    await using proxy = await FaultProxy.start({ port: server.port }, { cut: 1_500_000 });
    const context = testContext({ patience: 600 });
    await using source = stackFilters(await openSource(`${proxy.url}/odd.html`, {}, context), context);
    const began = performance.now();
    const reading = (async () => {
      for await (const _ of source.read({ from: 0 }, context.signal)) proxy.faults = { cut: 0 };
    })();
    expect(await thrown(reading)).toMatchObject({ retryable: false, message: /gave up after \d+ s and \d+ attempts/ });
    expect(performance.now() - began).toBeLessThan(5000);
  });
});

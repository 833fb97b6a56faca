import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { SourceOptions } from '../../src/dataplane/source.ts';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { FaultProxy } from '../faults/proxy.ts';
import { collect, testContext, thrown } from '../support/context.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { startSquid } from '../support/squid.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { type Authority, authority } from '../support/tls.ts';
import { sourceContract } from './source.ts';

let home: TempDir;
let trusted: Authority;
let server: Nginx;
let expired: Nginx;
let elsewhere: Nginx;
let plain: Nginx;
const content = randomBytes(3_500_000);

beforeAll(async () => {
  home = await tempdir();
  trusted = await authority(home.path);
  const root = join(home.path, 'root');
  await mkdir(root);
  await writeFile(join(root, 'disk.img'), content);
  plain = await nginx({ root });
  const start = async (label: string, names: string[], days?: number): Promise<Nginx> =>
    nginx({
      root,
      tls: await trusted.issue(label, names, days),
      server: `location = /down { return 302 ${plain.url}/disk.img; }`,
    });
  server = await start('server', ['localhost', '127.0.0.1']);
  expired = await start('expired', ['127.0.0.1'], -1);
  elsewhere = await start('elsewhere', ['images.example.org']);
});
afterAll(async () => {
  for (const one of [server, expired, elsewhere, plain, home]) await one?.[Symbol.asyncDispose]();
});

sourceContract(
  'https with an authority of its own',
  { ranges: true, length: true, validator: true, remote: true },
  async () => {
    const root = join(home.path, 'root');
    const name = `disk-${randomBytes(4).toString('hex')}.img`;
    await writeFile(join(root, name), content);
    const proxy = await FaultProxy.start({ port: server.port });
    return {
      content,
      proxy,
      open: (context) => openSource(`https://127.0.0.1:${proxy.port}/${name}`, { ca: trusted.ca }, context),
      replace: () => writeFile(join(root, name), randomBytes(content.length - 1)),
      [Symbol.asyncDispose]: () => proxy[Symbol.asyncDispose](),
    };
  },
);

describe('https', () => {
  const open = (url: string, options: SourceOptions = {}): Promise<unknown> =>
    openSource(url, options, testContext({ patience: 300 }));

  test('the certificate is told', async () => {
    await using source = await openSource(`${server.url}/disk.img`, { ca: trusted.ca }, testContext());
    expect(source.details).toMatchObject({
      certificateSubject: 'localhost',
      certificateIssuer: 'diskferry test authority',
    });
    expect(source.details.certificateValidTo).toMatch(/GMT/);
  });

  test('an authority that is not trusted is named, with the remedy', async () => {
    const error = await thrown(open(`${server.url}/disk.img`));
    expect(error).toMatchObject({ code: 'DENIED', retryable: false });
    expect(error.message).toMatch(
      /subject localhost, issuer diskferry test authority, valid to .*is not trusted: .* --ca/,
    );
  });

  test('another authority is not the one', async () => {
    await using other = await tempdir();
    const { ca } = await authority(other.path, 'somebody else');
    expect((await thrown(open(`${server.url}/disk.img`, { ca }))).message).toMatch(/is not trusted/);
  });

  test('an expired certificate', async () => {
    expect(await thrown(open(`${expired.url}/disk.img`, { ca: trusted.ca }))).toMatchObject({
      code: 'DENIED',
      message: /has expired$/,
    });
  });

  test('a certificate of another host', async () => {
    const error = await thrown(open(`${elsewhere.url}/disk.img`, { ca: trusted.ca }));
    expect(error).toMatchObject({ code: 'DENIED', message: /subject images.example.org.* is for another host/ });
  });

  test('whatever certificate it is, where nobody is to look; a redirect to http is refused all the same', async () => {
    for (const url of [server.url, expired.url, elsewhere.url]) {
      const context = testContext();
      await using source = await openSource(`${url}/disk.img`, { insecureTls: true }, context);
      expect((await collect(source.read({ from: 0 }, context.signal))).equals(content)).toBe(true);
    }
    expect(await thrown(open(`${server.url}/down`, { insecureTls: true }))).toMatchObject({ code: 'UNSAFE' });
  });

  test('a bundle without a certificate', async () => {
    expect(await thrown(open(`${server.url}/x`, { ca: 'nothing' }))).toMatchObject({
      code: 'BAD_SPEC',
      message: /--ca/,
    });
  });

  test('no TLS on that port', async () => {
    expect((await thrown(open(plain.url.replace('http:', 'https:')))).message).toMatch(/does it speak https/);
  });

  test('from https to http only when asked', async () => {
    const url = `${server.url}/down`;
    expect(await thrown(open(url, { ca: trusted.ca }))).toMatchObject({
      code: 'UNSAFE',
      message: /redirects from https to http/,
    });
    const context = testContext();
    await using source = await openSource(url, { ca: trusted.ca, insecureRedirects: true }, context);
    expect((await collect(source.read({ from: 0 }, context.signal))).equals(content)).toBe(true);
  });
});

describe('through a proxy', () => {
  const before = { ...process.env };
  afterEach(() => {
    for (const name of ['http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY', 'no_proxy'])
      delete process.env[name];
    Object.assign(process.env, before);
  });

  test('squid carries http and tunnels https', async () => {
    await using squid = await startSquid();
    for (const [name, url] of [
      ['HTTP_PROXY', plain.url],
      ['https_proxy', server.url],
    ] as const) {
      process.env[name] = `http://127.0.0.1:${squid.port}`;
      const context = testContext();
      await using source = await openSource(`${url}/disk.img`, { ca: trusted.ca }, context);
      expect(source.details.connection).toBe(`127.0.0.1:${squid.port}`);
      expect((await collect(source.read({ from: 0 }, context.signal))).equals(content)).toBe(true);
    }
    const lines = await squid.requests();
    expect(lines).toContain('GET http://127.0.0.1');
    process.env.NO_PROXY = '127.0.0.1';
    await using direct = await openSource(`${plain.url}/disk.img`, {}, testContext());
    expect(direct.details.connection).toBe('direct');
  });

  test('a proxy that refuses is named, its password is not', async () => {
    const refusing = async (status: string): Promise<Server> => {
      const proxy = createServer((socket) => {
        socket.on('error', () => {});
        socket.once('data', () => socket.end(`HTTP/1.1 ${status}\r\nContent-Length: 0\r\n\r\n`));
      }).listen(0, '127.0.0.1');
      await once(proxy, 'listening');
      return proxy;
    };
    for (const [status, code] of [
      ['407 Proxy Authentication Required', 'DENIED'],
      ['403 Forbidden', 'DENIED'],
      ['502 Bad Gateway', 'IO'],
    ] as const) {
      const proxy = await refusing(status);
      const address = proxy.address();
      const port = address !== null && typeof address === 'object' ? address.port : 0;
      process.env.HTTPS_PROXY = process.env.HTTP_PROXY = `http://me:secret@127.0.0.1:${port}`;
      for (const url of [server.url, plain.url]) {
        const error = await thrown(openSource(`${url}/disk.img`, { ca: trusted.ca }, testContext({ patience: 200 })));
        expect(error.code, `${status} ${url}: ${error.message}`).toBe(code);
        expect(error.message).toContain(status.slice(0, 3));
        expect(error.message).not.toContain('secret');
      }
      proxy.close();
    }
  });
});

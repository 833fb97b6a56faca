import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Extent, Source } from '../../src/dataplane/source.ts';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { nbd } from '../../src/dataplane/sources/nbd.ts';
import { FaultProxy } from '../faults/proxy.ts';
import { collect, testContext, thrown } from '../support/context.ts';
import { pattern } from '../support/extents.ts';
import { type NbdServer, nbdkit, qemuNbd } from '../support/nbd.ts';
import { nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { authority } from '../support/tls.ts';
import { sourceContract } from './source.ts';

const MiB = 1 << 20;
let home: TempDir;
let content: Buffer;
const at = (name: string): string => join(home.path, name);
beforeAll(async () => {
  home = await tempdir();
  content = randomBytes(8 * 512 * 1024);
  await writeFile(at('disk'), content);
});
afterAll(() => home?.[Symbol.asyncDispose]());

const SERVERS: readonly (readonly [name: string, start: () => Promise<NbdServer>])[] = [
  ['qemu-nbd, several connections', () => qemuNbd(at('disk'))],
  ['qemu-nbd, one connection', () => qemuNbd(at('disk'), ['--shared=1'])],
  ['nbdkit without structured replies', () => nbdkit(['--no-sr', 'file', at('disk')])],
  ['nbdkit with blocks of 4 KiB', () => nbdkit(['--filter=blocksize-policy', 'file', at('disk'), ...POLICY])],
];
const POLICY = [
  'blocksize-minimum=4096',
  'blocksize-preferred=4096',
  'blocksize-maximum=65536',
  'blocksize-error-policy=error',
];

for (const [name, start] of SERVERS) {
  const expected = { ranges: true, length: true, validator: true, remote: true, replaceable: false };
  sourceContract(name, expected, async () => {
    const server = await start();
    const proxy = await FaultProxy.start(server);
    return {
      content,
      proxy,
      open: (context) => openSource(`nbd://127.0.0.1:${proxy.port}/disk`, { unchanged: true }, context),
      async [Symbol.asyncDispose]() {
        await proxy[Symbol.asyncDispose]();
        await server[Symbol.asyncDispose]();
      },
    };
  });
}

async function extentsOf(source: Source): Promise<Extent[]> {
  const found: Extent[] = [];
  for await (const batch of source.extents?.(new AbortController().signal) ?? []) found.push(...batch);
  return found;
}

test('holes are told', async () => {
  await pattern(at('holes'), 64 * MiB, [
    [MiB, MiB],
    [40 * MiB, 2 * MiB],
  ]);
  await using server = await qemuNbd(at('holes'));
  await using source = await openSource(`nbd://127.0.0.1:${server.port}/disk`, {}, testContext());
  expect(await extentsOf(source)).toEqual([
    { from: MiB, to: 2 * MiB },
    { from: 40 * MiB, to: 42 * MiB },
  ]);
  expect(source.facts.validator).toBeUndefined();
});

test('a server that does not tell holes has no extents', async () => {
  await using server = await nbdkit(['--no-sr', 'file', at('disk')]);
  await using source = await openSource(`nbd://127.0.0.1:${server.port}`, {}, testContext());
  expect(source.extents).toBeUndefined();
});

test('a Unix socket', async () => {
  const path = at('a socket');
  await using _server = await qemuNbd(at('disk'), [], path);
  const context = testContext();
  await using source = await openSource(`nbd+unix:///disk?socket=${encodeURIComponent(path)}`, {}, context);
  expect((await collect(source.read({ from: 0 }, context.signal))).equals(content)).toBe(true);
  expect(source.name).toBe(`nbd+unix:${path}:/disk`);
  expect(await thrown(openSource('nbd+unix:///disk?socket=/missing', {}, testContext()))).toMatchObject({
    code: 'NOT_FOUND',
  });
});

describe('over TLS', () => {
  let server: NbdServer;
  let ca: string;
  beforeAll(async () => {
    await mkdir(at('pki'));
    const issuer = await authority(at('pki'));
    ca = issuer.ca;
    const pair = await issuer.issue('server', ['127.0.0.1', 'localhost']);
    // The names that QEMU looks for (docs/system/tls.rst).
    await copyFile(at('pki/ca.pem'), at('pki/ca-cert.pem'));
    await copyFile(pair.certificate, at('pki/server-cert.pem'));
    await copyFile(pair.key, at('pki/server-key.pem'));
    const credentials = `tls-creds-x509,id=tls0,endpoint=server,dir=${at('pki')},verify-peer=no`;
    server = await qemuNbd(at('disk'), ['--object', credentials, '--tls-creds=tls0']);
  });
  afterAll(() => server?.[Symbol.asyncDispose]());

  test.each(['127.0.0.1', 'localhost'])('%s is read', async (host) => {
    const context = testContext();
    await using source = await openSource(`nbds://${host}:${server.port}/disk`, { ca }, context);
    expect((await collect(source.read({ from: 0 }, context.signal))).equals(content)).toBe(true);
  });

  test('a certificate that is not trusted is refused, and so is the plain protocol', async () => {
    const open = (scheme: string) => openSource(`${scheme}://127.0.0.1:${server.port}/disk`, {}, testContext());
    expect(await thrown(open('nbds'))).toMatchObject({ code: 'DENIED', message: expect.stringContaining('--ca') });
    expect(await thrown(open('nbd'))).toMatchObject({ code: 'DENIED', message: expect.stringContaining('nbds://') });
  });
});

describe('what is refused', () => {
  let server: NbdServer;
  beforeAll(async () => {
    server = await qemuNbd(at('disk'));
  });
  afterAll(() => server?.[Symbol.asyncDispose]());
  const open = (text: string) => thrown(openSource(text, {}, testContext({ patience: 300 })));

  test('an export that is not there', async () => {
    expect(await open(`nbd://127.0.0.1:${server.port}/other`)).toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining("no export 'other'"),
    });
  });

  test('TLS that is not there', async () => {
    expect(await open(`nbds://127.0.0.1:${server.port}/disk`)).toMatchObject({ code: 'UNSUPPORTED' });
  });

  test('a server that speaks first and is something else', async () => {
    const other = createServer((socket) => socket.on('error', () => undefined).end('220 mail.example ESMTP\r\n'));
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const { port } = other.address() as { port: number };
    try {
      expect(await open(`nbd://127.0.0.1:${port}/disk`)).toMatchObject({
        code: 'CORRUPT',
        message: expect.stringContaining('is it another service?'),
      });
    } finally {
      other.close();
    }
  });

  test('a web server', async () => {
    await using web = await nginx({ root: home.path });
    const error = await open(`nbd://127.0.0.1:${web.port}/disk`);
    expect(error.code).toMatch(/STALLED|IO|CORRUPT/);
  }, 40_000);

  test.each([
    ['nbd:///disk', /a host is missing/],
    ['nbd+unix:///disk', /socket=PATH/],
    ['nbds://h/disk?tls-psk-file=/etc/shadow', /tls-psk-file is not taken/],
    ['nbd://h/%ff', /percent-encoded/],
    [`nbd://h/${'x'.repeat(4097)}`, /4096/],
  ])('%#: an address that cannot be', (text, message) => {
    expect(() => nbd.parse(text, {})).toThrow(message);
  });
});

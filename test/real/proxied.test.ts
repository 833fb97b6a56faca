// Uploads into `diskferry serve` behind nginx: the clients that people use, unmodified, and the configuration of docs/serve.md.
import { readFile, stat, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { FaultProxy } from '../faults/proxy.ts';
import type { Cli } from '../support/cli.ts';
import { bootableDisk, difference, MiB, qcow2, sha256, shell } from '../support/images.ts';
import { freePort, type Nginx, nginx } from '../support/nginx.ts';
import { curl, Served } from '../support/served.ts';
import { site } from '../support/site.ts';
import { authority } from '../support/tls.ts';
import { PROTOCOLS, tusJs, tuspy } from '../support/tus.ts';

const SIZE = 96 * MiB;
/** What nginx lets pass when it is told nothing, and what is sent through it. Bytes. */
const LIMIT = 1 * MiB;
let program: Cli;
let server: Served;
let port: number;
const at = site(async (opened) => {
  ({ program } = opened);
  await bootableDisk(at('www/raw'), SIZE);
  await qcow2(at('www/raw'), at('www/qcow2'));
});
const file = (name: string): string => at(`data/${name}.img`);

beforeAll(async () => {
  port = await freePort();
  server = await Served.start(program, at('data'), ['--open'], port);
}, 60_000);
afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
});

describe.each(['on', 'off'])('through nginx with a body of 1 MiB, its buffering %s', (buffering) => {
  let front: Nginx;
  let proxy: FaultProxy;
  beforeAll(async () => {
    const limits = ['read', 'send', 'connect'].map((what) => `proxy_${what}_timeout 60s;`).join(' ');
    const location = `location / {
      proxy_pass http://127.0.0.1:${port}; ${limits} client_body_timeout 60s;
      client_max_body_size 1m; proxy_request_buffering ${buffering};
    }`;
    front = await nginx({ root: at('www'), server: location });
    proxy = await FaultProxy.start({ port: front.port });
  });
  afterAll(async () => {
    await proxy?.[Symbol.asyncDispose]();
    await front?.[Symbol.asyncDispose]();
  });
  beforeEach(() => {
    proxy.faults = {};
    proxy.sent = 0;
  });

  test.each([...PROTOCOLS, 'tuspy'] as const)(
    'over a line that is cut, to a server that is killed: %s',
    async (client) => {
      const volume = `${client}-${buffering}`;
      const path = at('www/qcow2');
      const { size } = await stat(path);
      proxy.faults = { cutSent: 20 * MiB };
      const uploading =
        client === 'tuspy' ? tuspy(proxy.url, path, volume, LIMIT) : tusJs(proxy.url, client, path, volume, LIMIT);
      for (let tries = 0; proxy.sent < 0.6 * size && tries < 1200; tries += 1) await sleep(50);
      await server.kill();
      server = await Served.start(program, at('data'), ['--open'], port);
      await uploading;
      expect(await server.volume(volume)).toMatchObject({ state: 'ready', size: SIZE });
      expect(await difference(at('www/raw'), file(volume))).toBeUndefined();
    },
    120_000,
  );

  test.each(PROTOCOLS)(
    'what is larger is refused, and can be sent again at once in smaller parts: %s',
    async (protocol) => {
      // Nothing of it has come: the volume is nobody's.
      const volume = `large-${protocol}-${buffering}`;
      const path = at('www/qcow2');
      await expect(tusJs(proxy.url, protocol, path, volume)).rejects.toThrow('413');
      await tusJs(proxy.url, protocol, path, volume, LIMIT);
      expect(await difference(at('www/raw'), file(volume))).toBeUndefined();
    },
    60_000,
  );
});

describe('nginx as docs/serve.md has it', () => {
  const SECRET = 'a-secret-of-some-length';
  let secured: Served;
  let front: Nginx;
  let own: string[];
  const disk = (name: string): string => at(`secured/${name}.img`);
  beforeAll(async () => {
    const documented = /```nginx\n([^`]+)```/.exec(await readFile('docs/serve.md', 'utf8'))?.[1] ?? '';
    await writeFile(at('secret'), SECRET, { mode: 0o600 });
    secured = await Served.start(program, at('secured'), ['--secret-file', at('secret')]);
    const { host } = new URL(secured.url);
    const { ca, issue } = await authority(at(''));
    await writeFile(at('ca'), ca);
    const tls = await issue('front', ['127.0.0.1']);
    front = await nginx({ root: at('www'), tls, server: documented.replace('127.0.0.1:8090', host) });
    own = ['--cacert', at('ca'), '-u', `:${SECRET}`];
  }, 60_000);
  afterAll(async () => {
    await front?.[Symbol.asyncDispose]();
    await secured?.[Symbol.asyncDispose]();
  });

  test('images come through whole and as they come, with a length or without', async () => {
    expect((await curl([...own, '-T', at('www/qcow2'), `${front.url}/volumes/known`])).status).toBe(201);
    const unknown = ['-H', 'Transfer-Encoding: chunked', '-T', at('www/qcow2')];
    expect((await curl([...own, ...unknown, `${front.url}/volumes/unknown`])).status).toBe(201);
    const args = [
      'upload',
      at('www/raw'),
      `${front.url}/volumes/ours`,
      '--ca',
      at('ca'),
      '--secret-file',
      at('secret'),
    ];
    const { code, stderr } = await program.run(args);
    expect(code, stderr).toBe(0);
    for (const name of ['known', 'unknown', 'ours']) {
      expect(await difference(at('www/raw'), disk(name)), name).toBeUndefined();
    }
    expect((await curl([...own, '-o', at('back'), `${front.url}/volumes/known/disk`])).status).toBe(200);
    expect(await sha256(at('back'))).toBe(await sha256(at('www/raw')));
    // "is buffered to a temporary file"
    expect(await front.warnings()).toBe('');
  }, 60_000);

  test('what cannot become a disk is refused before it was sent', async () => {
    await shell(`(echo '<!DOCTYPE html>'; head -c 64M /dev/zero) > ${at('www/page')}`);
    const slow = ['--limit-rate', '20M', '-T', at('www/page')];
    const { status, body, sent } = await curl([...own, ...slow, `${front.url}/volumes/page`]);
    expect([status, JSON.parse(body)]).toMatchObject([415, { error: { code: 'UNSUPPORTED' } }]);
    expect(sent).toBeLessThan(32 * MiB);
  });

  test('a client that wants to be told where it could go on gets its answer, and no other', async () => {
    const wish = ['-i', '-H', 'Upload-Draft-Interop-Version: 6', '-H', 'Upload-Complete: ?1', '-T', at('www/qcow2')];
    const { status, body } = await curl([...own, ...wish, `${front.url}/volumes/wish`]);
    expect([status, body]).toEqual([201, expect.not.stringContaining('104 Upload')]);
    expect(await difference(at('www/raw'), disk('wish'))).toBeUndefined();
    // To nginx that is told nothing: an HTTP/1.0 client (RFC 9110 section 15.2).
    const bare = `location / { proxy_pass ${server.url}; client_max_body_size 0; }`;
    await using plain = await nginx({ root: at('www'), server: bare });
    await curl([...wish, `${plain.url}/volumes/wish`]);
    // It is logged when curl has its answer.
    await expect.poll(() => plain.requests()).toEqual([expect.stringMatching(/^201 /)]);
    const direct = await curl([...wish, `${server.url}/volumes/direct`]);
    expect([direct.status, direct.body]).toEqual([201, expect.stringContaining('104 Upload Resumption Supported')]);
  });

  test('the page may ask and is told at once, and pages of other sites may not', async () => {
    const asked = (origin: string) => curl([...own, '-H', `Origin: ${origin}`, `${front.url}/volumes`]);
    expect((await asked(front.url)).status).toBe(200);
    expect((await asked('https://elsewhere.example')).status).toBe(403);
    const events = await curl([...own, '--max-time', '3', `${front.url}/events`]);
    expect(events.body).toMatch(/^data: \{"volumes"/);
  });
});

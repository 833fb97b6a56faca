// Tokens of a server: for one operation on one volume, for a time.
import { rm, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Cli } from '../support/cli.ts';
import { bootableDisk, difference, MiB, qcow2 } from '../support/images.ts';
import { freePort } from '../support/nginx.ts';
import { type Answer, curl, Served } from '../support/served.ts';
import { site } from '../support/site.ts';

const SECRET = 'the-secret-of-all-of-it';
const SIZE = 24 * MiB;
let program: Cli;
let server: Served;
let port: number;
const at = site(async (opened) => {
  program = opened.program;
  await bootableDisk(at('raw'), SIZE);
  await qcow2(at('raw'), at('qcow2'), { compressed: true });
  await writeFile(at('secret'), `${SECRET}\n`, { mode: 0o600 });
});
beforeAll(async () => {
  port = await freePort();
  server = await started();
});
afterAll(() => server?.[Symbol.asyncDispose]());

const started = (): Promise<Served> => Served.start(program, at('data'), ['--secret-file', at('secret')], port);
const as = (credential: string, ...args: string[]): Promise<Answer> => curl(['-u', `:${credential}`, ...args]);
const to = (path: string): string => `${server.url}/volumes/${path}`;
async function tokenFor(volume: string, operation: string, seconds = 3600): Promise<string> {
  const answer = await as(SECRET, '-X', 'POST', to(`${volume}/tokens?operation=${operation}&seconds=${seconds}`));
  expect(answer.status, answer.body).toBe(201);
  const { token, expires } = JSON.parse(answer.body) as { token: string; expires: string };
  expect(Date.parse(expires) - Date.now()).toBeGreaterThan((seconds - 10) * 1000);
  return token;
}
const metadata = (name: string): string => `Upload-Metadata: volume ${Buffer.from(name).toString('base64')}`;
const tus = (credential: string, name: string): Promise<Answer> =>
  as(
    credential,
    '-i',
    '-X',
    'POST',
    '-H',
    'Tus-Resumable: 1.0.0',
    '-H',
    `Upload-Length: ${SIZE}`,
    '-H',
    metadata(name),
    `${server.url}/tus`,
  );

test('one for an upload is for this volume, and not for anything else', async () => {
  const token = await tokenFor('mine', 'upload');
  const denied = expect.stringContaining('for the upload of mine, and for nothing else');
  for (const args of [
    ['-T', at('qcow2'), to('yours')],
    [to('mine')],
    [to('')],
    ['-X', 'DELETE', to('mine')],
    ['-X', 'POST', to('mine/tokens?operation=upload')],
    ['-d', '{"url":"http://127.0.0.1/x"}', to('mine/import')],
    ['-X', 'POST', to('yours/images?size=1Mi')],
    [to('mine/disk')],
    [`${server.url}/events`],
  ]) {
    const answer = await as(token, ...args);
    expect([answer.status, answer.body], args.join(' ')).toEqual([403, denied]);
  }
  expect((await tus(token, 'yours')).status).toBe(403);
  const sent = await as(token, '-T', at('qcow2'), to('mine'));
  expect(sent.status, sent.body).toBe(201);
  expect(await difference(at('raw'), at('data/mine.img'), SIZE)).toBeUndefined();
});

test('one for a download reads, and does not write', async () => {
  await as(SECRET, '-T', at('qcow2'), to('read'));
  const token = await tokenFor('read', 'download');
  for (const path of ['read', 'read/extents']) expect((await as(token, to(path))).status, path).toBe(200);
  expect((await as(token, '-o', at('fetched'), to('read/disk'))).status).toBe(200);
  expect(await difference(at('raw'), at('fetched'))).toBeUndefined();
  expect((await as(token, '-T', at('qcow2'), `${to('read')}?replace=true`)).status).toBe(403);
  expect((await as(token, to('mine/disk'))).status).toBe(403);
});

test('it is of the volume as it was: neither of one that was made again, nor of what was put there since', async () => {
  await as(SECRET, '-X', 'PUT', `${to('again')}?size=32Mi`);
  const token = await tokenFor('again', 'upload');
  await as(SECRET, '-X', 'DELETE', to('again'));
  const gone = await as(token, '-T', at('qcow2'), to('again'));
  expect([gone.status, gone.body]).toEqual([403, expect.stringContaining('as it was')]);
  await as(SECRET, '-X', 'PUT', `${to('again')}?size=32Mi`);
  expect((await as(token, '-T', at('qcow2'), to('again'))).status).toBe(403);

  const once = await tokenFor('once', 'upload');
  expect((await as(once, '-T', at('qcow2'), to('once'))).status).toBe(201);
  expect((await as(once, '-T', at('qcow2'), `${to('once')}?replace=true`)).status).toBe(403);
});

test('it expires, and what it began goes on; a restart changes neither', async () => {
  const token = await tokenFor('late', 'upload', 2);
  const begun = await tus(token, 'late');
  expect(begun.status, begun.body).toBe(201);
  const place = /location: (\S+)/i.exec(begun.body)?.[1] ?? '';
  // The leeway of clocks is 10 s.
  await sleep(13_000);
  const expired = await as(token, '-T', at('qcow2'), to('other'));
  expect([expired.status, expired.body]).toEqual([401, expect.stringContaining('expired')]);
  const part = [
    '-H',
    'Tus-Resumable: 1.0.0',
    '-H',
    'Upload-Offset: 0',
    '-H',
    'Content-Type: application/offset+octet-stream',
  ];
  expect((await curl(['-X', 'PATCH', ...part, '-T', at('raw'), server.url + place])).status).toBe(204);
  expect(await difference(at('raw'), at('data/late.img'), SIZE)).toBeUndefined();

  const lasting = await tokenFor('after', 'upload');
  await server.kill();
  server = await started();
  expect((await as(lasting, '-T', at('qcow2'), to('after'))).status).toBe(201);
}, 60_000);

test('one of another server, a false one, and what is asked wrongly', async () => {
  const token = await tokenFor('mine', 'download');
  await using other = await Served.start(program, at('others'), ['--secret-file', at('secret')]);
  const foreign = await as(token, `${other.url}/volumes/mine`);
  expect([foreign.status, foreign.body]).toEqual([
    401,
    expect.stringContaining('not signed by whom this server trusts'),
  ]);
  expect((await as(`${token}x`, to('mine'))).status).toBe(401);
  expect((await as('a.b.c', to('mine'))).status).toBe(401);
  for (const query of ['', 'operation=delete', 'operation=upload&seconds=0', 'operation=upload&seconds=9999999']) {
    expect((await as(SECRET, '-X', 'POST', to(`mine/tokens?${query}`))).status, query).toBe(400);
  }
  expect(server.running.said()).not.toContain(token);
});

test('our own client sends with it, and goes on when it has expired', async () => {
  await rm(at('token'), { force: true });
  await writeFile(at('token'), await tokenFor('client', 'upload'), { mode: 0o600 });
  const { code, stderr } = await program.run(['upload', at('raw'), to('client'), '--secret-file', at('token')]);
  expect(code, stderr).toBe(0);
  expect(await difference(at('raw'), at('data/client.img'), SIZE)).toBeUndefined();
});

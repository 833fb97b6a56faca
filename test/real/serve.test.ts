// `diskferry serve`: what people and programs send with curl, and what they ask for.
import { spawn } from 'node:child_process';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Cli } from '../support/cli.ts';
import type { CountingServer } from '../support/counting-server.ts';
import { pattern } from '../support/extents.ts';
import { bootableDisk, difference, KiB, MiB, qcow2, run, sha256, shell } from '../support/images.ts';
import { curl, Served } from '../support/served.ts';
import { site } from '../support/site.ts';
import { tool } from '../support/tools.ts';

const SIZE = 24 * MiB;
const ALLOWED = ['--open', '--allow-address', '127.0.0.0/8'];
let program: Cli;
let origin: CountingServer;
let server: Served;
const at = site(async (opened) => {
  program = opened.program;
  origin = opened.server;
  await bootableDisk(at('www/raw'), SIZE);
  await qcow2(at('www/raw'), at('www/qcow2'), { compressed: true });
});
const to = (path: string): string => `${server.url}/volumes/${path}`;
const file = (name: string): string => at(`data/${name}.img`);

beforeAll(async () => {
  await shell(`cd ${at('www')} && gzip -k -1 raw && xz -k -1 qcow2 && bzip2 -k raw && zstd -q -1 raw -o raw.zst`);
  server = await Served.start(program, at('data'), [...ALLOWED, '--stall', '2']);
}, 60_000);
afterAll(() => server?.[Symbol.asyncDispose]());

describe('an image that curl sends', () => {
  test.each<[string, string, string[]]>([
    ['-T', 'qcow2', ['-T', 'FILE']],
    ['-T, which waits to be let', 'qcow2', ['-T', 'FILE', '-H', 'Expect: 100-continue']],
    ['-T, which does not wait', 'qcow2', ['-T', 'FILE', '-H', 'Expect:']],
    ['--data-binary', 'raw', ['-X', 'POST', '--data-binary', '@FILE']],
    ['in chunks', 'raw', ['-T', '-', '--no-buffer']],
    ['gzip', 'raw.gz', ['-T', 'FILE']],
    ['bzip2', 'raw.bz2', ['-T', 'FILE']],
    ['zstd', 'raw.zst', ['-T', 'FILE']],
    ['qcow2 in xz', 'qcow2.xz', ['-T', 'FILE']],
  ])('%s: is a verified disk when curl returns', async (name, image, args) => {
    const volume = name.replace(/\W+/g, '_');
    const path = at(`www/${image}`);
    const command = args.map((one) => one.replace('FILE', path));
    const { status, body } = args.includes('-')
      ? await piped(path, command, to(volume))
      : await curl([...command, to(volume)]);
    expect(status, body).toBe(201);
    const made = JSON.parse(body) as Record<string, unknown>;
    expect(made).toMatchObject({ name: volume, state: 'ready', size: SIZE, sourceDigest: await sha256(path) });
    expect(await difference(at('www/raw'), file(volume))).toBeUndefined();
    expect(await server.volume(volume)).toMatchObject({ state: 'ready', diskDigest: made.diskDigest });
  });

  test('whose digest is declared: right, wrong', async () => {
    const digest = Buffer.from((await sha256(at('www/qcow2'))).slice(7), 'hex');
    const declared = `Repr-Digest: sha-256=:${digest.toString('base64')}:`;
    expect((await curl(['-T', at('www/qcow2'), '-H', declared, to('declared')])).status).toBe(201);
    const other = ['-H', `X-Checksum-Sha256: ${'0'.repeat(64)}`];
    const wrong = await curl(['-T', at('www/qcow2'), ...other, to('wrong')]);
    expect([wrong.status, wrong.body]).toEqual([422, expect.stringContaining('DIGEST_MISMATCH')]);
    expect(await server.volume('wrong')).toMatchObject({ state: 'failed', failure: { code: 'DIGEST_MISMATCH' } });
    expect(await readdir(at('data'))).not.toContain('wrong.img');
    expect((await curl(['-T', at('www/qcow2'), to('wrong')])).status).toBe(201);
  });

  test('which is cut leaves no disk, and the next one is taken', async () => {
    const cut = spawn(tool('curl', 'curl'), ['-sS', '-T', at('www/raw'), '--limit-rate', '4M', to('cut')]);
    await sleep(1500);
    expect(await server.volume('cut')).toMatchObject({ state: 'receiving', progress: { length: SIZE } });
    const second = await curl(['-T', at('www/raw'), to('cut')]);
    expect([second.status, second.body]).toEqual([409, expect.stringContaining('under way')]);
    cut.kill('SIGKILL');
    expect(await server.settled('cut')).toMatchObject({ state: 'failed', failure: { code: 'TRUNCATED' } });
    expect(await readdir(at('data'))).not.toContain('cut.img');
    expect((await curl(['-T', at('www/raw'), to('cut')])).status).toBe(201);
  });

  test('into a volume that holds a disk: only in its place, and when it is whole', async () => {
    await curl(['-T', at('www/raw'), to('kept')]);
    expect((await curl(['-T', at('www/qcow2'), to('kept')])).status).toBe(409);
    const short = await readFile(at('www/qcow2'));
    await writeFile(at('short'), short.subarray(0, short.length - 100_000));
    const bad = await curl(['-T', at('short'), `${to('kept')}?replace=true`]);
    expect([bad.status, bad.body]).toEqual([422, expect.stringContaining('TRUNCATED')]);
    expect(await difference(at('www/raw'), file('kept'))).toBeUndefined();
    expect((await curl(['-T', at('www/qcow2'), `${to('kept')}?replace=true&size=32Mi`])).status).toBe(201);
    expect((await stat(file('kept'))).size).toBe(32 * MiB);
  });

  test('an empty one, which is filled later', async () => {
    const made = await curl(['-X', 'PUT', `${to('empty')}?size=32Mi`]);
    expect(made.status, made.body).toBe(201);
    expect(await server.volume('empty')).toMatchObject({ state: 'blank', size: 32 * MiB });
    expect((await curl(['-X', 'PUT', to('nothing')])).body).toContain('?size=20Gi');
    expect((await curl(['-T', at('www/qcow2'), to('empty')])).status).toBe(201);
    expect(await difference(at('www/raw'), file('empty'), SIZE)).toBeUndefined();
    expect(await server.volume('empty')).toMatchObject({ state: 'ready', size: 32 * MiB });
  });
});

describe('what can never become a volume', () => {
  beforeAll(async () => {
    await shell(
      `head -c 64M /dev/zero > ${at('zeros')}; { printf '<!doctype html>'; cat ${at('zeros')}; } > ${at('page')}`,
    );
    await run('qemu-img', 'qemu-utils', ['create', '-q', '-f', 'qcow2', at('huge'), '80T']);
    await shell(`cat ${at('zeros')} >> ${at('huge')}`);
  });
  test.each([
    ['a disk that is larger than it may be', 'zeros', '?size=1Mi', 413, 'needs 67108864 bytes'],
    ['a web page', 'page', '', 415, 'web page'],
    ['a disk of 80 TiB', 'huge', '', 413, '87960930222080'],
  ])('%s: told from its first bytes', async (_, name, query, status, message) => {
    for (const args of [
      ['-H', 'Expect: 100-continue'],
      ['-H', 'Expect:'],
    ]) {
      const answer = await curl(['-T', at(name), ...args, `${to('never')}${query}`]);
      expect([answer.status, answer.body]).toEqual([status, expect.stringContaining(message)]);
      expect(await server.readOfRefused()).toBeLessThan(128 * KiB + 1024);
    }
    expect(await readdir(at('data'))).not.toContain('never.img');
  });

  test.each(['..%2F..%2Fetc%2Fpasswd', '%2e%2e', '.hidden', '-dash', 'a'.repeat(101), 'a%00b', 'a%2Fb'])(
    'a name that is none: %s',
    async (name) => {
      const before = await readdir(at('data'));
      const { status } = await curl(['--path-as-is', '-T', at('www/qcow2'), to(name)]);
      expect([400, 404, 414]).toContain(status);
      expect(await readdir(at('data'))).toEqual(before);
    },
  );

  test('a sender who falls silent, and a header that is too long', async () => {
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
    socket.write(
      `PUT /volumes/silent HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n${'x'.repeat(100_000)}`,
    );
    let said = '';
    socket.on('data', (chunk: Buffer) => (said += chunk.toString()));
    await new Promise((resolve) => socket.once('close', resolve));
    expect(said).toMatch(/^HTTP\/1\.1 408 .*nothing was sent for 2 s/s);
    expect((await curl(['-H', `X-Long: ${'x'.repeat(20_000)}`, to('')])).status).toBe(431);
  });
});

test('10,000 connections that send nothing: others are served, and they are closed in time', async () => {
  const port = Number(new URL(server.url).port);
  const sockets = await Promise.all(
    Array.from({ length: 10_000 }, async (_, n) => {
      // Not all within one accept queue.
      await sleep(Math.floor(n / 100) * 25);
      const socket = connect(port, '127.0.0.1');
      socket.on('error', () => undefined).resume();
      return socket;
    }),
  );
  await sleep(1000);
  const began = performance.now();
  expect((await curl(['-T', at('www/qcow2'), `${to('crowded')}?replace=true`])).status).toBe(201);
  expect(performance.now() - began).toBeLessThan(5000);
  const resident =
    Number(/VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${server.running.pid}/status`, 'utf8'))?.[1]) * KiB;
  console.log(
    `10,000 connections: ${Math.round(resident / MiB)} MiB resident, an upload in ${Math.round(performance.now() - began)} ms`,
  );
  expect(resident).toBeLessThan(400 * MiB);
  for (let tries = 0; tries < 900 && sockets.some((socket) => !socket.destroyed); tries += 1) await sleep(100);
  expect(sockets.filter((socket) => !socket.destroyed).length).toBe(0);
}, 120_000);

describe('volumes', () => {
  test('are renamed, downloaded by ranges, told where they have data, deleted', async () => {
    await pattern(at('sparse'), 64 * MiB, [
      [MiB, MiB],
      [40 * MiB, MiB],
    ]);
    await curl(['-T', at('sparse'), to('first')]);
    const rename = ['-d', '{"name":"second"}', `${to('first')}/rename`];
    expect(JSON.parse((await curl(rename)).body)).toMatchObject({ name: 'second', state: 'ready' });
    expect((await curl(rename)).status).toBe(404);
    await curl(['-o', at('whole'), `${to('second')}/disk`]);
    expect(await difference(at('sparse'), at('whole'))).toBeUndefined();
    const part = await curl(['-r', '1048576-1048579', '-o', at('part'), `${to('second')}/disk`]);
    expect(part.status).toBe(206);
    expect(await readFile(at('part'))).toEqual((await readFile(at('sparse'))).subarray(MiB, MiB + 4));
    expect((await curl(['-r', '99999999999-', `${to('second')}/disk`])).status).toBe(416);
    expect(JSON.parse((await curl([`${to('second')}/extents`])).body)).toEqual({
      size: 64 * MiB,
      extents: [
        [MiB, 2 * MiB],
        [40 * MiB, 41 * MiB],
      ],
    });
    expect((await curl(['-X', 'DELETE', to('second')])).status).toBe(204);
    expect((await curl([to('second')])).status).toBe(404);
  });

  test('are imported from an address; what fails is told', async () => {
    const wanted = JSON.stringify({ url: `${origin.url}/qcow2`, digest: await sha256(at('www/qcow2')) });
    expect((await curl(['-d', wanted, `${to('web')}/import`])).status).toBe(202);
    expect(await server.settled('web')).toMatchObject({ state: 'ready', source: `${origin.url}/qcow2` });
    expect(await difference(at('www/raw'), file('web'))).toBeUndefined();
    await curl(['-d', JSON.stringify({ url: `${origin.url}/none` }), `${to('gone')}/import`]);
    expect(await server.settled('gone')).toMatchObject({ state: 'failed', failure: { code: 'NOT_FOUND' } });
    for (const body of [
      '{"url":"file:///etc/passwd"}',
      '{"url":"exec:id"}',
      '{"url":"oci:/"}',
      '{"uri":"x"}',
      'x',
      '{}',
    ]) {
      const { status } = await curl(['-d', body, `${to('bad')}/import`]);
      expect([body, status]).toEqual([body, 400]);
    }
    expect((await server.volumes()).map(({ name }) => name)).not.toContain('bad');
  });

  test('go on with an import after a kill of the server', async () => {
    const directory = at('killed');
    const begun = await Served.start(program, directory, [...ALLOWED, '--rate', '3MB/s']);
    const wanted = ['-d', JSON.stringify({ url: `${origin.url}/raw` })];
    await curl([...wanted, `${begun.url}/volumes/disk/import`]);
    await sleep(5000);
    await begun.kill();
    await using again = await Served.start(program, directory, ALLOWED);
    expect(await again.volume('disk')).toMatchObject({ state: 'unfinished' });
    expect((await curl([`${again.url}/volumes/disk/disk`])).status).toBe(409);
    const before = origin.bytes;
    await curl([...wanted, `${again.url}/volumes/disk/import`]);
    expect(await again.settled('disk')).toMatchObject({ state: 'ready' });
    expect(origin.bytes - before).toBeLessThan(SIZE - 4 * MiB);
    expect(await difference(at('www/raw'), `${directory}/disk.img`)).toBeUndefined();
  }, 60_000);

  test('files with other names, and those that cannot be read, do not hide the rest', async () => {
    await writeFile(at('data/my disk.img'), 'x');
    await writeFile(at('data/.hidden.img'), 'x');
    await shell(`mkdir -p ${at('data/directory.img')} && ln -s /etc/passwd ${at('data/link.img')}`);
    const names = (await server.volumes()).map(({ name }) => name);
    expect(names.length).toBeGreaterThan(0);
    for (const name of ['my disk', '.hidden', 'directory', 'link']) expect(names).not.toContain(name);
    for (const name of ['link', 'directory']) expect((await curl([`${to(name)}/disk`])).status).toBe(404);
  });

  test('an image that is wrong leaves nothing, however it came', async () => {
    await shell(`head -c 3000000 ${at('www/qcow2')} > ${at('www/short')}`);
    expect((await curl(['-T', at('www/short'), to('short')])).status).toBe(422);
    const { code } = await program.run(['upload', at('www/short'), to('shorter'), '--progress', 'none']);
    expect(code).not.toBe(0);
    const left = await readdir(at('data/.diskferry/incoming'));
    expect(left.filter((name) => name.startsWith('short'))).toEqual([]);
    for (const name of ['short', 'shorter']) expect(await server.volume(name)).toMatchObject({ state: 'failed' });
  });

  test('what came into one and cannot be looked at keeps no other from being tidied', async () => {
    await shell(`cd ${at('')} && mkdir -p odd/.diskferry/incoming && cd odd/.diskferry/incoming &&
      ln -s nowhere.img link.img && mkdir directory.img && truncate -s 1M old.img && touch -d '2 days ago' old.img`);
    await using odd = await Served.start(program, at('odd'));
    expect((await readdir(at('odd/.diskferry/incoming'))).sort()).toEqual(['directory.img', 'link.img']);
    expect((await curl(['-T', at('www/qcow2'), `${odd.url}/volumes/disk`])).status).toBe(201);
  });

  test('a directory has one server', async () => {
    const second = await program.run(['serve', '--data', at('data'), '--open', '--listen', '127.0.0.1:0']);
    expect([second.code, second.stderr]).toEqual([20, expect.stringContaining('served by another process')]);
  });
});

describe('the secret', () => {
  const SECRET = 'a-secret-of-32-characters-or-more';
  let closed: Served;
  beforeAll(async () => {
    await writeFile(at('secret'), `${SECRET}\n`, { mode: 0o600 });
    closed = await Served.start(program, at('closed'), ['--secret-file', at('secret')]);
  });
  afterAll(() => closed?.[Symbol.asyncDispose]());

  test('as token or password; without it no byte of a body is read', async () => {
    const aim = `${closed.url}/volumes/disk`;
    const waits = await curl(['-T', at('www/raw'), '-H', 'Expect: 100-continue', aim]);
    expect([waits.status, waits.sent]).toEqual([401, 0]);
    const hurried = await curl(['-T', at('www/raw'), '-H', 'Expect:', '-u', ':wrong', aim]);
    expect([hurried.status, hurried.body]).toEqual([401, expect.stringContaining('another one')]);
    expect(await closed.readOfRefused()).toBeLessThan(128 * KiB);
    expect((await curl([`${closed.url}/volumes`])).status).toBe(401);
    expect((await curl(['-T', at('www/qcow2'), '-u', `anyone:${SECRET}`, aim])).status).toBe(201);
    expect((await curl(['-H', `Authorization: Bearer ${SECRET}`, aim])).status).toBe(200);
    expect(closed.running.said()).not.toContain(SECRET);
  });

  test('is not lent to pages of other sites, nor an open server to names of others', async () => {
    const page = ['-H', 'Origin: https://evil.example', '-d', '{"url":"http://x/"}'];
    for (const aim of [`${closed.url}/volumes/x/import`, `${server.url}/volumes/x/import`]) {
      const { status, body } = await curl([...page, '-u', `:${SECRET}`, aim]);
      expect([status, body]).toEqual([403, expect.stringContaining('other sites')]);
    }
    const rebound = await curl(['-H', 'Host: evil.example:8090', `${server.url}/volumes`]);
    expect([rebound.status, rebound.body]).toEqual([403, expect.stringContaining('evil.example')]);
    const asked = async (site: string, ...more: string[]): Promise<number> =>
      (await curl(['-H', `Sec-Fetch-Site: ${site}`, ...more, `${server.url}/volumes`])).status;
    expect((await curl(['-H', `Origin: ${server.url}`, `${server.url}/volumes`])).status).toBe(200);
    const through = ['-H', 'Origin: https://disks.example'];
    const link = ['-H', 'Sec-Fetch-Dest: document'];
    expect([await asked('same-origin', ...through), await asked('none'), await asked('cross-site', ...link)]).toEqual([
      200, 200, 200,
    ]);
    expect([await asked('cross-site'), await asked('same-site'), await asked('cross-site', '-d', '', ...link)]).toEqual(
      [403, 403, 403],
    );
    expect((await curl(['-H', 'Host: elsewhere', '-u', `:${SECRET}`, `${closed.url}/volumes`])).status).toBe(200);
  });

  test('is wanted where others can come, and is none that others can read or guess', async () => {
    const serve = (...args: string[]) =>
      program.run(['serve', '--data', at('none'), '--listen', '127.0.0.1:0', ...args]);
    expect((await serve()).stderr).toContain('--secret-file');
    expect((await serve('--open', '--listen', '0.0.0.0:0')).stderr).toContain('--open is for loopback');
    await writeFile(at('short-secret'), 'short', { mode: 0o600 });
    expect((await serve('--secret-file', at('short-secret'))).stderr).toContain('openssl rand');
    await writeFile(at('words'), 'a secret of several words\n', { mode: 0o600 });
    expect((await serve('--secret-file', at('words'))).stderr).toContain('without spaces');
    await writeFile(at('public'), SECRET, { mode: 0o644 });
    expect((await serve('--secret-file', at('public'))).stderr).toContain('chmod 600');
  });
});

test('what the server tells of itself is true', async () => {
  const document = JSON.parse((await curl([`${server.url}/openapi.json`])).body) as { paths: Record<string, object> };
  const known = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((one) => `${one} ${path}`),
  );
  expect(known).toEqual(
    expect.arrayContaining(['get /volumes', 'put /volumes/{name}', 'post /volumes/{name}/import', 'patch /tus/{id}']),
  );
  const unknown = await curl([`${server.url}/volumez`]);
  expect([unknown.status, unknown.body]).toEqual([404, expect.stringContaining('/openapi.json')]);
});

/** Through a pipe: its length is not known. */
async function piped(path: string, args: readonly string[], url: string): ReturnType<typeof curl> {
  const quoted = [...args, url].map((one) => `'${one}'`).join(' ');
  await shell(
    `cat ${path} | ${tool('curl', 'curl')} -sS -w '\\n%{http_code} %{size_upload}' ${quoted} > ${at('answer')}`,
  );
  const text = await readFile(at('answer'), 'utf8');
  const end = text.lastIndexOf('\n');
  const [status = 0, sent = 0] = text
    .slice(end + 1)
    .split(' ')
    .map(Number);
  return { code: 0, status, sent, body: text.slice(0, end) };
}

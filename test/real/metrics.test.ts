// What a server tells of itself: the page for Prometheus, whose own programs read it.
import { spawn } from 'node:child_process';
import { stat, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import type { Cli } from '../support/cli.ts';
import type { CountingServer } from '../support/counting-server.ts';
import { bootableDisk, MiB, qcow2, sha256, shell } from '../support/images.ts';
import { freePort } from '../support/nginx.ts';
import { beginTus, curl, Served, tusOffset, until } from '../support/served.ts';
import { site } from '../support/site.ts';
import { tool } from '../support/tools.ts';

const SIZE = 24 * MiB;
const SECRET = 'a-secret-of-32-characters-or-more';
const ALLOWED = ['--open', '--allow-address', '127.0.0.0/8'];
const PART = 'application/offset+octet-stream';
let program: Cli;
let origin: CountingServer;
const at = site(async (opened) => {
  program = opened.program;
  origin = opened.server;
  await bootableDisk(at('www/raw'), SIZE);
  await qcow2(at('www/raw'), at('www/qcow2'), { compressed: true });
});

/** Series of a page, `name{labels}` with labels in order → value. Throws on a line that is none. */
async function series(url: string): Promise<Map<string, number>> {
  const { status, body } = await curl([`${url}/metrics`]);
  expect(status, body).toBe(200);
  const found = new Map<string, number>();
  for (const line of body.split('\n')) {
    if (line === '' || line.startsWith('# ')) continue;
    const [, name, labels = '', value] = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
    if (name === undefined || Number.isNaN(Number(value))) throw new Error(`no series: ${line}`);
    const sorted = labels.match(/\w+="[^"]*"/g)?.sort() ?? [];
    const key = name + (sorted.length === 0 ? '' : `{${sorted.join(',')}}`);
    expect(found.has(key), key).toBe(false);
    found.set(key, Number(value));
  }
  return found;
}

const patch = (offset: number, more: readonly string[], place: string): ReturnType<typeof curl> =>
  curl([
    '-X',
    'PATCH',
    '-H',
    'Tus-Resumable: 1.0.0',
    '-H',
    `Content-Type: ${PART}`,
    '-H',
    `Upload-Offset: ${offset}`,
    ...more,
    place,
  ]);

test('is for who has the secret; Prometheus and its linter read it', async () => {
  await writeFile(at('secret'), `${SECRET}\n`, { mode: 0o600 });
  await using server = await Served.start(program, at('closed'), ['--secret-file', at('secret')]);
  expect((await curl([`${server.url}/metrics`])).status).toBe(401);
  await curl(['-u', `:${SECRET}`, '-T', at('www/raw'), `${server.url}/volumes/disk`]);
  const bearer = ['-H', `Authorization: Bearer ${SECRET}`];
  const page = await curl([...bearer, '-D', at('header'), '-o', at('page'), `${server.url}/metrics`]);
  expect(page.status).toBe(200);
  await shell(`grep -qi '^content-type: text/plain; version=0.0.4' ${at('header')}`);
  await shell(`${tool('promtool', 'prometheus')} check metrics < ${at('page')}`);

  const port = await freePort();
  const config = `
scrape_configs:
  - job_name: diskferry
    scrape_interval: 1s
    authorization: { credentials_file: ${at('secret')} }
    static_configs: [{ targets: ['${new URL(server.url).host}'] }]
`;
  await writeFile(at('prometheus.yml'), config);
  const prometheus = spawn(
    tool('prometheus', 'prometheus'),
    [
      `--config.file=${at('prometheus.yml')}`,
      `--storage.tsdb.path=${at('tsdb')}`,
      `--web.listen-address=127.0.0.1:${port}`,
    ],
    { stdio: 'ignore' },
  );
  const asked = async (query: string): Promise<string | undefined> => {
    const { body } = await curl(['-G', '--data-urlencode', `query=${query}`, `http://127.0.0.1:${port}/api/v1/query`]);
    if (!body.startsWith('{')) return undefined;
    return (JSON.parse(body) as { data?: { result: { value: [number, string] }[] } }).data?.result[0]?.value[1];
  };
  try {
    await until(async () => (await asked('up')) === '1');
    expect(await asked('diskferry_volumes{state="ready"}')).toBe('1');
    expect(await asked('sum(diskferry_upload_received_bytes_total)')).toBe(String(SIZE));
  } finally {
    prometheus.kill('SIGKILL');
    await new Promise((resolve) => prometheus.once('close', resolve));
  }
}, 60_000);

test('counts each way into a volume, what came and what was written', async () => {
  await using server = await Served.start(program, at('counted'), ALLOWED);
  const to = (path: string): string => `${server.url}/volumes/${path}`;
  const image = (await stat(at('www/qcow2'))).size;
  const before = await series(server.url);
  expect(before.get('diskferry_transfers_total{kind="plain",outcome="ok"}')).toBe(0);

  const plain = JSON.parse((await curl(['-T', at('www/qcow2'), to('plain')])).body) as { written: number };
  expect((await curl(['-T', at('www/qcow2'), '-H', 'X-Checksum-Sha256: '.padEnd(83, '0'), to('wrong')])).status).toBe(
    422,
  );
  expect((await curl(['-X', 'PUT', `${to('blank')}?size=1Gi`])).status).toBe(201);
  expect((await curl(['-T', at('www/raw'), '-H', 'Upload-Complete: ?1', to('ietf')])).status).toBe(201);
  const begun = await curl(['-X', 'POST', `${to('ranges')}/images?size=${SIZE}`]);
  const { image: place } = JSON.parse(begun.body) as { image: string };
  expect((await curl(['-T', at('www/raw'), server.url + place])).status).toBe(200);
  const during = await series(server.url);
  expect(during.get('diskferry_transfers_active{kind="ranges"}')).toBe(1);
  expect(during.get('diskferry_upload_received_bytes_total{kind="ranges"}')).toBe(SIZE);
  expect((await curl(['-X', 'POST', `${server.url}${place}/finalize`])).status).toBe(200);
  await curl(['-d', JSON.stringify({ url: `${origin.url}/none` }), `${to('gone')}/import`]);
  await server.settled('gone');

  const after = await series(server.url);
  const of = (name: string): unknown[] =>
    ['plain', 'tus', 'ietf', 'ranges', 'import', 'blank'].map((kind) =>
      after.get(`${name.replace('KIND', `kind="${kind}"`)}`),
    );
  expect(of('diskferry_transfers_total{KIND,outcome="ok"}')).toEqual([1, 0, 1, 1, 0, 1]);
  expect(of('diskferry_transfer_duration_seconds_count{KIND}')).toEqual([1, undefined, 1, 1, undefined, 1]);
  expect(of('diskferry_transfers_active{KIND}')).toEqual([0, 0, 0, 0, 0, 0]);
  expect(of('diskferry_upload_received_bytes_total{KIND}')).toEqual([2 * image, 0, SIZE, SIZE, undefined, undefined]);
  expect(after.get('diskferry_transfers_total{kind="plain",outcome="DIGEST_MISMATCH"}')).toBe(1);
  expect(after.get('diskferry_transfers_total{kind="import",outcome="NOT_FOUND"}')).toBe(1);
  expect(after.get('diskferry_written_bytes_total{kind="ranges"}')).toBe(SIZE);
  expect(after.get('diskferry_written_bytes_total{kind="plain"}')).toBeGreaterThanOrEqual(plain.written);
  expect(after.get('diskferry_written_bytes_total{kind="plain"}')).toBeLessThanOrEqual(2 * plain.written);
  const states = ['ready', 'blank', 'failed'].map((state) => after.get(`diskferry_volumes{state="${state}"}`));
  expect(states).toEqual([3, 1, 2]);
  const put = 'diskferry_http_requests_total{method="PUT",route="/volumes/:name",status="201"}';
  expect(after.get(put)).toBe(3);
  expect(after.get('diskferry_free_bytes')).toBeGreaterThan(0);
  expect(after.get('diskferry_http_connections')).toBeGreaterThan(0);
  expect(after.get('process_resident_memory_bytes')).toBeGreaterThan(32 * MiB);
}, 60_000);

test("tells of an import under way what CDI's importer tells, by the volume's name, and no longer", async () => {
  await using server = await Served.start(program, at('progress'), [...ALLOWED, '--rate', '8MB/s', '--transfers', '1']);
  const wanted = JSON.stringify({ url: `${origin.url}/raw`, digest: await sha256(at('www/raw')) });
  for (const volume of ['slow', 'next']) {
    expect((await curl(['-d', wanted, `${server.url}/volumes/${volume}/import`])).status).toBe(202);
  }
  const name = 'kubevirt_cdi_import_progress_total{ownerUID="slow"}';
  await until(async () => ((await series(server.url)).get(name) ?? 0) >= 20);
  const found = await series(server.url);
  expect(found.get(name)).toBeLessThan(100);
  expect(found.has('kubevirt_cdi_import_progress_total{ownerUID="next"}')).toBe(false);
  expect(found.get('diskferry_transfers_waiting{kind="import"}')).toBe(1);
  expect(found.get('diskferry_transfers_active{kind="import"}')).toBe(1);
  expect(found.get('diskferry_volumes{state="receiving"}')).toBe(2);
  for (const volume of ['slow', 'next']) expect((await server.settled(volume)).state).toBe('ready');
  const after = await series(server.url);
  expect([...after.keys()].filter((key) => key.startsWith('kubevirt_'))).toEqual([]);
  expect(after.get('diskferry_transfers_total{kind="import",outcome="ok"}')).toBe(2);
}, 60_000);

test('uploads that were cut and go on, before and after a kill', async () => {
  const port = await freePort();
  let server = await Served.start(program, at('resumed'), ['--open'], port);
  try {
    const place = await beginTus(server, 'disk', SIZE);
    const body = ['--data-binary', `@${at('www/raw')}`, '-H', `Content-Length: ${SIZE}`];
    await patch(0, [...body, '--limit-rate', '8M', '--max-time', '1'], place);
    const first = await tusOffset(place);
    expect(first).toBeGreaterThan(MiB);
    expect((await series(server.url)).get('diskferry_uploads_resumed_total')).toBe(0);
    await shell(`tail -c +${first + 1} ${at('www/raw')} > ${at('rest')}`);
    const rest = ['--data-binary', `@${at('rest')}`];
    await patch(first, [...rest, '--limit-rate', '8M', '--max-time', '1'], place);
    const cut = await tusOffset(place);
    const seen = await series(server.url);
    expect(seen.get('diskferry_uploads_resumed_total')).toBe(1);
    expect(seen.get('diskferry_upload_received_bytes_total{kind="tus"}')).toBe(cut);
    await server.kill();
    server = await Served.start(program, at('resumed'), ['--open'], port);
    const offset = await tusOffset(place);
    await shell(`tail -c +${offset + 1} ${at('www/raw')} > ${at('rest')}`);
    expect((await patch(offset, rest, place)).status).toBe(204);
    const after = await series(server.url);
    expect(after.get('diskferry_uploads_resumed_total')).toBe(1);
    expect(after.get('diskferry_upload_received_bytes_total{kind="tus"}')).toBe(SIZE - offset);
    expect(after.get('diskferry_written_bytes_total{kind="tus"}')).toBeLessThanOrEqual(SIZE - offset + 4 * MiB);
    expect(after.get('diskferry_transfers_total{kind="tus",outcome="ok"}')).toBe(1);
  } finally {
    await server[Symbol.asyncDispose]();
  }
}, 60_000);

test('what nobody goes on with, of this process and of an earlier one', async () => {
  const earlier = await Served.start(program, at('expired'));
  const place = await beginTus(earlier, 'earlier', SIZE);
  await patch(0, ['--data-binary', `@${at('www/raw')}`, '--limit-rate', '8M', '--max-time', '2'], place);
  await earlier.kill();
  // As if something had come just now, however long the next one takes to start.
  await shell(`touch -d '8 seconds' ${at('expired/.diskferry/incoming/earlier.img')}`);
  await using server = await Served.start(program, at('expired'), ['--open', '--expiry', '2']);
  expect((await server.volume('earlier')).state).toBe('unfinished');
  await beginTus(server, 'away', SIZE);
  await until(async () => (await series(server.url)).get('diskferry_uploads_expired_total') === 2);
  expect((await series(server.url)).get('diskferry_volumes{state="unfinished"}')).toBe(0);
}, 60_000);

test('has no series for what anybody may ask for', async () => {
  await using server = await Served.start(program, at('bounded'));
  const ask = async (n: number): Promise<void> => {
    await curl([`${server.url}/nothing-${n}`, `${server.url}/volumes/none-${n}`, `${server.url}/tus/${n}`]);
    await curl(['-X', `PROPFIND`, `${server.url}/nothing-${n}`]);
    await curl(['-X', `MKCOL`, `${server.url}/nothing-${n}`]);
    await curl(['-T', at('www/qcow2'), `${server.url}/volumes/some-${n}?format=nothing-${n}`]);
  };
  await ask(0);
  await series(server.url);
  const { size } = await series(server.url);
  for (let n = 1; n <= 5; n += 1) await ask(n);
  const after = await series(server.url);
  expect(after.size).toBe(size);
  expect(after.get('diskferry_http_requests_total{method="GET",route="unknown",status="404"}')).toBe(12);
  expect(after.get('diskferry_http_requests_total{method="other",route="unknown",status="404"}')).toBe(12);
  expect([...after.keys()].filter((key) => /none-|some-|nothing-/.test(key))).toEqual([]);
}, 60_000);

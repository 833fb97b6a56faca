// What `diskferry serve` says of each request.
import { Agent, request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Cli, Run } from '../support/cli.ts';
import { bootableDisk, MiB } from '../support/images.ts';
import { freePort } from '../support/nginx.ts';
import { beginTus, curl, Served, tusOffset, until } from '../support/served.ts';
import { site } from '../support/site.ts';

const SIZE = 24 * MiB;
let program: Cli;
let server: Served;
const at = site(async (opened) => {
  program = opened.program;
  await bootableDisk(at('www/raw'), SIZE);
});

beforeAll(async () => {
  server = await Served.start(program, at('logged'), ['--open', '--stall', '2']);
});
afterAll(() => server?.[Symbol.asyncDispose]());

/** Lines of requests that begin like this, without the time. */
async function lines(running: Run, begin: string, count = 1): Promise<string[]> {
  const found = (): string[] =>
    running
      .said()
      .split('\n')
      .map((line) => line.replace(/^\S+ /, ''))
      .filter((line) => line.startsWith(`${begin} `));
  await until(() => found().length >= count);
  await sleep(100);
  return found();
}

test('tells of each request of a connection how much of its own body was read, and how fast', async () => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const put = (path: string, body: Buffer): Promise<unknown> =>
    new Promise((resolve, reject) => {
      const headers = { 'transfer-encoding': 'chunked' };
      const asked = request(`${server.url}${path}`, { method: 'PUT', agent, headers }, (answer) =>
        answer.resume().once('end', () => resolve(answer.statusCode)),
      );
      asked.once('error', reject).end(body);
    });
  expect(await put('/volumes/first', Buffer.alloc(3 * MiB))).toBe(201);
  expect(await put('/volumes/second', Buffer.alloc(MiB - 512))).toBe(201);
  agent.destroy();
  const [first] = await lines(server.running, 'PUT /volumes/first');
  const [, seconds, rate] = / status=201 seconds=([\d.]+) read=3145728 rate=(\d+)$/.exec(first ?? '') ?? [];
  expect(Math.abs((Number(rate) * Number(seconds)) / (3 * MiB) - 1), first).toBeLessThan(0.1);
  const second = await lines(server.running, 'PUT /volumes/second');
  expect(second).toEqual([expect.stringMatching(/ status=201 seconds=[\d.]+ read=1048064$/)]);
});

test('tells once of what is refused, and why; of ids and queries not all', async () => {
  const aim = `${server.url}/volumes/refused?size=1Mi`;
  expect((await curl(['-T', at('www/raw'), '-H', 'Expect:', aim])).status).toBe(413);
  const refused = await lines(server.running, 'PUT /volumes/refused');
  expect(refused).toEqual([expect.stringMatching(/ status=413 seconds=[0-4]\.\d+ read=\d+ outcome=TOO_LARGE$/)]);
  expect(server.running.said()).toContain('nothing came into refused: ');
  expect((await curl([`${server.url}/volumes/none`])).status).toBe(404);
  expect(await lines(server.running, 'GET /volumes/none')).toEqual([
    expect.stringMatching(/ status=404 seconds=[\d.]+ read=0 outcome=NOT_FOUND$/),
  ]);
  const place = await beginTus(server, 'secretive', SIZE);
  await tusOffset(place);
  const id = place.split('/').at(-1) ?? '';
  await lines(server.running, `HEAD /tus/${id.slice(0, 8)}…`);
  expect(server.running.said()).not.toContain(id);
  expect(server.running.said()).not.toContain('size=1Mi');
});

test('of a sender who goes: the request, and what became of the upload', async () => {
  await curl(['-T', at('www/raw'), '--limit-rate', '4M', '--max-time', '1', `${server.url}/volumes/cut`]);
  expect(await lines(server.running, 'PUT /volumes/cut')).toEqual([
    expect.stringMatching(/ status=499 seconds=[\d.]+ read=\d+ rate=\d+$/),
  ]);
  await until(() => /nothing came into cut: .* code=TRUNCATED\n/.test(server.running.said()));
});

test('has what failed, and no requests, unless more is asked for', async () => {
  const listen = `127.0.0.1:${await freePort()}`;
  const running = program.start(['serve', '--data', at('quiet'), '--open', '--listen', listen]);
  try {
    await until(async () => (await curl([`http://${listen}/healthz`])).status === 200);
    expect((await curl(['-T', at('www/raw'), `http://${listen}/volumes/fine`])).status).toBe(201);
    expect((await curl(['-T', at('www/raw'), `http://${listen}/volumes/small?size=1Mi`])).status).toBe(413);
    await until(() => running.said().includes('small'));
    await sleep(200);
    expect(running.said()).toMatch(/^\S+ nothing came into small: .* code=TOO_LARGE\n$/);
  } finally {
    running.child.kill('SIGTERM');
    await running.ended;
  }
});

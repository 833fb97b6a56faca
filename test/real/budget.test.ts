// What the transfers of a server share: one rate, and one memory for the windows of decoders.
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { Cli } from '../support/cli.ts';
import { bootableDisk, difference, MiB, shell } from '../support/images.ts';
import { type Answer, curl, Served } from '../support/served.ts';
import { site } from '../support/site.ts';

const SIZE = 24 * MiB;
let program: Cli;
const at = site(async (opened) => {
  program = opened.program;
  await bootableDisk(at('raw'), SIZE);
  // A window is not larger than what there is to compress: 128 MiB of it are declared where the length is not known.
  await shell(`cat ${at('raw')} | zstd -q -1 --long=27 > ${at('wide')}`);
});

test('--rate holds uploads, ranges and imports together', async () => {
  const rate = 12 * MiB;
  const address = ['--allow-address', '127.0.0.0/8'];
  await using server = await Served.start(program, at('paced'), ['--open', '--rate', `${rate}`, ...address]);
  const to = (path: string): string => `${server.url}/volumes/${path}`;
  const begun = await curl(['-X', 'POST', to(`ranges/images?size=${SIZE}`)]);
  const { image } = JSON.parse(begun.body) as { image: string };
  const began = performance.now();
  const answers = await Promise.all([
    curl(['-T', at('raw'), to('plain')]),
    curl(['-X', 'PUT', '-H', 'Content-Range: bytes 0-/*', '-T', at('raw'), `${server.url}${image}`]),
  ]);
  const seconds = (performance.now() - began) / 1000;
  expect(answers.map(({ status }) => status)).toEqual([201, 200]);
  // Bursts of 100 ms, and what was in flight.
  expect((2 * SIZE) / seconds).toBeLessThan(rate * 1.1);
  expect((2 * SIZE) / seconds).toBeGreaterThan(rate * 0.6);
  expect(await difference(at('raw'), at('paced/plain.img'), SIZE)).toBeUndefined();
});

test('--memory is shared by windows: what does not fit is refused, or told to come again', async () => {
  const put = (server: Served, name: string, ...more: string[]): Promise<Answer> =>
    curl([...more, '-T', at('wide'), `${server.url}/volumes/${name}`]);
  {
    await using small = await Served.start(program, at('small'), ['--open']);
    const refused = await put(small, 'wide');
    expect([refused.status, refused.body]).toEqual([413, expect.stringMatching(/window of 134217728 bytes.*--memory/)]);
  }
  const flags = ['--open', '--transfers', '4', '--memory', `${160 + 3 * 48 + 128}Mi`];
  await using server = await Served.start(program, at('large'), flags);
  const first = put(server, 'first', '--limit-rate', '2M');
  await sleep(1500);
  const second = await put(server, 'second');
  expect([second.status, JSON.parse(second.body)]).toEqual([
    503,
    { error: expect.objectContaining({ code: 'BUSY', retryable: true, message: expect.stringContaining('are free') }) },
  ]);
  // One that needs none of it is taken meanwhile.
  expect((await curl(['-T', at('raw'), `${server.url}/volumes/raw`])).status).toBe(201);
  expect((await first).status).toBe(201);
  expect((await put(server, 'second')).status).toBe(201);
  expect(await difference(at('raw'), at('large/second.img'), SIZE)).toBeUndefined();
}, 60_000);

test('a memory that is too small for so many transfers is named', async () => {
  const { code, stderr } = await program.run(['serve', '--data', at('never'), '--open', '--memory', '200Mi']);
  expect([code, stderr]).toEqual([2, expect.stringContaining('8 transfers at once need 520093696 bytes')]);
});

test('an import that waits for its turn and is deleted leaves the volume to the next', async () => {
  const flags = ['--open', '--transfers', '1', '--allow-address', '127.0.0.0/8'];
  await using server = await Served.start(program, at('turns'), flags);
  const to = (path: string): string => `${server.url}/volumes/${path}`;
  const first = curl(['-T', at('raw'), '--limit-rate', '6M', to('first')]);
  await sleep(1000);
  const waiting = await curl(['-d', JSON.stringify({ url: 'http://127.0.0.1:1/none' }), to('next/import')]);
  expect(waiting.status, waiting.body).toBe(202);
  expect((await curl(['-X', 'DELETE', to('next')])).status).toBe(204);
  const begun = await curl(['-X', 'POST', to(`next/images?size=${SIZE}`)]);
  const { image } = JSON.parse(begun.body) as { image: string };
  const put = ['-X', 'PUT', '-H', 'Content-Range: bytes 0-/*', '-T', at('raw')];
  expect((await curl([...put, server.url + image])).status).toBe(200);
  expect((await first).status).toBe(201);
  // The import has had its turn.
  await sleep(500);
  expect((await curl(['-T', at('raw'), to('next')])).status).toBe(409);
  expect((await curl(['-X', 'POST', `${server.url}${image}/finalize`])).status).toBe(200);
  expect(await difference(at('raw'), at('turns/next.img'), SIZE)).toBeUndefined();
}, 60_000);

test('what a transfer needed is given back when it is over', async () => {
  await using server = await Served.start(program, at('many'), ['--open']);
  const resident = async (): Promise<number> => {
    const status = await readFile(`/proc/${server.running.pid}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024;
  };
  const put = async (times: number): Promise<void> => {
    for (let n = 0; n < times; n += 1) {
      expect((await curl(['-T', at('raw'), `${server.url}/volumes/again?replace=true`])).status).toBe(201);
    }
  };
  await put(3);
  const before = await resident();
  await put(12);
  const after = await resident();
  console.log(`resident after 3 uploads ${before.toFixed(0)} MiB, after 15 ${after.toFixed(0)} MiB`);
  expect(after - before).toBeLessThan(30);
}, 60_000);

// Volumes that are written in ranges: ovirt-imageio's client, unmodified, and what it does not do.
import { execFile } from 'node:child_process';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { serverPath } from '../../scripts/toolchain.mjs';
import { difference, MiB, qcow2, rawDisk, sha256 } from '../support/images.ts';
import { curl, Served } from '../support/served.ts';
import { uploadSite } from '../support/upload-site.ts';

const SIZE = 96 * MiB;
const UPLOAD = `
import sys
from ovirt_imageio import client
client.upload(sys.argv[1], sys.argv[2], None, max_workers=4)
`;
const here = uploadSite(async (at) => {
  await rawDisk(at('www/raw'), SIZE, { run: 512 * 1024, zeros: 0.6 });
  await qcow2(at('www/raw'), at('www/qcow2'));
});
const { at, file } = here;

const imageio = (args: readonly string[]): Promise<unknown> =>
  promisify(execFile)(join(dirname(serverPath('ovirt-imageio')), 'python3'), ['-c', UPLOAD, ...args]);

async function begun(name: string, size: number, more = ''): Promise<string> {
  const { status, body } = await curl(['-X', 'POST', `${here.server.url}/volumes/${name}/images?size=${size}${more}`]);
  expect(status, body).toBe(201);
  return (JSON.parse(body) as { image: string }).image;
}

async function finished(image: string): Promise<{ diskDigest: string }> {
  const { status, body } = await curl(['-X', 'POST', `${here.server.url}${image}/finalize`]);
  expect(status, body).toBe(200);
  return JSON.parse(body) as { diskDigest: string };
}

test("ovirt-imageio's client uploads a sparse qcow2 over several connections", async () => {
  const image = await begun('imageio', SIZE);
  here.proxy.sent = 0;
  await imageio([at('www/qcow2'), `${here.proxy.url}${image}`]);
  expect(await here.server.volume('imageio')).toMatchObject({ state: 'receiving' });
  const { diskDigest } = await finished(image);
  expect(await difference(at('www/raw'), file('imageio'))).toBeUndefined();
  const volume = await here.server.volume('imageio');
  expect(volume).toMatchObject({ state: 'ready', size: SIZE, diskDigest });
  // Zeros were not sent, and take no room.
  expect(here.proxy.sent).toBeLessThan(SIZE * 0.6);
  expect(volume.allocated).toBeLessThan(SIZE * 0.6);
  const { stdout } = await here.program.run(['verify', file('imageio'), '--json']);
  expect((JSON.parse(stdout) as { diskDigest: string }).diskDigest).toBe(diskDigest);
}, 60_000);

test('a cut is a clean failure, and the second try succeeds', async () => {
  const image = await begun('cut', SIZE);
  here.proxy.faults = { cutSent: 5 * MiB };
  await expect(imageio([at('www/qcow2'), `${here.proxy.url}${image}`])).rejects.toThrow();
  here.proxy.faults = {};
  await imageio([at('www/qcow2'), `${here.proxy.url}${image}`]);
  await finished(image);
  expect(await difference(at('www/raw'), file('cut'))).toBeUndefined();
}, 60_000);

test('ranges in any order, zeros over data, both ends, their digests', async () => {
  const size = 8 * MiB;
  const image = `${here.server.url}${await begun('order', size)}`;
  const expected = Buffer.alloc(size);
  const put = async (from: number, bytes: Buffer, ...more: string[]): Promise<number> => {
    await writeFile(at('piece'), bytes);
    const range = `Content-Range: bytes ${from}-${from + bytes.length - 1}/*`;
    return (await curl(['-X', 'PUT', '--data-binary', `@${at('piece')}`, '-H', range, ...more, `${image}?flush=n`]))
      .status;
  };
  for (const [from, length, value] of [
    [7 * MiB + 512, MiB - 512, 1],
    [0, 2 * MiB, 2],
    [3 * MiB + 100, 3 * MiB, 3],
  ] as const) {
    expect(await put(from, Buffer.alloc(length, value))).toBe(200);
    expected.fill(value, from, from + length);
  }
  const zero = (offset: number, bytes: number): Promise<{ status: number }> =>
    curl(['-X', 'PATCH', '-d', JSON.stringify({ op: 'zero', offset, size: bytes, flush: true }), image]);
  for (const [from, length] of [
    [512, 4096],
    [4 * MiB, MiB + 7],
    [size - 1000, 500],
  ] as const) {
    expect((await zero(from, length)).status).toBe(200);
    expected.fill(0, from, from + length);
  }
  await writeFile(at('piece'), Buffer.alloc(1000, 9));
  const right = Buffer.from((await sha256(at('piece'))).slice(7), 'hex').toString('base64');
  expect(await put(5000, Buffer.alloc(1000, 9), '-H', `Content-Digest: sha-256=:${right}:`)).toBe(200);
  expected.fill(9, 5000, 6000);
  expect(await put(5000, Buffer.alloc(1000, 8), '-H', `Content-Digest: sha-256=:${right}:`)).toBe(422);
  expect(await put(5000, Buffer.alloc(1000, 9))).toBe(200);
  expect(await put(size - 10, Buffer.alloc(20))).toBe(413);
  expect((await zero(size, 1)).status).toBe(400);
  expect((await curl(['-X', 'PATCH', '-d', '{"op":"trim"}', image])).status).toBe(400);
  const extents = JSON.parse((await curl([`${image}/extents`])).body) as {
    start: number;
    length: number;
    zero: boolean;
  }[];
  expect(extents.reduce((sum, { length }) => sum + length, 0)).toBe(size);
  expect(extents.some(({ zero: empty }) => empty)).toBe(true);
  // No disk until it is said to be one.
  await expect(readFile(file('order'))).rejects.toThrow();
  await finished(image.slice(here.server.url.length));
  expect((await readFile(file('order'))).equals(expected)).toBe(true);
  expect((await curl(['-X', 'PUT', '-d', 'x', image])).status).toBe(404);
});

test('what is given up, and what a stop cuts short, leaves nothing', async () => {
  const image = await begun('away', SIZE);
  expect((await curl(['-X', 'DELETE', `${here.server.url}${image}`])).status).toBe(204);
  await sleep(100);
  expect(await here.server.volume('away')).toMatchObject({ state: 'failed' });
  const second = await Served.start(here.program, at('second'));
  await curl(['-X', 'POST', `${second.url}/volumes/x/images?size=1Gi`]);
  await second[Symbol.asyncDispose]();
  await using third = await Served.start(here.program, at('second'));
  expect(await third.volumes()).toEqual([]);
});

test('is not finished while somebody writes, nor written when it is finished; a sender who falls silent is left', async () => {
  await using short = await Served.start(here.program, at('short'), ['--open', '--stall', '2']);
  const begun = await curl(['-X', 'POST', `${short.url}/volumes/slow/images?size=1Mi`]);
  const image = short.url + (JSON.parse(begun.body) as { image: string }).image;
  let rest = Promise.withResolvers<void>();
  const put = (): Promise<Response> => {
    const parts = [new Uint8Array(64 * 1024).fill(1), new Uint8Array(64 * 1024).fill(2)];
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        if (parts.length === 1) await rest.promise;
        const part = parts.shift();
        if (part) controller.enqueue(part);
        else controller.close();
      },
    });
    const headers = { 'content-length': String(128 * 1024) };
    return fetch(image, { method: 'PUT', body, headers, duplex: 'half' });
  };
  const writing = put();
  await sleep(500);
  const early = await curl(['-X', 'POST', `${image}/finalize`]);
  expect([early.status, early.body]).toEqual([409, expect.stringContaining('1 requests are writing')]);
  rest.resolve();
  expect((await writing).status).toBe(200);
  rest = Promise.withResolvers<void>();
  await expect(put()).rejects.toThrow();
  rest.resolve();
  expect((await curl(['-X', 'POST', `${image}/finalize`])).status).toBe(200);
  const disk = await readFile(at('short/slow.img'));
  expect([disk.length, disk[0], disk[64 * 1024], disk[128 * 1024]]).toEqual([1 * MiB, 1, 2, 0]);
  expect((await curl([`${image}/extents`])).status).toBe(404);
  const many = (n: number) => curl(['-X', 'POST', `${short.url}/volumes/many-${n}/images?size=1Mi`]);
  const first = await many(0);
  for (let n = 1; n < 8; n += 1) expect((await many(n)).status).toBe(201);
  expect((await many(8)).status).toBe(503);
  const { image: one } = JSON.parse(first.body) as { image: string };
  expect((await curl(['-X', 'DELETE', short.url + one])).status).toBe(204);
  expect((await many(8)).status).toBe(201);
});

test('a disk that is not the one that was demanded is no volume, and nothing is left of it', async () => {
  const size = MiB;
  const image = `${here.server.url}${await begun('demanded', size)}`;
  await writeFile(at('piece'), Buffer.alloc(size, 7));
  expect((await curl(['-X', 'PUT', '--data-binary', `@${at('piece')}`, image])).status).toBe(200);
  const answer = await curl(['-X', 'POST', `${image}/finalize?digest=dd1:${'0'.repeat(64)}`]);
  expect([answer.status, JSON.parse(answer.body)]).toMatchObject([422, { error: { code: 'DIGEST_MISMATCH' } }]);
  expect(await here.server.volume('demanded')).toMatchObject({ state: 'failed' });
  expect(await readdir(at('data'))).not.toContain('demanded.img');
  expect(await readdir(at('data/.diskferry/incoming'))).not.toContain('demanded.img');

  const again = `${here.server.url}${await begun('demanded', size)}`;
  expect((await curl(['-X', 'PUT', '--data-binary', `@${at('piece')}`, again])).status).toBe(200);
  const { stdout } = await here.program.run(['verify', at('piece'), '--json']);
  const { diskDigest } = JSON.parse(stdout) as { diskDigest: string };
  expect((await curl(['-X', 'POST', `${again}/finalize?digest=${diskDigest}`])).status).toBe(200);
});

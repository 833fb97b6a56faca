// A body without length and chunks lasts until the connection is closed: what a cut then does, and what is said of it.
import { readFile, rm, stat } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import type { Inspection } from '../../src/dataplane/inspect.ts';
import { type Cli, describe as told } from '../support/cli.ts';
import { difference, MiB, sha256, shell } from '../support/images.ts';
import { rudeServer } from '../support/rude-server.ts';
import { rawAndQcow2, site } from '../support/site.ts';
import { tool } from '../support/tools.ts';

const SIZE = 24 * MiB;
const NOTE = 'the server does not say how long the image is: only --digest can tell a cut transfer from a whole one';
let program: Cli;
const at = site(async (opened) => {
  ({ program } = opened);
  tool('pigz', 'pigz');
  await rawAndQcow2(at('www'), SIZE);
  await shell(`pigz -1 -c ${at('www/raw')} > ${at('www/gz')}`);
});

afterEach(() => rm(at('img'), { force: true }));

/** Serves a file, or its first bytes, and closes the connection; `chunked` says where the body ends. */
function serving(name: string, how: { length?: number; chunked?: boolean } = {}) {
  return rudeServer((socket: Socket) => void answer(socket));

  async function answer(socket: Socket): Promise<void> {
    const file = await readFile(at(`www/${name}`));
    const body = file.subarray(0, how.length ?? file.length);
    socket.write('HTTP/1.1 200 OK\r\nConnection: close\r\nETag: "one"\r\n');
    socket.write(how.chunked ? 'Transfer-Encoding: chunked\r\n\r\n' : '\r\n');
    if (how.chunked) socket.write(`${file.length.toString(16)}\r\n`);
    socket.write(body);
    socket.end(how.chunked && body.length === file.length ? '\r\n0\r\n\r\n' : '');
  }
}

async function inspected(url: string): Promise<{ found: Inspection; text: string }> {
  const [json, people] = await Promise.all([program.run(['inspect', url, '--json']), program.run(['inspect', url])]);
  expect(json.code, told(json)).toBe(0);
  return { found: JSON.parse(json.stdout) as Inspection, text: people.stdout };
}

describe('a raw disk', () => {
  test('is imported, and that nobody knows its end is said before and after', async () => {
    await using server = await serving('raw');
    const { found, text } = await inspected(server.url);
    expect(found.plan.notes).toEqual([NOTE]);
    expect(text).toContain(NOTE);
    const report = await program.imported([server.url, at('img')]);
    expect(report.notes).toEqual([NOTE]);
    expect(await difference(at('www/raw'), at('img'))).toBeUndefined();
  });

  test('that was cut passes with the note, and not with a digest', async () => {
    await using server = await serving('raw', { length: 9 * MiB });
    expect((await program.imported([server.url, at('img')])).notes).toEqual([NOTE]);
    expect((await stat(at('img'))).size).toBe(9 * MiB);
    await rm(at('img'));
    const digest = await sha256(at('www/raw'));
    expect(await program.refused([server.url, at('img'), '--digest', digest])).toMatchObject({
      code: 'DIGEST_MISMATCH',
    });
  });

  test('needs no note where a digest tells', async () => {
    await using server = await serving('raw');
    const report = await program.imported([server.url, at('img'), '--digest', await sha256(at('www/raw'))]);
    expect(report.notes).toEqual([]);
    await rm(at('img'));
    const again = await program.imported([server.url, at('img'), '--disk-digest', report.diskDigest]);
    expect(again.notes).toEqual([]);
  });

  test('needs no note where chunks tell, and is refused when it was cut', async () => {
    await using server = await serving('raw', { chunked: true });
    expect((await program.imported([server.url, at('img')])).notes).toEqual([]);
    await rm(at('img'));
    await using cut = await serving('raw', { chunked: true, length: 9 * MiB });
    const refusal = await program.refused([cut.url, at('img'), '--patience', '2']);
    expect(['TRUNCATED', 'IO', 'STALLED'], refusal.message).toContain(refusal.code);
  });
});

test('gzip around it tells inside its members alone', async () => {
  await using server = await serving('gz');
  const report = await program.imported([server.url, at('img')]);
  expect(report.notes).toEqual([expect.stringMatching(/cut between two gzip members/)]);
  await rm(at('img'));
  await using cut = await serving('gz', { length: 3 * MiB });
  expect(await program.refused([cut.url, at('img')])).toMatchObject({ code: 'TRUNCATED' });
});

test('a qcow2 tells by its tables', async () => {
  await using server = await serving('qcow2');
  expect((await inspected(server.url)).found.plan.notes).toEqual([]);
  const report = await program.imported([server.url, at('img')]);
  expect(report.notes).toEqual([]);
  expect(await difference(at('www/raw'), at('img'))).toBeUndefined();
  await rm(at('img'));
  await using cut = await serving('qcow2', { length: 9 * MiB });
  expect(await program.refused([cut.url, at('img')])).toMatchObject({ code: 'TRUNCATED' });
});

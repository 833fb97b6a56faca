// A bit flipped anywhere in transit: caught by the digest that was given, or by the codec's own check. FLIPS sets how often.
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Cli, cli, describe as told } from '../support/cli.ts';
import { recognised } from '../support/devices.ts';
import { bootableDisk, difference, MiB, qcow2, randomly, shell } from '../support/images.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { tool } from '../support/tools.ts';

const FLIPS = Number(process.env.FLIPS ?? 24);
/** Runs at a time. */
const ABREAST = 2;

let home: TempDir;
let program: Cli;
let server: Server;
let port = 0;
const at = (name: string): string => join(home.path, name);
const images = new Map<string, Buffer>();

/** Serves `/<image>/<byte>/<bit>`: the image with that bit of that byte flipped in every answer that has it. */
function serve(): Server {
  return createServer((request, response) => {
    const [, name = '', where = '', bit = ''] = (request.url ?? '').split('/');
    const image = images.get(name);
    if (image === undefined) {
      response.writeHead(404).end();
      return;
    }
    const asked = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
    const from = asked ? Number(asked[1]) : 0;
    const to = asked?.[2] ? Math.min(Number(asked[2]) + 1, image.length) : image.length;
    const body = Buffer.from(image.subarray(from, to));
    const place = Number(where) - from;
    if (place >= 0 && place < body.length) body[place] = (body[place] ?? 0) ^ (1 << Number(bit));
    response.writeHead(asked ? 206 : 200, {
      'content-type': 'application/octet-stream',
      'content-length': body.length,
      'accept-ranges': 'bytes',
      etag: `"${name}"`,
      ...(asked ? { 'content-range': `bytes ${from}-${to - 1}/${image.length}` } : {}),
    });
    response.end(request.method === 'HEAD' ? undefined : body);
  });
}

beforeAll(async () => {
  tool('zstd', 'zstd');
  tool('xz', 'xz-utils');
  home = await tempdir();
  program = await cli(home.path);
  await mkdir(at('made'));
  const raw = await bootableDisk(at('made/raw'), 16 * MiB, { run: MiB, zeros: 0.85 });
  await qcow2(raw, at('made/qcow2'));
  await qcow2(raw, at('made/qcow2zlib'), { compressed: true });
  await shell(
    `cd ${at('made')}; gzip -1 -c raw > gzip; zstd -q -1 --check -c raw > zstd; xz -0 -T2 --block-size=2MiB -c raw > xz; gzip -1 -c qcow2 > qcow2gzip`,
  );
  for (const name of ['raw', 'qcow2', 'qcow2zlib', 'gzip', 'zstd', 'xz', 'qcow2gzip'])
    images.set(name, await readFile(at(`made/${name}`)));
  server = serve().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  port = address !== null && typeof address === 'object' ? address.port : 0;
});

afterAll(async () => {
  server?.closeAllConnections();
  server?.close();
  await home?.[Symbol.asyncDispose]();
});

/** Flips `count` bits, one a run. Every run must fail for a reason that fits, and leave nothing that boots. */
async function flips(name: string, count: number, digest: boolean): Promise<void> {
  const image = images.get(name) ?? Buffer.alloc(0);
  const random = randomly(name.length * 1000 + (digest ? 1 : 0) + Number(process.env.SEED ?? 0));
  const demanded = `sha256:${createHash('sha256').update(image).digest('hex')}`;
  const codes = new Map<string, number>();
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) {
      const number = next++;
      // The first and the last bytes each have their turn: headers and trailers are where checks are forgotten.
      const edge = Math.min(64, image.length);
      // Without its magic number (6 bytes at most) a stream is not one: only a digest can tell then.
      const first = digest ? 0 : 6;
      const where =
        number % 8 === 0
          ? first + Math.floor(random() * edge)
          : number % 8 === 1
            ? image.length - 1 - Math.floor(random() * edge)
            : first + Math.floor(random() * (image.length - first));
      const target = at(`${name}-${number}.img`);
      const how = digest ? ['--digest', demanded] : [];
      const place = `http://127.0.0.1:${port}/${name}/${where}/${Math.floor(random() * 8)}`;
      const ended = await program.run(['import', place, target, ...how, '--json', '--progress', 'none']);
      const context = `flipped byte ${where} of ${image.length}: ${told(ended)}`;
      if (!digest && ended.code === 0) {
        // A gzip header's time and a zstd frame's unused bit belong to no check: then the disk itself must be right.
        expect(await difference(at('made/raw'), target), context).toBeUndefined();
        codes.set('harmless', (codes.get('harmless') ?? 0) + 1);
        await rm(target);
        continue;
      }
      expect(ended.code, context).not.toBe(0);
      expect(ended.stdout, context).toMatch(/^\{"error"/);
      const { error } = JSON.parse(ended.stdout) as { error: { code: string } };
      expect(['UNEXPECTED', 'IO', 'ABORTED'], context).not.toContain(error.code);
      codes.set(error.code, (codes.get(error.code) ?? 0) + 1);
      if (existsSync(target)) expect(await recognised(target), context).toEqual([]);
      await rm(target, { force: true });
    }
  };
  await Promise.all(Array.from({ length: ABREAST }, worker));
  console.log(`${name}: ${count} flips: ${[...codes].map(([code, times]) => `${code} ${times}`).join(', ')}`);
}

const LONG = 60_000 + FLIPS * 2000;

describe('with a digest', () => {
  test.each(['raw', 'qcow2', 'qcow2zlib', 'gzip'])('%s', (name) => flips(name, FLIPS, true), LONG);
});

describe('by the check of the codec', () => {
  test.each(['zstd', 'xz', 'qcow2gzip'])('%s', (name) => flips(name, FLIPS, false), LONG);
});

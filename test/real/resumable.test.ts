// Uploads that are gone on with: the clients that people use, unmodified, over a bad line, to a server that is killed.
import { readdir, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { bootableDisk, difference, MiB, qcow2, shell } from '../support/images.ts';
import { Served } from '../support/served.ts';
import { PROTOCOLS, tusJs, tuspy } from '../support/tus.ts';
import { uploadSite } from '../support/upload-site.ts';

const SIZE = 160 * MiB;
const here = uploadSite(async (at) => {
  await bootableDisk(at('www/raw'), SIZE);
  await qcow2(at('www/raw'), at('www/qcow2'));
  await shell(`cd ${at('www')} && gzip -1 -k qcow2`);
});
const { at, file } = here;

/** Waits until so many bytes have gone to the server. */
async function sent(bytes: number): Promise<void> {
  for (let tries = 0; here.proxy.sent < bytes && tries < 1200; tries += 1) await sleep(50);
}

test.each(['plain', 'checksum'])(
  'tuspy, over a line that is cut, to a server that is killed: %s',
  async (checksum) => {
    const volume = `tuspy-${checksum}`;
    here.proxy.faults = { cutSent: 22 * MiB };
    const uploading = tuspy(here.proxy.url, at('www/qcow2'), volume, 4 * MiB, checksum);
    await sent(60 * MiB);
    await here.restart();
    await uploading;
    expect(await here.server.volume(volume)).toMatchObject({ state: 'ready', size: SIZE });
    expect(await difference(at('www/raw'), file(volume))).toBeUndefined();
  },
  120_000,
);

describe.each(PROTOCOLS)('tus-js-client, %s', (protocol) => {
  test('over a line that is cut every 20 MB', async () => {
    here.proxy.faults = { cutSent: 20 * MiB };
    const volume = `cut-${protocol}`;
    const path = at('www/qcow2');
    await tusJs(here.proxy.url, protocol, path, volume, 64 * MiB);
    expect(await here.server.volume(volume)).toMatchObject({ state: 'ready', size: SIZE });
    expect(await difference(at('www/raw'), file(volume))).toBeUndefined();
    const { size } = await stat(path);
    expect(here.proxy.accepted).toBeGreaterThan(5);
    // What was on its way when the line was cut, and headers.
    expect(here.proxy.sent).toBeLessThan(size * 1.01 + here.proxy.accepted * 512 * 1024);
  }, 120_000);

  test.each(['raw', 'qcow2', 'qcow2.gz'])(
    'to a server that is killed in the middle: %s',
    async (name) => {
      const volume = `killed-${protocol}-${name}`;
      const path = at(`www/${name}`);
      const { size } = await stat(path);
      here.proxy.faults = { cutSent: 20 * MiB };
      const uploading = tusJs(here.proxy.url, protocol, path, volume, 64 * MiB);
      await sent(0.6 * size);
      await here.restart();
      await uploading;
      expect(await here.server.volume(volume)).toMatchObject({ state: 'ready', size: SIZE });
      expect(await difference(at('www/raw'), file(volume))).toBeUndefined();
      expect(here.proxy.sent).toBeLessThan(size * 1.01 + here.proxy.accepted * 512 * 1024 + 64 * MiB);
      expect(await readdir(at('data/.diskferry/incoming'))).toEqual([]);
    },
    120_000,
  );
});

describe('tus, by hand', () => {
  const TUS = { 'tus-resumable': '1.0.0' };
  const begin = (from: Served, volume: string, length: number, more = ''): Promise<Response> => {
    const told = `volume ${Buffer.from(volume).toString('base64')}${more}`;
    const headers = { ...TUS, 'upload-length': String(length), 'upload-metadata': told };
    return fetch(`${from.url}/tus`, { method: 'POST', headers });
  };
  /** Sends so many bytes, one piece every 200 ms, and then no end. */
  const piecewise = (
    place: string,
    offset: number,
    pieces: number,
    piece: number,
    ends: boolean,
  ): Promise<Response> => {
    let sent = 0;
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        await sleep(200);
        if (sent < pieces) controller.enqueue(new Uint8Array(piece));
        else if (ends) controller.close();
        else await sleep(60_000);
        sent += 1;
      },
    });
    const headers = { ...TUS, 'content-type': 'application/offset+octet-stream', 'upload-offset': String(offset) };
    return fetch(place, { method: 'PATCH', headers, body, duplex: 'half' });
  };

  test('what is wrong with a beginning does not keep the volume', async () => {
    const refused = await begin(here.server, 'again', 1024, `,size ${Buffer.from('huge').toString('base64')}`);
    expect(refused.status).toBe(400);
    expect((await begin(here.server, 'again', 1024)).status).toBe(201);
  });

  test('is dropped when nobody goes on with it, and not while a sender that came back is slow', async () => {
    await using short = await Served.start(here.program, at('short'), ['--open', '--expiry', '2']);
    const place = short.url + (await begin(short, 'slow', 64 * 1024)).headers.get('location');
    const away = short.url + (await begin(short, 'away', 1024)).headers.get('location');
    // Its connection stays, and nothing comes any more.
    const left = piecewise(place, 0, 1, 4 * 1024, false).catch(() => undefined);
    await sleep(1000);
    const done = await piecewise(place, 4 * 1024, 30, 2 * 1024, true);
    expect([done.status, (await short.volume('slow')).state]).toEqual([204, 'ready']);
    expect((await fetch(away, { method: 'HEAD', headers: TUS })).status).toBe(404);
    expect(short.running.said()).toContain('away was dropped: nobody went on with it for 2 s');
    await left;
  }, 60_000);
});

import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { FastifyPluginAsync } from 'fastify';
import type { Volume } from '../store/volume.ts';
import type { Service } from './service.ts';

/** Files of the page and their types (scripts/build.mjs puts them together). */
const FILES: Readonly<Record<string, string>> = {
  'index.html': 'text/html; charset=utf-8',
  'page.css': 'text/css; charset=utf-8',
  'page.js': 'text/javascript; charset=utf-8',
};
/** Milliseconds between two looks at the volumes while somebody watches, and between two words that there is nothing new. */
const LOOK = 500;
const BREATH = 15_000;
/** Bytes that one who watches has not read, after which the connection ends: browsers make another when they look again. */
const MOST_UNREAD = 1024 * 1024;
/** Who watches at once. */
const MOST_WATCHERS = 64;

/** All volumes, and the bytes that the directory has room for. */
export async function overview({ store }: Service): Promise<{ volumes: Volume[]; free: number }> {
  return { volumes: await store.list(), free: await store.free() };
}

/** The page, and what it watches: server-sent events with [`overview`], whenever it has changed. */
export const web: FastifyPluginAsync<Service> = async (app, service) => {
  const place = ['../page/', '../../dist/page/'].map((up) => fileURLToPath(new URL(up, import.meta.url)));
  const directory = place.find((one) => existsSync(`${one}page.js`)) ?? '';
  for (const [name, type] of Object.entries(FILES)) {
    const url = name === 'index.html' ? '/' : `/${name}`;
    app.get(url, { schema: { hide: true } }, async (_request, reply) =>
      reply
        .type(type)
        .header('cache-control', 'no-cache')
        .header('content-security-policy', "default-src 'self'; img-src data:; frame-ancestors 'none'")
        .send(await readFile(directory + name)),
    );
  }

  let watchers = 0;
  app.get(
    '/events',
    { schema: { summary: 'All volumes, whenever something has changed (server-sent events)' } },
    async (request, reply) => {
      if (watchers >= MOST_WATCHERS) return reply.code(503).header('retry-after', 5).send();
      watchers += 1;
      reply.hijack();
      const { raw } = reply;
      raw.writeHead(200, {
        'content-type': 'text/event-stream',
        'cache-control': 'no-store',
        'x-accel-buffering': 'no',
      });
      let before = '';
      let quiet = 0;
      try {
        while (!request.raw.destroyed && !raw.destroyed && raw.writableLength < MOST_UNREAD) {
          const now = JSON.stringify(await overview(service));
          quiet += LOOK;
          if (now !== before) raw.write(`data: ${now}\n\n`);
          else if (quiet >= BREATH) raw.write(':\n\n');
          if (now !== before || quiet >= BREATH) quiet = 0;
          before = now;
          await sleep(LOOK, undefined, { ref: false });
        }
      } finally {
        watchers -= 1;
        if (raw.writableLength < MOST_UNREAD) raw.end();
        else raw.destroy();
      }
    },
  );
};

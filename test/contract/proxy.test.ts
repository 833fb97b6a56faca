import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { FaultProxy } from '../faults/proxy.ts';
import { thrown } from '../support/context.ts';
import { stop } from '../support/nginx.ts';

const body = Buffer.alloc(2_000_000, 'x');
const server = createServer((_request, response) => response.end(body));
let port: number;
beforeAll(async () => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  port = address !== null && typeof address === 'object' ? address.port : 0;
});
afterAll(() => server.close());

const get = async (url: string): Promise<Buffer> => Buffer.from(await (await fetch(url)).arrayBuffer());

test('the fault proxy is a program too', async () => {
  const file = fileURLToPath(new URL('../faults/proxy.ts', import.meta.url));
  const child = spawn(process.execPath, [file, '--to', `127.0.0.1:${port}`, '--cut', '1MB', '--connections', '1']);
  try {
    const [line] = (await once(child.stdout, 'data')) as [Buffer];
    const url = line.toString().split(' ')[0] ?? '';
    await thrown(get(url));
    expect(await get(url)).toHaveLength(body.length);
  } finally {
    await stop(child);
  }
});

test('delay is a round trip, rate is a rate, and the bytes stay the same', async () => {
  for (const [faults, least, most] of [
    [{ delay: 50 }, 100, 600],
    [{ rate: 4_000_000 }, 400, 1200],
  ] as const) {
    await using proxy = await FaultProxy.start({ port }, faults);
    const began = performance.now();
    expect((await get(proxy.url)).equals(body)).toBe(true);
    const took = performance.now() - began;
    expect(took).toBeGreaterThan(least);
    expect(took).toBeLessThan(most);
  }
});

// Two benchmarks on one machine must not meet: not on a port, not in a network, not in a directory.
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { freeNetwork } from '../../bench/link.ts';
import { dropAbandonedWorkplaces, workplaceOf } from '../../bench/measure.ts';
import { serve } from '../../bench/nginx.ts';
import { tempdir } from '../support/tempdir.ts';
import { tool } from '../support/tools.ts';

const FIRST = ((198 << 24) | (18 << 16)) >>> 0;
const LAST = FIRST + 2 ** 17 - 1;

test('servers of two benchmarks listen on ports of their own', async () => {
  tool('nginx', 'nginx');
  await using one = await tempdir();
  await using other = await tempdir();
  writeFileSync(join(one.path, 'name'), 'one');
  writeFileSync(join(other.path, 'name'), 'other');
  const servers = await Promise.all([one, other].map(({ path }) => serve(path, '127.0.0.1')));
  try {
    const told = await Promise.all(servers.map(async ({ url }) => (await fetch(`${url}/name`)).text()));
    expect(told).toEqual(['one', 'other']);
    expect(servers[0]?.port).not.toBe(servers[1]?.port);
  } finally {
    await Promise.all(servers.map((server) => server.stop()));
  }
});

test('links of two benchmarks lie in networks of their own, all for benchmarks (RFC 2544)', () => {
  const networks = [1, 2, 4_194_303].flatMap((pid) => [0, 1].map((index) => freeNetwork(index, pid, [])));
  expect(new Set(networks).size).toBe(networks.length);
  for (const network of networks) {
    expect(network % 4).toBe(0);
    expect(network).toBeGreaterThanOrEqual(FIRST);
    expect(network + 3).toBeLessThanOrEqual(LAST);
  }
});

test('a network in which an interface has an address is passed over', () => {
  expect(freeNetwork(0, 0, [])).toBe(FIRST);
  expect(freeNetwork(0, 0, ['127.0.0.1', '::1', '198.18.0.1', '198.18.0.6'])).toBe(FIRST + 8);
});

test('a workplace belongs to its process, and is removed when that is gone', async () => {
  await using cache = await tempdir();
  // One more than the most that Linux gives (proc(5), pid_max).
  const abandoned = join(cache.path, 'work-4194305');
  for (const path of [abandoned, workplaceOf(cache.path)]) mkdirSync(path);
  dropAbandonedWorkplaces(cache.path);
  expect(existsSync(abandoned)).toBe(false);
  expect(existsSync(workplaceOf(cache.path))).toBe(true);
});

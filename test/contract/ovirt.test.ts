import { randomBytes, randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { stackFilters } from '../../src/dataplane/stack.ts';
import { FaultProxy } from '../faults/proxy.ts';
import { collect, testContext, thrown } from '../support/context.ts';
import { FakeEngine } from '../support/engine.ts';
import { type ImageService, imageService } from '../support/imageio.ts';
import { MiB } from '../support/images.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { sourceContract } from './source.ts';

const DISK = '7d2c9f6e-5a0b-4c8f-9a41-2f1f6f2d8e10';
const credentials = { username: 'admin@internal', password: 'pass&word' };
const content = randomBytes(4 * MiB);
let home: TempDir;
let service: ImageService;
let engine: FakeEngine;
let images: string;
const address = (disk = DISK): string => `ovirt+${engine.api}/disks/${disk}`;

beforeAll(async () => {
  home = await tempdir();
  service = await imageService();
  images = `127.0.0.1:${service.port}`;
  const disk = join(home.path, 'disk');
  await writeFile(disk, content);
  const { username: user, password } = credentials;
  const show = (): Promise<string> => service.show(disk, content.length);
  engine = await FakeEngine.start({ user, password, show, images: () => images });
}, 60_000);
beforeEach(() => {
  images = `127.0.0.1:${service.port}`;
  engine.asked.length = 0;
  engine.open.clear();
  engine.stuck = undefined;
});
afterAll(async () => {
  await engine?.[Symbol.asyncDispose]();
  await service?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

const FACTS = { ranges: true, length: true, validator: true, remote: true, replaceable: false };
sourceContract("a disk of oVirt's engine", FACTS, async () => {
  const proxy = await FaultProxy.start(service);
  images = `127.0.0.1:${proxy.port}`;
  return {
    content,
    proxy,
    // One disk for each: the engine locks it.
    open: (context) => openSource(address(randomUUID()), { credentials, unchanged: true }, context),
    [Symbol.asyncDispose]: () => proxy[Symbol.asyncDispose](),
  };
});

test('a transfer is opened and given back, and no ticket is in the name', async () => {
  const source = await openSource(address(), { credentials }, testContext());
  expect(source.name).toBe(address());
  expect((await collect(source.read({ from: 0 }, AbortSignal.timeout(10_000)))).equals(content)).toBe(true);
  expect(engine.open.size).toBe(1);
  await source[Symbol.asyncDispose]();
  await source[Symbol.asyncDispose]();
  expect(engine.open.size).toBe(0);
  expect(engine.asked.filter((one) => one.endsWith('/finalize'))).toHaveLength(1);
});

test('a wrong password is DENIED, and not told', async () => {
  const wrong = { ...credentials, password: 'a-wrong-password' };
  const error = await thrown(openSource(address(), { credentials: wrong }, testContext()));
  expect(error).toMatchObject({ code: 'DENIED', retryable: false });
  expect(error.message).not.toContain('a-wrong-password');
  expect(await thrown(openSource(address(), {}, testContext()))).toMatchObject({ code: 'DENIED' });
});

test('a disk that is locked is waited for', async () => {
  const first = await openSource(address(), { credentials }, testContext());
  const context = testContext({ patience: 20_000 });
  const second = openSource(address(), { credentials }, context);
  while (context.counters.retries === 0) await new Promise((resolve) => setTimeout(resolve, 20));
  expect(context.lines.join()).toContain('is locked at the engine');
  await first[Symbol.asyncDispose]();
  await (await second)[Symbol.asyncDispose]();
}, 30_000);

test('a cut is gone on with, for the engine locks the disk', async () => {
  await using proxy = await FaultProxy.start(service, { cut: 1.5 * MiB, connections: 2 });
  images = `127.0.0.1:${proxy.port}`;
  const context = testContext();
  await using source = await openSource(address(), { credentials }, context);
  await using stacked = stackFilters(source, context);
  expect((await collect(stacked.read({ from: 0 }, AbortSignal.timeout(20_000)))).equals(content)).toBe(true);
  expect(context.counters.retries).toBeGreaterThan(0);
});

test('a transfer that the engine gives up, or that no host shows, is given back', async () => {
  engine.stuck = 'paused_system';
  expect(await thrown(openSource(address(), { credentials }, testContext({ patience: 300 })))).toMatchObject({
    code: 'IO',
    message: expect.stringContaining('paused_system'),
  });
  engine.stuck = 'initializing';
  const stalled = await thrown(openSource(address(), { credentials }, testContext({ patience: 300 })));
  expect(stalled).toMatchObject({ code: 'STALLED' });
  expect(engine.open.size).toBe(0);
});

test.each(['ovirt+https://engine/ovirt-engine/api', 'ovirt+https://engine/ovirt-engine/api/disks/../../x'])(
  'an address that is none: %s',
  async (text) => {
    expect(await thrown(openSource(text, { credentials }, testContext()))).toMatchObject({ code: 'BAD_SPEC' });
  },
);

import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { wantedOf } from '../../src/dataplane/sources/imageio.ts';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { stackFilters } from '../../src/dataplane/stack.ts';
import { FaultProxy } from '../faults/proxy.ts';
import { type Cli, cli } from '../support/cli.ts';
import { collect, testContext, thrown } from '../support/context.ts';
import { pattern } from '../support/extents.ts';
import { type ImageService, imageService } from '../support/imageio.ts';
import { difference, MiB } from '../support/images.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { authority } from '../support/tls.ts';
import { sourceContract } from './source.ts';

const content = randomBytes(4 * MiB);
let home: TempDir;
let service: ImageService;
let ticket: string;
let program: Cli;
const at = (name: string): string => join(home.path, name);

beforeAll(async () => {
  home = await tempdir();
  program = await cli(home.path);
  service = await imageService();
  await writeFile(at('disk'), content);
  ticket = await service.show(at('disk'), content.length);
}, 60_000);
afterAll(async () => {
  await service?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

const FACTS = { ranges: true, length: true, validator: true, remote: true, replaceable: false };
sourceContract("oVirt's image service", FACTS, async () => {
  const proxy = await FaultProxy.start(service);
  return {
    content,
    proxy,
    open: (context) =>
      openSource(`imageio+http://127.0.0.1:${proxy.port}/images/${ticket}`, { unchanged: true }, context),
    [Symbol.asyncDispose]: () => proxy[Symbol.asyncDispose](),
  };
});

test('zeros are not fetched, and the ticket is not told', async () => {
  const size = 256 * MiB;
  await pattern(at('holes'), size, [
    [0, MiB],
    [100 * MiB, 2 * MiB],
  ]);
  const own = await service.show(at('holes'), size);
  const report = await program.imported([`imageio+http://127.0.0.1:${service.port}/images/${own}`, at('out')]);
  expect(report).toMatchObject({ way: 'seek', virtualSize: size });
  expect(report.receivedBytes).toBeLessThan(5 * MiB);
  expect(JSON.stringify(report)).not.toContain(own);
  expect(await difference(at('holes'), at('out'))).toBeUndefined();
});

test('a ticket that is not valid any more is DENIED', async () => {
  const own = await service.show(at('disk'), content.length);
  const context = testContext();
  const address = `imageio+http://127.0.0.1:${service.port}/images/${own}`;
  // The service closes connections of a ticket that goes: asked again, which takes a disk that may be resumed, it says why.
  await using source = await openSource(address, { unchanged: true }, context);
  await service.revoke(own);
  const patient = stackFilters(source, context);
  expect((await thrown(collect(patient.read({ from: 2 * MiB }, context.signal)))).code).toBe('DENIED');
  const error = await thrown(openSource(address, {}, testContext()));
  expect(error).toMatchObject({ code: 'DENIED' });
});

test('over TLS', async () => {
  const issuer = await authority(home.path);
  const pair = await issuer.issue('service', ['127.0.0.1']);
  await using secure = await imageService({ ...pair, ca: at('ca.pem') });
  const own = await secure.show(at('disk'), content.length);
  const context = testContext();
  const address = `imageio+https://127.0.0.1:${secure.port}/images/${own}`;
  await using source = await openSource(address, { ca: issuer.ca }, context);
  expect((await collect(source.read({ from: 0 }, context.signal))).equals(content)).toBe(true);
  expect(await thrown(openSource(address, {}, testContext()))).toMatchObject({ code: 'DENIED' });
});

test('a list of extents must be of the whole disk', () => {
  const run = (start: number, length: number, zero: unknown = false): unknown => ({ start, length, zero });
  const of = (...list: unknown[]) => wantedOf(JSON.stringify(list), 100, 'zero');
  expect(of(run(0, 40), run(40, 60, true))).toEqual([{ from: 0, to: 40 }]);
  const own = [
    { start: 0, length: 40, zero: true, hole: false },
    { start: 40, length: 60, zero: true, hole: true },
  ];
  expect(wantedOf(JSON.stringify(own), 100, 'own')).toEqual([{ from: 0, to: 40 }]);
  expect(() => wantedOf(JSON.stringify(own), 100, 'dirty')).toThrow(/100 bytes/);
  for (const list of [
    [],
    [run(0, 99)],
    [run(0, 40), run(30, 60)],
    [run(1, 99)],
    [run(0, -1)],
    [run(0, 100, 1)],
    [null],
  ])
    expect(() => of(...list)).toThrow(/100 bytes/);
  for (const text of ['', '{}', 'null']) expect(() => wantedOf(text, 100, 'zero')).toThrow(/100 bytes/);
});

test.each(['imageio+https://host/x', 'imageio+https://host/images/', 'imageio+https://host/images/a/b'])(
  'an address that is none: %s',
  async (text) => {
    expect(await thrown(openSource(text, {}, testContext()))).toMatchObject({ code: 'BAD_SPEC' });
  },
);

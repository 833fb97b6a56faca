// Addresses that are not connected to, in every way that one can be written or reached.
import { createServer } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Context } from '../../src/dataplane/context.ts';
import { FerryError } from '../../src/dataplane/errors.ts';
import { Guard } from '../../src/dataplane/guard.ts';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { testContext } from '../support/context.ts';

const guard = new Guard(['10.96.0.0/16', 'fd12::/64'], ['10.96.7.0/24', '169.254.1.1'], 'allow it');

function refusal(host: string): FerryError | undefined {
  try {
    guard.admitHost(host);
    return undefined;
  } catch (error) {
    return error as FerryError;
  }
}

test.each([
  '127.0.0.1',
  '127.255.0.9',
  '0.0.0.0',
  '169.254.169.254',
  '224.0.0.1',
  '255.255.255.255',
  '100.100.100.200',
  '10.96.0.1',
  '[::1]',
  '[::]',
  '[::ffff:127.0.0.1]',
  '[::ffff:a9fe:a9fe]',
  '[64:ff9b::7f00:1]',
  '[64:ff9b::169.254.169.254]',
  '[64:ff9b::a60:1]',
  '[fe80::1]',
  '[ff02::1]',
  '[fd00:ec2::254]',
  '[fd12::9]',
])('%s is refused', (host) => {
  // As a URL has it: 2130706433, 0x7f.1 and 127.1 are 127.0.0.1 there.
  expect(refusal(new URL(`http://${host}/`).hostname)).toMatchObject({
    code: 'UNSAFE',
    stage: 'source',
    retryable: false,
  });
});

test.each([
  '192.0.2.1',
  '10.95.0.1',
  '10.96.7.9',
  '169.254.1.1',
  '[2001:db8::1]',
  '[64:ff9b::192.0.2.1]',
  'example.org',
])('%s is not', (host) => {
  expect(refusal(new URL(`http://${host}/`).hostname)).toBeUndefined();
});

test('an IPv4 address is the same in every notation of it', () => {
  const byte = fc.integer({ min: 0, max: 255 });
  fc.assert(
    fc.property(fc.tuple(byte, byte, byte, byte), (parts) => {
      const plain = parts.join('.');
      const [a = 0, b = 0, c = 0, d = 0] = parts;
      const number = ((a * 256 + b) * 256 + c) * 256 + d;
      const others = [`[::ffff:${plain}]`, `[64:ff9b::${plain}]`, String(number), `0x${number.toString(16)}`];
      const answers = others.map((host) => refusal(new URL(`http://${host}/`).hostname)?.code);
      expect(new Set(answers)).toEqual(new Set([refusal(plain)?.code]));
    }),
  );
});

test('a name is refused when all that it leads to is; nobody is connected to before', async () => {
  let connected = 0;
  const server = createServer((_, answer) => answer.end('x')).on('connection', () => {
    connected += 1;
  });
  const nbd = createTcpServer(() => {
    connected += 1;
  });
  for (const one of [server, nbd]) await new Promise<void>((resolve) => one.listen(0, '127.0.0.1', resolve));
  const port = (server.address() as AddressInfo).port;
  const context: Context = { ...testContext(), guard };
  for (const address of [
    `http://localhost:${port}/x`,
    `http://127.0.0.1:${port}/x`,
    `http://2130706433:${port}/x`,
    `nbd://localhost:${(nbd.address() as AddressInfo).port}/x`,
    `nbd://127.0.0.1:${(nbd.address() as AddressInfo).port}/x`,
    `docker://127.0.0.1:${port}/x/y`,
  ]) {
    const failed = await openSource(address, { registry: { insecure: true } }, context).catch(
      (error: unknown) => error,
    );
    expect(failed, address).toMatchObject({ code: 'UNSAFE' });
  }
  expect(connected).toBe(0);
  const allowed: Context = { ...testContext(), guard: new Guard([], ['127.0.0.1', '::1'], '') };
  await using source = await openSource(`http://localhost:${port}/x`, {}, allowed);
  expect(source.facts.ranges).toBe(false);
  for (const one of [server, nbd]) one.close();
});

test.each(['10.0.0.0/33', '::/129', 'example.org', '10.0.0.0/', '10.0.0.0/x', '1.2.3'])('%s is no network', (net) => {
  expect(() => new Guard([net], [], '')).toThrow(FerryError);
  expect(() => new Guard([], [net], '')).toThrow(/is no network/);
});

test('services may be named by whoever asks, and nothing else of the cluster', () => {
  const cluster = {
    api: '10.96.0.1',
    services: '10.96.0.0/16',
    named: ['10.96.0.10', '10.96.0.1', '127.0.0.1', '10.9.0.1'],
  };
  const named = new Guard(['10.9.0.0/16'], [], 'allow it', cluster);
  expect(() => named.admitHost('10.96.0.10')).not.toThrow();
  for (const host of ['10.96.0.11', '10.96.0.1', '127.0.0.1', '10.9.0.1'])
    expect(() => named.admitHost(host)).toThrow(FerryError);
});

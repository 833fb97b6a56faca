// The oracle of quantities is an API server: it refuses a container whose request is more than its limit, and texts that are none.
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { formatQuantity, parseBytes, parseQuantity } from '../../src/api/quantity.ts';
import { type ApiServer, startApiServer } from '../support/apiserver.ts';

let server: ApiServer;
beforeAll(async () => {
  server = await startApiServer();
}, 120_000);
afterAll(() => server?.[Symbol.asyncDispose]());

/** Whether one quantity is at most the other, as the API server has it; undefined where one of them is none. */
async function atMost(one: string, other: string): Promise<boolean | undefined> {
  const resources = { requests: { memory: one }, limits: { memory: other } };
  const containers = [{ name: 'a', image: 'a', resources }];
  const body = { metadata: { name: 'a' }, template: { metadata: { labels: { a: 'a' } }, spec: { containers } } };
  try {
    await server.ask('POST', '/api/v1/namespaces/default/podtemplates?dryRun=All', body);
    return true;
  } catch (thrown) {
    const message = String(thrown);
    if (message.includes('must be less than or equal to memory limit')) return false;
    if (/unable to parse quantity|quantities must match/.test(message)) return undefined;
    throw thrown;
  }
}

const SUFFIXES = ['', 'n', 'u', 'm', 'k', 'M', 'G', 'T', 'P', 'E', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'];
const GOOD = [
  ...SUFFIXES.flatMap((suffix) => [`1${suffix}`, `7.5${suffix}`, `0.001${suffix}`, `007${suffix}`]),
  ...[
    '0',
    '0.0',
    '00',
    '1.',
    '.5',
    '+1',
    '+.5Gi',
    '1e3',
    '1E3',
    '1e+3',
    '1.5e3',
    '1234e-2',
    '1e-9',
    '1e18',
    '9e18',
    '0e9',
  ],
  ...['0.1e1', '1024', '1.0000000001', '9007199254740993', '9223372036854775807', '7.999999999Ei', '1e-18', '0.3Ki'],
  ...['0.000000000000000001', '123456789.123456789Mi', '1.1Gi', '0Ki', '5.0E'],
];
const BAD = [
  ...[
    '',
    ' ',
    '1K',
    '1KB',
    '1KiB',
    '1ki',
    '1gi',
    '1 Gi',
    '1e',
    '1e1.5',
    '1e3Ki',
    '1Kim',
    '1..5',
    '1.2.3',
    '0x10',
    '1,5',
  ],
  ...['--1', '+-1', '1i', 'abc', '1Zi', '1Y', '１', '1Gi\n', 'NaN', 'Infinity', '1e ', '1µ'],
];
/** It takes these, the first ones for 0; stored objects have none of them, and the schemas of CDI's resources refuse them. */
const ODD = ['.', '+', '-', 'm', 'Gi', 'e3', ' 1', '1 '];

test('quantities are as large as the API server says', { timeout: 120_000 }, async () => {
  for (const text of GOOD) {
    const bytes = parseQuantity(text);
    if (bytes === undefined) expect.fail(`'${text}' is a quantity`);
    // Whole bytes, rounded up: at most this, and more than one less.
    expect([text, bytes, await atMost(text, String(bytes))]).toEqual([text, bytes, true]);
    if (bytes > 0n) expect([text, bytes, await atMost(text, String(bytes - 1n))]).toEqual([text, bytes, false]);
  }
});

test('what the API server refuses is none', { timeout: 60_000 }, async () => {
  for (const text of BAD)
    expect([text, await atMost(text, text), parseQuantity(text)]).toEqual([text, undefined, undefined]);
  for (const text of ODD) expect([text, await atMost(text, '1'), parseQuantity(text)]).toEqual([text, true, undefined]);
});

test('any of one and any of another compare as the API server says', { timeout: 120_000 }, async () => {
  const quantity = fc
    .tuple(fc.bigInt({ min: 0n, max: 10n ** 12n }), fc.nat(12), fc.constantFrom(...SUFFIXES, 'e2', 'E-4', 'e+1'))
    .map(([digits, places, suffix]) => {
      const text = digits.toString().padStart(places + 1, '0');
      return `${text.slice(0, text.length - places)}${places === 0 ? '' : `.${text.slice(-places)}`}${suffix}`;
    });
  await fc.assert(
    fc.asyncProperty(quantity, async (text) => {
      const bytes = parseQuantity(text) ?? -1n;
      // Beyond 2^63 - 1 there are none.
      fc.pre(bytes < 2n ** 63n - 1n);
      expect(await atMost(text, String(bytes))).toBe(true);
      expect(bytes === 0n || !(await atMost(text, String(bytes - 1n)))).toBe(true);
    }),
    { numRuns: 150 },
  );
});

test('the API server reads what is written here', { timeout: 60_000 }, async () => {
  const sizes = [
    0n,
    1n,
    1000n,
    1023n,
    1024n,
    1025n,
    2n ** 20n,
    3n * 2n ** 30n,
    2n ** 60n,
    2n ** 53n + 1n,
    2n ** 63n - 1n,
  ];
  for (const size of sizes) {
    expect([size, await atMost(formatQuantity(size), String(size))]).toEqual([size, true]);
    expect([size, await atMost(String(size), formatQuantity(size))]).toEqual([size, true]);
  }
});

describe('absurd ones', () => {
  const MOST = 2n ** 63n - 1n;
  test.each<[string | number, bigint | undefined]>([
    ['-1', -1n],
    ['-1.5', -2n],
    ['-0', 0n],
    ['-1Ki', -1024n],
    ['-1e30', -MOST],
    ['8Ei', MOST],
    ['9223372036854775808', MOST],
    ['1e999999', MOST],
    ['1e-999999', 1n],
    ['0e999999', 0n],
    ['1e9999999', undefined],
    [`1${'0'.repeat(63)}Ei`, undefined],
    [`1${'0'.repeat(50)}Ei`, MOST],
    [`0.${'0'.repeat(50)}1Ei`, 1n],
    [1024, 1024n],
    [1.5, 2n],
    [1e21, MOST],
    [Number.NaN, undefined],
  ])('%s', (text, bytes) => expect(parseQuantity(text)).toBe(bytes));

  test('none takes long', () =>
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'0123456789.+-eEKMGi') }), (text) => {
        const begun = performance.now();
        parseQuantity(text);
        expect(performance.now() - begun).toBeLessThan(50);
      }),
    ));
});

test.each<[string, number | undefined]>([
  ['1Gi', 2 ** 30],
  ['0', 0],
  ['9007199254740991', Number.MAX_SAFE_INTEGER],
  ['9007199254740992', undefined],
  ['-1', undefined],
  ['much', undefined],
])('as a number, %j is %s', (text, bytes) => expect(parseBytes(text)).toBe(bytes));

test('what is written is the shortest', () => {
  expect([0n, 1n, 1024n, 1536n, 2n ** 30n, 5n * 2n ** 70n].map(formatQuantity)).toEqual([
    '0',
    '1',
    '1Ki',
    '1536',
    '1Gi',
    '5120Ei',
  ]);
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }), (size) => {
      expect(parseQuantity(formatQuantity(size))).toBe(size);
    }),
  );
});

// Whom API servers trust over time, with a clock of our own; each certificate is checked by Node's own reading of it.
import { generateKeyPairSync, X509Certificate } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { parseDuration } from '../../src/api/duration.ts';
import { type Held, LIVES, type Lives, livesOf, next } from '../../src/apiserver/authority.ts';
import { subjectIn } from '../../src/apiserver/certificates.ts';
import { authority, issue } from '../../src/pki/authority.ts';

const HOUR = 3_600_000;
const MINUTE = 60_000;
const NOTHING: Held = { signer: undefined, bundle: [], server: undefined };
const SUBJECT = subjectIn('cdi');
const FROM = Date.parse('2026-01-01T00:00:00Z');
const step = (held: Held, now: number, lives: Lives = LIVES) => next(held, lives, SUBJECT, now);

/** Whether who trusts `bundle` takes a certificate at a time. */
function isTaken(certificate: string, bundle: readonly string[], now: number): boolean {
  const isValid = (one: X509Certificate): boolean => Date.parse(one.validFrom) <= now && now < Date.parse(one.validTo);
  const leaf = new X509Certificate(certificate);
  const isSigned = bundle
    .map((one) => new X509Certificate(one))
    .some((one) => isValid(one) && leaf.verify(one.publicKey));
  return isValid(leaf) && isSigned && leaf.checkHost('cdi-api.cdi.svc') !== undefined;
}

test('there is all of it at once', async () => {
  const held = await step(NOTHING, FROM);
  expect(held.bundle).toEqual([held.signer.certificate]);
  expect(isTaken(held.server.certificate, held.bundle, FROM)).toBe(true);
  expect(await step(held, FROM + MINUTE)).toEqual(held);
});

test('for weeks, whoever heard of the authorities a minute ago takes what is shown', async () => {
  let held: Held = NOTHING;
  let heard: readonly string[] = [];
  let [authorities, certificates, most] = [0, 0, 0];
  for (let now = FROM; now < FROM + 14 * 24 * HOUR; now += 17 * MINUTE) {
    const wanted = await step(held, now);
    if (now > FROM) expect(isTaken(wanted.server.certificate, heard, now)).toBe(true);
    expect(isTaken(wanted.server.certificate, wanted.bundle, now)).toBe(true);
    authorities += wanted.signer === held.signer ? 0 : 1;
    certificates += wanted.server === held.server ? 0 : 1;
    most = Math.max(most, wanted.bundle.length);
    heard = wanted.bundle;
    held = wanted;
  }
  // Of 14 days: one a day, and two.
  expect([authorities, most]).toEqual([14, 2]);
  expect(certificates).toBeGreaterThan(25);
  expect(certificates).toBeLessThan(30);
});

test('what is shown stays good while nobody looks for hours', async () => {
  let held: Held = NOTHING;
  for (let now = FROM; now < FROM + 30 * 24 * HOUR; now += 11 * HOUR) {
    held = await step(held, now);
    expect(isTaken(held.server?.certificate ?? '', held.bundle, now + 11 * HOUR)).toBe(true);
  }
});

test('a new authority signs nothing before it has settled, unless there is nothing else', async () => {
  const first = await step(await step(NOTHING, FROM), FROM + 12 * HOUR);
  const later = FROM + 24 * HOUR;
  // Its certificate is due as well, and is of the authority that everybody knows.
  const second = await step(first, later);
  expect(second.signer).not.toBe(first.signer);
  expect(second.server).not.toBe(first.server);
  expect(isTaken(second.server.certificate, first.bundle, later)).toBe(true);
  const due = { ...second, server: first.server };
  expect((await step(due, later + MINUTE - 1000)).server).toBe(first.server);
  const settled = await step(due, later + MINUTE);
  expect(isTaken(settled.server.certificate, [second.signer.certificate], later + MINUTE)).toBe(true);
  const none = await step({ ...second, server: undefined }, later + 1000);
  expect(isTaken(none.server.certificate, [second.signer.certificate], later + 1000)).toBe(true);
});

describe('what was there', () => {
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const pem = rsa.privateKey.export({ type: 'pkcs1', format: 'pem' }) as string;

  test('of another operator goes on until it is replaced', async () => {
    const other = await authority('other', 48 * HOUR, FROM);
    const wanted = { ...SUBJECT, use: 'server', duration: 24 * HOUR } as const;
    const server = await issue(other, wanted, FROM);
    // A key that does not sign here.
    const held = { signer: { ...other, key: pem }, bundle: [other.certificate], server };
    const now = FROM + HOUR;
    const mine = await step(held, now);
    expect(mine.bundle).toEqual([mine.signer.certificate.trim(), other.certificate.trim()]);
    expect(mine.server).toBe(server);
    const after = await step(mine, FROM + 12 * HOUR);
    expect(isTaken(after.server.certificate, [mine.signer.certificate], FROM + 12 * HOUR)).toBe(true);
  });

  test.each([
    ['is no certificate', { certificate: 'nonsense', key: 'nonsense' }],
    ['is empty', { certificate: '', key: '' }],
  ])('and %s is replaced', async (_, pair) => {
    const held = await step({ signer: pair, bundle: ['nonsense'], server: pair }, FROM);
    expect(held.bundle).toEqual([held.signer.certificate.trim()]);
    expect(isTaken(held.server.certificate, held.bundle, FROM)).toBe(true);
  });

  test('and does not fit together is replaced', async () => {
    const [one, other] = [await step(NOTHING, FROM), await step(NOTHING, FROM)];
    const mixed = { ...one, server: { ...one.server, key: other.server.key } };
    const held = await step(mixed, FROM + HOUR);
    expect(held.server.certificate).not.toBe(one.server.certificate);
    const stranger = await step({ ...one, server: other.server }, FROM + HOUR);
    expect(isTaken(stranger.server.certificate, one.bundle, FROM + HOUR)).toBe(true);
  });

  test('and has ended is forgotten', async () => {
    const held = await step(await step(NOTHING, FROM), FROM + 49 * HOUR);
    expect(held.bundle).toEqual([held.signer.certificate]);
    expect(isTaken(held.server.certificate, held.bundle, FROM + 49 * HOUR)).toBe(true);
  });
});

test('an authority whose bundle was lost is trusted again', async () => {
  const held = await step(NOTHING, FROM);
  expect((await step({ ...held, bundle: [] }, FROM + HOUR)).bundle).toEqual([held.signer.certificate.trim()]);
});

describe('lives', () => {
  const of = (certConfig: object): Lives => livesOf({ spec: { certConfig } });

  test('are as they are configured', () => {
    expect(livesOf(undefined)).toEqual(LIVES);
    expect(
      of({ ca: { duration: '100h', renewBefore: '40h' }, server: { duration: '30h', renewBefore: '10h' } }),
    ).toEqual({
      ca: { duration: 100 * HOUR, renewBefore: 40 * HOUR },
      server: { duration: 30 * HOUR, renewBefore: 10 * HOUR },
      settle: MINUTE,
    });
    expect(of({ ca: { duration: '10h' } }).ca).toEqual({ duration: 10 * HOUR, renewBefore: 5 * HOUR });
  });

  test('are CDI’s where they are nonsense, or would never end', () => {
    expect(of({ ca: { duration: 'a day' }, server: { duration: '1h', renewBefore: '2h' } })).toEqual(LIVES);
    expect(of({ ca: { duration: '-1h', renewBefore: '-2h' } })).toEqual(LIVES);
  });

  test('that are shorter now count for what is there', async () => {
    const held = await step(NOTHING, FROM);
    const lives = of({ ca: { duration: '10h', renewBefore: '5h' }, server: { duration: '4h', renewBefore: '2h' } });
    const now = FROM + HOUR;
    const after = await step(held, now, lives);
    expect(after.signer).not.toBe(held.signer);
    expect(isTaken(after.server.certificate, held.bundle, now)).toBe(true);
    expect(Date.parse(new X509Certificate(after.server.certificate).validTo)).toBe(now + 4 * HOUR);
    expect(await step(after, now + 2 * MINUTE, lives)).toEqual(after);
  });

  test('of an authority that is shorter than what it signs do not make it sign without end', async () => {
    const lives = of({ ca: { duration: '2h', renewBefore: '1h' } });
    let held: Held = NOTHING;
    let certificates = 0;
    for (let now = FROM; now < FROM + 12 * HOUR; now += 3 * MINUTE) {
      const wanted = await step(held, now, lives);
      certificates += wanted.server === held.server ? 0 : 1;
      held = wanted;
    }
    expect(certificates).toBeLessThan(30);
  });
});

test.each<[string, number | undefined]>([
  ['48h0m0s', 48 * HOUR],
  ['1.5h', 1.5 * HOUR],
  ['-3s', -3000],
  ['+1m30s', 90_000],
  ['250ms', 250],
  ['.5m', 30_000],
  ['0', 0],
  ['', undefined],
  ['-', undefined],
  ['48', undefined],
  ['1d', undefined],
  ['1h 1m', undefined],
  ['h', undefined],
  ['1'.repeat(65), undefined],
])('a duration of %s', (text, milliseconds) => {
  expect(parseDuration(text)).toBe(milliseconds);
});

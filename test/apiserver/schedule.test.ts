// Schedules, with an API server as the oracle: it reads those of CronJobs with robfig/cron's ParseStandard, as CDI does.
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { wrongSchedule } from '../../src/apiserver/admission/schedule.ts';
import { type ApiServer, startApiServer } from '../support/apiserver.ts';

let server: ApiServer;
beforeAll(async () => {
  server = await startApiServer();
}, 120_000);
afterAll(() => server?.[Symbol.asyncDispose]());

const template = {
  spec: { template: { spec: { restartPolicy: 'Never', containers: [{ name: 'a', image: 'a' }] } } },
};

/** Whether Kubernetes takes it. */
async function isTaken(schedule: string): Promise<boolean> {
  const job = { metadata: { name: 'a' }, spec: { schedule, jobTemplate: template } };
  try {
    await server.ask('POST', '/apis/batch/v1/namespaces/default/cronjobs?dryRun=All', job);
    return true;
  } catch (error) {
    if (!/: 422 .*spec\.schedule/.test(String(error))) throw error;
    return false;
  }
}

const GOOD = [
  ...['* * * * *', '0 4 * * *', '*/15 * * * *', '0 0 1 1 *', '59 23 31 12 6', '0 0 * * sun', '0 0 * * SUN-Sat'],
  ...['0 0 * jan-DEC/2 *', '5/15 * * * *', '1-10/3 * * * *', '0,30,45 1-5,7 * * *', '? ? ? ? ?', '*-5 * * * *'],
  ...['00 04 * * *', '+5 * * * *', '1,,2 * * * *', ' 0\t4  * * * ', '*/99999 * * * *', '0 0 31 2 *', '5-5 * * * *'],
  ...['@yearly', '@annually', '@monthly', '@weekly', '@daily', '@midnight', '@hourly'],
  ...['@every 1h30m', '@every 90s', '@every 1.5h', '@every .5h', '@every 1h1h', '@every -1h', '@every 0', '@every 3µs'],
];
const BAD = [
  ...['* * * *', '* * * * * *', '0 0 4 * * *', '60 * * * *', '* 24 * * *', '* * 0 * *', '* * 32 * *', '* * * 0 *'],
  ...['* * * 13 *', '* * * * 7', '0 0 * * sunday', '0 0 L * *', '0 0 15W * *', '0 0 * * 5#3', '10-5 * * * *'],
  ...['*/0 * * * *', '*/ * * * *', '*/-1 * * * *', '*/a * * * *', '1/2/3 * * * *', '1-2-3 * * * *', '- * * * *'],
  ...[
    '-5 * * * *',
    '5- * * * *',
    'a * * * *',
    '1.5 * * * *',
    '0x5 * * * *',
    '* * * sun *',
    '* * * * jan',
    '0-60/2 * * * *',
  ],
  ...[
    '@reboot',
    '@Daily',
    '@',
    '@daily ',
    ' @daily',
    '@every',
    '@every ',
    '@every 1',
    '@every 1d',
    '@every h',
    '@every 1h ',
  ],
  ...['99999999999999999999 * * * *', 'nonsense', '0 4 * * * echo'],
];

test.each(GOOD)('%s is one', async (schedule) => {
  expect(wrongSchedule(schedule)).toBeUndefined();
  expect(await isTaken(schedule)).toBe(true);
});

test.each(BAD)('%s is none', async (schedule) => {
  expect(wrongSchedule(schedule)).toEqual(expect.any(String));
  expect(await isTaken(schedule)).toBe(false);
});

test('what is wrong is said', () => {
  expect(wrongSchedule('0 0 4 * * *')).toBe(
    'it has 6 fields of 5: minute, hour, day of the month, month, day of the week',
  );
  expect(wrongSchedule('0 24 * * *')).toBe('its hour is "24": it goes from 0 to 23');
  expect(wrongSchedule('10-5 * * * *')).toBe('its minute is "10-5": "10-5" ends before it begins');
});

// CronJobs have a field for it, and refuse it in the schedule, which ParseStandard does not.
test.each([
  ['CRON_TZ=Europe/Berlin 0 4 * * *', true],
  ['TZ=UTC @daily', true],
  ['TZ= 0 4 * * *', true],
  ['TZ=Europe/Atlantis 0 4 * * *', false],
  ['TZ=UTC', false],
  ['TZ=UTC 0 4 * *', false],
])('a time zone: %s', (schedule, good) => {
  expect(wrongSchedule(schedule) === undefined).toBe(good);
});

test('whatever is written is taken as Kubernetes takes it', { timeout: 120_000 }, async () => {
  const part = fc.oneof(
    fc.constantFrom('*', '?', 'mon', 'JAN', '0', '7', '12', '59', '60', '', '+1', '-1'),
    fc.integer({ min: 0, max: 70 }).map(String),
  );
  const range = fc
    .tuple(part, fc.option(part), fc.option(part))
    .map(([low, high, step]) => `${low}${high === null ? '' : `-${high}`}${step === null ? '' : `/${step}`}`);
  const field = fc.oneof(
    { weight: 3, arbitrary: fc.constantFrom('*', '1', '2-4', '*/2') },
    { weight: 2, arbitrary: fc.array(range, { minLength: 1, maxLength: 3 }).map((all) => all.join(',')) },
  );
  const schedule = fc.array(field, { minLength: 5, maxLength: 5 }).map((fields) => fields.join(' '));
  await fc.assert(
    fc.asyncProperty(schedule, async (text) => {
      expect([text, wrongSchedule(text) === undefined]).toEqual([text, await isTaken(text)]);
    }),
    { numRuns: Number(process.env.SCHEDULES ?? 300) },
  );
});

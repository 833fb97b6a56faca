import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { EXIT_CODES, exitCode, SIGNAL_EXIT, UNEXPECTED, USAGE } from '../../src/cli/exitcode.ts';
import { describeFailure, failureAsJson } from '../../src/cli/failure.ts';
import { CODES, FerryError } from '../../src/dataplane/errors.ts';

const failure = (code: (typeof CODES)[number]) =>
  new FerryError('a sentence', { code, stage: 'source', retryable: true });

test('every code has an exit code of its own', () => {
  expect(Object.keys(EXIT_CODES).sort()).toEqual([...CODES].sort());
  const numbers = Object.values(EXIT_CODES);
  expect(new Set(numbers).size).toBe(numbers.length);
  for (const [code, number] of Object.entries(EXIT_CODES)) {
    if (code === 'BAD_SPEC') expect(number).toBe(USAGE);
    else expect(number).toBeGreaterThanOrEqual(10);
    expect(number).toBeLessThan(30);
  }
});

test('docs/errors.md has every code with its exit code', () => {
  const page = readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8');
  const listed = [...page.matchAll(/^\| (\d+) \| `([A-Z_]+)` \|/gm)].map(([, number, code]) => [code, Number(number)]);
  expect(Object.fromEntries(listed)).toEqual(EXIT_CODES);
});

test('the signal decides where a transfer was stopped by one, and only there', () => {
  expect(exitCode(failure('ABORTED'), 'SIGINT')).toBe(SIGNAL_EXIT.SIGINT);
  expect(exitCode(failure('ABORTED'), 'SIGTERM')).toBe(143);
  expect(exitCode(failure('ABORTED'))).toBe(EXIT_CODES.ABORTED);
  expect(exitCode(failure('NO_SPACE'), 'SIGINT')).toBe(EXIT_CODES.NO_SPACE);
  expect(exitCode(new Error('what?'))).toBe(UNEXPECTED);
});

test('a failure is a sentence, then code and stage', () => {
  expect(describeFailure(failure('STALLED'), false)).toBe(
    'diskferry: a sentence\n           STALLED (source), may succeed when tried again\n',
  );
  expect(describeFailure(new Error('what?'), false)).toContain('this is a defect');
  expect(describeFailure(failure('STALLED'), true)).toContain('exitcode.test.ts');
});

test('a failure as JSON has four fields', () => {
  expect(JSON.parse(failureAsJson(failure('BUSY')))).toEqual({
    error: { code: 'BUSY', stage: 'source', message: 'a sentence', retryable: true },
  });
  expect(JSON.parse(failureAsJson(new Error('what?')))).toMatchObject({ error: { code: 'UNEXPECTED' } });
});

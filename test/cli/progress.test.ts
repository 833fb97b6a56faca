import { expect, test } from 'vitest';
import { duration, percent } from '../../src/cli/progress/figures.ts';
import { barLine, jsonLine, logLine } from '../../src/cli/progress/text.ts';
import { howToGoOn, logTo, showProgress } from '../../src/cli/progress.ts';
import type { Snapshot } from '../../src/dataplane/transfer.ts';

const GIB = 1024 ** 3;

function snapshot(changes: Partial<Snapshot> = {}): Snapshot {
  return {
    phase: 'moving',
    source: { bytes: GIB, length: 3 * GIB },
    disk: { bytes: 4 * GIB, length: 10 * GIB },
    rate: 300 * 1024 * 1024,
    secondsLeft: 7,
    bottleneck: 'target',
    retries: 2,
    resumes: 1,
    ...changes,
  };
}

/** A screen that keeps what was written to it. */
function screen(isTTY: boolean, columns = 100) {
  const written: string[] = [];
  return { isTTY, columns, written, write: (text: string) => written.push(text) };
}

test('100 % is shown only when the transfer is done', () => {
  const full = { source: { bytes: GIB, length: GIB }, disk: { bytes: GIB, length: GIB } };
  expect(percent(snapshot(full))).toBe(99);
  expect(percent(snapshot({ ...full, phase: 'verifying' }))).toBe(99);
  expect(percent(snapshot({ ...full, phase: 'finishing' }))).toBe(99);
  expect(percent(snapshot({ ...full, phase: 'done' }))).toBe(100);
  // A source that needed only half of its bytes is done all the same.
  expect(percent(snapshot({ phase: 'done' }))).toBe(100);
});

test('percent comes from the source, else from the disk, else is not known', () => {
  expect(percent(snapshot())).toBe(33);
  expect(percent(snapshot({ source: { bytes: 5 } }))).toBe(40);
  expect(percent(snapshot({ source: { bytes: 5 }, disk: { bytes: 5 } }))).toBeUndefined();
  expect(percent(snapshot({ source: { bytes: 0, length: 0 }, disk: { bytes: 0 } }))).toBeUndefined();
});

test('durations are short at every size', () => {
  expect([0.4, 8, 65, 3600, 7380, 90_061].map(duration)).toEqual(['0s', '8s', '1m05s', '1h00m', '2h03m', '1d01h']);
});

test('the bar has every figure where there is room', () => {
  const line = barLine(snapshot(), 140);
  for (const part of [
    '33%',
    '[====',
    'source 1 GiB of 3 GiB',
    'disk 4 GiB of 10 GiB',
    '300 MiB/s',
    '7s left',
    'target',
    '2 retries',
  ]) {
    expect(line).toContain(part);
  }
});

test('the bar fits every width and gives up what matters least first', () => {
  for (const phase of ['opening', 'planning', 'scanning', 'moving', 'verifying', 'finishing', 'done'] as const) {
    for (let columns = 0; columns <= 200; columns += 1) {
      expect(barLine(snapshot({ phase }), columns).length).toBeLessThanOrEqual(columns);
    }
  }
  expect(barLine(snapshot({ phase: 'scanning' }), 60)).toMatch(/^ 33%.*source 1 GiB of 3 GiB {2}looking for zeros$/);
  const narrow = barLine(snapshot(), 32);
  expect(narrow).toContain('33%');
  expect(narrow).toContain('300 MiB/s');
  expect(narrow).toContain('target');
  expect(narrow).not.toContain('retries');
});

test('a shorter line wipes the longer one before it', () => {
  const out = screen(true, 120);
  const display = showProgress(out, 'auto');
  display.update(snapshot());
  display.update(snapshot({ phase: 'finishing' }));
  const [long = '', short = ''] = out.written;
  expect(long.startsWith('\r')).toBe(true);
  expect(short.length).toBe(long.length);
  expect(Math.max(...out.written.map((text) => text.length))).toBeLessThanOrEqual(120);
  display.close();
  display.close();
  expect(out.written.at(-1)).toBe('\n');
  expect(out.written).toHaveLength(3);
});

test('elsewhere than on a terminal there is a line every five seconds and one at the end', () => {
  const out = screen(false);
  let now = 0;
  const display = showProgress(out, 'auto', () => now);
  for (now = 0; now <= 11_000; now += 200) display.update(snapshot());
  display.update(snapshot({ phase: 'done' }));
  expect(out.written).toHaveLength(3);
  expect(out.written[0]).toBe(`${logLine(snapshot())}\n`);
  expect(out.written[2]).toContain('100%');
});

test('JSON progress is one object a line with the documented fields', () => {
  const parsed = JSON.parse(jsonLine(snapshot())) as { progress: Record<string, unknown> };
  expect(parsed.progress).toEqual({ ...snapshot(), percent: 33 });
  expect(jsonLine(snapshot())).not.toContain('\n');
  const out = screen(true);
  const display = showProgress(out, 'json', () => 0);
  display.update(snapshot());
  display.update(snapshot());
  display.note('a "note"');
  display.update(snapshot({ phase: 'done' }));
  expect(out.written.map((line) => Object.keys(JSON.parse(line) as object)[0])).toEqual([
    'progress',
    'note',
    'progress',
  ]);
});

test('none shows no progress, warnings all the same', () => {
  const out = screen(true);
  const display = showProgress(out, 'none');
  display.update(snapshot());
  const log = logTo(display, false);
  log.info('of interest');
  log.warn('the source changed', { from: 1 });
  display.close();
  expect(out.written).toEqual(['diskferry: note: the source changed from=1\n']);
});

test('a note stands on its own line and the bar comes back', () => {
  const out = screen(true, 120);
  const display = showProgress(out, 'bar');
  display.update(snapshot());
  display.note('hello');
  const text = out.written.join('');
  expect(text).toMatch(/\r +\rhello\n\r/);
});

test('who stops a transfer is told how to go on', () => {
  expect(howToGoOn(snapshot(), 'http://h/x', true)).toBe('stopped at 33 %: run the same command again to go on');
  expect(howToGoOn(snapshot(), '-', true)).toContain('same input');
  expect(howToGoOn(snapshot({ source: { bytes: 7 }, disk: { bytes: 7 } }), 'x', true)).toContain('after 7 bytes');
  expect(howToGoOn(snapshot(), 'x', false)).toContain('begins anew');
  expect(howToGoOn(undefined, 'x', true)).toContain('before anything was written');
  expect(howToGoOn(snapshot({ phase: 'planning' }), 'x', true)).toContain('before anything was written');
});

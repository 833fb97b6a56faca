import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Context } from '../../src/dataplane/context.ts';
import type { Source } from '../../src/dataplane/source.ts';
import { nameOf, withoutSecrets } from '../../src/dataplane/sources/exec.ts';
import { openSource } from '../../src/dataplane/sources/index.ts';
import { collect, testContext, thrown } from '../support/context.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { sourceContract } from './source.ts';

let home: TempDir;
beforeAll(async () => {
  home = await tempdir();
});
afterAll(() => home[Symbol.asyncDispose]());

const run = (command: string, context: Context): Promise<Source> =>
  openSource(`exec:${command}`, { programs: true }, context);

sourceContract('a program', { ranges: false, length: false, validator: false, remote: false }, async () => {
  const content = randomBytes(4_000_001);
  const path = join(home.path, 'content');
  await writeFile(path, content);
  return { content, open: (context) => run(`cat '${path}'`, context), [Symbol.asyncDispose]: async () => {} };
});

async function failing(command: string): Promise<Error & { code?: string }> {
  const context = testContext();
  await using source = await run(command, context);
  return await thrown(collect(source.read({ from: 0 }, context.signal)));
}

test.each([
  ['status', 'printf data; echo the disk is gone >&2; exit 3', /status 3; its last words: the disk is gone$/],
  ['signal', 'printf data; kill -9 $$', /SIGKILL; it said nothing/],
  ['command that is not there', 'no-such-program', /status 127.*no-such-program/],
  ['status after it has closed its output', 'exec >&-; sleep 0.2; exit 4', /status 4/],
])('a bad %s is an error, whatever came before', async (_what, command, message) => {
  expect(await failing(command)).toMatchObject({ code: 'IO', stage: 'source', message });
});

test('of what it says the last is kept, and no secret', async () => {
  process.env.TEST_TOKEN = 'a-value-nobody-may-see';
  try {
    const { message } = await failing(
      'head -c 3000000 /dev/zero | tr "\\0" x >&2; echo "token $TEST_TOKEN refused" >&2; exit 1',
    );
    expect(message).toMatch(/xtoken \*\*\* refused$/);
    expect(message.length).toBeLessThan(2300);
  } finally {
    delete process.env.TEST_TOKEN;
  }
  expect(withoutSecrets('\x1b[31mred\nline', {})).toBe(' [31mred\nline');
});

/** Whether a process runs; one that has ended and was not asked for its status yet does not. */
async function lives(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => ') Z');
  return !stat.slice(stat.lastIndexOf(')')).startsWith(') Z');
}

test.each([
  ['the shell waits for it', 'trap "" TERM; sleep 1000 & echo $! $$; wait; sleep 1000'],
  ['the shell has ended', 'sleep 1000 & echo $! $$'],
])('when it is left early, everything that it started ends: %s', async (_what, command) => {
  const context = testContext();
  await using source = await run(command, context);
  let pids: number[] = [];
  for await (const batch of source.read({ from: 0 }, context.signal)) {
    pids = Buffer.concat(batch).toString().trim().split(' ').map(Number);
    break;
  }
  expect(pids).toHaveLength(2);
  await sleep(50);
  for (const pid of pids) expect(await lives(pid), String(pid)).toBe(false);
});

test('nothing is started before it is read', async () => {
  const path = join(home.path, 'started');
  const context = testContext();
  await using source = await run(`touch '${path}'`, context);
  await source[Symbol.asyncDispose]();
  expect((await thrown(collect(source.read({ from: 0 }, context.signal)))).code).toBe('ABORTED');
  expect((await thrown(openSource(path, {}, context))).code).toBe('NOT_FOUND');
});

test('its name tells the program and no more of the command', () => {
  expect(nameOf('TOKEN=abc /usr/bin/nbdkit --password x')).toMatch(/^exec:nbdkit-[0-9a-f]{16}$/);
  expect(nameOf('{ a; b; }')).toMatch(/^exec:sh-/);
  expect(nameOf('cat a')).not.toBe(nameOf('cat b'));
});

test('only the command line may name it', async () => {
  expect(await thrown(openSource('exec:true', {}, testContext()))).toMatchObject({ code: 'BAD_SPEC' });
  expect(await thrown(run(' ', testContext()))).toMatchObject({ code: 'BAD_SPEC' });
});

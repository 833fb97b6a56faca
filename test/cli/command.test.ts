import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { buildProgram } from '../../src/cli/program.ts';

const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
const directory = mkdtempSync(join(tmpdir(), 'diskferry-command-'));
afterAll(() => rmSync(directory, { recursive: true }));

/** The command line in a process of its own. */
function diskferry(...args: string[]) {
  const env = { ...process.env, DISKFERRY_STATE: join(directory, 'state'), NO_COLOR: '1' };
  return spawnSync(process.execPath, [main, ...args], { encoding: 'utf8', env, cwd: directory });
}

test('every command teaches: a description, examples, where the exit codes are', () => {
  const program = buildProgram();
  expect(program.commands.map((command) => command.name())).toEqual([
    'import',
    'inspect',
    'verify',
    'forget',
    'serve',
    'upload',
    'demo',
  ]);
  for (const command of program.commands) {
    let text = '';
    command.configureOutput({ writeOut: (part) => (text += part) });
    command.outputHelp();
    expect(text).toMatch(/Examples?:\n {2}diskferry /);
    expect(text).toContain('docs/errors.md');
    expect(command.summary()).not.toBe('');
    for (const option of command.options) expect(option.description).not.toBe('');
  }
});

test('help and version are no failures', () => {
  for (const args of [['--help'], ['import', '--help'], ['help', 'inspect'], ['--version']]) {
    const { status, stdout, stderr } = diskferry(...args);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).not.toBe('');
  }
});

test.each([
  [['import', 'a'], /missing required argument 'target'/],
  [['import', 'a', 'b', '--size', 'large'], /'large' is not a size/],
  [['import', 'a', 'b', '--connections', '0'], /1 to 64/],
  [['import', 'a', 'b', '--progress', 'loud'], /auto, bar, lines, json, none/],
  [['import', 'a', 'b', '--faster'], /unknown option '--faster'/],
  [['import', 'a', 'b', 'c'], /too many arguments/],
  [['import', 'a', 'b', '--digest', 'md5:00'], /is not a digest/],
  [['import', 'https://me:pw@h/x', 'b'], /--credentials-file/],
  [['verify', 'x', '--disk-digest', 'sha256:00'], /dd1:/],
  [['imprt', 'a', 'b'], /unknown command 'imprt'/],
])('%j is a usage error with a sentence', (args, sentence) => {
  const { status, stdout, stderr } = diskferry(...args);
  expect(stderr).toMatch(sentence);
  expect(stderr).toMatch(/^diskferry: /);
  expect(stderr).not.toMatch(/^\s+at /m);
  expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
});

test('with --json a failure is an object on standard output as well', () => {
  for (const args of [
    ['import', 'a', 'b', '--json', '--size', 'large'],
    ['import', 'https://me:pw@h/x', 'b', '--json'],
  ]) {
    const { status, stdout } = diskferry(...args);
    expect(status).toBe(2);
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'BAD_SPEC', retryable: false } });
  }
});

test('without a command the help is shown and it counts as a usage error', () => {
  const { status, stderr } = diskferry();
  expect(status).toBe(2);
  expect(stderr).toContain('Usage: diskferry');
});

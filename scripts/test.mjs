// `npm test`: the tools, then the tests of the engine, of the TypeScript and of a cluster, then what failed, by name, and
// one line `N passed, N failed`.
//
//   npm test                    everything
//   npm test -- rust|ts|cluster one part
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';
import { environment, provide } from './toolchain.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const only = process.argv[2];

/** Runs a program with its output passed through. Gives its exit code, and each whole line of its output to `onLine`. */
function run(program, args, onLine = () => undefined) {
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd: root, env: environment(), stdio: ['ignore', 'pipe', 'inherit'] });
    let rest = '';
    child.stdout.on('data', (chunk) => {
      process.stdout.write(chunk);
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      lines.forEach(onLine);
    });
    child.on('error', (error) => {
      process.stderr.write(`${program} cannot be run: ${error.message}\n`);
      resolve(1);
    });
    child.on('close', (code) => {
      onLine(rest);
      resolve(code ?? 1);
    });
  });
}

/** A runner that failed without naming a test, because something did not compile, counts as one failure. */
function counted({ passed, failed, skipped, failures }, code) {
  if (code === 0 || failed > 0) return { passed, failed, skipped, failures };
  return {
    passed,
    failed: 1,
    skipped,
    failures: ['a runner ended with an error and named no test: its output is above'],
  };
}

/**
 * cargo test of the workspace: each test binary ends with a line of its own. The addon is left to the TypeScript tests:
 * it links against symbols that only a running Node has.
 */
async function testEngine() {
  const sum = { passed: 0, failed: 0, skipped: 0, failures: [] };
  const manifest = join('native', 'Cargo.toml');
  const code = await run(
    'cargo',
    ['test', '--manifest-path', manifest, '--workspace', '--exclude', 'diskferry-addon', '--no-fail-fast'],
    (line) => {
      const failure = /^test (.+) \.\.\. FAILED$/.exec(line);
      if (failure) sum.failures.push(`engine: ${failure[1]}`);
      const found = /^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored/.exec(line);
      if (!found) return;
      sum.passed += Number(found[1]);
      sum.failed += Number(found[2]);
      sum.skipped += Number(found[3]);
    },
  );
  return counted(sum, code);
}

/** What failed, by file and name, with the first lines of its message. */
function failuresOf(files) {
  const said = (file, name, message) =>
    [
      `${relative(root, file)}: ${name}`,
      ...stripVTControlCharacters(message ?? '')
        .split('\n')
        .slice(0, 8),
    ].join('\n    ');
  return files.flatMap((file) => [
    ...(file.status === 'failed' && file.assertionResults.length === 0
      ? [said(file.name, 'cannot be loaded', file.message)]
      : []),
    ...file.assertionResults
      .filter((test) => test.status === 'failed')
      .map((test) => said(file.name, test.fullName, test.failureMessages.join('\n'))),
  ]);
}

/** vitest under the Node of node_modules, whatever runs this script; its JSON report has the numbers. */
async function testTypeScript(...args) {
  const directory = mkdtempSync(join(tmpdir(), 'diskferry-test-'));
  try {
    const own = join(root, 'node_modules', 'node', 'bin', 'node');
    const report = join(directory, 'report.json');
    const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs');
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
    const code = await run(existsSync(own) ? own : process.execPath, [vitest, 'run', ...args, ...reporters]);
    if (!existsSync(report)) return counted({ passed: 0, failed: 0, skipped: 0, failures: [] }, code);
    const { numPassedTests, numFailedTests, numPendingTests, numTodoTests, testResults } = JSON.parse(
      readFileSync(report, 'utf8'),
    );
    // A file that could not be loaded has no tests to fail.
    const unloaded = testResults.filter((file) => file.status === 'failed' && file.assertionResults.length === 0);
    const passed = numPassedTests;
    const failed = numFailedTests + unloaded.length;
    const skipped = numPendingTests + numTodoTests;
    return counted({ passed, failed, skipped, failures: failuresOf(testResults) }, code);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const sentence = provide();
if (sentence) {
  process.stderr.write(`diskferry: ${sentence}\n`);
  process.exit(1);
}
const results = [];
if (only === undefined || only === 'rust') results.push(await testEngine());
if (only === undefined || only === 'ts') results.push(await testTypeScript());
// Those of a cluster that are quick; `npm run cluster:test` runs the others, too.
if (only === undefined || only === 'cluster')
  results.push(await testTypeScript('--config', 'vitest.cluster.ts', '--exclude', '**/*.slow.test.ts'));
const total = (key) => results.reduce((sum, result) => sum + result[key], 0);
if (total('skipped') > 0) process.stdout.write(`\n${total('skipped')} skipped\n`);
// Again at the end: of a long run, the end is what is kept.
for (const failure of results.flatMap((result) => result.failures)) process.stdout.write(`\nFAILED ${failure}\n`);
process.stdout.write(`\n${total('passed')} passed, ${total('failed')} failed\n`);
process.exitCode = total('failed') > 0 || total('passed') === 0 ? 1 : 0;

#!/usr/bin/env node
// What npm links as `diskferry`. Plain JavaScript that old Node versions can read: it finds a Node that is new enough,
// says in one sentence what is missing where something is, and hands over to the program proper.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** undici 8, the HTTP client, wants 22.19 or later. */
const OLDEST = [22, 19];

const main = new URL('../dist/cli/main.js', import.meta.url);
const addon = `native/diskferry-${process.platform}-${process.arch}.node`;
// In a checkout `node` lies below it, in an installed package beside it.
const ownNode = ['../node_modules/node/bin/node', '../../node/bin/node']
  .map((place) => fileURLToPath(new URL(place, import.meta.url)))
  .find((place) => existsSync(place));

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
const tooOld = major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1]);

if (!existsSync(main)) {
  fail('diskferry is not built (its install scripts did not run?): run `npm rebuild node && npm run build` in its directory');
} else if (!existsSync(new URL(`../${addon}`, import.meta.url))) {
  fail(`${addon} is not built: install Rust (https://rustup.rs) and run \`npm run build\` in the directory of diskferry`);
} else if (!tooOld) {
  tuneMemory();
  await import(main.href);
} else if (ownNode && process.env.DISKFERRY_REEXECUTED === undefined) {
  await runWith(ownNode);
} else {
  fail(`diskferry needs Node ${OLDEST.join('.')} or later and this is ${process.versions.node}: run \`npm rebuild node\` in its directory, or use Node 24`);
}

/**
 * Network buffers lie outside V8's heap, and V8 answers their coming and going with a major collection of an unchanging
 * heap, dozens of times a transfer. A generous old space and a small young one stop that: a tenth of the processor time
 * and of the memory less (docs/benchmarks.md). These are read once, at the start, so this process begins again in place.
 */
function tuneMemory() {
  const flags = ['--initial-old-space-size=512', '--max-semi-space-size=1'];
  if (process.execArgv.includes(flags[0]) || typeof process.execve !== 'function' || process.platform === 'win32') return;
  const script = fileURLToPath(import.meta.url);
  process.removeAllListeners('warning');
  process.on('warning', () => undefined); // execve is called experimental
  process.execve(process.execPath, [process.execPath, ...flags, ...process.execArgv, script, ...process.argv.slice(2)], process.env);
}

/** Ends like EXIT_CODES.UNSUPPORTED in src/cli/exitcode.ts, which cannot be loaded here. */
function fail(sentence) {
  process.stderr.write(`diskferry: ${sentence}\n`);
  process.exitCode = 17;
}

/** Runs the same command with another Node and ends as it does, signals included. */
async function runWith(node) {
  const script = fileURLToPath(import.meta.url);
  const child = spawn(node, [script, ...process.argv.slice(2)], {
    stdio: 'inherit',
    env: { ...process.env, DISKFERRY_REEXECUTED: '1' },
  });
  // The child takes a signal that reaches it twice, from the terminal and from here, as one.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  await new Promise((resolve) => {
    child.once('error', (error) => {
      fail(`${node} cannot be run: ${error.message}`);
      resolve();
    });
    child.once('exit', (code, signal) => {
      if (signal) {
        process.removeAllListeners(signal);
        process.kill(process.pid, signal);
      }
      process.exitCode = code ?? 1;
      resolve();
    });
  });
}

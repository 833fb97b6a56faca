// `npm run fuzz`: gives hostile bytes to the engine's parsers for a bounded time; docs/fuzzing.md.
//
//   npm run fuzz                      every target, 60 seconds each
//   npm run fuzz -- qcow2             one target
//   npm run fuzz -- qcow2 1800        for so many seconds
//   npm run fuzz -- qcow2 FILE        once, with this input: to see a finding again
//
// Ends with status 1 when anything was found: a crash, a hang, or memory beyond the bound.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { availableParallelism, homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { environment } from './toolchain.mjs';

const fuzz = fileURLToPath(new URL('../native/fuzz', import.meta.url));
const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'diskferry');
const VERSION = '0.13.2';

/**
 * Largest input of each target in bytes. What one allocation and the whole process may take is the same for all: a
 * window of 8 MiB is the largest that the default limits allow, and libzstd and liblzma add their tables to it. The
 * process also holds the fuzzer, its corpus and the sanitizer's shadow. Targets state narrower bounds themselves.
 */
const INPUT = {
  gzip: 32 << 10,
  zstd: 32 << 10,
  xz: 32 << 10,
  lz4: 32 << 10,
  bzip2: 32 << 10,
  snappy: 32 << 10,
  tar: 32 << 10,
  unpack: 16 << 10,
  zip: 32 << 10,
  restart: 40 << 10,
  qcow2: 96 << 10,
  qcow2_ranges: 96 << 10,
  images: 96 << 10,
  images_ranges: 96 << 10,
  sniff: 64 << 10,
  journal: 16 << 10,
  journal_sealed: 16 << 10,
  digest: 4 << 10,
};
const ALLOCATION_MB = 16;
const PROCESS_MB = 768;
/** An input that takes longer is a hang; the slowest seen took under a second. */
const HANG_SECONDS = 25;

const [only, what = '60'] = process.argv.slice(2);
if (only !== undefined && !(only in INPUT)) give(`there is no target "${only}": ${Object.keys(INPUT).join(', ')}`);
const seconds = /^\d+$/.test(what) ? Number(what) : undefined;
if (seconds === undefined && !existsSync(what)) give(`${what} is neither a number of seconds nor a file`);

function give(sentence) {
  process.stderr.write(`diskferry: ${sentence}\n`);
  process.exit(2);
}

/** PATH with our own tools; sanitizers need features that only RUSTC_BOOTSTRAP opens in a stable compiler. */
function variables() {
  const env = environment();
  const asan = 'detect_odr_violation=0:quarantine_size_mb=32:malloc_context_size=8';
  return { ...env, PATH: `${env.PATH}:${join(cache, 'tools', 'bin')}`, RUSTC_BOOTSTRAP: '1', ASAN_OPTIONS: asan };
}

function provide() {
  const found = spawnSync('cargo', ['fuzz', '--version'], { env: variables(), stdio: 'ignore' });
  if (found.error) give('Rust is missing: install it from https://rustup.rs');
  if (found.status === 0) return;
  const args = ['install', 'cargo-fuzz', '--version', VERSION, '--locked', '--root', join(cache, 'tools')];
  const { status } = spawnSync('cargo', args, { env: environment(), stdio: 'inherit' });
  if (status !== 0) give('cargo-fuzz could not be installed; the messages above say why');
}

function build(target) {
  const { status } = spawnSync('cargo', ['fuzz', 'build', target], { cwd: fuzz, env: variables(), stdio: 'inherit' });
  if (status !== 0) give(`the target ${target} could not be built; the messages above say why`);
}

/** Runs libFuzzer; what it prints is passed on, its last figures are returned. */
function run(target, args) {
  return new Promise((done) => {
    const limits = [`-malloc_limit_mb=${ALLOCATION_MB}`, `-rss_limit_mb=${PROCESS_MB}`, `-timeout=${HANG_SECONDS}`];
    const all = ['fuzz', 'run', target, ...args, `-max_len=${INPUT[target]}`, ...limits];
    const child = spawn('cargo', all, { cwd: fuzz, env: variables(), stdio: ['ignore', 'inherit', 'pipe'] });
    const figures = { executions: 0, coverage: 0, features: 0 };
    let rest = '';
    child.stderr.on('data', (chunk) => {
      process.stderr.write(chunk);
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const [, executions, coverage, features] = /^#(\d+)\s.*cov: (\d+) ft: (\d+)/.exec(line) ?? [];
        if (coverage) Object.assign(figures, { coverage: Number(coverage), features: Number(features) });
        const final = /^stat::number_of_executed_units:\s*(\d+)/.exec(line)?.[1] ?? executions;
        if (final) figures.executions = Math.max(figures.executions, Number(final));
      }
    });
    child.on('error', (error) => give(`cargo cannot be run: ${error.message}`));
    child.on('close', (code) => done({ ...figures, code: code ?? 1 }));
  });
}

/** New files in the artifacts of a target since `before` (ms). */
function findings(target, before) {
  const directory = join(fuzz, 'artifacts', target);
  if (!existsSync(directory)) return [];
  const files = readdirSync(directory).map((name) => join(directory, name));
  return files.filter((file) => statSync(file).mtimeMs >= before);
}

provide();
const results = [];
for (const target of only ? [only] : Object.keys(INPUT)) {
  build(target);
  const before = Date.now() - 1000;
  // What is found on the way is kept outside of the checkout; the seeds in it are only read.
  const grown = join(cache, 'fuzz', target);
  mkdirSync(grown, { recursive: true });
  const timed = [grown, join('corpus', target), '--', `-max_total_time=${seconds}`, '-print_final_stats=1'];
  const figures = await run(target, seconds === undefined ? [resolve(what), '--'] : timed);
  results.push({ target, found: findings(target, before), ...figures });
}
process.stdout.write(`\n${availableParallelism()} processors, at most ${ALLOCATION_MB} MiB an allocation\n`);
for (const { target, executions, coverage, features, found, code } of results) {
  const ended = code === 0 ? 'nothing found' : found.length > 0 ? `found: ${found.join(', ')}` : `status ${code}`;
  const counted = seconds === undefined ? '' : `${executions} executions, coverage ${coverage}, features ${features}, `;
  process.stdout.write(`${target}: ${counted}${ended}\n`);
}
process.exitCode = results.some(({ code, found }) => code !== 0 || found.length > 0) ? 1 : 0;

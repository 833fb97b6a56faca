import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { type Candidate, CURL, candidatesFor, commandOf, DISKFERRY, missing } from './candidates.ts';
import { cgroupsImpossible } from './cgroup.ts';
import { type BenchData, FILES, isOutput, prepareData, type Row, warm } from './data.ts';
import { type Link, linkImpossible, makeLink, roundTrip } from './link.ts';
import { marksOf, type Series } from './marks.ts';
import { clearWorkplace, dropAbandonedWorkplaces, measure, workplaceOf } from './measure.ts';
import { serve, type WebServer } from './nginx.ts';
import { type BenchOptions, readOptions, USAGE } from './options.ts';
import { report } from './table.ts';

interface Network {
  readonly name: string;
  readonly delay?: number;
  readonly server: WebServer;
}

/** A series and what is needed to run it once more. */
interface Cell {
  readonly series: Series;
  readonly candidate: Candidate;
  readonly network: Network;
}

const say = (line: string) => process.stderr.write(`${line}\n`);

/** Makes the data, serves it, runs every candidate in turn, prints the tables. */
async function bench(options: BenchOptions, signal: AbortSignal): Promise<void> {
  const about = aboutMachine(options);
  const data = prepareData(options.cache, options.scale, options.rows, say);
  await using stack = new AsyncDisposableStack();
  dropAbandonedWorkplaces(options.cache);
  stack.defer(() => rmSync(workplaceOf(options.cache), { recursive: true, force: true }));
  const networks = await openNetworks(options, data, stack, about);
  const all: Series[] = [];
  for (const row of options.rows) {
    const cells = cellsFor(row, options, networks, about);
    all.push(...cells.map(({ series }) => series));
    for (let round = 1; round <= options.rounds; round++) {
      warm([join(data.directory, FILES[row]), ...(row === 'raw' ? [data.payload] : [])]);
      for (const cell of cells) await runOnce(cell, round, options, data, signal);
    }
  }
  const marks = marksOf(all);
  const text = report(about, data, all, marks);
  process.stdout.write(text);
  if (options.markdown) writeFileSync(options.markdown, text);
  if (options.json) writeFileSync(options.json, `${JSON.stringify({ about, data, series: all, marks }, null, 1)}\n`);
}

async function runOnce(
  cell: Cell,
  round: number,
  options: BenchOptions,
  data: BenchData,
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  const { series, candidate, network } = cell;
  // Another's failure is reported once; waiting for it again would tell nothing.
  if (candidate.name !== DISKFERRY && series.runs.some(({ status }) => status !== 0)) return;
  const place = clearWorkplace(workplaceOf(options.cache));
  const command = commandOf(candidate, series.row, { ...data, ...place, url: network.server.url });
  const result = await measure(command, place, signal, series.limit);
  signal.throwIfAborted();
  series.runs.push(result);
  const within = series.limit === undefined ? '' : ` within ${series.limit / 1024 / 1024} MiB`;
  const end = result.status === 0 ? `${result.wall.toFixed(2)} s` : `failed (${result.status}): ${result.said}`;
  say(
    `${series.row}, round ${round}, ${series.candidate}, ${series.network}${within}: ${end}, CPU ${result.cpu.toFixed(2)} s`,
  );
  if (candidate.makesDisk && result.status === 0 && series.identical === undefined) {
    const original = join(data.directory, FILES.raw);
    const format = isOutput(series.row) ? 'qcow2' : 'raw';
    series.identical =
      spawnSync('qemu-img', ['compare', '-q', '-f', 'raw', '-F', format, original, place.target]).status === 0 &&
      (format === 'raw' || spawnSync('qemu-img', ['check', '-q', place.target]).status === 0);
  }
  clearWorkplace(workplaceOf(options.cache));
}

/** All candidates over loopback, diskferry and curl over the links, diskferry within each memory limit. */
function cellsFor(row: Row, options: BenchOptions, networks: readonly Network[], about: string[]): Cell[] {
  const chosen = candidatesFor(row, options.diskferry).filter(
    ({ name }) => options.only.length === 0 || options.only.some((part) => name.includes(part)),
  );
  const candidates = chosen.filter((candidate) => {
    const reason = candidate.name === DISKFERRY ? notBuilt(options) : missing(candidate);
    if (reason && !about.includes(`left out: ${candidate.name}: ${reason}`))
      about.push(`left out: ${candidate.name}: ${reason}`);
    return reason === undefined;
  });
  const cells: Cell[] = [];
  const add = (candidate: Candidate, network: Network, limit?: number) => {
    const series: Series = {
      row,
      network: network.name,
      candidate: candidate.name,
      runs: [],
      ...(network.delay === undefined ? {} : { delay: network.delay }),
      ...(limit === undefined ? {} : { limit }),
    };
    cells.push({ series, candidate, network });
  };
  for (const network of networks) {
    for (const candidate of candidates) {
      if (network.delay === undefined || candidate.name === DISKFERRY || candidate.name === CURL)
        add(candidate, network);
    }
  }
  const ours = candidates.find(({ name }) => name === DISKFERRY);
  const [loopback] = networks;
  if (ours && loopback && cgroupsImpossible() === undefined) {
    for (const limit of options.limits) add(ours, loopback, limit);
  }
  return cells;
}

function notBuilt({ diskferry }: BenchOptions): string | undefined {
  if (!diskferry.endsWith(' bin/diskferry.js') || existsSync('dist/cli/main.js')) return undefined;
  return 'not built (npm run build)';
}

/** Loopback first; then the same link without and with delay, so that the price of the link itself is seen. */
async function openNetworks(
  options: BenchOptions,
  data: BenchData,
  stack: AsyncDisposableStack,
  about: string[],
): Promise<Network[]> {
  const open = async (host: string, inside: readonly string[] = []) => {
    const server = await serve(data.directory, host, inside);
    stack.defer(() => server.stop());
    return server;
  };
  const networks: Network[] = [{ name: 'loopback', server: await open('127.0.0.1') }];
  const reason = options.delay === undefined ? 'not wanted' : linkImpossible();
  if (reason !== undefined || options.delay === undefined) {
    about.push(`no link with delay: ${reason}`);
    return networks;
  }
  for (const delay of [0, options.delay]) {
    const link: Link = await makeLink(options.cache, delay);
    stack.defer(() => link.stop());
    const server = await open(link.host, link.inside);
    const measured = await roundTrip(link.host, server.port);
    const name = delay === 0 ? 'link without delay' : `link of ${delay} ms`;
    networks.push({ name, delay, server });
    about.push(
      `${name}: TCP over two TUN devices and a network namespace, handshake measured ${measured.toFixed(2)} ms`,
    );
  }
  return networks;
}

function aboutMachine(options: BenchOptions): string[] {
  const models = [...new Set(cpus().map(({ model }) => model))].join(', ');
  const lines = [
    `${cpus().length} processors (${models}), ${(totalmem() / 2 ** 30).toFixed(0)} GiB of memory, Linux ${release()}`,
    `Node ${process.version}, ${firstLine('qemu-img', '--version')}, ${firstLine('curl', '--version').split(' (')[0]}, ${firstLine('xz', '--version')}`,
    `rounds: ${options.rounds}, interleaved; load before: ${readFileSync('/proc/loadavg', 'utf8').split(' ')[0]}`,
  ];
  const reason = cgroupsImpossible();
  if (reason) lines.push(`no control groups (${reason}): no memory with page cache, no memory limits`);
  return lines;
}

function firstLine(command: string, argument: string): string {
  return spawnSync(command, [argument], { encoding: 'utf8' }).stdout?.split('\n')[0] ?? `${command} is not installed`;
}

const options = readOptions(process.argv.slice(2));
if (options === 'help') {
  say(USAGE);
} else {
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const)
    process.once(name, () => stop.abort(new Error(`stopped by ${name}`)));
  try {
    await bench(options, stop.signal);
  } catch (error) {
    say(`bench: ${error instanceof Error ? error.message : error}`);
    process.exitCode = 1;
  }
}

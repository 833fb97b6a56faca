/**
 * How fast `diskferry serve` takes uploads, against the import of the same bytes from nginx in the same run, with the memory
 * of each; and eight uploads at once.
 *
 *     npm run bench:uploads [-- ROUNDS [MIB]]
 */
import { readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { cli } from '../test/support/cli.ts';
import { MiB, qcow2, rawDisk } from '../test/support/images.ts';
import { nginx } from '../test/support/nginx.ts';
import { curl, Served } from '../test/support/served.ts';
import { tempdir } from '../test/support/tempdir.ts';

const [rounds = 3, mib = 1024] = process.argv.slice(2).map(Number);
const AT_ONCE = 8;

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

async function peak(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return (performance.now() - began) / 1000;
}

await using home = await tempdir();
const program = await cli(home.path);
const at = (name: string): string => join(home.path, name);
await rawDisk(at('raw'), mib * MiB);
await qcow2(at('raw'), at('plain'));
await qcow2(at('raw'), at('zlib'), { compressed: true });
await using web = await nginx({ root: home.path });

async function upload(server: Served, image: string, volume: string): Promise<void> {
  const { status, body } = await curl(['-T', at(image), `${server.url}/volumes/${volume}?replace=true`]);
  if (status !== 201) throw new Error(`the upload was answered ${status}: ${body}`);
}

console.log('| image | MiB | upload s | import s | upload rate / import rate | peak MiB of the server |');
console.log('|---|---|---|---|---|---|');
for (const image of ['raw', 'plain', 'zlib']) {
  await using server = await Served.start(program, at('data'));
  const [uploads, imports]: [number[], number[]] = [[], []];
  for (let round = 0; round < rounds; round += 1) {
    uploads.push(await timed(() => upload(server, image, 'volume')));
    await rm(at('out'), { force: true });
    const report = await program.imported([`${web.url}/${image}`, at('out')]);
    // Without the start of the program, which a server does once.
    imports.push(report.seconds);
  }
  const { size } = await stat(at(image));
  const [one, other] = [median(uploads), median(imports)];
  const memory = await peak(server.running.pid);
  const cells = [image, size / MiB, one.toFixed(2), other.toFixed(2), (other / one).toFixed(2), memory.toFixed(0)];
  console.log(`| ${cells.map((cell) => (typeof cell === 'number' ? Math.round(cell) : cell)).join(' | ')} |`);
}

console.log(`\n| ${AT_ONCE} at once | slowest s | slowest / fastest | peak MiB |\n|---|---|---|---|`);
for (const image of ['raw', 'zlib']) {
  await using server = await Served.start(program, at('many'));
  const times = await Promise.all(
    Array.from({ length: AT_ONCE }, (_, n) => timed(() => upload(server, image, `volume-${n}`))),
  );
  const [fastest, slowest] = [Math.min(...times), Math.max(...times)];
  const memory = await peak(server.running.pid);
  console.log(`| ${image} | ${slowest.toFixed(2)} | ${(slowest / fastest).toFixed(3)} | ${memory.toFixed(0)} |`);
}

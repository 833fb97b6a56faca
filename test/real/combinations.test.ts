// Sources x codecs x formats x targets x ways, each carried or refused by name, with a table of all of them at the end.
// By default those in which each source meets each format and each codec; MATRIX=full for all.
import { createReadStream } from 'node:fs';
import { copyFile, mkdir, open, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { serverPath } from '../../scripts/toolchain.mjs';
import type { SourceOptions } from '../../src/dataplane/source.ts';
import { transfer } from '../../src/dataplane/transfer.ts';
import { type LoopDevice, loopDevice } from '../support/devices.ts';
import { imageService } from '../support/imageio.ts';
import { KiB, MiB, rawDisk, run, shell } from '../support/images.ts';
import { nbdkit } from '../support/nbd.ts';
import { nginx } from '../support/nginx.ts';
import { startRegistry } from '../support/registry.ts';
import { azureStore, gcsStore, KEY, s3Store } from '../support/stores.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { tool } from '../support/tools.ts';

const FULL = process.env.MATRIX === 'full';
const SIZE = 4 * MiB;

/** Format → what `qemu-img convert` is told. */
const FORMATS: Readonly<Record<string, readonly string[]>> = {
  raw: ['raw'],
  qcow2: ['qcow2'],
  'qcow2 zlib': ['qcow2', '-c'],
  'vmdk sparse': ['vmdk'],
  'vmdk stream': ['vmdk', '-o', 'subformat=streamOptimized'],
  'vhd dynamic': ['vpc', '-o', 'force_size=on'],
  'vhd fixed': ['vpc', '-o', 'subformat=fixed,force_size=on'],
  'vhdx dynamic': ['vhdx'],
  'vhdx fixed': ['vhdx', '-o', 'subformat=fixed'],
  vdi: ['vdi'],
  parallels: ['parallels'],
  qed: ['qed'],
};
/** Codec → the program that makes it, its package, and how names end: in an archive disks are known by it. */
const CODECS: Readonly<Record<string, readonly [command: string, program: string, debian: string, ending: string]>> = {
  none: ['cat', 'cat', 'coreutils', ''],
  gzip: ['pigz -1 -c', 'pigz', 'pigz', '.gz'],
  zstd: ['zstd -1 -q -c', 'zstd', 'zstd', '.zst'],
  xz: ['xz -0 -c', 'xz', 'xz-utils', '.xz'],
  bzip2: ['bzip2 -1 -c', 'bzip2', 'bzip2', '.bz2'],
  lz4: ['lz4 -1 -q -c', 'lz4', 'lz4', '.lz4'],
  // Built by scripts/toolchain.mjs.
  snappy: [`${serverPath('s2c')} -q -c -snappy`, '', '', '.sz'],
};
const WAYS = ['planned', 'stream', 'seek', 'spill'] as const;
const TARGETS = ['file', 'device'] as const;
type Way = (typeof WAYS)[number];
type To = (typeof TARGETS)[number];

/** Puts an image where the source has it; the source as written, and its options. */
type Place = (name: string) => Promise<readonly [source: string, options: SourceOptions]>;

let home: TempDir;
let device: LoopDevice;
let disk: Buffer;
let places: Readonly<Record<string, Place>>;
const ending: AsyncDisposable[] = [];
const at = (name: string): string => join(home.path, name);

async function keep<T extends AsyncDisposable>(starting: Promise<T>): Promise<T> {
  const started = await starting;
  ending.push(started);
  return started;
}

beforeAll(async () => {
  home = await keep(tempdir());
  await mkdir(at('www'));
  await rawDisk(at('disk.raw'), SIZE, { run: 64 * KiB, zeros: 0.3, seed: 11 });
  disk = await readFile(at('disk.raw'));
  device = await keep(loopDevice(at('backing'), SIZE + 3 * MiB));
  places = await everyPlace();
}, 120_000);
afterAll(async () => {
  for (const one of ending.reverse()) await one[Symbol.asyncDispose]();
});

async function everyPlace(): Promise<Readonly<Record<string, Place>>> {
  const web = await keep(nginx({ root: at('www'), server: `location /plain/ { max_ranges 0; alias ${at('www')}/; }` }));
  const [s3, gcs, azure] = await Promise.all([keep(s3Store()), keep(gcsStore()), keep(azureStore())]);
  const registry = await keep(startRegistry({ access: 'anyone' }));
  const exports = await keep(nbdkit(['file', `dir=${at('www')}`]));
  const service = await keep(imageService());
  const image = (name: string): string => at(`www/${name}`);
  const content = (name: string): Promise<Buffer> => readFile(image(name));
  const pulling: SourceOptions = { registry: { insecure: true }, anonymous: true };
  /** A layer as a containerDisk has it. */
  const layer = async (name: string): Promise<void> => {
    await mkdir(at('layer/disk'), { recursive: true });
    await copyFile(image(name), at(`layer/disk/${name}`));
    await shell(`tar -C ${at('layer')} -czf ${at('layer.tgz')} disk`);
    await rm(at('layer'), { recursive: true });
    const mediaType = 'application/vnd.oci.image.layer.v1.tar+gzip';
    await registry.push(`disks/${name}`, 'latest', [{ content: await readFile(at('layer.tgz')), mediaType }]);
  };
  return {
    'http, ranges': async (name) => [`${web.url}/${name}`, {}],
    'http, no ranges': async (name) => [`${web.url}/plain/${name}`, {}],
    file: async (name) => [image(name), {}],
    stdin: async (name) => ['-', { stdin: createReadStream(image(name)) }],
    exec: async (name) => [`exec:cat '${image(name)}'`, { programs: true }],
    s3: async (name) => {
      await s3.put(name, await content(name));
      return [`s3://images/${name}`, { s3: { endpoint: `http://127.0.0.1:${s3.port}` }, credentials: KEY }];
    },
    gcs: async (name) => {
      await gcs.put(name, await content(name));
      const environment = { STORAGE_EMULATOR_HOST: `127.0.0.1:${gcs.port}` };
      return [`gs://images/${name}`, { environment, anonymous: true }];
    },
    azure: async (name) => {
      await azure.put(name, await content(name));
      const endpoint = `BlobEndpoint=http://127.0.0.1:${azure.port}/${azure.account};`;
      const connection = `AccountName=${azure.account};AccountKey=${azure.key};${endpoint}`;
      return [`az://${azure.account}/images/${name}`, { environment: { AZURE_STORAGE_CONNECTION_STRING: connection } }];
    },
    artifact: async (name) => {
      const mediaType = 'application/vnd.diskferry.test.disk';
      await registry.push(`artifacts/${name}`, 'latest', [{ content: await content(name), mediaType }]);
      return [`docker://${registry.host}/artifacts/${name}`, pulling];
    },
    containerDisk: async (name) => {
      await layer(name);
      return [`docker://${registry.host}/disks/${name}`, pulling];
    },
    'oci layout': async (name) => {
      await layer(name);
      const from = ['--src-tls-verify=false', `docker://${registry.host}/disks/${name}`];
      await run('skopeo', 'skopeo', ['copy', '--insecure-policy', '-q', ...from, `oci:${at(`layouts-${name}`)}`]);
      return [`oci:${at(`layouts-${name}`)}`, {}];
    },
    'tar by http': async (name) => {
      await shell(`tar -C ${at('www')} -cf ${image(`${name}.tar`)} ${name}`);
      return [`${web.url}/${name}.tar`, {}];
    },
    nbd: async (name) => [`nbd://127.0.0.1:${exports.port}/${name}`, { unchanged: true }],
    imageio: async (name) => {
      const ticket = await service.show(image(name), (await stat(image(name))).size, 'file');
      return [`imageio+http://127.0.0.1:${service.port}/images/${ticket}`, { unchanged: true }];
    },
  };
}

/** Sources that are read from their beginning only. */
const ONE_PASS = ['http, no ranges', 'stdin', 'exec'];
/** Sources that are archives: the disk lies in a codec. */
const PACKED = ['containerDisk', 'oci layout', 'tar by http'];

interface Cell {
  readonly source: string;
  readonly codec: string;
  readonly format: string;
  readonly to: To;
  readonly way: Way;
}

/** What a cell that cannot be carried must say, and why it cannot be; undefined = it must be carried. */
function refusal({ source, codec, format, way }: Cell): string | undefined {
  // It is known by its end, and where that is only a codec's end tells.
  if (format === 'vhd fixed' && codec !== 'none') return 'UNSUPPORTED';
  const coded = codec !== 'none' || PACKED.includes(source);
  if (way === 'seek' && (coded || ONE_PASS.includes(source))) return 'BAD_SPEC';
  return undefined;
}

/** Carries one; `ok`, or the code of the refusal. */
async function carried(source: string, options: SourceOptions, to: To, way: Way): Promise<string> {
  const target = to === 'device' ? device.path : at('target');
  await rm(at('target'), { force: true });
  try {
    await transfer(
      {
        source,
        target,
        sourceOptions: options,
        preallocate: false,
        connections: 4,
        fresh: true,
        force: true,
        journalKey: new Uint8Array(32),
        ...(way === 'planned' ? {} : { way }),
        ...(way === 'spill' ? { spill: home.path } : {}),
      },
      new AbortController().signal,
      () => undefined,
      { info: () => undefined, warn: () => undefined },
    );
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
  const found = Buffer.alloc(SIZE);
  const handle = await open(target, 'r');
  await handle.read(found, 0, SIZE, 0);
  const { size } = await handle.stat();
  await handle.close();
  if (to === 'file' && size !== SIZE) return `${size} bytes`;
  return found.equals(disk) ? 'ok' : 'OTHER BYTES';
}

/** Those of a source and an image that are tried: all, or the planned way and one other. */
function chosen(index: number): readonly (readonly [To, Way])[] {
  if (FULL) return TARGETS.flatMap((to) => WAYS.map((way) => [to, way] as const));
  const to = TARGETS[index % 2] as To;
  return [
    [to, 'planned'],
    [TARGETS[(index + 1) % 2] as To, WAYS[1 + (index % 3)] as Way],
  ];
}

test('every combination is carried or refused by name', async () => {
  const wrong: string[] = [];
  const results = new Map<string, Map<string, string>>();
  let [count, refused] = [0, 0];
  const sources = Object.keys(places);
  const codecs = Object.keys(CODECS);
  for (const [f, [format, how]] of Object.entries(FORMATS).entries()) {
    const [kind = '', ...options] = how;
    const plain = at('image');
    await run('qemu-img', 'qemu-utils', ['convert', '-f', 'raw', '-O', kind, ...options, at('disk.raw'), plain]);
    for (const [c, codec] of codecs.entries()) {
      const [command = '', program = '', debian = '', ending = ''] = CODECS[codec] ?? [];
      if (program !== '') tool(program, debian);
      const name = `${format.replaceAll(' ', '-')}.img${ending}`;
      await shell(`${command} ${plain} > ${at(`www/${name}`)}`);
      for (const [s, source] of sources.entries()) {
        // Each source meets each format with one codec, and over the formats each codec.
        if (!FULL && (f + s) % codecs.length !== c) continue;
        const row = results.get(`${format}, ${codec}`) ?? new Map<string, string>();
        results.set(`${format}, ${codec}`, row);
        const place = places[source] as Place;
        let put: readonly [string, SourceOptions] | undefined;
        for (const [to, way] of chosen(f + s + c)) {
          // Standard input is used up by each.
          if (put === undefined || source === 'stdin') put = await place(name);
          // Nothing at the beginning of a fixed VHD says what it is.
          const told = format === 'vhd fixed' ? { format: 'vhd' } : {};
          const found = await carried(put[0], { ...put[1], ...told }, to, way);
          const cell = { source, codec, format, to, way };
          const expected = refusal(cell) ?? 'ok';
          count += 1;
          if (found !== 'ok') refused += 1;
          if (found !== expected) wrong.push(`${JSON.stringify(cell)}: ${found} instead of ${expected}`);
          const mark = found === 'ok' ? '+' : found === expected ? '-' : '!';
          row.set(source, (row.get(source) ?? '') + (to === 'file' ? 'f' : 'd') + way.slice(0, 2) + mark);
        }
      }
      await rm(at(`www/${name}`));
      await rm(at(`www/${name}.tar`), { force: true });
    }
    await rm(plain);
  }
  console.log(tableOf(results, sources));
  console.log(`${count} combinations: ${count - refused} carried, ${refused} refused by name, ${wrong.length} wrong`);
  expect(wrong).toEqual([]);
}, 3_600_000);

/** A row an image, a column a source; in a cell f(ile) or d(evice), the way, + carried, - refused by name, ! wrong. */
function tableOf(results: ReadonlyMap<string, ReadonlyMap<string, string>>, sources: readonly string[]): string {
  const shown = (rows: readonly (readonly string[])[]): string => {
    const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
    return rows.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ')).join('\n');
  };
  const rows = [...results].map(([image, row]) => [image, ...sources.map((source) => row.get(source) ?? '')]);
  return shown([['', ...sources], ...rows]);
}

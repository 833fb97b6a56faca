// Every image that qemu-img can write, by every way that is lawful for it, against what qemu itself reads in it.
import { createReadStream } from 'node:fs';
import { link, mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Cli, cli } from '../support/cli.ts';
import { loopDevice } from '../support/devices.ts';
import {
  decodedByQemu,
  difference,
  KiB,
  MiB,
  qcow2,
  qemuIo,
  randomly,
  rawDisk,
  run,
  shell,
} from '../support/images.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';

let home: TempDir;
let program: Cli;
let server: Nginx;
/** Raw disk that most images are made of: a length that no cluster size but 512 divides. */
let disk: string;
const LENGTH = 12 * MiB + 7 * 512;

const at = (name: string): string => join(home.path, name);

beforeAll(async () => {
  home = await tempdir();
  program = await cli(home.path);
  await mkdir(at('www'));
  server = await nginx({
    root: at('www'),
    server: `location /plain/ { max_ranges 0; alias ${at('www')}/; }`,
  });
  disk = await rawDisk(at('disk.raw'), LENGTH, { run: 16 * KiB, zeros: 0.5, seed: 3 });
});

afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

type Means = 'ranges' | 'plain' | 'stdin' | 'seek' | 'stream' | 'spill';

/** Imports an image by one means onto a new file, and compares it with what qemu reads. */
async function carries(image: string, expected: string, means: Means): Promise<void> {
  const name = image.slice(image.lastIndexOf('/') + 1);
  const target = at(`${name}.${means}.img`);
  const place = `${server.url}/${means === 'ranges' || means === 'seek' ? '' : 'plain/'}${name}`;
  try {
    if (means === 'stdin') await program.imported(['-', target], { stdin: createReadStream(image) });
    else if (means === 'ranges' || means === 'plain') await program.imported([place, target]);
    else {
      const spill = means === 'spill' ? ['--spill', home.path] : [];
      const report = await program.imported([place, target, '--way', means, ...spill]);
      expect(report.way).toBe(means);
    }
    expect(await difference(expected, target), means).toBeUndefined();
  } finally {
    await rm(target, { force: true });
  }
}

/** Carries an image that lies below the servers' root by all of `means`. */
async function carriedBy(image: string, means: readonly Means[]): Promise<void> {
  const expected = await decodedByQemu(image, `${image}.expected`);
  try {
    for (const one of means) await carries(image, expected, one);
  } finally {
    await rm(expected);
    await rm(image);
  }
}

/** What `qemu-img convert` writes is in order: every way will do. */
const ALL: readonly Means[] = ['ranges', 'plain', 'stdin', 'seek', 'stream', 'spill'];
/** For images whose tables lie anywhere. */
const UNORDERED: readonly Means[] = ['ranges', 'plain', 'stdin', 'seek', 'spill'];

describe.each(['512', '4k', '64k', '2M'])('clusters of %s', (cluster) => {
  describe.each(['0.10', '1.1'])('compat %s', (compat) => {
    test.each(['off', 'metadata', 'falloc', 'full'])('preallocation %s', async (preallocation) => {
      const options = [`cluster_size=${cluster}`, `compat=${compat}`, `preallocation=${preallocation}`];
      const image = await qcow2(disk, at(`www/${cluster}-${compat}-${preallocation}.qcow2`), { options });
      await carriedBy(image, ALL);
    });
    test.each(compat === '1.1' ? ['zlib', 'zstd'] : ['zlib'])('%s', async (compression) => {
      const kind = compression === 'zstd' ? ['compression_type=zstd'] : [];
      const options = [`cluster_size=${cluster}`, `compat=${compat}`, ...kind];
      const image = at(`www/${cluster}-${compat}-${compression}.qcow2`);
      await carriedBy(await qcow2(disk, image, { options, compressed: true }), ALL);
    });
  });
});

describe('features', () => {
  test.each([
    ['extended L2', ['extended_l2=on', 'cluster_size=64k']],
    ['extended L2 with large clusters', ['extended_l2=on', 'cluster_size=2M']],
    ['lazy refcounts', ['lazy_refcounts=on']],
    ['refcounts of 1 bit', ['refcount_bits=1']],
    ['refcounts of 64 bits', ['refcount_bits=64']],
  ])('%s', async (name, options) => {
    await carriedBy(await qcow2(disk, at(`www/${name.replaceAll(' ', '-')}.qcow2`), { options }), ALL);
  });

  test('extended L2 and compressed clusters', async () => {
    const image = await qcow2(disk, at('www/extended-compressed.qcow2'), {
      options: ['extended_l2=on'],
      compressed: true,
    });
    await carriedBy(image, ALL);
  });

  test.each([1, 511, 513, MiB - 1, MiB, MiB + 1, 2 * MiB, 2 * MiB + 1, 3 * MiB + 4097])(
    'a raw disk of %i bytes',
    async (length) => {
      const raw = await rawDisk(at(`www/raw-${length}.img`), length, { run: 4 * KiB, zeros: 0.3 });
      const copy = at(`raw-${length}.expected`);
      await link(raw, copy);
      try {
        for (const means of ['ranges', 'plain', 'stdin'] as const) {
          await carries(raw, copy, means);
        }
      } finally {
        await rm(raw);
        await rm(copy);
      }
    },
  );

  test.each([512, 4096, MiB, MiB + 512, 2 * MiB + 512])('a qcow2 with a disk of %i bytes', async (length) => {
    const raw = await rawDisk(at(`small-${length}`), length, { run: 4 * KiB, zeros: 0.2 });
    await carriedBy(await qcow2(raw, at(`www/small-${length}.qcow2`)), ALL);
  });

  test('an empty disk of 1 TiB', async () => {
    const image = at('www/empty.qcow2');
    await run('qemu-img', 'qemu-utils', ['create', '-q', '-f', 'qcow2', image, '1T']);
    for (const means of ['ranges', 'stdin'] as const) {
      const target = at('empty.img');
      const source = means === 'stdin' ? ['-', target] : [`${server.url}/empty.qcow2`, target];
      const report = await program.imported(source, means === 'stdin' ? { stdin: createReadStream(image) } : {});
      expect(report.virtualSize).toBe(2 ** 40);
      expect((await stat(target)).size).toBe(2 ** 40);
      expect((await stat(target)).blocks * 512).toBeLessThan(64 * KiB);
      await rm(target);
    }
  });

  test('snapshots and bitmaps are left out, and said', async () => {
    const image = await qcow2(disk, at('www/kept.qcow2'));
    await run('qemu-img', 'qemu-utils', ['snapshot', '-c', 'before', image]);
    await qemuIo(image, ['write -P 7 1M 512k', 'write -P 9 5M 64k']);
    await run('qemu-img', 'qemu-utils', ['bitmap', '--add', image, 'dirty']);
    const report = await program.imported([`${server.url}/kept.qcow2`, at('kept.img')]);
    expect(report.leftOut.join('; ')).toMatch(/snapshot/);
    expect(report.leftOut.join('; ')).toMatch(/bitmap/);
    await rm(at('kept.img'));
    await carriedBy(image, UNORDERED);
  });
});

describe.each([
  ['vmdk', 'subformat=monolithicSparse', ALL],
  ['vmdk', 'subformat=streamOptimized', ['ranges', 'plain', 'stdin', 'stream']],
  ['vpc', 'subformat=dynamic', ALL],
  ['vpc', 'subformat=dynamic,force_size=on', ALL],
  ['vdi', 'static=off', ALL],
  ['vdi', 'static=on', ALL],
  ['vhdx', 'subformat=dynamic,block_size=1M', ALL],
  ['vhdx', 'subformat=fixed', ALL],
  ['parallels', 'cluster_size=64k', ALL],
  ['qed', 'cluster_size=64k', ALL],
] as const)('%s, %s', (format, options, means) => {
  const convert = (to: string) =>
    run('qemu-img', 'qemu-utils', ['convert', '-f', 'raw', '-O', format, '-o', options, disk, to]);

  test('by every way', async () => {
    const image = at(`www/other.${format}`);
    await convert(image);
    await carriedBy(image, means);
  });

  test('in gzip, onto a device with other content', async () => {
    const image = at(`www/packed.${format}`);
    await convert(image);
    const expected = await decodedByQemu(image, at('packed.expected'));
    await shell(`gzip -1 ${image}`);
    await rawDisk(at('dirty'), 16 * MiB, { run: MiB, zeros: 0, plain: true });
    await using device = await loopDevice(at('dirty'), 16 * MiB);
    const report = await program.imported([`${server.url}/packed.${format}.gz`, device.path, '--force']);
    expect(await difference(expected, device.path, report.virtualSize)).toBeUndefined();
    await rm(`${image}.gz`);
  });
});

/** A history of an image in use: writes of all kinds, at random, a snapshot, then a larger disk and writes again. */
async function lived(image: string, seed: number): Promise<void> {
  const random = randomly(seed);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T;
  const compat = pick(['1.1', '1.1', '0.10']);
  const extended = compat === '1.1' && random() < 0.3;
  const cluster = extended ? pick(['16k', '64k', '256k']) : pick(['512', '4k', '64k', '128k', '2M']);
  const bytes =
    { '512': 512, '4k': 4096, '16k': 16384, '64k': 65536, '128k': 131072, '256k': 262144, '2M': 2 * MiB }[cluster] ??
    65536;
  const size = 10 * MiB + 512 * Math.floor(random() * 100);
  const options = [`cluster_size=${cluster}`, `compat=${compat}`, ...(extended ? ['extended_l2=on'] : [])];
  await run('qemu-img', 'qemu-utils', ['create', '-q', '-f', 'qcow2', '-o', options.join(','), image, String(size)]);
  const writes = (room: number, count: number): string[] => {
    const commands: string[] = [];
    for (let index = 0; index < count; index += 1) {
      const kind = pick(['write', 'write', 'write', 'compressed', 'zero', 'unmap', 'discard']);
      const from = Math.floor((random() * room) / 512) * 512;
      const length = Math.min(room - from, 512 * (1 + Math.floor(random() * 600)));
      if (length <= 0) continue;
      if (kind === 'write') commands.push(`write -P ${1 + Math.floor(random() * 255)} ${from} ${length}`);
      if (kind === 'zero') commands.push(`write -z ${from} ${length}`);
      if (kind === 'unmap') commands.push(`write -z -u ${from} ${length}`);
      if (kind === 'discard') commands.push(`discard ${from} ${length}`);
      const start = Math.floor(from / bytes) * bytes;
      if (kind === 'compressed' && start + bytes <= room)
        commands.push(`write -c -P ${1 + Math.floor(random() * 255)} ${start} ${bytes}`);
    }
    return commands;
  };
  // QEMU refuses to write compressed over clusters that are there; qemu-io goes on with the next command and says so
  // at the end. Whatever the history came to, QEMU itself is the oracle.
  const live = (commands: string[]): Promise<unknown> => qemuIo(image, commands).catch(() => undefined);
  await live(writes(size, 60));
  if (random() < 0.4 && !extended) await run('qemu-img', 'qemu-utils', ['snapshot', '-c', 'a', image]);
  // Enough for the L1 table of small clusters to move to the end of the file.
  const grown = size + 512 * Math.floor(random() * 40000);
  if (compat === '1.1' || !(await hasSnapshot(image)))
    await run('qemu-img', 'qemu-utils', ['resize', '-q', image, String(grown)]);
  await live(writes((await virtualSize(image)) ?? size, 40));
  await run('qemu-img', 'qemu-utils', ['check', '-q', image]);
}

async function hasSnapshot(image: string): Promise<boolean> {
  return (await run('qemu-img', 'qemu-utils', ['info', image])).includes('Snapshot list');
}

async function virtualSize(image: string): Promise<number | undefined> {
  const info = JSON.parse(await run('qemu-img', 'qemu-utils', ['info', '--output=json', image])) as {
    'virtual-size': number;
  };
  return info['virtual-size'];
}

describe('images that were written at random and resized', () => {
  const count = Number(process.env.IMAGES ?? 12);
  test.each(Array.from({ length: count }, (_, index) => index + 1))('seed %i', async (seed) => {
    const image = at(`www/lived-${seed}.qcow2`);
    await lived(image, seed);
    await carriedBy(image, UNORDERED);
  });
});

describe('to a block device', () => {
  test.each([
    ['raw', []],
    ['zlib', ['-c']],
    ['resized', []],
  ] as const)('%s, onto one that is dirty and larger', async (kind, how) => {
    const image = at(`www/device-${kind}.img`);
    if (kind === 'raw') await link(disk, image);
    else {
      await qcow2(disk, image, { compressed: how.length > 0 });
      if (kind === 'resized') {
        await run('qemu-img', 'qemu-utils', ['resize', '-q', '-f', 'qcow2', image, '4G']);
        await run('qemu-img', 'qemu-utils', ['resize', '-q', '-f', 'qcow2', '--shrink', image, String(13 * MiB)]);
        await qemuIo(image, ['write -P 3 12M 1M']);
      }
    }
    const expected = await decodedByQemu(image, at('device.expected'));
    const length = (await stat(expected)).size;
    for (const source of [`${server.url}/device-${kind}.img`, `${server.url}/plain/device-${kind}.img`, '-']) {
      // What an earlier tenant left: no byte of it may show.
      await rm(at('dirty'), { force: true });
      await rawDisk(at('dirty'), 20 * MiB, { run: MiB, zeros: 0, plain: true });
      await using device = await loopDevice(at('dirty'), 20 * MiB);
      await program.imported(
        [source, device.path, '--force'],
        source === '-' ? { stdin: createReadStream(image) } : {},
      );
      expect(await difference(expected, device.path, length), source).toBeUndefined();
    }
    await rm(image);
  });

  test('an image larger than two checkpoints', async () => {
    const raw = await rawDisk(at('big.raw'), 320 * MiB, { run: MiB, zeros: 0.1 });
    const image = await qcow2(raw, at('www/big.qcow2'));
    await using device = await loopDevice(at('big.device'), 330 * MiB);
    const report = await program.imported([`${server.url}/big.qcow2`, device.path]);
    expect(await difference(raw, device.path, 320 * MiB)).toBeUndefined();
    expect(report.written + report.zeroed + report.skipped).toBe(320 * MiB);
    await carries(image, raw, 'stdin');
    await carries(image, raw, 'seek');
  }, 120_000);
});

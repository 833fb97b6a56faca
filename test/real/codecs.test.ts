// Every shape of gzip, zstd, xz, lz4, bzip2 and snappy that their own programs write, around raw and qcow2.
import { createReadStream } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
// @ts-expect-error plain JavaScript, so that it runs before anything is installed
import { serverPath } from '../../scripts/toolchain.mjs';
import { type Cli, cli } from '../support/cli.ts';
import { difference, KiB, MiB, qcow2, rawDisk, shell } from '../support/images.ts';
import { type Nginx, nginx } from '../support/nginx.ts';
import { type TempDir, tempdir } from '../support/tempdir.ts';
import { tool } from '../support/tools.ts';

const S2C = `${serverPath('s2c')} -q -c -snappy -index=false`;
const SIZE = 20 * MiB + 1234 * 512;
let home: TempDir;
let program: Cli;
let server: Nginx;
const at = (name: string): string => join(home.path, name);

beforeAll(async () => {
  for (const [name, from] of Object.entries({
    gzip: 'gzip',
    pigz: 'pigz',
    bgzip: 'tabix',
    zstd: 'zstd',
    xz: 'xz-utils',
    lz4: 'lz4',
    bzip2: 'bzip2',
    lbzip2: 'lbzip2',
  }))
    tool(name, from);
  home = await tempdir();
  program = await cli(home.path);
  await mkdir(at('www'));
  server = await nginx({ root: at('www'), server: `location /plain/ { max_ranges 0; alias ${at('www')}/; }` });
  await rawDisk(at('raw'), SIZE, { run: 64 * KiB, zeros: 0.5, seed: 11 });
  await qcow2(at('raw'), at('qcow2'));
});

afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  await home?.[Symbol.asyncDispose]();
});

/** Name → a shell script that turns $in into $out. `$dir` is for what it needs on the way. */
const SHAPES: Readonly<Record<string, string>> = {
  'gzip -1': 'gzip -1 -c $in > $out',
  'gzip -9 with a name and a time': 'cp $in $dir/named && gzip -9 -N -c $dir/named > $out',
  pigz: 'pigz -1 -c $in > $out',
  'pigz with independent blocks': 'pigz -i -b 128 -c $in > $out',
  'gzip, stored blocks': 'pigz -0 -c $in > $out',
  'gzip of three members': 'split -n 3 $in $dir/part. && for part in $dir/part.*; do gzip -1 -c $part; done > $out',
  'gzip of many members, one empty':
    'split -b 300000 $in $dir/part. && { for part in $dir/part.*; do gzip -1 -c $part; done; gzip -c /dev/null; } > $out',
  'gzip with zeros behind it': '{ gzip -1 -c $in; head -c 3000 /dev/zero; } > $out',
  bgzip: 'bgzip -c $in > $out',
  'zstd -1': 'zstd -q -1 -c $in > $out',
  'zstd -19 of many threads': 'zstd -q -12 -T2 -c $in > $out',
  'zstd without checksum': 'zstd -q --no-check -c $in > $out',
  'zstd of unknown length': 'cat $in | zstd -q -c > $out',
  'zstd of many frames':
    'split -b 1000000 $in $dir/part. && for part in $dir/part.*; do zstd -q -1 -c $part; done > $out',
  // 0x184D2A50 and its length, little-endian (RFC 8878, section 3.1.2).
  'zstd with skippable frames':
    'split -n 3 $in $dir/part. && for part in $dir/part.*; do printf "\\x5f\\x2a\\x4d\\x18\\x05\\x00\\x00\\x00hello"; zstd -q -c $part; printf "\\x50\\x2a\\x4d\\x18\\x00\\x00\\x00\\x00"; done > $out',
  'xz of one block': 'xz -0 -c $in > $out',
  'xz of many blocks': 'xz -0 -T2 --block-size=1MiB -c $in > $out',
  'xz without check': 'xz -0 --check=none -c $in > $out',
  'xz with CRC32': 'xz -0 --check=crc32 -T2 --block-size=3MiB -c $in > $out',
  'xz with SHA-256': 'xz -0 --check=sha256 -c $in > $out',
  'xz of several streams with padding':
    'split -n 4 $in $dir/part. && for part in $dir/part.*; do xz -0 -c $part; head -c 8 /dev/zero; done > $out',
  'xz -6 of several blocks': 'xz -6 -T2 --block-size=8MiB -c $in > $out',
  'lz4 of independent blocks': 'lz4 -q -1 -B5 $in $out',
  'lz4 of linked blocks with checksums': 'lz4 -q -9 -B4 -BD -BX -c $in > $out',
  'lz4 of several frames, with a length and without checksum':
    'split -n 3 $in $dir/part. && for part in $dir/part.*; do lz4 -q --content-size --no-frame-crc -c $part; done > $out',
  'bzip2 -9': 'bzip2 -9 -c $in > $out',
  'bzip2 of small blocks, by many threads': 'lbzip2 -1 -n 2 -c $in > $out',
  'bzip2 of several streams, one empty':
    'split -n 3 $in $dir/part. && { for part in $dir/part.*; do bzip2 -5 -c $part; bzip2 -c /dev/null; done; } > $out',
  'snappy of chunks of 64 KiB': `${S2C} $in > $out`,
  'snappy of chunks of 4 KiB, padded, an index behind them': `${S2C} -slower -blocksize 4K -pad 1M -index=true $in > $out`,
  'snappy of several streams': `split -n 3 $in $dir/part. && for part in $dir/part.*; do ${S2C} $part; done > $out`,
  'xz with x86 and delta filters': 'xz --x86 --delta=dist=4 --lzma2=preset=0 -c $in > $out',
};

describe.each(['raw', 'qcow2'])('%s in', (format) => {
  test.each(Object.entries(SHAPES))('%s', async (shape, script) => {
    const name = `${format}-${shape.replaceAll(/[^a-z0-9]+/gi, '-')}`;
    await mkdir(at('parts'));
    await shell(`in=${at(format)} out=${at('www')}/${name} dir=${at('parts')}; ${script}`);
    try {
      for (const place of [`${server.url}/${name}`, `${server.url}/plain/${name}`, '-']) {
        const input = place === '-' ? { stdin: createReadStream(at(`www/${name}`)) } : {};
        const report = await program.imported([place, at(`${name}.img`)], input);
        expect(report.format).toBe(format);
        expect(await difference(at('raw'), at(`${name}.img`)), place).toBeUndefined();
        await rm(at(`${name}.img`));
      }
    } finally {
      await rm(at('parts'), { recursive: true });
      await rm(at(`www/${name}`));
    }
  });
});

describe('windows', () => {
  test('zstd --long wants more memory, says how much, and works with it', async () => {
    await shell(`zstd -q --long=27 --no-content-size -c < ${at('raw')} > ${at('www/long.zst')}`);
    const refusal = await program.refused([`${server.url}/long.zst`, at('long.img')]);
    expect(refusal.code).toBe('TOO_LARGE');
    expect(refusal.message).toMatch(/134217728|128 MiB/);
    expect(refusal.message).toMatch(/--memory/);
    await program.imported([`${server.url}/long.zst`, at('long.img'), '--memory', '400MiB']);
    expect(await difference(at('raw'), at('long.img'))).toBeUndefined();
  });
});

describe('what does not end where it should', () => {
  const broken: [string, string, RegExp][] = [
    ['gzip cut', 'gzip -1 -c $in | head -c -20 > $out', /TRUNCATED/],
    ['gzip with text behind it', '{ gzip -1 -c $in; echo hello; } > $out', /CORRUPT/],
    ['zstd cut', 'zstd -q -c $in | head -c -20 > $out', /TRUNCATED/],
    ['zstd with text behind it', '{ zstd -q -c $in; echo hello; } > $out', /CORRUPT/],
    ['lz4 cut', 'lz4 -q -c $in | head -c -20 > $out', /TRUNCATED/],
    ['lz4 with text behind it', '{ lz4 -q -c $in; echo hello; } > $out', /CORRUPT/],
    ['bzip2 cut', 'bzip2 -c $in | head -c -20 > $out', /TRUNCATED/],
    ['bzip2 with text behind it', '{ bzip2 -c $in; echo hello; } > $out', /CORRUPT/],
    ['snappy cut', `${S2C} $in | head -c -20 > $out`, /TRUNCATED/],
    ['snappy with text behind it', `{ ${S2C} $in; echo hello; } > $out`, /CORRUPT/],
    ['xz cut in a block', 'head -c 1000000 <(xz -0 -c $in) > $out', /TRUNCATED/],
    ['xz cut in its index', 'xz -0 -T2 --block-size=1MiB -c $in | head -c -30 > $out', /TRUNCATED/],
    ['xz cut in its footer', 'xz -0 -c $in | head -c -3 > $out', /TRUNCATED/],
    ['xz with text behind it', '{ xz -0 -c $in; echo hello123; } > $out', /CORRUPT/],
  ];
  test.each(broken)('%s', async (shape, script, code) => {
    const name = shape.replaceAll(' ', '-');
    await shell(`in=${at('raw')} out=${at('www')}/${name}; ${script}`);
    for (const place of [`${server.url}/${name}`, `${server.url}/plain/${name}`]) {
      const refusal = await program.refused([place, at(`${name}.img`), '--fresh']);
      expect(`${refusal.code}: ${refusal.message}`).toMatch(code);
    }
  });
});

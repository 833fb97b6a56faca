import { spawnSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import {
  closeSync,
  cpSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';

/** Change it when the data changes: figures of two versions cannot be compared. */
const VERSION = 1;
const MIB = 1024 * 1024;
/** What the acceptance of the benchmark is written for. */
const VIRTUAL_SIZE = 8 * 1024 * MIB;
const CONTENT_SIZE = 1840 * MIB;
/** Of the content, what no codec can pack: images hold media, archives and keys too. */
const RANDOM_SHARE = 0.08;
/** A few huge files would make the content of one kind. */
const LARGEST_FILE = 48 * MIB;

export const ROWS = [
  'raw',
  'raw-gz',
  'raw-zst',
  'raw-xz',
  'qcow2-plain',
  'qcow2-zlib',
  'qcow2-zstd',
  'vmdk',
  'ova',
  'container',
  'to-qcow2',
  'to-qcow2-zlib',
  'to-qcow2-zstd',
] as const;
export type Row = (typeof ROWS)[number];
/** Rows whose target is a qcow2; the source is that of the row `qcow2-plain`. */
export type OutputRow = Extract<Row, `to-${string}`>;
export const isOutput = (row: Row): row is OutputRow => row.startsWith('to-');

/** A row's file below the served directory. */
export const FILES: Readonly<Record<Row, string>> = {
  raw: 'disk.raw',
  'raw-gz': 'disk.raw.gz',
  'raw-zst': 'disk.raw.zst',
  'raw-xz': 'disk.raw.xz',
  'qcow2-plain': 'plain.qcow2',
  'qcow2-zlib': 'zlib.qcow2',
  'qcow2-zstd': 'zstd.qcow2',
  vmdk: 'stream.vmdk',
  ova: 'disk.ova',
  // A registry that can only be pulled from is files and their names.
  container: 'v2/bench/disk/manifests/latest',
  'to-qcow2': 'plain.qcow2',
  'to-qcow2-zlib': 'plain.qcow2',
  'to-qcow2-zstd': 'plain.qcow2',
};

/** How each file is made of `disk.raw`, as a command for bash with $in and $out. */
const RECIPES: Readonly<Record<Exclude<Row, 'raw' | OutputRow>, string>> = {
  'raw-gz': 'if command -v pigz >/dev/null; then pigz -6 -c "$in" >"$out"; else gzip -6 -c "$in" >"$out"; fi',
  'raw-zst': 'zstd -q -3 -T0 -c "$in" >"$out"',
  'raw-xz': 'xz -T2 -3 --block-size=24MiB -c "$in" >"$out"',
  'qcow2-plain': 'qemu-img convert -f raw -O qcow2 "$in" "$out"',
  'qcow2-zlib': 'qemu-img convert -m 16 -f raw -O qcow2 -c "$in" "$out"',
  'qcow2-zstd': 'qemu-img convert -m 16 -f raw -O qcow2 -c -o compression_type=zstd "$in" "$out"',
  vmdk: 'qemu-img convert -f raw -O vmdk -o subformat=streamOptimized "$in" "$out"',
  ova: [
    'tree=$(mktemp -d "$out.XXXX"); trap "rm -rf $tree" EXIT',
    'echo "<Envelope/>" >"$tree/disk.ovf"',
    'qemu-img convert -f raw -O vmdk -o subformat=streamOptimized "$in" "$tree/disk.vmdk"',
    'tar -C "$tree" -cf "$out" disk.ovf disk.vmdk',
  ].join('; '),
  // The layer of a containerDisk, and beside it the same qcow2 packed in the same way.
  container: [
    'tree=$(mktemp -d "$out.XXXX"); trap "rm -rf $tree" EXIT; mkdir "$tree/disk"',
    'blobs=$(dirname "$out")/../blobs; mkdir -p "$blobs"',
    'qemu-img convert -f raw -O qcow2 "$in" "$tree/disk/disk.qcow2"',
    'gzip -6 -c "$tree/disk/disk.qcow2" >"$blobs/plain.qcow2.gz"',
    'tar -C "$tree" -c disk | gzip -6 -c >"$blobs/layer"',
    'digest=sha256:$(sha256sum <"$blobs/layer" | cut -c1-64); size=$(stat -c %s "$blobs/layer")',
    'mv "$blobs/layer" "$blobs/$digest"',
    `type=application/vnd.oci.image.layer.v1.tar+gzip`,
    `printf '{"schemaVersion":2,"layers":[{"mediaType":"%s","digest":"%s","size":%s}]}' "$type" "$digest" "$size" >"$out"`,
  ].join('; '),
};

export interface BenchData {
  /** The directory that nginx serves. */
  readonly directory: string;
  /** The allocated bytes of `disk.raw`, one after another: what a direct write of the same bytes writes. */
  readonly payload: string;
  readonly virtualSize: number;
  readonly allocated: number;
  /** Of the rows that were asked for. */
  readonly sizes: Readonly<Partial<Record<Row, number>>>;
}

export function cacheDirectory(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'diskferry', 'bench');
}

/**
 * The images of the rows, made once for each scale and kept. `scale` 1 is 8 GiB of disk with about 1.8 GiB of content. Throws when
 * a tool is missing or the machine has too few files.
 */
export function prepareData(
  cache: string,
  scale: number,
  rows: readonly Row[],
  say: (line: string) => void,
): BenchData {
  const directory = join(cache, `v${VERSION}-${scale}`);
  mkdirSync(directory, { recursive: true });
  const raw = join(directory, FILES.raw);
  const virtualSize = Math.round((VIRTUAL_SIZE * scale) / MIB) * MIB;
  if (!existsSync(raw)) makeDisk(raw, virtualSize, Math.round(CONTENT_SIZE * scale), say);
  const wanted = rows.map((row) => FILES[row]);
  for (const [row, recipe] of Object.entries(RECIPES) as [Row, string][]) {
    const path = join(directory, FILES[row]);
    if (existsSync(path) || !wanted.includes(FILES[row])) continue;
    say(`making ${FILES[row]}`);
    mkdirSync(dirname(path), { recursive: true });
    run('bash', ['-c', `set -e; ${recipe}; sync "$out"`], { in: raw, out: `${path}.part` });
    renameSync(`${path}.part`, path);
  }
  const payload = join(directory, 'payload');
  if (!existsSync(payload)) {
    say('making payload');
    packExtents(raw, `${payload}.part`);
    renameSync(`${payload}.part`, payload);
  }
  const sizes = Object.fromEntries(rows.map((row) => [row, statSync(join(directory, FILES[row])).size]));
  return {
    directory,
    payload,
    virtualSize,
    allocated: statSync(payload).size,
    sizes,
  };
}

/** Reads the files once, so that every candidate finds them in the page cache. */
export function warm(paths: readonly string[]): void {
  for (const path of paths) run('bash', ['-c', 'cat "$file" >/dev/null'], { file: path });
}

/** An ext4 file system with files of this machine and some random data, as mkfs lays it out: extents with holes between. */
function makeDisk(path: string, virtualSize: number, contentSize: number, say: (line: string) => void): void {
  const tree = `${path}.tree`;
  rmSync(tree, { recursive: true, force: true });
  mkdirSync(tree, { recursive: true });
  try {
    const random = Math.round(contentSize * RANDOM_SHARE);
    say(`gathering ${Math.round((contentSize - random) / MIB)} MiB of this machine's files`);
    gather(tree, contentSize - random);
    writeRandom(join(tree, 'random'), random);
    say(`making ${FILES.raw}`);
    const part = `${path}.part`;
    rmSync(part, { force: true });
    const file = openSync(part, 'w');
    ftruncateSync(file, virtualSize);
    closeSync(file);
    run('/sbin/mkfs.ext4', ['-q', '-F', '-E', 'lazy_itable_init=1,lazy_journal_init=1', '-d', tree, part]);
    run('fallocate', ['--dig-holes', part]);
    run('sync', [part]);
    renameSync(part, path);
  } finally {
    rmSync(tree, { recursive: true, force: true });
  }
}

/** Copies files of the machine below `tree` until there are `budget` bytes, the same ones each time on one machine. */
function gather(tree: string, budget: number): void {
  const roots = [
    '/usr',
    join(homedir(), '.cargo/registry'),
    join(homedir(), '.rustup'),
    join(process.cwd(), 'node_modules'),
  ];
  const files = roots.flatMap((root) => listFiles(root));
  let left = budget;
  for (const { path, size } of shuffled(files)) {
    if (size > left) continue;
    const copy = join(tree, path);
    mkdirSync(dirname(copy), { recursive: true });
    cpSync(path, copy);
    left -= size;
    if (left < MIB) return;
  }
  throw new Error(
    `this machine has only ${Math.round((budget - left) / MIB)} MiB of the ${Math.round(budget / MIB)} MiB of files wanted below ${roots.join(', ')}: use a smaller --scale`,
  );
}

/** Does not follow links: /usr has some that point to a directory above them. */
function listFiles(root: string): { path: string; size: number }[] {
  if (!existsSync(root)) return [];
  return run('find', [`${root}/`, '-xdev', '-type', 'f', '-readable', '-printf', '%s %p\\0'])
    .split('\0')
    .map((line) => ({ size: Number.parseInt(line, 10), path: line.slice(line.indexOf(' ') + 1) }))
    .filter(({ size }) => size > 0 && size <= LARGEST_FILE)
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Fisher and Yates' shuffle with the generator of Park and Miller (1988), always in the same order. */
function shuffled<T>(items: readonly T[]): T[] {
  const mixed = [...items];
  let state = 1;
  for (let last = mixed.length - 1; last > 0; last--) {
    state = (state * 48271) % 2147483647;
    const other = state % (last + 1);
    [mixed[last], mixed[other]] = [mixed[other] as T, mixed[last] as T];
  }
  return mixed;
}

function writeRandom(path: string, length: number): void {
  const file = openSync(path, 'w');
  const block = Buffer.alloc(MIB);
  for (let at = 0; at < length; at += block.length) {
    writeSync(file, randomFillSync(block), 0, Math.min(block.length, length - at));
  }
  closeSync(file);
}

/** Writes the data extents of a sparse file one after another, as SEEK_DATA finds them. */
function packExtents(from: string, to: string): void {
  const listing = `${to}.map`;
  try {
    run('bash', ['-c', 'qemu-img map --output=json -f raw "$in" >"$map"'], { in: from, map: listing });
    const map = JSON.parse(readFileSync(listing, 'utf8')) as { start: number; length: number; data: boolean }[];
    writeFileSync(to, '');
    for (const { start, length } of map.filter((extent) => extent.data)) {
      run(
        'bash',
        ['-c', 'dd if="$in" bs=1M iflag=skip_bytes,count_bytes skip="$start" count="$length" status=none >>"$out"'],
        { in: from, out: to, start: String(start), length: String(length) },
      );
    }
  } finally {
    rmSync(listing, { force: true });
  }
}

/** Runs a tool to its end. Throws with what it said when it fails. */
export function run(command: string, args: readonly string[], env: Record<string, string> = {}): string {
  const { status, error, stdout, stderr } = spawnSync(command, args, {
    env: { ...process.env, ...env },
    encoding: 'utf8',
    maxBuffer: 1024 * MIB,
  });
  if (error) throw new Error(`${command} cannot be run: ${error.message}`);
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${status}: ${stderr.trim()}`);
  return stdout;
}

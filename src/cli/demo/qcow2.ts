import { type FileHandle, open } from 'node:fs/promises';
import { promisify } from 'node:util';
import { deflateRaw } from 'node:zlib';

const deflate = promisify(deflateRaw);

/** The sizes that qemu-img takes by default (QEMU docs/interop/qcow2.rst). */
const CLUSTER_BITS = 16;
const CLUSTER = 1 << CLUSTER_BITS;
/** 8-byte entries in a cluster of L2; 16-bit refcounts in a cluster of refcounts. */
const L2_ENTRIES = CLUSTER / 8;
const REFCOUNTS = CLUSTER / 2;
/** A version 3 header (same document, "Header": header_length). */
const HEADER_BYTES = 104;
/** A compressed descriptor keeps the host offset below this bit, the sectors above it ("Compressed Clusters Descriptor"). */
const SECTORS_SHIFT = BigInt(62 - (CLUSTER_BITS - 8));
const COMPRESSED = 1n << 62n;
const COPIED = 1n << 63n;
/** QEMU inflates clusters with a window of 4 KiB. */
const WINDOW_BITS = 12;
const ZEROS = Buffer.alloc(CLUSTER);
/** Clusters that are deflated at once, on libuv's threads. */
const BATCH = 64;

/**
 * Writes the raw disk at `from` as a qcow2 version 3 image with zlib clusters at `to`: all metadata first, then the data
 * in the order of the disk. For the demo where qemu-img is not installed.
 */
export async function writeQcow2(from: string, to: string, signal: AbortSignal): Promise<void> {
  const disk = await open(from);
  const image = await open(to, 'w');
  try {
    await convert(disk, image, signal);
  } finally {
    await Promise.all([disk.close(), image.close()]);
  }
}

async function convert(disk: FileHandle, image: FileHandle, signal: AbortSignal): Promise<void> {
  const { size } = await disk.stat();
  const clusters = Math.ceil(size / CLUSTER);
  const l2Tables = Math.ceil(clusters / L2_ENTRIES);
  const l1Clusters = Math.ceil((l2Tables * 8) / CLUSTER);
  // Data never takes more than the disk itself, so this many blocks count every cluster that can come to be.
  const blocks = Math.ceil((clusters + l2Tables + l1Clusters + 2) / REFCOUNTS) + 1;
  const l1At = (2 + blocks) * CLUSTER;
  const l2At = l1At + l1Clusters * CLUSTER;
  const refcounts = Buffer.alloc(blocks * CLUSTER);
  const l2 = Buffer.alloc(l2Tables * CLUSTER);
  let end = l2At + l2.length;

  const count = (at: number, length: number) => {
    for (let cluster = Math.floor(at / CLUSTER); cluster * CLUSTER < at + length; cluster += 1) {
      refcounts.writeUInt16BE(refcounts.readUInt16BE(cluster * 2) + 1, cluster * 2);
    }
  };
  count(0, end);

  for (let first = 0; first < clusters; first += BATCH) {
    signal.throwIfAborted();
    const buffer = Buffer.alloc(BATCH * CLUSTER);
    await disk.read(buffer, 0, buffer.length, first * CLUSTER);
    const batch = Array.from({ length: Math.min(BATCH, clusters - first) }, (_, i) =>
      buffer.subarray(i * CLUSTER, (i + 1) * CLUSTER),
    );
    const packed = await Promise.all(
      batch.map(async (raw) => (raw.equals(ZEROS) ? undefined : deflate(raw, { windowBits: WINDOW_BITS }))),
    );
    for (const [i, small] of packed.entries()) {
      if (!small) continue;
      const whole = small.length >= CLUSTER;
      const bytes = whole ? (batch[i] as Buffer) : small;
      const at = whole ? Math.ceil(end / CLUSTER) * CLUSTER : end;
      const sectors = BigInt(Math.floor((at + bytes.length - 1) / 512) - Math.floor(at / 512));
      const entry = whole ? COPIED | BigInt(at) : COMPRESSED | (sectors << SECTORS_SHIFT) | BigInt(at);
      l2.writeBigUInt64BE(entry, (first + i) * 8);
      await image.write(bytes, 0, bytes.length, at);
      count(at, bytes.length);
      end = at + bytes.length;
    }
  }
  // Readers take compressed data in whole sectors, and the file in whole clusters.
  await image.truncate(Math.ceil(end / CLUSTER) * CLUSTER);

  const table = Buffer.alloc(CLUSTER);
  for (let i = 0; i < blocks; i += 1) table.writeBigUInt64BE(BigInt((2 + i) * CLUSTER), i * 8);
  const l1 = Buffer.alloc(l1Clusters * CLUSTER);
  for (let i = 0; i < l2Tables; i += 1) l1.writeBigUInt64BE(COPIED | BigInt(l2At + i * CLUSTER), i * 8);
  const metadata = Buffer.concat([header(size, l2Tables, l1At), table, refcounts, l1, l2]);
  await image.write(metadata, 0, metadata.length, 0);
}

function header(size: number, l2Tables: number, l1At: number): Buffer {
  const bytes = Buffer.alloc(CLUSTER);
  bytes.write('QFI\xfb', 0, 'latin1');
  bytes.writeUInt32BE(3, 4); // version
  bytes.writeUInt32BE(CLUSTER_BITS, 20);
  bytes.writeBigUInt64BE(BigInt(size), 24);
  bytes.writeUInt32BE(l2Tables, 36); // L1 entries
  bytes.writeBigUInt64BE(BigInt(l1At), 40);
  bytes.writeBigUInt64BE(BigInt(CLUSTER), 48); // refcount table
  bytes.writeUInt32BE(1, 56); // clusters of it
  bytes.writeUInt32BE(4, 96); // refcounts of 2^4 bits
  bytes.writeUInt32BE(HEADER_BYTES, 100);
  return bytes;
}

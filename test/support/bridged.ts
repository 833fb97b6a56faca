// Images of formats that qemu-img reads and does not write, around a disk in memory.
import { deflateSync } from 'node:zlib';

const SECTOR = 512;

function le32(...words: number[]): Buffer {
  const bytes = Buffer.alloc(words.length * 4);
  for (const [at, word] of words.entries()) bytes.writeUInt32LE(word >>> 0, at * 4);
  return bytes;
}

function be64(...words: number[]): Buffer {
  const bytes = Buffer.alloc(words.length * 8);
  for (const [at, word] of words.entries()) bytes.writeBigUInt64BE(BigInt(word), at * 8);
  return bytes;
}

/** Pieces of `size` bytes. */
function* pieces(disk: Buffer, size: number): Generator<Buffer> {
  for (let at = 0; at < disk.length; at += size) yield disk.subarray(at, at + size);
}

const isZero = (piece: Buffer): boolean => piece.every((byte) => byte === 0);

/** QEMU, block/cloop.c: a script, the size and number of blocks, where each begins, blocks of zlib. */
export function cloop(disk: Buffer): Buffer {
  const size = 64 * 1024;
  const script = '#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n';
  const blocks = [...pieces(disk, size)].map((piece) => deflateSync(piece, { level: 1 }));
  const head = Buffer.concat([Buffer.from(script.padEnd(128, '\0')), le32(size, blocks.length).swap32()]);
  const offsets = [head.length + 8 * (blocks.length + 1)];
  for (const block of blocks) offsets.push((offsets.at(-1) ?? 0) + block.length);
  return Buffer.concat([head, be64(...offsets), ...blocks]);
}

/** QEMU, block/bochs.c: a catalog of extents; in front of each, a bit for every sector that is there. */
export function bochs(disk: Buffer): Buffer {
  const extent = 128 * 1024;
  const bitmap = SECTOR;
  const parts = [...pieces(disk, extent)];
  const head = Buffer.alloc(512);
  head.write('Bochs Virtual HD Image', 0);
  head.write('Redolog', 32);
  head.write('Growing', 48);
  le32(0x00020000, 512, parts.length, bitmap, extent, 0, disk.length, 0).copy(head, 64);
  const present = parts.filter((part) => !isZero(part));
  const catalog = le32(...parts.map((part) => (isZero(part) ? 0xffffffff : present.indexOf(part))));
  const bits = Buffer.alloc(bitmap).fill(0xff, 0, extent / SECTOR / 8);
  return Buffer.concat([head, catalog, ...present.flatMap((part) => [bits, part])]);
}

/** QEMU, block/dmg.c: chunks of zlib, a property list with a table of them, a trailer ("koly"). */
export function dmg(disk: Buffer): Buffer {
  const size = 256 * 1024;
  const chunks = [...pieces(disk, size)].map((piece) => deflateSync(piece, { level: 1 }));
  const table: Buffer[] = [];
  let at = 0;
  const sectors = size / SECTOR;
  const entry = (kind: number, ...numbers: number[]): Buffer =>
    Buffer.concat([le32(kind, 0).swap32(), be64(...numbers)]);
  for (const [index, chunk] of chunks.entries()) {
    table.push(entry(0x80000005, index * sectors, sectors, at, chunk.length));
    at += chunk.length;
  }
  table.push(entry(0xffffffff, chunks.length * sectors, 0, at, 0));
  const mish = Buffer.alloc(204);
  mish.write('mish', 0);
  mish.writeUInt32BE(1, 4);
  be64(0, disk.length / SECTOR, 0).copy(mish, 8);
  mish.writeUInt32BE(table.length, 200);
  const data = Buffer.concat([mish, ...table]).toString('base64');
  const list = Buffer.from(
    `<?xml version="1.0"?><plist><dict><key>resource-fork</key><dict><key>blkx</key><array><dict><key>Data</key><data>${data}</data></dict></array></dict></dict></plist>`,
  );
  const koly = Buffer.alloc(512);
  koly.write('koly', 0);
  le32(4, 512).swap32().copy(koly, 4);
  be64(0, at).copy(koly, 24);
  be64(at, list.length).copy(koly, 216);
  be64(disk.length / SECTOR).copy(koly, 492);
  return Buffer.concat([...chunks, list, koly]);
}

import { CLUSTER, TABLE_ENTRIES, TABLE_SPAN, writeHeader } from '../../dataplane/qcow2.ts';
import type { Extent } from '../../dataplane/source.ts';

/** Of an entry: nobody else has the cluster (QEMU docs/interop/qcow2.rst, "L1 table entry"). */
const COPIED = 1n << 63n;
/** A disk is whole ones of them, or has no place in a qcow2. Bytes. */
export const SECTOR = 512;
/** Tables beyond this are not made: they are in memory. Bytes. */
const MOST_TABLES = 64 * 1024 * 1024;

/** A part of the image: bytes of its own, or of the disk. Offsets in the image; `disk` in the disk. */
export interface Part {
  readonly from: number;
  readonly to: number;
  readonly bytes?: Uint8Array;
  readonly disk?: number;
}

/** Where each byte of an image comes from. */
export interface Layout {
  readonly length: number;
  readonly parts: readonly Part[];
}

/**
 * A raw disk of `size` bytes as a qcow2 of its data alone, all tables in front, so that it can be sent in order and read
 * from anywhere. It counts no references, which nobody needs who only reads it. Undefined where it is not worth it, or the
 * disk is none of whole sectors. `data` ascends.
 */
export function packed(size: number, data: Iterable<Extent>): Layout | undefined {
  const clusters: { from: number; to: number }[] = [];
  for (const { from, to } of data) {
    const [first, end] = [Math.floor(from / CLUSTER), Math.ceil(to / CLUSTER)];
    const last = clusters.at(-1);
    if (last && first <= last.to) last.to = Math.max(last.to, end);
    else clusters.push({ from: first, to: end });
  }
  const count = clusters.reduce((sum, { from, to }) => sum + to - from, 0);
  const tables = [...new Set(clusters.flatMap(({ from, to }) => spans(from, to)))];
  const l1 = Math.ceil(size / TABLE_SPAN);
  const l1Clusters = Math.ceil((l1 * 8) / CLUSTER);
  const metadata = (1 + l1Clusters + tables.length + 1) * CLUSTER;
  // Less than a twentieth saved is not worth that the server has to decode it.
  if (size % SECTOR !== 0 || size === 0 || metadata > MOST_TABLES || metadata + count * CLUSTER > size * 0.95)
    return undefined;

  const head = Buffer.alloc(metadata);
  const refcounts = metadata - CLUSTER;
  writeHeader(head, size, refcounts);
  const tableAt = new Map(tables.map((index, n) => [index, (1 + l1Clusters + n) * CLUSTER]));
  for (const [index, at] of tableAt) head.writeBigUInt64BE(BigInt(at) | COPIED, CLUSTER + index * 8);

  const parts: Part[] = [{ from: 0, to: metadata, bytes: head }];
  let host = metadata;
  for (const { from, to } of clusters) {
    for (let cluster = from; cluster < to; cluster += 1) {
      const table = tableAt.get(Math.floor(cluster / TABLE_ENTRIES)) ?? 0;
      head.writeBigUInt64BE(BigInt(host + (cluster - from) * CLUSTER) | COPIED, table + (cluster % TABLE_ENTRIES) * 8);
    }
    const disk = from * CLUSTER;
    const there = Math.min((to - from) * CLUSTER, size - disk);
    parts.push({ from: host, to: host + there, disk });
    host += (to - from) * CLUSTER;
    // The last cluster of the disk may be cut by its end.
    if (host > (parts.at(-1)?.to ?? 0))
      parts.push({
        from: host - (to - from) * CLUSTER + there,
        to: host,
        bytes: Buffer.alloc((to - from) * CLUSTER - there),
      });
  }
  return { length: host, parts };
}

/** Indices of the L2 tables that clusters are in. */
function spans(from: number, to: number): number[] {
  const [first, last] = [Math.floor(from / TABLE_ENTRIES), Math.floor((to - 1) / TABLE_ENTRIES)];
  return Array.from({ length: last - first + 1 }, (_, n) => first + n);
}

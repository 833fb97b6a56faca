/** The shape of the qcow2 files that are made here, which the engine then reads (QEMU docs/interop/qcow2.rst). */

const CLUSTER_BITS = 16;
/** Bytes: what qemu-img takes by default. Larger ones would put a blank disk's L1 table beyond the head that a plan looks at. */
export const CLUSTER = 1 << CLUSTER_BITS;
/** Entries of an L2 table, 8 bytes each: one cluster of them. */
export const TABLE_ENTRIES = CLUSTER / 8;
/** Bytes of the disk that one L2 table, and so one entry of the L1 table, stands for. */
export const TABLE_SPAN = TABLE_ENTRIES * CLUSTER;

/**
 * Writes the header of a version 3 file ("Header") to the start of `image`: a disk of `size` bytes, whose L1 table lies in the
 * second cluster and whose refcount table, one cluster of 16-bit counts, at `refcountTable`.
 */
export function writeHeader(image: Buffer, size: number, refcountTable: number): void {
  image.write('QFI\xfb', 0, 'latin1');
  image.writeUInt32BE(3, 4); // version
  image.writeUInt32BE(CLUSTER_BITS, 20);
  image.writeBigUInt64BE(BigInt(size), 24);
  image.writeUInt32BE(Math.ceil(size / TABLE_SPAN), 36); // entries of the L1 table
  image.writeBigUInt64BE(BigInt(CLUSTER), 40); // L1 table
  image.writeBigUInt64BE(BigInt(refcountTable), 48);
  image.writeUInt32BE(1, 56); // clusters of it
  image.writeUInt32BE(4, 96); // refcounts of 2^4 bits
  image.writeUInt32BE(104, 100); // length of the header
}

//! Disk-image formats: the contract and the table.

use std::ops::Range;

use crate::bytes::Bytes;
use crate::error::Result;

pub mod qcow2;
pub mod raw;

/// How a packed cluster was compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Raw deflate (RFC 1951), no header.
    Deflate,
    /// One zstd frame (RFC 8878); bytes after it are padding.
    Zstd,
}

/// The guest disk being written. Calls are queued to the workers within the byte limit; they may come in any
/// order of `at`, and no two of them may cover the same guest byte.
///
/// `origin` is the offset in the image file of the first byte that the data came from: what was written
/// before the checkpoint that a transfer goes on from is recognised by it and not written again. Data from below the
/// checkpoint that was not written is given with the checkpoint's offset instead.
pub trait Disk {
    fn data(&mut self, at: u64, origin: u64, bytes: Bytes) -> Result<()>;
    /// A compressed cluster that unpacks to exactly `len` bytes; bytes after its end are ignored.
    /// What lies beyond the end of the disk is dropped after unpacking.
    fn packed(&mut self, at: u64, len: usize, origin: u64, how: Packing, bytes: Bytes) -> Result<()>;
    /// `len` bytes that read as zeros.
    fn zero(&mut self, at: u64, len: u64) -> Result<()>;
}

/// What a format wants to be given next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Everything from this offset to the end, in order: one pass.
    Rest(u64),
    /// These ranges, ascending and disjoint; then it is asked again. Only where the source can seek.
    Ranges(Vec<Range<u64>>),
    /// Nothing: only `finish` is left.
    Nothing,
}

/// A disk-image format, decoded while its file arrives in ascending order.
pub trait Format: Send {
    /// Called at the beginning and whenever all that was wanted has been taken.
    fn wants(&mut self) -> Result<Wants>;
    /// Bytes of the file at `offset`, ascending within a pass, in pieces of any length: either pieces of what was
    /// wanted, or more (a range may be widened; what is not needed is ignored).
    fn take(&mut self, offset: u64, bytes: &Bytes, disk: &mut dyn Disk) -> Result<()>;
    /// The image has ended. `length` of the file in bytes, if it was read or is known.
    /// MUST fail if any guest byte is still unaccounted for.
    fn finish(&mut self, length: Option<u64>, disk: &mut dyn Disk) -> Result<()>;
    /// Lowest file offset whose bytes are still held back here; a checkpoint may not lie above it.
    fn pinned(&self) -> Option<u64>;
    /// Asked after each `take`: true when the pass cannot go on, and `wants` must be asked at once for another.
    fn turned(&self) -> bool {
        false
    }
    /// Whether every part of the disk whose data lies below `pinned` has it, also where a table names it that is still
    /// to be read. `None` for formats without tables.
    fn tables_first(&self) -> Option<bool> {
        None
    }
    /// Whether all data reaches the disk at its own offset, ascending (raw).
    fn in_disk_order(&self) -> bool {
        false
    }
}

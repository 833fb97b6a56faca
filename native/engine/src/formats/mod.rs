//! Disk-image formats: the contract and the table.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::bytes::Bytes;
use crate::error::Result;
use crate::limits::Limits;

pub mod bridged;
pub mod fields;
pub mod head;
pub mod mapped;
pub mod parallels;
pub mod qcow2;
pub mod qed;
pub mod raw;
pub mod vdi;
pub mod vhd;
mod vhd_fixed;
pub mod vhdx;
pub mod vmdk;

/// Every format that has a header, each recognised by it. A new one is one file and one line here. What is none of
/// these is raw.
pub const DRIVERS: &[Driver] =
    &[qcow2::DRIVER, vmdk::DRIVER, vhd::DRIVER, vhdx::DRIVER, vdi::DRIVER, parallels::DRIVER, qed::DRIVER];

/// A format by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    Raw,
    /// [`Driver::name`].
    Driver(&'static str),
    /// Read by QEMU alone.
    Bridged(bridged::Bridge),
}

impl Named {
    /// By our name, or by QEMU's, who calls VHD "vpc".
    pub fn parse(name: &str) -> Option<Self> {
        if name == bridged::DMG {
            return Some(Named::Bridged(bridged::DMG));
        }
        let ours = if name == "vpc" { vhd::DRIVER.name } else { name };
        let driver = DRIVERS.iter().find(|driver| driver.name == ours);
        if ours == "raw" { Some(Named::Raw) } else { driver.map(|driver| Named::Driver(driver.name)) }
    }
}

/// How a format is recognised and read.
pub struct Driver {
    pub name: &'static str,
    /// Whether a head (up to 1 MiB, or 128 KiB behind a codec) begins an image of this format.
    pub detect: fn(head: &[u8]) -> bool,
    /// Bytes of the head that [`Driver::describe`] needs, where that is more than the first MiB; at most 8 MiB.
    pub needs: fn(head: &[u8]) -> u64,
    /// Reads the head; `file_length` in bytes where it is known. Fails with what refuses the image.
    pub describe: fn(head: &[u8], file_length: Option<u64>, limits: &Limits) -> Result<Image>,
}

/// For formats that say all in the first MiB.
fn no_more(_head: &[u8]) -> u64 {
    0
}

/// An image as its head describes it.
#[derive(Clone, Debug)]
pub struct Image {
    /// Bytes that the guest sees.
    pub virtual_size: u64,
    pub order: Order,
    /// For people: "version 3", "cluster size 65536".
    pub features: Vec<String>,
    /// What will not be carried over, for people.
    pub left_out: Vec<String>,
    pub opener: Arc<dyn Open>,
}

/// Whether data can be placed as it comes, or the tables are better read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Stream,
    Metadata,
}

/// Tables that begin below this need no metadata pass: little is held back until they come.
pub const EARLY: u64 = 1 << 20;

/// Begins to decode an image that was described.
pub trait Open: Send + Sync + fmt::Debug {
    fn open(&self, options: Options) -> Result<Box<dyn Format>>;
}

impl<L: mapped::Layout + Clone + fmt::Debug + 'static> Open for L {
    fn open(&self, options: Options) -> Result<Box<dyn Format>> {
        Ok(Box::new(mapped::Mapped::new(Box::new(self.clone()), options)?))
    }
}

/// How an image is to be read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Length of the image file in bytes, where it is known.
    pub file_length: Option<u64>,
    /// Whether ranges may be asked for.
    pub seekable: bool,
    /// Ask for the tables first; needs `seekable`.
    pub metadata_first: bool,
    /// Read every byte of the file once in order, so that its digest can be computed.
    pub whole: bool,
    /// Data from below this offset of the file is on the target already.
    pub from: Option<u64>,
    /// All of the file is given again, or all from `from` on, and the disk takes data from below this offset for written.
    pub skip_below: Option<u64>,
    /// Every table was known before the data below `from` or `skip_below` was delivered, as by `metadata_first`.
    /// Otherwise that data is not trusted for tables that end behind it.
    pub tables_first: bool,
    /// Ranges of the disk that are delivered even so.
    pub held: Vec<Range<u64>>,
    pub limits: Limits,
    /// Directory for a spill file.
    pub spill: Option<PathBuf>,
    /// The source cannot be read again: [`Format::keeps`] is asked.
    pub keeps: bool,
}

/// How a packed cluster was compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Raw deflate (RFC 1951), no header.
    Deflate,
    /// A zlib stream (RFC 1950), its checksum verified.
    Zlib,
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
    /// Whether a checkpoint may lie at exactly the offset that `pinned` names, because what begins there is delivered as a
    /// whole. Otherwise it is moved down to where a leaf of the disk's digest begins.
    fn exact(&self) -> bool {
        false
    }
    /// Asked after each `take`: true when the pass cannot go on, and `wants` must be asked at once for another.
    fn turned(&self) -> bool {
        false
    }
    /// Whether every part of the disk whose data lies below `pinned` has it, also where a table names it that is still
    /// to be read. `None` for formats without tables.
    fn tables_first(&self) -> Option<bool> {
        None
    }
    /// What of the piece that was taken last must be given again to a run that goes on behind it, ascending: all but data
    /// that is delivered, or will be before a checkpoint lies above it, and does not lie in the held ranges.
    /// None where a run can only go on from the beginning.
    fn keeps(&mut self) -> Option<Vec<Range<u64>>> {
        None
    }
    /// Whether all data reaches the disk at its own offset, ascending (raw).
    fn in_disk_order(&self) -> bool {
        false
    }
}

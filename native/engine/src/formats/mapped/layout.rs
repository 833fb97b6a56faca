//! What a format with tables has to say of itself.

use std::ops::Range;

use crate::error::{Code, Error, Result, Stage};
use crate::formats::Packing;

/// Compressed clusters are sized in sectors of this many bytes.
pub const SECTOR: u64 = 512;
/// Subclusters in a cluster with extended L2 entries.
pub const SUBCLUSTERS: u32 = 32;

/// What a table says of a guest cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Zero,
    Data {
        host: u64,
    },
    /// Bit `i` of `allocated`: subcluster `i` is at `host` + i subclusters; the others are zeros.
    Subclusters {
        host: u64,
        allocated: u32,
    },
    /// `len` bytes at `host`, up to the end of a sector; unpacks to a cluster.
    Packed {
        host: u64,
        len: u32,
    },
}

/// Where the tables of an image are, and how they read: parsed from its head, with every figure in it checked. Offsets
/// and lengths are in bytes; a cluster is the part of the disk that one entry maps, whatever the format calls it.
pub trait Layout: Send + Sync {
    fn name(&self) -> &'static str;
    /// What the guest sees; at most [`crate::limits::Limits::virtual_size`].
    fn size(&self) -> u64;
    /// The beginning of the file as it was when the layout was parsed: it must be the same when it passes again.
    fn head(&self) -> &[u8];
    /// Guest bytes of a cluster.
    fn cluster(&self) -> u64;
    /// Guest bytes of a table: a multiple of the cluster.
    fn span(&self) -> u64;
    /// Parts of the file that are known to hold neither data nor tables.
    fn reserved(&self) -> &[Range<u64>];
    /// What says where the tables are; empty where the header does. All that is needed for [`Layout::size`].
    fn directory(&self) -> Range<u64> {
        0..0
    }
    /// What the directory fills; nothing else lies there.
    fn directory_room(&self) -> Range<u64> {
        self.directory()
    }
    /// Tables that [`Layout::size`] needs.
    fn tables(&self) -> u32 {
        u32::try_from(self.size().div_ceil(self.span())).unwrap_or(u32::MAX)
    }
    /// Offset of a table, `None` where the whole span reads as zeros. `directory` holds the bytes of
    /// [`Layout::directory`]; without one every table has a place.
    fn table(&self, index: u32, directory: &[u8]) -> Result<Option<u64>>;
    /// Bytes of a table in the file, as far as it is needed.
    fn table_length(&self, index: u32) -> u64;
    /// Entry `n` of a table, for the cluster at `guest` of the disk.
    fn entry(&self, guest: u64, n: usize, table: &[u8]) -> Result<Entry>;
    /// How packed clusters are compressed.
    fn packing(&self) -> Packing {
        Packing::Deflate
    }
    /// A table of blocks that hold nothing of the disk (qcow2's refcounts) ...
    fn refcounts(&self) -> Range<u64> {
        0..0
    }
    /// ... and the blocks that it names, ascending, each of one cluster.
    fn refcount_blocks(&self, _table: &[u8]) -> Vec<u64> {
        Vec::new()
    }
    /// Bytes that must have room in the hold-back: whatever may come in part.
    fn least_hold_back(&self) -> u64 {
        let directory = self.directory();
        4 * self.table_length(0) + (directory.end - directory.start)
    }
    fn corrupt(&self, what: &str) -> Error {
        corrupt(self.name(), what)
    }
}

/// What is said of a damaged image.
pub fn corrupt(name: &str, what: &str) -> Error {
    let message = format!("the {name} image is damaged: {what}; check it with `qemu-img check`, or fetch it again");
    Error::new(Code::Corrupt, Stage::Format, message)
}

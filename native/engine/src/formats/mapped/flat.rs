//! One table for the whole disk, in one place that the header gives: VHD, VDI and Parallels.

use std::ops::Range;

use super::{Entry, Layout, SECTOR};
use crate::error::{Code, Error, Result, Stage};
use crate::formats::fields::{be32, le32};
use crate::formats::head;
use crate::limits::Limits;

/// Bytes of the table that are read at once.
const PART: u64 = 64 << 10;
/// Bytes of an entry.
const WIDTH: u64 = 4;

/// How an entry reads.
#[derive(Clone, Copy, Debug)]
pub struct Code32 {
    pub big_endian: bool,
    /// Entries from this value on, and below `first`, have no data.
    pub none_from: u32,
    pub first: u32,
    /// File offset of the data of entry `n` is `base + n * unit`.
    pub base: u64,
    pub unit: u64,
}

/// A table of 32-bit entries. Offsets and lengths in bytes.
#[derive(Clone, Debug)]
pub struct Flat {
    pub name: &'static str,
    pub size: u64,
    pub cluster: u64,
    pub table: u64,
    pub code: Code32,
    pub head: Vec<u8>,
    pub reserved: Vec<Range<u64>>,
}

impl Flat {
    /// Checks what the header says: `entries` of the table, which lies in the file behind `head`. Fails with CORRUPT,
    /// TOO_LARGE or TRUNCATED.
    pub fn check(&self, entries: u64, file_length: Option<u64>, limits: &Limits) -> Result<()> {
        head::accept_size(self.size, limits)?;
        // Of 1 GiB, as the largest that VHDX knows: sums of offsets stay far below overflow.
        if self.cluster == 0 || self.cluster > 1 << 30 || !self.cluster.is_multiple_of(SECTOR) {
            return Err(self.corrupt(&format!("its blocks have {} bytes", self.cluster)));
        }
        let needed = self.size.div_ceil(self.cluster);
        if entries < needed {
            let what = format!("its table has {entries} entries; {} bytes of disk need {needed}", self.size);
            return Err(self.corrupt(&what));
        }
        let end = self.table.checked_add(needed * WIDTH).filter(|&end| end < 1 << 56);
        let Some(end) = end else {
            return Err(self.corrupt(&format!("its table is at {}, where no file reaches", self.table)));
        };
        if self.reserved.iter().any(|range| self.table < range.end && range.start < end) {
            return Err(self.corrupt(&format!("its table is at {}, over the header", self.table)));
        }
        if needed * WIDTH > limits.map.max(1 << 20) {
            let message = format!(
                "the table of the {} image has {} bytes; allow more with `--memory`",
                self.name,
                needed * WIDTH
            );
            return Err(Error::new(Code::TooLarge, Stage::Format, message));
        }
        head::expect_file(end, file_length, "table", self.name)
    }
}

impl Layout for Flat {
    fn name(&self) -> &'static str {
        self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn head(&self) -> &[u8] {
        &self.head
    }

    fn cluster(&self) -> u64 {
        self.cluster
    }

    fn span(&self) -> u64 {
        PART / WIDTH * self.cluster
    }

    fn reserved(&self) -> &[Range<u64>] {
        &self.reserved
    }

    fn table(&self, index: u32, _directory: &[u8]) -> Result<Option<u64>> {
        Ok(Some(self.table + u64::from(index) * PART))
    }

    fn table_length(&self, index: u32) -> u64 {
        let before = u64::from(index) * PART;
        (self.size.div_ceil(self.cluster) * WIDTH).saturating_sub(before).min(PART)
    }

    fn entry(&self, _guest: u64, n: usize, table: &[u8]) -> Result<Entry> {
        let at = n * WIDTH as usize;
        let raw = if self.code.big_endian { be32(table, at) } else { le32(table, at) };
        Ok(if raw < self.code.first || raw >= self.code.none_from {
            Entry::Zero
        } else {
            Entry::Data { host: self.code.base + u64::from(raw) * self.code.unit }
        })
    }
}

//! A raw disk: the file is the disk.

use std::ops::Range;

use crate::bytes::Bytes;
use crate::error::{Code, Error, Result, Stage};
use crate::formats::{Disk, Format, Wants};

/// Passes bytes through. Pieces may have gaps between them: what lies there is on the target already.
pub struct Raw {
    /// Length of the image in bytes, where it is known.
    length: Option<u64>,
    /// Offset to go on from; `u64::MAX`: only the held ranges are wanted.
    start: u64,
    /// Guest ranges below `start` that are wanted again, ascending.
    held: Vec<Range<u64>>,
    asked_rest: bool,
    /// End of what was taken.
    position: u64,
}

impl Raw {
    pub fn new(length: Option<u64>, start: u64, held: &[Range<u64>]) -> Self {
        let held = held.iter().map(|r| r.start..r.end.min(start)).filter(|r| r.start < r.end).collect();
        Self { length, start, held, asked_rest: false, position: 0 }
    }
}

impl Format for Raw {
    fn wants(&mut self) -> Result<Wants> {
        let held = std::mem::take(&mut self.held);
        if self.start > 0 && !held.is_empty() {
            return Ok(Wants::Ranges(held));
        }
        if self.start == u64::MAX || std::mem::replace(&mut self.asked_rest, true) {
            return Ok(Wants::Nothing);
        }
        Ok(Wants::Rest(self.start))
    }

    fn take(&mut self, offset: u64, bytes: &Bytes, disk: &mut dyn Disk) -> Result<()> {
        self.position = offset + bytes.len() as u64;
        disk.data(offset, offset, bytes.clone())
    }

    fn finish(&mut self, length: Option<u64>, _disk: &mut dyn Disk) -> Result<()> {
        match length.or(self.length) {
            Some(length) if self.position != length && self.start != length && self.start != u64::MAX => {
                Err(Error::new(
                    Code::Truncated,
                    Stage::Format,
                    format!("the raw image has {length} bytes but {} of them were read", self.position),
                ))
            }
            _ => Ok(()),
        }
    }

    fn pinned(&self) -> Option<u64> {
        // While the held ranges are read again, nothing below the start may count as missing or done.
        if self.asked_rest { None } else { Some(self.start) }
    }

    fn in_disk_order(&self) -> bool {
        true
    }
}

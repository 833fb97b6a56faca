//! A raw disk: the file is the disk.

use std::ops::Range;

use crate::bytes::Bytes;
use crate::error::{Code, Error, Result, Stage};
use crate::formats::{Disk, Format, Wants};

/// The disk's first MiB is written last, so it is read again by a transfer that goes on.
const HEAD: u64 = 1 << 20;

/// Passes bytes through.
pub struct Raw {
    file_length: Option<u64>,
    /// Everything below was taken, now or by an earlier run.
    position: u64,
    /// Read again before going on; empty when that is done.
    head: Range<u64>,
    asked_head: bool,
    asked_rest: bool,
}

impl Raw {
    /// `file_length` in bytes where it is known. `from` is the offset to go on from: then the disk's first MiB is
    /// delivered again first, and nothing else below `from`.
    pub fn new(file_length: Option<u64>, from: Option<u64>) -> Self {
        let position = from.unwrap_or(0).min(file_length.unwrap_or(u64::MAX));
        Self { file_length, position, head: 0..HEAD.min(position), asked_head: position == 0, asked_rest: false }
    }

    fn pass(from: u64, to: u64, offset: u64, bytes: &Bytes, disk: &mut dyn Disk) -> Result<()> {
        disk.data(from, from, bytes.slice((from - offset) as usize, (to - offset) as usize))
    }
}

impl Format for Raw {
    fn wants(&mut self) -> Result<Wants> {
        if !self.asked_head {
            self.asked_head = true;
            return Ok(Wants::Ranges(vec![self.head.clone()]));
        }
        if self.asked_rest
            || self.position == u64::MAX
            || (self.position > 0 && Some(self.position) == self.file_length)
        {
            return Ok(Wants::Nothing);
        }
        self.asked_rest = true;
        Ok(Wants::Rest(self.position))
    }

    fn take(&mut self, offset: u64, bytes: &Bytes, disk: &mut dyn Disk) -> Result<()> {
        let end = offset + bytes.len() as u64;
        if !self.asked_rest {
            if offset <= self.head.start && end > self.head.start && !self.head.is_empty() {
                let (from, to) = (self.head.start, self.head.end.min(end));
                self.head.start = to;
                Self::pass(from, to, offset, bytes, disk)?;
            }
            return Ok(());
        }
        if offset <= self.position && end > self.position {
            let from = self.position;
            self.position = end;
            Self::pass(from, end, offset, bytes, disk)?;
        }
        Ok(())
    }

    fn finish(&mut self, length: Option<u64>, _disk: &mut dyn Disk) -> Result<()> {
        let length = length.or(self.file_length);
        let read = if self.head.is_empty() { self.position } else { self.head.start };
        match length {
            Some(length) if read < length => Err(Error::new(
                Code::Truncated,
                Stage::Format,
                format!("the raw image has {length} bytes but only {read} of them arrived"),
            )),
            _ => Ok(()),
        }
    }

    fn pinned(&self) -> Option<u64> {
        None
    }

    fn in_disk_order(&self) -> bool {
        true
    }
}

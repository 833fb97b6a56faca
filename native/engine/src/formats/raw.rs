//! A raw disk: the file is the disk.

use std::collections::VecDeque;
use std::ops::Range;

use crate::bytes::Bytes;
use crate::error::{Code, Error, Result, Stage};
use crate::formats::{Disk, Format, Wants};

/// Passes bytes through. Pieces may have gaps between them: what lies there is on the target already, or, where the
/// extents are those of the source's data, zeros.
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
    /// Where the source is read, ascending and disjoint. None: anywhere.
    extents: Option<Vec<Range<u64>>>,
    /// What the extents leave out stays as it is on the target; else it is zeros.
    onto: bool,
    /// Of what was asked for by extents, what has not come yet.
    missing: VecDeque<Range<u64>>,
    /// Guest ranges that are held.
    ends: Vec<Range<u64>>,
    /// Offset of the piece that was taken last.
    last: u64,
}

impl Raw {
    pub fn new(length: Option<u64>, start: u64, ends: &[Range<u64>]) -> Self {
        let held = ends.iter().map(|r| r.start..r.end.min(start)).filter(|r| r.start < r.end).collect();
        Self {
            length,
            start,
            held,
            asked_rest: false,
            position: 0,
            extents: None,
            onto: false,
            missing: VecDeque::new(),
            ends: ends.to_vec(),
            last: 0,
        }
    }

    /// Only `extents` of the source are read, by ranges: ascending and disjoint. Needs its length. What they leave out is
    /// zeros or, with `onto`, stays as it is on the target.
    pub fn by_extents(mut self, extents: Vec<Range<u64>>, onto: bool) -> Self {
        self.extents = Some(extents);
        self.onto = onto;
        self
    }

    /// What of the extents lies in `within`, noted as missing.
    fn ask(&mut self, within: &[Range<u64>]) -> Wants {
        let extents = self.extents.as_deref().unwrap_or_default();
        let cut = |part: &Range<u64>| {
            let part = part.clone();
            let from = extents.partition_point(|x| x.end <= part.start);
            let overlapping = extents[from..].iter().take_while(move |x| x.start < part.end);
            overlapping.map(move |x| x.start.max(part.start)..x.end.min(part.end)).collect::<Vec<_>>()
        };
        let wanted: Vec<_> = within.iter().flat_map(cut).filter(|r| r.start < r.end).collect();
        self.missing = wanted.iter().cloned().collect();
        if wanted.is_empty() { Wants::Nothing } else { Wants::Ranges(wanted) }
    }

    fn nothing_missing(&self) -> Result<()> {
        let Some(range) = self.missing.front() else { return Ok(()) };
        let what = format!("bytes {} to {} of the raw image did not come from the source", range.start, range.end);
        Err(Error::new(Code::Truncated, Stage::Format, what))
    }
}

impl Format for Raw {
    fn wants(&mut self) -> Result<Wants> {
        self.nothing_missing()?;
        let held = std::mem::take(&mut self.held);
        if self.start > 0 && !held.is_empty() {
            if self.extents.is_none() {
                return Ok(Wants::Ranges(held));
            }
            // Zeros of the held ends need no word: they are zeros until something is captured there.
            let wants = self.ask(&held);
            if wants != Wants::Nothing {
                return Ok(wants);
            }
        }
        if self.start == u64::MAX || std::mem::replace(&mut self.asked_rest, true) {
            return Ok(Wants::Nothing);
        }
        if self.extents.is_some() {
            self.position = self.start;
            let rest = self.start..u64::MAX;
            return Ok(self.ask(std::slice::from_ref(&rest)));
        }
        Ok(Wants::Rest(self.start))
    }

    fn take(&mut self, offset: u64, bytes: &Bytes, disk: &mut dyn Disk) -> Result<()> {
        let end = offset + bytes.len() as u64;
        if self.extents.is_some() {
            while let Some(range) = self.missing.front_mut().filter(|range| range.start < end) {
                if range.start < offset {
                    break; // told when this round is over
                }
                range.start = range.end.min(end);
                if range.start < range.end {
                    break;
                }
                self.missing.pop_front();
            }
            if self.asked_rest && !self.onto && offset > self.position {
                disk.zero(self.position, offset - self.position)?;
            }
        }
        self.position = end;
        self.last = offset;
        disk.data(offset, offset, bytes.clone())
    }

    fn finish(&mut self, length: Option<u64>, disk: &mut dyn Disk) -> Result<()> {
        self.nothing_missing()?;
        let length = length.or(self.length);
        if let (Some(_), Some(length), true) = (&self.extents, length, self.asked_rest)
            && self.position < length
        {
            if !self.onto {
                disk.zero(self.position, length - self.position)?;
            }
            self.position = length;
        }
        match length {
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

    fn keeps(&mut self) -> Option<Vec<Range<u64>>> {
        let within = |end: &Range<u64>| end.start.max(self.last)..end.end.min(self.position);
        Some(self.ends.iter().map(within).filter(|range| range.start < range.end).collect())
    }

    fn in_disk_order(&self) -> bool {
        true
    }
}

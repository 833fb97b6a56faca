//! Where known data lies in the file, in the order in which the file brings it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// Set in `Extent::len` of a compressed cluster.
const PACKED: u32 = 1 << 31;
/// Set in `Extent::len` of data whose table was not known yet when the checkpoint was taken.
const LATE: u32 = 1 << 30;
/// Longest extent, bytes.
pub const LONGEST: u64 = 1 << 29;

/// A run of data that has not been delivered: 24 bytes. Ordered by its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    pub host: u64,
    pub guest: u64,
    len: u32,
}

impl Extent {
    /// `len` is at most [`LONGEST`].
    pub fn new(host: u64, guest: u64, len: u64, packed: bool) -> Self {
        Self { host, guest, len: len as u32 | if packed { PACKED } else { 0 } }
    }

    /// The same, marked as data that is delivered although it may come from below the checkpoint.
    pub fn late(mut self, late: bool) -> Self {
        self.len |= if late { LATE } else { 0 };
        self
    }

    pub fn is_late(&self) -> bool {
        self.len & LATE != 0
    }

    /// What the disk is told as the origin, for a transfer that goes on from `from`: late data must not pass for
    /// what was written before.
    pub fn origin(&self, from: u64) -> u64 {
        if self.is_late() { self.host.max(from) } else { self.host }
    }

    pub fn packed(&self) -> bool {
        self.len & PACKED != 0
    }

    /// Bytes in the file.
    pub fn len(&self) -> u64 {
        u64::from(self.len & !(PACKED | LATE))
    }

    pub fn end(&self) -> u64 {
        self.host + self.len()
    }

    /// The part of plain data that lies at `from..to` of the file.
    pub fn part(&self, from: u64, to: u64) -> Self {
        Self::new(from, self.guest + (from - self.host), to - from, false).late(self.is_late())
    }
}

/// Extents to come, lowest place first. Several may name the same place.
#[derive(Default)]
pub struct Map(BinaryHeap<Reverse<Extent>>);

impl Map {
    pub fn push(&mut self, extent: Extent) {
        self.0.push(Reverse(extent));
    }

    pub fn first(&self) -> Option<&Extent> {
        self.0.peek().map(|Reverse(extent)| extent)
    }

    /// Takes the lowest extent if it begins below `end`.
    pub fn pop_below(&mut self, end: u64) -> Option<Extent> {
        if self.first()?.host < end { self.0.pop().map(|Reverse(extent)| extent) } else { None }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of memory in use.
    pub fn memory(&self) -> u64 {
        (self.0.len() * size_of::<Extent>()) as u64
    }

    /// Places in the file below `limit`, ascending and disjoint, joined where the gap is below `gap`; at most `most`.
    pub fn ranges(&mut self, limit: u64, gap: u64, most: usize) -> Vec<Range<u64>> {
        let sorted = {
            let mut all = std::mem::take(&mut self.0).into_vec();
            all.sort_unstable_by_key(|Reverse(extent)| *extent);
            all
        };
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for Reverse(extent) in &sorted {
            if extent.host >= limit {
                break;
            }
            // Plain data above the limit comes with the pass that begins there.
            let end = if extent.packed() { extent.end() } else { extent.end().min(limit) };
            let full = ranges.len() == most;
            match ranges.last_mut() {
                Some(last) if extent.host < last.end + gap => last.end = last.end.max(end),
                _ if full => break,
                _ => ranges.push(extent.host..end),
            }
        }
        self.0 = BinaryHeap::from(sorted);
        ranges
    }
}

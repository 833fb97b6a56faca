//! What the grain tables of a stream name, against the grains that came. A stream that lost a part of itself, or whose
//! end was cut off between two grains, is found by it.

use super::header::{Header, TABLE};
use crate::error::Result;
use crate::formats::fields::le32;
use crate::formats::mapped::{SECTOR, corrupt};

/// How many places, and a sum over them that no other set of places has by chance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Places {
    count: u64,
    sum: u64,
}

impl Places {
    fn add(&mut self, sector: u64) {
        self.count += 1;
        // The finalizer of SplitMix64 (Steele, Lea, Flood 2014): neighbours give sums far apart.
        let mut mixed = sector.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.sum = self.sum.wrapping_add(mixed ^ (mixed >> 31));
    }
}

pub struct Tables {
    /// Grains before this file offset are not counted: an earlier run had them.
    from: u64,
    zeroed_grains: bool,
    named: Places,
    came: Places,
    /// Whether every table has been, or will be, read.
    complete: bool,
    /// Directory in front of the grains: its place, and its bytes as far as they came.
    directory: std::ops::Range<u64>,
    bytes: Vec<u8>,
    /// Places of the tables that it names, ascending; those before `next` were read.
    places: Vec<u64>,
    next: usize,
    table: Vec<u8>,
}

impl Tables {
    pub fn new(header: &Header, from: u64) -> Self {
        let in_front = !header.directory_at_end();
        let directory = if in_front { header.directory..header.directory + header.tables() * 4 } else { 0..0 };
        Self {
            from,
            zeroed_grains: header.zeroed_grains,
            named: Places::default(),
            came: Places::default(),
            // Of two sets of tables in the stream nothing says which is which.
            complete: in_front || !header.redundant,
            directory,
            bytes: Vec::new(),
            places: Vec::new(),
            next: 0,
            table: Vec::new(),
        }
    }

    /// A grain whose marker is at `at` of the file.
    pub fn grain(&mut self, at: u64) {
        if at >= self.from {
            self.came.add(at / SECTOR);
        }
    }

    /// A table.
    pub fn read(&mut self, table: &[u8]) {
        for at in (0..table.len()).step_by(4) {
            let sector = u64::from(le32(table, at));
            let data = sector > 1 || sector == 1 && !self.zeroed_grains;
            if data && sector * SECTOR >= self.from {
                self.named.add(sector);
            }
        }
    }

    /// Bytes of what stands in front of the grains, in order. Fails with CORRUPT.
    pub fn pass(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let end = at + bytes.len() as u64;
        let part = |from: u64, to: u64| {
            let (from, to) = (from.clamp(at, end), to.clamp(at, end));
            &bytes[(from - at) as usize..(to - at) as usize]
        };
        let wanted = self.directory.end - self.directory.start;
        if (self.bytes.len() as u64) < wanted {
            self.bytes.extend_from_slice(part(self.directory.start, self.directory.end));
            if self.bytes.len() as u64 == wanted {
                self.list()?;
            }
        }
        while let Some(&place) = self.places.get(self.next) {
            // Behind the directory, or they have passed.
            self.table.extend_from_slice(part(place.max(self.directory.end), place + TABLE));
            if place + TABLE > end {
                break;
            }
            let table = std::mem::take(&mut self.table);
            self.complete &= table.len() as u64 == TABLE;
            self.read(&table);
            self.next += 1;
        }
        Ok(())
    }

    fn list(&mut self) -> Result<()> {
        let mut places: Vec<u64> =
            (0..self.bytes.len()).step_by(4).map(|at| u64::from(le32(&self.bytes, at)) * SECTOR).collect();
        places.retain(|&place| place != 0);
        places.sort_unstable();
        if places.windows(2).any(|pair| pair[1] - pair[0] < TABLE) {
            return Err(corrupt(super::DRIVER.name, "its grain tables overlap"));
        }
        self.places = places;
        Ok(())
    }

    /// What did not come, for people.
    pub fn missing(&self) -> Option<String> {
        let all_read =
            self.next == self.places.len() && self.bytes.len() as u64 == self.directory.end - self.directory.start;
        if !self.complete || !all_read || self.named == self.came {
            return None;
        }
        Some(format!("with {} grains where its tables name {}", self.came.count, self.named.count))
    }
}

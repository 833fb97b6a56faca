//! monolithicSparse: a grain directory and grain tables ("Hosted Sparse Extents").

use std::ops::Range;

use super::DRIVER;
use super::header::{ENTRIES, Header, TABLE};
use crate::error::Result;
use crate::formats::fields::le32;
use crate::formats::mapped::{Entry, Layout, SECTOR};

/// Entry of a grain that reads as zeros, where the header allows it ("zeroed-grain GTE").
const ZEROED: u32 = 1;

#[derive(Clone, Debug)]
pub struct Sparse {
    header: Header,
    reserved: Vec<Range<u64>>,
}

impl Sparse {
    pub fn new(header: Header) -> Self {
        let reserved = vec![0..header.raw.len() as u64, header.descriptor.clone()];
        Self { header, reserved }
    }
}

impl Layout for Sparse {
    fn name(&self) -> &'static str {
        DRIVER.name
    }

    fn size(&self) -> u64 {
        self.header.size
    }

    fn head(&self) -> &[u8] {
        &self.header.raw
    }

    fn cluster(&self) -> u64 {
        self.header.grain
    }

    fn span(&self) -> u64 {
        ENTRIES * self.header.grain
    }

    fn reserved(&self) -> &[Range<u64>] {
        &self.reserved
    }

    fn directory(&self) -> Range<u64> {
        self.header.directory..self.header.directory + self.header.tables() * 4
    }

    fn table(&self, index: u32, directory: &[u8]) -> Result<Option<u64>> {
        let sector = le32(directory, index as usize * 4);
        Ok((sector != 0).then(|| u64::from(sector) * SECTOR))
    }

    fn table_length(&self, _index: u32) -> u64 {
        TABLE
    }

    fn entry(&self, _guest: u64, n: usize, table: &[u8]) -> Result<Entry> {
        Ok(match le32(table, n * 4) {
            0 => Entry::Zero,
            ZEROED if self.header.zeroed_grains => Entry::Zero,
            sector => Entry::Data { host: u64::from(sector) * SECTOR },
        })
    }
}

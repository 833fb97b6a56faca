//! Hyper-V's VHDX, dynamic and fixed ([MS-VHDX]).

use std::ops::Range;
use std::sync::Arc;

use super::fields::le64;
use super::mapped::{Entry, Layout, corrupt};
use super::{Driver, Image, Order, head};
use crate::error::Result;
use crate::limits::Limits;

mod header;

use header::{Header, Metadata};

pub const DRIVER: Driver = Driver { name: "vhdx", detect: |head| head.starts_with(b"vhdxfile"), needs, describe };

/// Tables that end below this are behind little data, if any: programs put them in front.
const EARLY: u64 = 8 << 20;

/// Payload block states ("BAT Entry").
const NOT_PRESENT: u64 = 0;
const UNDEFINED: u64 = 1;
const ZERO: u64 = 2;
const UNMAPPED: u64 = 3;
const FULLY_PRESENT: u64 = 6;

/// Up to the end of the metadata, which lies behind the first MiB.
fn needs(bytes: &[u8]) -> u64 {
    if (bytes.len() as u64) < header::FIRST {
        return header::FIRST;
    }
    Header::parse(bytes).map_or(0, |header| header.metadata.end)
}

fn describe(bytes: &[u8], file_length: Option<u64>, limits: &Limits) -> Result<Image> {
    let header = Header::parse(bytes)?;
    head::expect_head(bytes, header.metadata.end, DRIVER.name)?;
    let metadata = Metadata::parse(bytes, &header.metadata)?;
    head::accept_size(metadata.size, limits)?;
    let Metadata { size, block, sector, fixed } = metadata;
    // "Chunk": as many blocks as one sector bitmap block describes, whose entry stands behind theirs.
    let ratio = (sector << 23) / block;
    let layout = Vhdx {
        size,
        block,
        ratio,
        bat: header.bat.start,
        head: bytes[..header.metadata.end as usize].to_vec(),
        reserved: vec![0..header::FIRST, header.metadata.clone(), header.log.clone()],
    };
    let end = header.bat.start + layout.bytes();
    if end > header.bat.end {
        let what = format!(
            "its block allocation table has room for {} bytes, and needs {}",
            header.bat.end - header.bat.start,
            layout.bytes()
        );
        return Err(corrupt(DRIVER.name, &what));
    }
    if layout.reserved.iter().any(|range| header.bat.start < range.end && range.start < end) {
        return Err(corrupt(DRIVER.name, "its block allocation table lies over something else"));
    }
    head::expect_file(end, file_length, "block allocation table", DRIVER.name)?;
    Ok(Image {
        virtual_size: size,
        order: if end <= EARLY { Order::Stream } else { Order::Metadata },
        features: vec![
            if fixed { "fixed" } else { "dynamic" }.to_owned(),
            format!("block size {block}"),
            format!("sectors of {sector} bytes"),
        ],
        left_out: Vec::new(),
        opener: Arc::new(layout),
    })
}

/// The table is cut where the entries of sector bitmaps stand, of which nothing is needed.
#[derive(Clone, Debug)]
struct Vhdx {
    size: u64,
    block: u64,
    /// Blocks of a table.
    ratio: u64,
    bat: u64,
    head: Vec<u8>,
    reserved: Vec<Range<u64>>,
}

impl Vhdx {
    /// Bytes of the table, as far as blocks need it.
    fn bytes(&self) -> u64 {
        let blocks = self.size.div_ceil(self.block);
        (blocks + blocks.saturating_sub(1) / self.ratio) * 8
    }
}

impl Layout for Vhdx {
    fn name(&self) -> &'static str {
        DRIVER.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn head(&self) -> &[u8] {
        &self.head
    }

    fn cluster(&self) -> u64 {
        self.block
    }

    fn span(&self) -> u64 {
        self.ratio * self.block
    }

    fn reserved(&self) -> &[Range<u64>] {
        &self.reserved
    }

    fn table(&self, index: u32, _directory: &[u8]) -> Result<Option<u64>> {
        Ok(Some(self.bat + u64::from(index) * (self.ratio + 1) * 8))
    }

    fn table_length(&self, index: u32) -> u64 {
        let before = u64::from(index) * self.ratio;
        (self.size.div_ceil(self.block).saturating_sub(before)).min(self.ratio) * 8
    }

    fn entry(&self, guest: u64, n: usize, table: &[u8]) -> Result<Entry> {
        let raw = le64(table, n * 8);
        // Bits 20 to 63: the place in MiB.
        let host = raw >> 20 << 20;
        match raw & 7 {
            NOT_PRESENT | UNDEFINED | ZERO | UNMAPPED => Ok(Entry::Zero),
            FULLY_PRESENT if host < 1 << 56 => Ok(Entry::Data { host }),
            state => Err(self.corrupt(&format!("the block for disk offset {guest} has the state {state} at {host}"))),
        }
    }
}

//! streamOptimized: grains that are compressed one by one, each behind a marker that says where on the disk it belongs
//! ("Stream-Optimized Compressed Sparse Extents"). They are taken as they come; the tables only confirm that all came.
//!
//! VMware's programs put the grain tables behind the grains that they name, then the directory, a footer and a mark of
//! the end. QEMU puts the tables in front and ends after the last grain.

use std::ops::Range;

use super::DRIVER;
use super::header::{Header, TABLE};
use super::tables::Tables;
use crate::bytes::Bytes;
use crate::error::{Code, Error, Result, Stage};
use crate::formats::fields::{le32, le64};
use crate::formats::mapped::{SECTOR, corrupt};
use crate::formats::{Disk, Format, Open, Options, Packing, Wants};

/// Bytes of a grain's marker: its place on the disk in sectors, and its length.
const GRAIN_MARKER: usize = 12;
/// Types of the other markers ("Markers").
const END_OF_STREAM: u32 = 0;
const GRAIN_TABLE: u32 = 1;
const GRAIN_DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;

#[derive(Debug)]
pub struct Grains {
    pub header: Header,
}

impl Open for Grains {
    fn open(&self, options: Options) -> Result<Box<dyn Format>> {
        let header = self.header.clone();
        let again = options.from.filter(|&from| from > header.overhead);
        Ok(Box::new(Stream {
            tables: Tables::new(&header, again.unwrap_or(0)),
            header,
            again,
            held: options.held,
            asked: false,
            turned: false,
            item: Item::Head,
            start: 0,
            buffer: Vec::new(),
            position: 0,
            begun: 0,
            reached: Some(0),
            last: None,
            tail: None,
            directory: None,
            footer: false,
        }))
    }
}

/// What is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    /// Everything in front of the grains.
    Head,
    /// A sector that begins with a marker.
    Marker,
    /// A grain of so many compressed bytes for this sector of the disk; its first sector has come.
    Grain {
        lba: u64,
        len: usize,
    },
    Table,
    /// So many bytes.
    Directory(u64),
    Footer,
    /// Nothing but zeros.
    Padding,
}

struct Stream {
    header: Header,
    tables: Tables,
    /// Offset to go on from, once the head of the disk has been read again: that of a grain's marker.
    again: Option<u64>,
    /// Ranges of the disk that are needed again, ascending.
    held: Vec<Range<u64>>,
    asked: bool,
    turned: bool,
    item: Item,
    /// File offset of the item.
    start: u64,
    /// What has come of it.
    buffer: Vec<u8>,
    /// File offset of the next byte.
    position: u64,
    /// Where the pass began.
    begun: u64,
    /// End of what is known of the disk; `None` until the first grain of a transfer that goes on.
    reached: Option<u64>,
    /// File offset of the last grain that was given away ...
    last: Option<u64>,
    /// ... and of the first that lies in the held end of the disk.
    tail: Option<u64>,
    /// Where the grain directory was.
    directory: Option<u64>,
    footer: bool,
}

fn bad(what: &str) -> Error {
    corrupt(DRIVER.name, what)
}

impl Stream {
    /// Bytes that the item has in the file.
    fn length(&self) -> u64 {
        match self.item {
            Item::Head => self.header.overhead.max(self.header.raw.len() as u64),
            Item::Marker | Item::Footer => SECTOR,
            Item::Grain { len, .. } => (GRAIN_MARKER as u64 + len as u64).next_multiple_of(SECTOR),
            Item::Table => TABLE,
            Item::Directory(bytes) => bytes,
            Item::Padding => u64::MAX,
        }
    }

    /// Takes the part of `bytes` that belongs to the item. Answers how much that was.
    fn advance(&mut self, bytes: &[u8], disk: &mut dyn Disk) -> Result<usize> {
        let left = self.length() - (self.position - self.start);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let part = &bytes[..n];
        match self.item {
            Item::Head => {
                let at = self.position as usize;
                let head = &self.header.raw;
                if at < head.len() && part[..n.min(head.len() - at)] != head[at..(at + n).min(head.len())] {
                    let message = "the head of the VMDK image is not what it was before: the source has changed";
                    return Err(Error::new(Code::Changed, Stage::Format, message));
                }
                self.tables.pass(self.position, part)?;
            }
            Item::Padding if part.iter().any(|&b| b != 0) => {
                return Err(bad(&format!("something follows its end at {}", self.start)));
            }
            Item::Directory(_) | Item::Padding => {}
            _ => self.buffer.extend_from_slice(part),
        }
        self.position += n as u64;
        if n as u64 == left {
            self.complete(disk)?;
        }
        Ok(n)
    }

    /// The item is there as a whole: what it says, and what follows.
    fn complete(&mut self, disk: &mut dyn Disk) -> Result<()> {
        let next = match self.item {
            Item::Marker => self.marker(&self.buffer)?,
            Item::Grain { lba, len } => {
                let packed = Bytes::copy_of(&self.buffer[GRAIN_MARKER..GRAIN_MARKER + len]);
                self.grain(lba, packed, disk)?;
                Item::Marker
            }
            Item::Table => {
                self.tables.read(&self.buffer);
                Item::Marker
            }
            Item::Footer => {
                self.check_footer()?;
                Item::Marker
            }
            Item::Head | Item::Directory(_) => Item::Marker,
            Item::Padding => Item::Padding,
        };
        if let Item::Grain { lba, len } = next {
            let item = Item::Grain { lba, len };
            let first = GRAIN_MARKER as u64 + len as u64 <= SECTOR;
            self.item = item;
            // A small grain came with its marker.
            return if first { self.complete(disk) } else { Ok(()) };
        }
        if matches!(next, Item::Directory(_)) {
            self.directory = Some(self.position);
        }
        self.item = next;
        self.start = self.position;
        self.buffer.clear();
        if matches!(self.item, Item::Marker) && self.head_is_done() {
            self.turned = true;
        }
        Ok(())
    }

    /// A whole grain that lies in one piece: its bytes are not copied. Answers how many there were.
    fn grain_at_once(&mut self, bytes: &Bytes, at: usize, disk: &mut dyn Disk) -> Result<Option<usize>> {
        let left = &bytes[at..];
        if self.item != Item::Marker || self.position != self.start || (left.len() as u64) < SECTOR {
            return Ok(None);
        }
        let size = le32(left, 8) as usize;
        let whole = (GRAIN_MARKER + size).next_multiple_of(SECTOR as usize);
        if size == 0 || left.len() < whole {
            return Ok(None);
        }
        let Item::Grain { lba, len } = self.marker(left)? else { return Ok(None) };
        self.grain(lba, bytes.slice(at + GRAIN_MARKER, at + GRAIN_MARKER + len), disk)?;
        self.position += whole as u64;
        self.start = self.position;
        self.turned |= self.head_is_done();
        Ok(Some(whole))
    }

    fn marker(&self, sector: &[u8]) -> Result<Item> {
        let (value, size, kind) = (le64(sector, 0), le32(sector, 8), le32(sector, GRAIN_MARKER));
        let at = self.start;
        if size > 0 {
            // Deflate adds 5 bytes to a block of 64 KiB that it cannot compress (RFC 1951, section 3.2.4); zlib 6.
            let most = self.header.grain + self.header.grain / 64 + 64;
            if u64::from(size) > most {
                return Err(bad(&format!("the grain at {at} has {size} bytes; {most} are the most")));
            }
            return Ok(Item::Grain { lba: value, len: size as usize });
        }
        let expected = match kind {
            END_OF_STREAM => 0,
            GRAIN_TABLE => TABLE / SECTOR,
            GRAIN_DIRECTORY => (self.header.tables() * 4).div_ceil(SECTOR),
            FOOTER => 1,
            other => return Err(bad(&format!("the marker at {at} has the type {other}"))),
        };
        if value != expected {
            return Err(bad(&format!("the marker at {at}, of type {kind}, announces {value} sectors, not {expected}")));
        }
        Ok(match kind {
            GRAIN_TABLE => Item::Table,
            GRAIN_DIRECTORY => Item::Directory(expected * SECTOR),
            FOOTER => Item::Footer,
            _ => Item::Padding,
        })
    }

    fn grain(&mut self, lba: u64, packed: Bytes, disk: &mut dyn Disk) -> Result<()> {
        let (grain, size) = (self.header.grain, self.header.size);
        let at = lba.checked_mul(SECTOR).filter(|&at| at < size && at.is_multiple_of(grain));
        let Some(at) = at else {
            return Err(bad(&format!("the grain at {} is for sector {lba}, where none can be", self.start)));
        };
        match self.reached {
            Some(reached) if at < reached => {
                return Err(bad(&format!(
                    "the grain at {} is for disk offset {at}, behind one for {reached}: grains must ascend",
                    self.start
                )));
            }
            Some(reached) if at > reached => disk.zero(reached, at - reached)?,
            _ => {}
        }
        let needed = grain.min(size - at);
        let origin = self.start + GRAIN_MARKER as u64;
        if needed == grain {
            disk.packed(at, grain as usize, origin, Packing::Zlib, packed)?;
        } else {
            // The last one may be cut where the disk ends, or be whole.
            let mut out = vec![0; grain as usize];
            let unpacked = libdeflater::Decompressor::new().zlib_decompress(&packed, &mut out);
            if !unpacked.is_ok_and(|n| n as u64 >= needed) {
                return Err(bad(&format!("the grain for disk offset {at} does not unpack to {needed} bytes")));
            }
            disk.data(at, origin, Bytes::copy_of(&out[..needed as usize]))?;
        }
        self.tables.grain(self.start);
        self.reached = Some(at + needed);
        self.last = Some(self.start);
        if self.held.last().is_some_and(|tail| tail.start > 0 && at + needed > tail.start) {
            self.tail.get_or_insert(self.start);
        }
        Ok(())
    }

    /// The footer is the header once more, with the place of the directory ("Stream-Optimized ... footer").
    fn check_footer(&mut self) -> Result<()> {
        let stated = le64(&self.buffer, 56).checked_mul(SECTOR);
        let same = self.buffer[..56] == self.header.raw[..56];
        if !same || stated.is_none() || stated != self.directory {
            return Err(bad(&format!("its footer at {} names another image", self.start)));
        }
        self.footer = true;
        Ok(())
    }

    /// In a transfer that goes on: the held head of the disk has been read again.
    fn head_is_done(&self) -> bool {
        let Some(again) = self.again.filter(|&again| again != u64::MAX) else { return false };
        let head = self.held.first().map_or(0, |head| head.end);
        self.position >= again || self.reached.is_some_and(|reached| reached >= head)
    }
}

impl Format for Stream {
    fn wants(&mut self) -> Result<Wants> {
        if !std::mem::replace(&mut self.asked, true) {
            return Ok(Wants::Rest(0));
        }
        if !std::mem::take(&mut self.turned) {
            return Ok(Wants::Nothing);
        }
        let again = self.again.take().unwrap_or(self.position);
        (self.position, self.begun, self.start, self.item) = (again, again, again, Item::Marker);
        self.buffer.clear();
        (self.reached, self.last, self.tail) = (None, None, None);
        Ok(Wants::Rest(again))
    }

    fn take(&mut self, offset: u64, bytes: &Bytes, disk: &mut dyn Disk) -> Result<()> {
        let Some(skip) = self.position.checked_sub(offset) else {
            let message = format!("bytes {} to {offset} of the VMDK image did not come", self.position);
            return Err(Error::new(Code::Truncated, Stage::Format, message));
        };
        let mut at = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
        while at < bytes.len() && !self.turned {
            at += match self.grain_at_once(bytes, at, disk)? {
                Some(n) => n,
                None => self.advance(&bytes[at..], disk)?,
            };
        }
        Ok(())
    }

    fn finish(&mut self, length: Option<u64>, disk: &mut dyn Disk) -> Result<()> {
        let end = length.unwrap_or(self.position);
        let why = if self.item == Item::Head || self.position > self.start && self.item != Item::Padding {
            Some("inside of something".to_owned())
        } else if self.header.directory_at_end() && !(self.footer && self.item == Item::Padding) {
            Some("without a footer".to_owned())
        } else {
            self.tables.missing()
        };
        if let Some(why) = why {
            let message = format!("the VMDK image ended after {end} bytes, {why}: fetch it again");
            return Err(Error::new(Code::Truncated, Stage::Format, message));
        }
        let (reached, size) = (self.reached.unwrap_or(self.header.size), self.header.size);
        if reached < size { disk.zero(reached, size - reached) } else { Ok(()) }
    }

    fn pinned(&self) -> Option<u64> {
        let last = self.last.unwrap_or(self.begun).min(self.tail.unwrap_or(u64::MAX));
        Some(self.again.unwrap_or(last))
    }

    fn exact(&self) -> bool {
        true
    }

    fn turned(&self) -> bool {
        self.turned
    }
}

//! Header section, region tables and metadata ([MS-VHDX] 2.2, 2.6).

use std::ops::Range;

use super::DRIVER;
use crate::error::Result;
use crate::formats::fields::{le32, le64};
use crate::formats::head;
use crate::formats::mapped::corrupt;

const KIB: usize = 1 << 10;
/// The header section; regions lie behind it, each at a MiB.
pub const FIRST: u64 = 1 << 20;
const HEADERS: [usize; 2] = [64 * KIB, 128 * KIB];
const REGION_TABLES: [usize; 2] = [192 * KIB, 256 * KIB];
/// Bytes of a header, of a region table and of the metadata table.
const HEADER: usize = 4 * KIB;
const TABLE: usize = 64 * KIB;
/// Entries of either table ("EntryCount").
const MOST: u32 = 2047;
/// Bytes of the metadata region that are looked at: a table, and items of some bytes each.
const METADATA: u64 = 1 << 20;
/// Where it must end: Hyper-V and QEMU put it within the first 4 MiB.
const FARTHEST: u64 = 8 << 20;
/// Offsets beyond this are none.
const LARGEST: u64 = 1 << 56;

/// As they lie in the file: the first three fields little-endian.
const BAT: [u8; 16] = guid(0x2dc2_7766, 0xf623, 0x4200, [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08]);
const METADATA_REGION: [u8; 16] = guid(0x8b7c_a206, 0x4790, 0x4b9a, [0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e]);
const FILE_PARAMETERS: [u8; 16] = guid(0xcaa1_6737, 0xfa36, 0x4d43, [0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b]);
const DISK_SIZE: [u8; 16] = guid(0x2fa5_4224, 0xcd1b, 0x4876, [0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8]);
const LOGICAL_SECTOR: [u8; 16] = guid(0x8141_bf1d, 0xa96f, 0x4709, [0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f]);
const PHYSICAL_SECTOR: [u8; 16] = guid(0xcda3_48c7, 0x445d, 0x4471, [0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56]);
const DISK_ID: [u8; 16] = guid(0xbeca_12ab, 0xb2e6, 0x4523, [0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46]);
const KNOWN_ITEMS: [[u8; 16]; 5] = [FILE_PARAMETERS, DISK_SIZE, LOGICAL_SECTOR, PHYSICAL_SECTOR, DISK_ID];

const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> [u8; 16] {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

fn bad(what: &str) -> crate::error::Error {
    corrupt(DRIVER.name, what)
}

/// A structure with a signature and a CRC-32C over itself, the field itself taken for zeros.
fn sound<'a>(bytes: &'a [u8], at: usize, length: usize, signature: &[u8; 4]) -> Option<&'a [u8]> {
    let part = bytes.get(at..at + length)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&part[..4]), &[0; 4]), &part[8..]);
    (part.starts_with(signature) && le32(part, 4) == crc).then_some(part)
}

/// Where everything is; offsets in bytes.
#[derive(Clone, Debug)]
pub struct Header {
    pub bat: Range<u64>,
    /// The part of the metadata region that is looked at.
    pub metadata: Range<u64>,
    pub log: Range<u64>,
}

impl Header {
    /// Reads the first MiB. Fails with TRUNCATED, CORRUPT or UNSUPPORTED.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        head::expect_head(bytes, FIRST, DRIVER.name)?;
        let headers = HEADERS.iter().filter_map(|&at| sound(bytes, at, HEADER, b"head"));
        // "SequenceNumber": the newer one counts.
        let header =
            headers.max_by_key(|header| le64(header, 8)).ok_or_else(|| bad("neither of its headers is whole"))?;
        if u16::from_le_bytes([header[66], header[67]]) != 1 {
            return Err(head::unsupported("VHDX versions other than 1 are not known"));
        }
        if header[48..64] != [0; 16] {
            let message = "the VHDX image was not closed properly: what its log holds must be written back first: \
                           `qemu-img check -r all IMAGE`";
            return Err(head::unsupported(message));
        }
        let log = region(le64(header, 72), u64::from(le32(header, 68)), "log")?;
        let table = REGION_TABLES.iter().find_map(|&at| sound(bytes, at, TABLE, b"regi"));
        let table = table.ok_or_else(|| bad("neither of its region tables is whole"))?;
        let (mut bat, mut metadata) = (None, None);
        for entry in entries(table, le32(table, 8), 16)? {
            let found = region(le64(entry, 16), u64::from(le32(entry, 24)), "region")?;
            if entry[..16] == BAT {
                bat = Some(found);
            } else if entry[..16] == METADATA_REGION {
                metadata = Some(found.start..found.end.min(found.start + METADATA));
            } else if le32(entry, 28) & 1 != 0 {
                return Err(head::unsupported("the VHDX image has a region that is required and not known"));
            }
        }
        let (Some(bat), Some(metadata)) = (bat, metadata) else {
            return Err(bad("its region table names no block allocation table, or no metadata"));
        };
        if metadata.end > FARTHEST {
            let message = format!(
                "the VHDX image keeps its metadata at {}, beyond the first {FARTHEST} bytes; convert it first: \
                 `qemu-img convert -O qcow2 IMAGE NEW`",
                metadata.start
            );
            return Err(head::unsupported(message));
        }
        Ok(Self { bat, metadata, log })
    }
}

fn region(offset: u64, length: u64, what: &str) -> Result<Range<u64>> {
    let end =
        offset.checked_add(length).filter(|&end| end < LARGEST && offset >= FIRST && offset.is_multiple_of(FIRST));
    // A log that was never used may have no place.
    if offset == 0 && length == 0 && what == "log" {
        return Ok(0..0);
    }
    end.map(|end| offset..end).ok_or_else(|| bad(&format!("a {what} is at {offset}, {length} bytes long")))
}

/// Entries of 32 bytes behind a head of `head` bytes.
fn entries(table: &[u8], count: u32, head: usize) -> Result<impl Iterator<Item = &[u8]>> {
    if count > MOST {
        return Err(bad(&format!("a table of it has {count} entries; {MOST} are the most")));
    }
    Ok(table[head..].chunks_exact(32).take(count as usize))
}

/// What the disk is; bytes.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    pub size: u64,
    pub block: u64,
    pub sector: u64,
    pub fixed: bool,
}

impl Metadata {
    /// `region` lies in `bytes`. Fails with CORRUPT, UNSAFE or UNSUPPORTED.
    pub fn parse(bytes: &[u8], region: &Range<u64>) -> Result<Self> {
        let region = &bytes[region.start as usize..region.end as usize];
        if region.len() < TABLE || !region.starts_with(b"metadata") {
            return Err(bad("its metadata has no table"));
        }
        let count = u32::from(u16::from_le_bytes([region[10], region[11]]));
        let (mut parameters, mut size, mut sector) = (None, None, None);
        for entry in entries(&region[..TABLE], count, 32)? {
            let (at, length) = (le32(entry, 16) as usize, le32(entry, 20) as usize);
            let item = || {
                let item = at.checked_add(length).and_then(|end| region.get(at..end)).filter(|_| at >= TABLE);
                item.ok_or_else(|| bad(&format!("an item of its metadata is at {at}, {length} bytes long")))
            };
            if entry[..16] == FILE_PARAMETERS {
                parameters = Some(item()?);
            } else if entry[..16] == DISK_SIZE {
                size = Some(le64(item()?, 0));
            } else if entry[..16] == LOGICAL_SECTOR {
                sector = Some(u64::from(le32(item()?, 0)));
            } else if le32(entry, 24) & 4 != 0 && !KNOWN_ITEMS.iter().any(|known| entry[..16] == *known) {
                // The parent locator of a difference is one of these too.
                return Err(head::difference("VHDX"));
            }
        }
        let (Some(parameters), Some(size), Some(sector)) = (parameters, size, sector) else {
            return Err(bad("its metadata does not say what the disk is"));
        };
        let (block, flags) = (u64::from(le32(parameters, 0)), le32(parameters, 4));
        if flags & 2 != 0 {
            return Err(head::difference("VHDX"));
        }
        // "BlockSize": 1 MiB to 256 MiB; sectors of 512 or 4096 bytes.
        if !block.is_power_of_two() || !(1 << 20..=256 << 20).contains(&block) || ![512, 4096].contains(&sector) {
            return Err(bad(&format!("its blocks have {block} bytes, its sectors {sector}")));
        }
        if size == 0 || !size.is_multiple_of(sector) {
            return Err(bad(&format!("its disk has {size} bytes, with sectors of {sector}")));
        }
        Ok(Self { size, block, sector, fixed: flags & 1 != 0 })
    }
}

//! A header of a tar archive: ustar (POSIX.1-1988), what pax adds to it (POSIX.1-2001, "pax Interchange Format"), and
//! GNU's own ("Basic Tar Format", GNU tar manual).

use crate::error::Result;

use super::sparse::{MOST, Run, Sparse, too_many};
use super::tar::corrupt;

pub const BLOCK: usize = 512;
/// No file is larger: sums of sizes and offsets stay far below overflow.
const LARGEST: u64 = 1 << 60;

/// What an entry is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    File,
    /// GNU's form of a sparse file, its map in the header.
    GnuSparse,
    /// A name for the next entry ('L'), or the target of a link ('K').
    LongName,
    LongLink,
    /// Of pax, for the next entry, or for all that follow.
    Records,
    GlobalRecords,
    SymbolicLink,
    HardLink,
    Directory,
    /// Devices and pipes.
    Device,
    /// What is not known.
    Other,
}

impl Type {
    /// Of links and directories some programs write the size of what they point to; nothing follows them.
    pub fn has_content(self) -> bool {
        !matches!(self, Type::SymbolicLink | Type::HardLink | Type::Directory | Type::Device)
    }
}

#[derive(Clone, Debug)]
pub struct Header {
    pub kind: Type,
    /// Names are bytes.
    pub name: Vec<u8>,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Bytes that follow in the archive.
    pub size: u64,
    pub sparse: Option<Sparse>,
    /// More blocks of GNU's map follow the header.
    pub extended: bool,
}

/// What records say of the next entry; a later record wins.
#[derive(Clone, Debug, Default)]
pub struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    /// Seconds and nanoseconds since 1970.
    pub mtime: Option<(i64, u32)>,
    pub size: Option<u64>,
    pub sparse: SparseRecords,
}

#[derive(Clone, Debug, Default)]
pub struct SparseRecords {
    pub major: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub size: Option<u64>,
    /// Version 0.1; 0.0 gives the same numbers one by one.
    pub map: Vec<u64>,
}

/// Fails with CORRUPT.
pub fn parse(block: &[u8; BLOCK], at: u64) -> Result<Header> {
    let sum: u64 =
        block.iter().enumerate().map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u64::from(b) }).sum();
    let signed: i64 =
        block.iter().enumerate().map(|(i, &b)| if (148..156).contains(&i) { 32 } else { i64::from(b as i8) }).sum();
    let said = octal(&block[148..156]);
    // Some old programs summed signed characters (same manual).
    if said != Some(sum) && said.map(|n| n as i64) != Some(signed) {
        return Err(corrupt(at, "a header's checksum is wrong"));
    }
    let size = number(&block[124..136]).filter(|&n| n <= LARGEST).ok_or_else(|| corrupt(at, "a size is no number"))?;
    let gnu = &block[257..265] == b"ustar  \0";
    let prefix = if gnu || &block[257..262] != b"ustar" { &[] } else { text(&block[345..500]) };
    let mut name = text(&block[..100]).to_vec();
    if !prefix.is_empty() {
        name = [prefix, b"/", &name].concat();
    }
    let kind = match block[156] {
        b'0' | 0 | b'7' if !name.ends_with(b"/") => Type::File,
        b'0' | 0 | b'5' => Type::Directory,
        b'S' => Type::GnuSparse,
        b'L' => Type::LongName,
        b'K' => Type::LongLink,
        b'x' => Type::Records,
        b'g' => Type::GlobalRecords,
        b'1' => Type::HardLink,
        b'2' => Type::SymbolicLink,
        b'3' | b'4' | b'6' => Type::Device,
        _ => Type::Other,
    };
    let mut sparse = None;
    if kind == Type::GnuSparse {
        let real = number(&block[483..495]).filter(|&n| n <= LARGEST);
        let mut map = Sparse::new(real.ok_or_else(|| corrupt(at, "a sparse file has no size"))?);
        add_runs(&mut map, &block[386..482], at)?;
        sparse = Some(map);
    }
    // Neither matters to a disk: what cannot be read is what a program without them would write.
    let mode = octal(&block[100..108]).map_or(0o644, |mode| (mode & 0o7777) as u32);
    let mtime = number(&block[136..148]).map_or(0, |mtime| mtime.min(LARGEST) as i64);
    let link = text(&block[157..257]).to_vec();
    Ok(Header { kind, name, link, mode, mtime, size, sparse, extended: kind == Type::GnuSparse && block[482] != 0 })
}

/// A block of GNU's map behind the header; gives whether another follows. Fails with CORRUPT, TOO_LARGE.
pub fn extend(map: &mut Sparse, block: &[u8; BLOCK], at: u64) -> Result<bool> {
    add_runs(map, &block[..504], at)?;
    Ok(block[504] != 0)
}

fn add_runs(map: &mut Sparse, entries: &[u8], at: u64) -> Result<()> {
    for entry in entries.chunks_exact(24) {
        if entry[0] == 0 {
            break;
        }
        let (Some(offset), Some(length)) = (number(&entry[..12]), number(&entry[12..])) else {
            return Err(corrupt(at, "the map of a sparse file has no numbers"));
        };
        map.add(Run { offset, length }, at)?;
    }
    Ok(())
}

/// Octal digits, or GNU's base 256 where the highest bit is set; negative numbers are none.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 == 0 {
        return octal(field);
    }
    let mut value = u64::from(field[0] & 0x7f);
    for &byte in &field[1..] {
        value = value.checked_mul(256)?.checked_add(u64::from(byte))?;
    }
    Some(value)
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = field.split(|&b| b == 0).next().unwrap_or(field).trim_ascii();
    let mut value: u64 = 0;
    for &digit in text {
        if !(b'0'..=b'7').contains(&digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(u64::from(digit - b'0'))?;
    }
    Some(value)
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or(field)
}

/// The content of an 'L' or 'K' entry.
pub fn long_name(content: &[u8]) -> Vec<u8> {
    text(content).to_vec()
}

/// Decimal seconds, perhaps with a fraction, perhaps negative ("pax Extended Header File Times").
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok().filter(|s: &i64| s.unsigned_abs() <= LARGEST)?;
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    // A fraction counts away from zero, and nanoseconds count upwards.
    Some(if whole.starts_with('-') && nanos > 0 { (seconds - 1, 1_000_000_000 - nanos) } else { (seconds, nanos) })
}

impl Records {
    /// Adds `LENGTH KEY=VALUE\n` records. Fails with CORRUPT.
    pub fn add(&mut self, mut content: &[u8], at: u64) -> Result<()> {
        while !content.is_empty() {
            // What is filled up with NULs by some programs.
            if content.iter().all(|&b| b == 0) {
                return Ok(());
            }
            let bad = || corrupt(at, "a pax record is damaged");
            let digits = content.iter().position(|&b| b == b' ').filter(|&n| (1..=8).contains(&n)).ok_or_else(bad)?;
            let length: usize =
                std::str::from_utf8(&content[..digits]).ok().and_then(|s| s.parse().ok()).ok_or_else(bad)?;
            if length > content.len() || length < digits + 3 || content[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &content[digits + 1..length - 1];
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
            self.set(&record[..equals], &record[equals + 1..], at)?;
            content = &content[length..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8], at: u64) -> Result<()> {
        let number = || {
            let digits = std::str::from_utf8(value).ok().filter(|s| s.bytes().all(|b| b.is_ascii_digit()));
            let parsed = digits.and_then(|s| s.parse::<u64>().ok()).filter(|&n| n <= LARGEST);
            parsed.ok_or_else(|| corrupt(at, "a pax record has no number where one belongs"))
        };
        let sparse = &mut self.sparse;
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"mtime" => self.mtime = time(value),
            b"size" => self.size = Some(number()?),
            b"GNU.sparse.major" => sparse.major = Some(number()?),
            b"GNU.sparse.name" => sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => sparse.size = Some(number()?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => sparse.map.push(number()?),
            b"GNU.sparse.map" => {
                for part in value.split(|&b| b == b',').filter(|part| !part.is_empty()) {
                    let parsed = std::str::from_utf8(part).ok().and_then(|s| s.parse().ok());
                    sparse.map.push(parsed.ok_or_else(|| corrupt(at, "the map of a sparse file has no numbers"))?);
                }
            }
            _ => {}
        }
        // Headers of records may follow each other without end, before a file comes.
        if sparse.map.len() > 2 * MOST { Err(too_many()) } else { Ok(()) }
    }
}

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
    Link,
    Directory,
    /// Devices, what is not known: passed over.
    Other,
}

impl Type {
    /// Of links and directories some programs write the size of what they point to; nothing follows them.
    pub fn has_content(self) -> bool {
        !matches!(self, Type::Link | Type::Directory)
    }
}

#[derive(Clone, Debug)]
pub struct Header {
    pub kind: Type,
    pub name: String,
    /// Bytes that follow in the archive.
    pub size: u64,
    pub sparse: Option<Sparse>,
    /// More blocks of GNU's map follow the header.
    pub extended: bool,
}

/// What records say of the next entry; a later record wins.
#[derive(Clone, Debug, Default)]
pub struct Records {
    pub path: Option<String>,
    pub size: Option<u64>,
    pub sparse: SparseRecords,
}

#[derive(Clone, Debug, Default)]
pub struct SparseRecords {
    pub major: Option<u64>,
    pub name: Option<String>,
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
    let prefix = if gnu || &block[257..262] != b"ustar" { "" } else { &text(&block[345..500]) };
    let mut name = text(&block[..100]);
    if !prefix.is_empty() {
        name = format!("{prefix}/{name}");
    }
    let kind = match block[156] {
        b'0' | 0 | b'7' if !name.ends_with('/') => Type::File,
        b'0' | 0 | b'5' => Type::Directory,
        b'S' => Type::GnuSparse,
        b'L' => Type::LongName,
        b'K' => Type::LongLink,
        b'x' => Type::Records,
        b'g' => Type::GlobalRecords,
        b'1' | b'2' => Type::Link,
        _ => Type::Other,
    };
    let mut sparse = None;
    if kind == Type::GnuSparse {
        let real = number(&block[483..495]).filter(|&n| n <= LARGEST);
        let mut map = Sparse::new(real.ok_or_else(|| corrupt(at, "a sparse file has no size"))?);
        add_runs(&mut map, &block[386..482], at)?;
        sparse = Some(map);
    }
    Ok(Header { kind, name, size, sparse, extended: kind == Type::GnuSparse && block[482] != 0 })
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

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field.split(|&b| b == 0).next().unwrap_or(field)).into_owned()
}

/// The content of an 'L' entry.
pub fn long_name(content: &[u8]) -> String {
    text(content)
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
        let text = || String::from_utf8_lossy(value).into_owned();
        let number = || {
            let digits = std::str::from_utf8(value).ok().filter(|s| s.bytes().all(|b| b.is_ascii_digit()));
            let parsed = digits.and_then(|s| s.parse::<u64>().ok()).filter(|&n| n <= LARGEST);
            parsed.ok_or_else(|| corrupt(at, "a pax record has no number where one belongs"))
        };
        let sparse = &mut self.sparse;
        match key {
            b"path" => self.path = Some(text()),
            b"size" => self.size = Some(number()?),
            b"GNU.sparse.major" => sparse.major = Some(number()?),
            b"GNU.sparse.name" => sparse.name = Some(text()),
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

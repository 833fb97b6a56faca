//! The records of a zip archive (APPNOTE.TXT 6.3.10, PKWARE, section 4.3), all numbers little-endian.

use std::fmt::Display;

use crate::error::{Code, Error, Result, Stage};

pub const LOCAL: u32 = 0x0403_4b50;
pub const CENTRAL: u32 = 0x0201_4b50;
pub const END_WIDE: u32 = 0x0606_4b50;
pub const LOCATOR: u32 = 0x0706_4b50;
pub const END: u32 = 0x0605_4b50;
pub const DESCRIPTOR: u32 = 0x0807_4b50;
/// General purpose bits (4.4.4).
const ENCRYPTED: u16 = 1 << 0 | 1 << 6 | 1 << 13;
const DESCRIBED: u16 = 1 << 3;
const PATCHED: u16 = 1 << 5;
/// Compression methods (4.4.5).
pub const STORED: u16 = 0;
pub const DEFLATE: u16 = 8;
/// Header id of the extra field with 64-bit sizes (4.5.3).
const WIDE: u16 = 1;
/// Stands for a number that the extra field has.
const ELSEWHERE: u64 = u32::MAX as u64;
/// No file is larger: sums of sizes and offsets stay far below overflow.
const LARGEST: u64 = 1 << 60;
/// Longest zip64 end record that is taken; without extensible data it has 56 bytes.
const MOST_END: u64 = 64 << 10;

pub fn corrupt(at: u64, what: impl Display) -> Error {
    Error::new(Code::Corrupt, Stage::Decode, format!("the zip archive is damaged near byte {at}: {what}"))
}

pub fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at)) | u64::from(le32(bytes, at + 4)) << 32
}

/// Bytes that the record needs which `bytes` begin: more may be needed when those have come. Fails with CORRUPT.
pub fn length(bytes: &[u8], at: u64) -> Result<usize> {
    if bytes.len() < 4 {
        return Ok(4);
    }
    let fixed = match le32(bytes, 0) {
        LOCAL => 30,
        CENTRAL => 46,
        END_WIDE => 12,
        LOCATOR => 20,
        END => 22,
        other => return Err(corrupt(at, format_args!("{other:08x} is no record"))),
    };
    if bytes.len() < fixed {
        return Ok(fixed);
    }
    let sum = |fields: &[usize]| fields.iter().map(|&at| usize::from(le16(bytes, at))).sum::<usize>();
    Ok(fixed
        + match le32(bytes, 0) {
            LOCAL => sum(&[26, 28]),
            CENTRAL => sum(&[28, 30, 32]),
            END => sum(&[20]),
            END_WIDE => match le64(bytes, 4) {
                n @ 44..=MOST_END => n as usize,
                n => return Err(corrupt(at, format_args!("its end has {n} bytes"))),
            },
            _ => 0,
        })
}

/// What local and central header say of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Offset of its local header.
    pub at: u64,
    pub name: Vec<u8>,
    pub method: u16,
    pub crc: u32,
    /// Bytes in the archive, and of the file.
    pub packed: u64,
    pub size: u64,
}

/// A local header, at offset `at`.
#[derive(Clone, Debug)]
pub struct Local {
    pub file: File,
    /// A data descriptor follows the content: only then CRC and sizes are known.
    pub described: bool,
    /// Its sizes have 64 bits.
    pub wide: bool,
}

impl Local {
    /// Fails with CORRUPT, ENCRYPTED, UNSUPPORTED.
    pub fn parse(bytes: &[u8], at: u64) -> Result<Self> {
        let flags = le16(bytes, 6);
        if flags & ENCRYPTED != 0 {
            let message = "the zip archive is encrypted: unpack it with its password, and import the image inside";
            return Err(Error::new(Code::Encrypted, Stage::Decode, message));
        }
        if flags & PATCHED != 0 {
            return Err(Error::new(Code::Unsupported, Stage::Decode, "zip archives of patches are not read"));
        }
        let (name, extra) = bytes[30..].split_at(usize::from(le16(bytes, 26)));
        let [mut packed, mut size] = [18, 22].map(|field| u64::from(le32(bytes, field)));
        let wide = wide_numbers(extra, at)?;
        if let Some(numbers) = wide {
            widen(&mut [&mut size, &mut packed], numbers, at)?;
        }
        let file = File { at, name: name.to_vec(), method: le16(bytes, 8), crc: le32(bytes, 14), packed, size };
        check(&file)?;
        Ok(Self { file, described: flags & DESCRIBED != 0, wide: wide.is_some() })
    }
}

/// A central header; whether it is of a symbolic link. Fails with CORRUPT.
pub fn central(bytes: &[u8], at: u64) -> Result<(File, bool)> {
    let (name, rest) = bytes[46..].split_at(usize::from(le16(bytes, 28)));
    let extra = &rest[..usize::from(le16(bytes, 30))];
    let [mut packed, mut size, mut local] = [20, 24, 42].map(|field| u64::from(le32(bytes, field)));
    if let Some(numbers) = wide_numbers(extra, at)? {
        widen(&mut [&mut size, &mut packed, &mut local], numbers, at)?;
    }
    let file = File { at: local, name: name.to_vec(), method: le16(bytes, 10), crc: le32(bytes, 16), packed, size };
    check(&file)?;
    // Made on Unix (3) or macOS (19), 4.4.2; the mode is in the upper half, where S_IFLNK is a link.
    let unix = matches!(bytes[5], 3 | 19);
    Ok((file, unix && le32(bytes, 38) >> 16 & 0o170_000 == 0o120_000))
}

fn check(file: &File) -> Result<()> {
    if file.packed > LARGEST || file.size > LARGEST {
        return Err(corrupt(file.at, format_args!("a file has {} bytes", file.size.max(file.packed))));
    }
    Ok(())
}

/// The content of the extra field with large numbers.
fn wide_numbers(mut extra: &[u8], at: u64) -> Result<Option<&[u8]>> {
    // Some programs fill it up with zeros.
    while extra.len() >= 4 {
        let length = usize::from(le16(extra, 2));
        let Some(content) = extra.get(4..4 + length) else {
            return Err(corrupt(at, "an extra field is longer than its header"));
        };
        if le16(extra, 0) == WIDE {
            return Ok(Some(content));
        }
        extra = &extra[4 + length..];
    }
    Ok(None)
}

/// Those numbers that are elsewhere are in the extra field, in this order.
fn widen(numbers: &mut [&mut u64], mut content: &[u8], at: u64) -> Result<()> {
    for number in numbers {
        if **number == ELSEWHERE {
            let (field, rest) =
                content.split_first_chunk::<8>().ok_or_else(|| corrupt(at, "a 64-bit size is missing"))?;
            **number = u64::from_le_bytes(*field);
            content = rest;
        }
    }
    Ok(())
}

/// What the ends say of the central directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directory {
    pub files: u64,
    pub bytes: u64,
    pub at: u64,
}

impl Directory {
    /// From the zip64 end record. Fails with UNSUPPORTED.
    pub fn wide(bytes: &[u8]) -> Result<Self> {
        one_part(u64::from(le32(bytes, 16) | le32(bytes, 20)), le64(bytes, 24), le64(bytes, 32))?;
        Ok(Self { files: le64(bytes, 32), bytes: le64(bytes, 40), at: le64(bytes, 48) })
    }

    /// From the end record; what does not fit there is in `wide`. Fails with UNSUPPORTED, CORRUPT.
    pub fn of_end(bytes: &[u8], wide: Option<Self>, at: u64) -> Result<Self> {
        let [this, first, here, files] = [4, 6, 8, 10].map(|field| u64::from(le16(bytes, field)));
        let narrow = Self { files, bytes: u64::from(le32(bytes, 12)), at: u64::from(le32(bytes, 16)) };
        let Some(wide) = wide else {
            one_part(this | first, here, files)?;
            return Ok(narrow);
        };
        let fits = |narrow: u64, wide: u64, most: u64| narrow == wide || narrow == most;
        if fits(narrow.files, wide.files, 0xffff)
            && fits(narrow.bytes, wide.bytes, ELSEWHERE)
            && fits(narrow.at, wide.at, ELSEWHERE)
        {
            return Ok(wide);
        }
        Err(corrupt(at, "its two ends do not agree"))
    }
}

fn one_part(disks: u64, here: u64, files: u64) -> Result<()> {
    if disks == 0 && here == files {
        return Ok(());
    }
    let message = "the zip archive is cut into several files: make one of them first, with `zip -s 0 IT --out NEW.zip`";
    Err(Error::new(Code::Unsupported, Stage::Decode, message))
}

/// What a method is called (4.4.5), for people.
pub fn method(number: u16) -> String {
    let name = match number {
        9 => "deflate64",
        12 => "bzip2",
        14 => "LZMA",
        93 => "zstd",
        95 => "xz",
        99 => "AES encryption",
        _ => return format!("method {number}"),
    };
    name.to_owned()
}

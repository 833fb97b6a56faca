//! The container: what stands around the blocks. Section numbers are those of the .xz File Format 1.2.1.

use serde::{Deserialize, Serialize};

use crate::codecs::{Kind, corrupt, unsupported};
use crate::error::{Result, Stage};

/// Header Magic Bytes (2.1.1.1).
pub const MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
/// Footer Magic Bytes (2.1.2.4).
const FOOTER_MAGIC: [u8; 2] = *b"YZ";
/// Stream Header and Stream Footer (2.1.1, 2.1.2).
pub const HEADER: usize = 12;
/// Index Indicator (4.1): stands where a block's header would begin.
pub const INDEX: u8 = 0;
/// None, CRC32, CRC64, SHA-256 (2.1.1.2).
pub const CHECKS: [u8; 4] = [0, 1, 4, 10];
/// Bytes of a variable-length integer, which has 63 bits (1.2).
const VLI_BYTES: u32 = 9;

/// The check's id.
pub fn stream_header(bytes: &[u8; HEADER], at: u64, stage: Stage) -> Result<u8> {
    if bytes[..6] != MAGIC {
        return Err(corrupt(Kind::Xz, at, "no stream header where one must be"));
    }
    if crc32fast::hash(&bytes[6..8]).to_le_bytes() != bytes[8..12] {
        return Err(corrupt(Kind::Xz, at, "a stream header does not match its CRC32"));
    }
    if bytes[6] != 0 || !CHECKS.contains(&bytes[7]) {
        let what = format!("uses flags or a check that are not known (0x{:02x}{:02x})", bytes[6], bytes[7]);
        return Err(unsupported(Kind::Xz, stage, what));
    }
    Ok(bytes[7])
}

/// `index`: bytes of the index that came before.
pub fn stream_footer(bytes: &[u8; HEADER], check: u8, index: u64, at: u64) -> Result<()> {
    let bad = |what: &str| Err(corrupt(Kind::Xz, at, what));
    if bytes[10..] != FOOTER_MAGIC {
        return bad("no stream footer where one must be");
    }
    if crc32fast::hash(&bytes[4..10]).to_le_bytes() != bytes[..4] {
        return bad("a stream footer does not match its CRC32");
    }
    // Backward Size is stored in units of four bytes, less one (2.1.2.2).
    let backward = (u64::from(u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])) + 1) * 4;
    if backward != index {
        return bad("the stream footer's size of the index is wrong");
    }
    if bytes[8..10] != [0, check] {
        return bad("the flags of stream header and stream footer differ");
    }
    Ok(())
}

/// What the index must list, in a size that does not grow with the blocks: their number and a hash chain,
/// `chain = BLAKE3(chain, unpadded size, uncompressed size)`, which unlike a running hash can be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    pub count: u64,
    chain: [u8; 32],
}

impl Records {
    pub fn add(&mut self, unpadded: u64, uncompressed: u64) {
        let mut link = [0; 48];
        link[..32].copy_from_slice(&self.chain);
        link[32..40].copy_from_slice(&unpadded.to_le_bytes());
        link[40..].copy_from_slice(&uncompressed.to_le_bytes());
        self.chain = *blake3::hash(&link).as_bytes();
        self.count += 1;
    }
}

enum At {
    Count,
    Unpadded,
    Uncompressed(u64),
    Padding,
    Check(usize),
    End,
}

/// Reads an index (4) and compares it with the blocks that were decoded.
pub struct Index {
    at: At,
    expected: Records,
    found: Records,
    left: u64,
    value: u64,
    /// Bytes of `value` so far.
    bytes: u32,
    crc: crc32fast::Hasher,
    check: [u8; 4],
    pub size: u64,
}

impl Index {
    pub fn new(expected: Records) -> Self {
        Self {
            at: At::Count,
            expected,
            found: Records::default(),
            left: 0,
            value: 0,
            bytes: 0,
            crc: crc32fast::Hasher::new(),
            check: [0; 4],
            size: 0,
        }
    }

    /// Takes bytes from the Index Indicator on; true when the index is complete and right. `at`: offset of `input`.
    pub fn take(&mut self, input: &mut &[u8], at: u64) -> Result<bool> {
        let before = self.size;
        while let Some((&byte, rest)) = input.split_first() {
            let here = at + (self.size - before);
            let bad = |what: &str| Err(corrupt(Kind::Xz, here, what));
            *input = rest;
            self.size += 1;
            if !matches!(self.at, At::Check(_)) {
                self.crc.update(&[byte]);
            }
            if self.size == 1 {
                continue; // the indicator
            }
            match self.at {
                At::Count | At::Unpadded | At::Uncompressed(_) => {
                    let Some(value) = self.integer(byte, here)? else { continue };
                    match self.at {
                        At::Count if value != self.expected.count => {
                            return bad(&format!("its index lists {value} blocks, it has {}", self.expected.count));
                        }
                        At::Count => self.left = value,
                        At::Unpadded => {
                            self.at = At::Uncompressed(value);
                            continue;
                        }
                        At::Uncompressed(unpadded) => {
                            self.found.add(unpadded, value);
                            self.left -= 1;
                        }
                        _ => {}
                    }
                    self.at = match self.left {
                        0 if self.found != self.expected => return bad("its index does not match its blocks"),
                        0 if self.size.is_multiple_of(4) => At::Check(0),
                        0 => At::Padding,
                        _ => At::Unpadded,
                    };
                }
                At::Padding if byte != 0 => return bad("the padding of its index is not zero"),
                At::Padding => {
                    if self.size.is_multiple_of(4) {
                        self.at = At::Check(0);
                    }
                }
                At::Check(have) => {
                    self.check[have] = byte;
                    self.at = At::Check(have + 1);
                    if have == 3 {
                        if self.crc.clone().finalize().to_le_bytes() != self.check {
                            return bad("its index does not match its CRC32");
                        }
                        self.at = At::End;
                        return Ok(true);
                    }
                }
                At::End => return bad("bytes follow its index"),
            }
        }
        Ok(false)
    }

    /// One byte of a variable-length integer (1.2).
    fn integer(&mut self, byte: u8, here: u64) -> Result<Option<u64>> {
        if self.bytes == VLI_BYTES || (byte == 0 && self.bytes > 0) {
            return Err(corrupt(Kind::Xz, here, "a number in its index is not well formed"));
        }
        self.value |= u64::from(byte & 0x7f) << (7 * self.bytes);
        self.bytes += 1;
        if byte & 0x80 != 0 {
            return Ok(None);
        }
        self.bytes = 0;
        Ok(Some(std::mem::take(&mut self.value)))
    }
}

//! Makes the checksums of a damaged stream right, so that the fuzzer gets behind them.

use diskferry_engine::codecs::{Kind, Sink};
use diskferry_engine::error::{Error, Result};

use crate::LIMITS;

/// Bytes that a member may give to have its checksum computed.
const MOST: usize = 256 << 10;

/// None where nothing is to be changed, or it is not known how.
pub fn repair(kind: Kind, input: &[u8]) -> Option<Vec<u8>> {
    let repaired = match kind {
        Kind::Gzip => gzip(input)?,
        Kind::Xz => xz(input)?,
        Kind::Lz4 => lz4(input)?,
        Kind::Snappy => snappy(input),
        Kind::Tar => tar(input),
        Kind::Zip => zip(input),
        // A block's is that of what it decodes to, and decides where the block ends.
        Kind::Bzip2 => return None,
        // Frame headers carry no checksum, and a content checksum is an option.
        Kind::Zstd => return None,
    };
    (repaired != input).then_some(repaired)
}

/// Makes right the checksum of each block that may be a header.
fn tar(input: &[u8]) -> Vec<u8> {
    let mut archive = input.to_vec();
    for block in archive.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive
}

/// Gives an archive the directory that its local headers call for, and takes the encryption from these. Files whose sizes
/// stand behind them end the walk; the CRC of each is made right.
fn zip(input: &[u8]) -> Vec<u8> {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
    let half = |bytes: &[u8], at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let (mut out, mut directory, mut files) = (Vec::new(), Vec::new(), 0u16);
    let mut rest = input;
    while rest.len() >= 30 && rest.starts_with(b"PK\x03\x04") && files < u16::MAX {
        let (head, size) = (30 + half(rest, 26) + half(rest, 28), word(rest, 18) as usize);
        let Some(content) = head.checked_add(size).and_then(|end| rest.get(head..end)) else { break };
        let mut header = rest[..head].to_vec();
        header[6] &= !(1 | 1 << 3 | 1 << 5 | 1 << 6);
        header[7] &= !(1 << 5);
        let plain = if half(&header, 8) == 8 { inflated(content) } else { content.to_vec() };
        header[14..18].copy_from_slice(&crc32fast::hash(&plain).to_le_bytes());
        header[22..26].copy_from_slice(&(plain.len() as u32).to_le_bytes());
        // Version, then what both have in common, then lengths of a comment and attributes, and where the file is.
        directory.extend_from_slice(b"PK\x01\x02\x14\0");
        directory.extend_from_slice(&header[4..30]);
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&(out.len() as u32).to_le_bytes());
        directory.extend_from_slice(&header[30..]);
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        files += 1;
        rest = &rest[head + size..];
    }
    let at = out.len() as u32;
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    out.extend_from_slice(&[files.to_le_bytes(), files.to_le_bytes()].concat());
    out.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    out.extend_from_slice(&at.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out
}

/// What raw deflate gives, at most [`MOST`] bytes and what one room holds.
fn inflated(content: &[u8]) -> Vec<u8> {
    let mut sink = Collect(Vec::new(), vec![0; 16 << 10]);
    if let Ok(mut codec) = Kind::Gzip.open(&LIMITS, None)
        && codec.push(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], &mut sink).is_ok()
    {
        // It ends with a trailer that is none, or inside of deflate.
        let _ = codec.push(content, &mut sink);
    }
    sink.0
}

struct Collect(Vec<u8>, Vec<u8>);

impl Sink for Collect {
    fn space(&mut self) -> Result<&mut [u8]> {
        if self.0.len() >= MOST { Err(Error::aborted()) } else { Ok(&mut self.1) }
    }

    fn commit(&mut self, n: usize) -> Result<()> {
        self.0.extend_from_slice(&self.1[..n]);
        Ok(())
    }

    fn restart_due(&self) -> bool {
        false
    }

    fn restart(&mut self, _at: diskferry_engine::codecs::Restart) -> Result<()> {
        Ok(())
    }
}

/// The trailer of the last member, if all but that is right (RFC 1952, 2.3.1): where it is the only one.
fn gzip(input: &[u8]) -> Option<Vec<u8>> {
    let body = input.len().checked_sub(8)?;
    let mut sink = Collect(Vec::new(), vec![0; 16 << 10]);
    let mut codec = Kind::Gzip.open(&LIMITS, None).ok()?;
    codec.push(&input[..body], &mut sink).ok()?;
    let mut out = input.to_vec();
    out[body..body + 4].copy_from_slice(&crc32fast::hash(&sink.0).to_le_bytes());
    out[body + 4..].copy_from_slice(&(sink.0.len() as u32).to_le_bytes());
    Some(out)
}

/// Stream header, first block header, index and footer (.xz File Format 2.1.1, 3.1, 4, 2.1.2). Blocks without a check
/// (`xz --check=none`) then decode whatever their content.
fn xz(input: &[u8]) -> Option<Vec<u8>> {
    let mut out = input.to_vec();
    let seal = |out: &mut [u8], from: usize, at: usize| {
        let crc = crc32fast::hash(out.get(from..at)?).to_le_bytes();
        out.get_mut(at..at + 4)?.copy_from_slice(&crc);
        Some(())
    };
    seal(&mut out, 6, 8)?;
    let first = *out.get(12)?;
    if first != 0 {
        seal(&mut out, 12, 12 + (usize::from(first) + 1) * 4 - 4)?;
    }
    let footer = out.len().checked_sub(12)?;
    let backward = u32::from_le_bytes(*out.get(footer + 4..)?.first_chunk()?) as usize;
    if let Some(index) = footer.checked_sub(backward.saturating_add(1).saturating_mul(4)) {
        seal(&mut out, index, footer - 4)?;
    }
    let crc = crc32fast::hash(&out[footer + 4..footer + 10]).to_le_bytes();
    out[footer..footer + 4].copy_from_slice(&crc);
    Some(out)
}

/// The checksum of the first frame's header (LZ4 Frame Format, "Header Checksum"); those of blocks and content are
/// options that seeds leave out.
fn lz4(input: &[u8]) -> Option<Vec<u8>> {
    let mut out = input.to_vec();
    let check = 6 + if out.get(4)? & 8 == 0 { 0 } else { 8 };
    let hash = twox_hash::XxHash32::oneshot(0, out.get(4..check)?);
    *out.get_mut(check)? = (hash >> 8) as u8;
    Some(out)
}

/// Makes right the checksum of each chunk whose data can be decoded, up to the first that is cut.
fn snappy(input: &[u8]) -> Vec<u8> {
    let mut out = input.to_vec();
    let mut rest = &mut out[..];
    while let Some((&mut [kind, low, middle, high], body)) = rest.split_first_chunk_mut::<4>() {
        let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
        let Some((chunk, behind)) = body.split_at_mut_checked(length) else { break };
        if let Some((check, data)) = chunk.split_first_chunk_mut::<4>() {
            let content = match kind {
                0 if snap::raw::decompress_len(data).is_ok_and(|length| length <= MOST) => {
                    snap::raw::Decoder::new().decompress_vec(data).ok()
                }
                1 => Some(data.to_vec()),
                _ => None,
            };
            if let Some(content) = content {
                *check = crc32c::crc32c(&content).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
            }
        }
        rest = behind;
    }
    out
}

/// Makes the checksums of a VHD's two headers right ("Checksum": the complement of the sum of all other bytes).
pub fn vhd(file: &mut [u8]) {
    let dynamic = file.get(16..24).map_or(0, |at| u64::from_be_bytes(at.try_into().expect("8 bytes")));
    let places = [(0, 512, 64), (usize::try_from(dynamic).unwrap_or(usize::MAX), 1024, 36)];
    for (start, length, at) in places {
        let Some(header) = start.checked_add(length).and_then(|end| file.get_mut(start..end)) else { continue };
        header[at..at + 4].fill(0);
        let sum = !header.iter().map(|&b| u32::from(b)).sum::<u32>();
        header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    }
}

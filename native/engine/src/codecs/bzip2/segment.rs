//! What lies between two magic numbers, and its decoding by libbz2.

use std::thread;

use bzip2::{Decompress, Status};

use super::{AHEAD, BAD_BLOCK, CRC_BITS, END, HEADER, MAGIC_BITS};
use crate::error::{Code, Error, Result, Stage};

/// What looks like a block, or several that may be one. Bits are counted from the highest of byte 0.
pub struct Segment {
    pub level: u8,
    pub bytes: Vec<u8>,
    /// Its first bit in byte 0, and how many it has; none in an empty stream.
    pub bit: usize,
    pub bits: usize,
    /// Source offset of byte 0.
    pub at: u64,
    pub parts: u8,
    /// It is the last of its stream, which has this checksum.
    pub end: Option<u32>,
}

impl Segment {
    /// As a stream of its own, whose checksum is that of its only block. None when it is too short for a block.
    fn stream(&self) -> Option<Vec<u8>> {
        if self.bits < MAGIC_BITS + CRC_BITS {
            return None;
        }
        let whole = self.bits / 8;
        let mut stream = Vec::with_capacity(HEADER + whole + 12);
        stream.extend_from_slice(&[b'B', b'Z', b'h', b'0' + self.level]);
        if self.bit == 0 {
            stream.extend_from_slice(&self.bytes[..whole]);
        } else {
            let pairs = self.bytes.windows(2).take(whole);
            stream.extend(pairs.map(|pair| pair[0] << self.bit | pair[1] >> (8 - self.bit)));
        }
        // The last bits that fill no byte, the magic of the end, the checksum.
        let left = self.bits % 8;
        let last = read(&self.bytes, self.bit + whole * 8, left);
        let tail = u128::from(last) << (MAGIC_BITS + CRC_BITS) | u128::from(END) << CRC_BITS | u128::from(self.crc());
        let length = left + MAGIC_BITS + CRC_BITS;
        stream.extend_from_slice(&(tail << (128 - length)).to_be_bytes()[..length.div_ceil(8)]);
        Some(stream)
    }

    pub fn crc(&self) -> u32 {
        read(&self.bytes, self.bit + MAGIC_BITS, CRC_BITS) as u32
    }

    /// Where the block after it begins: source offset and bit.
    pub fn next(&self) -> (u64, usize) {
        let end = self.bit + self.bits;
        (self.at + (end / 8) as u64, end % 8)
    }

    /// Source offset behind the stream that it ends.
    pub fn behind(&self) -> u64 {
        self.at + (self.bit + self.bits + MAGIC_BITS + CRC_BITS).div_ceil(8) as u64
    }
}

/// `count` bits (at most 64) of `bytes` from bit `from` on; those beyond its end are zero.
pub fn read(bytes: &[u8], from: usize, count: usize) -> u64 {
    let bit = |at: usize| u64::from(bytes.get(at / 8).unwrap_or(&0) >> (7 - at % 8) & 1);
    (from..from + count).fold(0, |value, at| value << 1 | bit(at))
}

/// A segment in work.
pub struct Work {
    decoder: Decompress,
    stream: Vec<u8>,
    read: usize,
    pub out: Vec<u8>,
    pub ended: bool,
}

impl Work {
    /// None when the segment is no block: one that decodes to more than [`AHEAD`] has been read to its last symbol then,
    /// others also have the right checksum.
    pub fn start(segment: &Segment) -> Option<Work> {
        let decoder = Decompress::new(false);
        let out = Vec::with_capacity(AHEAD);
        let mut work = Work { decoder, stream: segment.stream()?, read: 0, out, ended: false };
        work.advance().ok().map(|()| work)
    }

    /// Decodes what goes into `out`.
    pub fn advance(&mut self) -> std::result::Result<(), &'static str> {
        while !self.ended && self.out.len() < self.out.capacity() {
            let before = (self.decoder.total_in(), self.out.len());
            let status = self.decoder.decompress_vec(&self.stream[self.read..], &mut self.out);
            self.read += (self.decoder.total_in() - before.0) as usize;
            match status {
                Ok(Status::StreamEnd) => self.ended = true,
                Ok(_) if self.decoder.total_in() > before.0 || self.out.len() > before.1 => {}
                Ok(_) => return Err("a block ends too early"),
                Err(_) => return Err(BAD_BLOCK),
            }
        }
        if self.ended && self.read < self.stream.len() { Err("bytes follow a block") } else { Ok(()) }
    }
}

/// Decodes each as far as there is room; the first on this thread.
pub fn side_by_side(segments: &[Segment]) -> Result<Vec<Option<Work>>> {
    let Some((first, others)) = segments.split_first() else { return Ok(Vec::new()) };
    thread::scope(|scope| {
        let mut threads = Vec::with_capacity(others.len());
        for segment in others {
            let thread = thread::Builder::new().name("bzip2".into()).spawn_scoped(scope, || Work::start(segment));
            let failed = |e| Error::new(Code::Io, Stage::Decode, format!("a thread for bzip2 cannot be started: {e}"));
            threads.push(thread.map_err(failed)?);
        }
        let mut outcomes = vec![Work::start(first)];
        for thread in threads {
            outcomes.push(thread.join().map_err(|payload| Error::panicked(Stage::Decode, &*payload))?);
        }
        Ok(outcomes)
    })
}

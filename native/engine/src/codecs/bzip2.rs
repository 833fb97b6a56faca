//! bzip2: streams of blocks, one after the other. There is no specification by its author; what is said of the format
//! here follows his decompressor (decompress.c of bzip2 1.0.8).
//!
//! Blocks begin at any bit, with a magic number of 48 bits. They are found by it, and decoded side by side, each as if
//! it were the only one of a stream. The same bits may also stand inside a block, by chance or by malice: then what
//! looked like a block cannot be decoded, and is tried again with what follows it. Decoding can begin again at every
//! block.

mod segment;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use self::segment::{Segment, Work, read, side_by_side};
use super::{Codec, Kind, Memory, Restart, Sink, bad_state, corrupt, too_large, truncated};
use crate::error::{Error, Result, Stage};
use crate::limits::Limits;

/// Before a block: the first digits of pi.
const BLOCK: u64 = 0x3141_5926_5359;
/// Before a stream's checksum: those of its square root.
const END: u64 = 0x1772_4538_5090;
const MAGIC_BITS: usize = 48;
const CRC_BITS: usize = 32;
/// "BZh" and a digit: the size of blocks in 100 000 bytes.
const HEADER: usize = 4;
/// A block has 900 001 symbols of 20 bits at most, 18 002 selectors of 6, and code tables: rounded up.
const LARGEST: usize = 5 << 19;
/// What a thread decodes before its turn comes; nearly all blocks come out whole in it.
const AHEAD: usize = 1 << 20;
/// How many pieces that look like blocks one block may have. By chance even a second one is not met in 100 TiB.
const PARTS: u8 = 4;
const BAD_BLOCK: &str = "a block cannot be decoded, or its checksum is wrong";
/// Input is looked through in pieces of this size.
const PIECE: usize = 64 << 10;

pub fn detect(head: &[u8]) -> bool {
    let magic = head.get(HEADER..HEADER + 6).map(magic_of);
    level(head).is_some() && (magic == Some(BLOCK) || magic == Some(END))
}

/// Of a stream's header.
fn level(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [b'B', b'Z', b'h', digit @ b'1'..=b'9', ..] => Some(digit - b'0'),
        _ => None,
    }
}

/// Whether `bytes` may be how a stream begins.
fn may_begin(bytes: &[u8]) -> bool {
    let n = bytes.len().min(3);
    bytes[..n] == b"BZh"[..n] && bytes.get(3).is_none_or(|digit| (b'1'..=b'9').contains(digit))
}

fn magic_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The same for all streams but for the size of blocks.
pub fn memory(head: &[u8], limits: &Limits) -> Result<Memory> {
    let level = level(head).unwrap_or(9);
    bounded(level, limits, Stage::Plan)?;
    let total = each(level) * at_once(limits) as u64 + LARGEST as u64;
    Ok(Memory { window: table(level), total })
}

/// Four bytes for each of a block's: tt of decompress.c.
fn table(level: u8) -> u64 {
    u64::from(level) * 400_000
}

/// One block that is decoded: its table, itself as it came and moved to a byte's beginning, what comes out.
fn each(level: u8) -> u64 {
    table(level) + (64 << 10) + 2 * LARGEST as u64 + AHEAD as u64
}

/// Blocks that are decoded side by side.
fn at_once(limits: &Limits) -> usize {
    let fit = limits.decoder_memory.saturating_sub(LARGEST as u64) / each(9);
    usize::try_from(fit).unwrap_or(usize::MAX).min(limits.workers).max(1)
}

fn bounded(level: u8, limits: &Limits, stage: Stage) -> Result<()> {
    if table(level) > limits.decoder_window {
        return Err(too_large(Kind::Bzip2, stage, table(level), limits));
    }
    Ok(())
}

/// For each byte whether it may be the one before the last of a magic that ends in any bit of the next byte.
const MAYBE: [bool; 256] = {
    let mut maybe = [false; 256];
    let mut shift = 0;
    while shift < 8 {
        maybe[(((BLOCK << shift) >> 8) & 0xff) as usize] = true;
        maybe[(((END << shift) >> 8) & 0xff) as usize] = true;
        shift += 1;
    }
    maybe
};

/// The state in a [`Restart`].
#[derive(Serialize, Deserialize)]
enum State {
    /// Between streams.
    Boundary,
    /// Before the block that begins with this bit of the first byte; `combined`: the checksum of those before it.
    Block { level: u8, bit: u8, combined: u32 },
}

#[derive(Clone, Copy)]
enum At {
    /// Before a stream or the end.
    Start,
    /// Before the first magic of a stream.
    First,
    Block,
    /// The end of a stream seems to begin at this bit of what is held.
    End(usize),
}

pub struct Bzip2 {
    limits: Limits,
    at: At,
    level: u8,
    /// From the byte on in which the block begins that is looked through.
    held: Vec<u8>,
    /// Source offset of `held[0]`.
    base: u64,
    /// The bit of `held` at which it begins, and from which on another magic may.
    bit: usize,
    from: usize,
    /// Bytes of `held` that were looked through; `window` has the last eight.
    seen: usize,
    window: u64,
    parts: u8,
    /// Segments to be decoded, in order.
    queue: VecDeque<Segment>,
    at_once: usize,
    streams: u64,
    decoded: u64,
    combined: u32,
}

impl Bzip2 {
    pub fn new(limits: &Limits, from: Option<&Restart>) -> Result<Self> {
        let mut this = Self {
            limits: limits.clone(),
            at: At::Start,
            level: 0,
            held: Vec::new(),
            base: from.map_or(0, |from| from.source_offset),
            bit: 0,
            from: 0,
            seen: 0,
            window: 0,
            parts: 1,
            queue: VecDeque::new(),
            at_once: at_once(limits),
            streams: from.map_or(0, |from| u64::from(from.source_offset > 0)),
            decoded: from.map_or(0, |from| from.decoded_offset),
            combined: 0,
        };
        if let Some(from) = from
            && let State::Block { level, bit, combined } = from.decode(Kind::Bzip2)?
        {
            if !(1..=9).contains(&level) || bit > 7 {
                return Err(bad_state(Kind::Bzip2));
            }
            bounded(level, limits, Stage::Decode)?;
            this.level = level;
            this.combined = combined;
            this.begin(bit.into());
        }
        Ok(this)
    }

    /// A block begins at `bit` of what is held.
    fn begin(&mut self, bit: usize) {
        self.at = At::Block;
        self.bit = bit;
        self.from = bit + MAGIC_BITS;
        self.seen = 0;
        self.window = 0;
        self.parts = 1;
    }

    fn source(&self) -> u64 {
        self.base + self.held.len() as u64
    }

    fn drop_held(&mut self, bytes: usize) {
        self.held.drain(..bytes);
        self.base += bytes as u64;
    }

    /// Goes on with what is held; false when more input is needed.
    fn step(&mut self, out: &mut dyn Sink) -> Result<bool> {
        match self.at {
            At::Start => {
                if self.held.len() < HEADER {
                    return Ok(false);
                }
                self.level = level(&self.held).ok_or_else(|| self.no_stream())?;
                bounded(self.level, &self.limits, Stage::Decode)?;
                self.drop_held(HEADER);
                self.at = At::First;
            }
            At::First => match self.held.get(..MAGIC_BITS / 8).map(magic_of) {
                None => return Ok(false),
                Some(BLOCK) => self.begin(0),
                Some(END) => {
                    self.begin(0);
                    self.at = At::End(0);
                }
                Some(_) => return Err(self.after_all(out, "no block follows the header of a stream")),
            },
            At::Block => return self.look(out),
            At::End(bits) => {
                let end = (bits + MAGIC_BITS + CRC_BITS).div_ceil(8);
                let Some(after) = self.held.get(end..) else { return Ok(false) };
                if !may_begin(after) {
                    return self.garbage(out).map(|()| true);
                }
                if after.len() < HEADER {
                    return Ok(false);
                }
                self.end_of_stream(out)?;
            }
        }
        Ok(true)
    }

    fn no_stream(&self) -> Error {
        let first = self.streams == 0;
        let what = if first { "it does not begin with a stream" } else { "what follows a stream is no stream" };
        corrupt(Kind::Bzip2, self.base, what)
    }

    /// What is wrong with the blocks before comes first.
    fn after_all(&mut self, out: &mut dyn Sink, what: &str) -> Error {
        let error = corrupt(Kind::Bzip2, self.source(), what);
        self.decode(out).err().unwrap_or(error)
    }

    /// Looks for the next magic.
    fn look(&mut self, out: &mut dyn Sink) -> Result<bool> {
        while let Some(byte) = self.held.get(self.seen) {
            let maybe = MAYBE[(self.window & 0xff) as usize];
            self.window = self.window << 8 | u64::from(*byte);
            self.seen += 1;
            if !maybe {
                continue;
            }
            for shift in (0..8).rev() {
                let value = self.window >> shift & ((1 << MAGIC_BITS) - 1);
                let Some(start) = (self.seen * 8).checked_sub(shift + MAGIC_BITS) else { continue };
                if start < self.from || (value != BLOCK && value != END) {
                    continue;
                }
                if value == END {
                    self.at = At::End(start);
                    return Ok(true);
                }
                let segment = self.segment(start, None);
                self.drop_held(start / 8);
                self.begin(start % 8);
                self.queue.push_back(segment);
                if self.queue.len() >= self.at_once {
                    self.decode(out)?;
                }
                return Ok(true);
            }
        }
        if self.seen > LARGEST {
            return Err(self.after_all(out, "a block is larger than any can be"));
        }
        Ok(false)
    }

    /// What is held up to bit `to`.
    fn segment(&self, to: usize, end: Option<u32>) -> Segment {
        let bytes = self.held[..to.div_ceil(8)].to_vec();
        Segment { level: self.level, bytes, bit: self.bit, bits: to - self.bit, at: self.base, parts: self.parts, end }
    }

    /// The stream ends where it seemed to.
    fn end_of_stream(&mut self, out: &mut dyn Sink) -> Result<()> {
        let At::End(bits) = self.at else { return Ok(()) };
        let crc = read(&self.held, bits + MAGIC_BITS, CRC_BITS) as u32;
        let segment = self.segment(bits, Some(crc));
        self.queue.push_back(segment);
        self.drop_held((bits + MAGIC_BITS + CRC_BITS).div_ceil(8));
        self.at = At::Start;
        self.streams += 1;
        if self.queue.len() >= self.at_once { self.decode(out) } else { Ok(()) }
    }

    /// What follows the end of a stream is none: either the end is none, or this is not lawful.
    fn garbage(&mut self, out: &mut dyn Sink) -> Result<()> {
        self.decode(out)?;
        let At::End(bits) = self.at else { return Ok(()) };
        let segment = self.segment(bits, None);
        if segment.bits == 0 || Work::start(&segment).is_some() {
            self.end_of_stream(out)?;
            return Err(self.after_all(out, "bytes follow the last stream that are none"));
        }
        self.parts += 1;
        if self.parts > PARTS {
            return Err(corrupt(Kind::Bzip2, self.source(), BAD_BLOCK));
        }
        self.at = At::Block;
        self.from = bits + MAGIC_BITS;
        self.seen = bits / 8;
        self.window = 0;
        Ok(())
    }

    /// Decodes all that is queued, and puts it out in order.
    fn decode(&mut self, out: &mut dyn Sink) -> Result<()> {
        while !self.queue.is_empty() {
            let count = self.queue.len().min(self.at_once);
            let segments: Vec<Segment> = self.queue.drain(..count).collect();
            let works = side_by_side(&segments)?;
            let mut pairs = segments.into_iter().zip(works);
            while let Some((segment, work)) = pairs.next() {
                let failed = |what| corrupt(Kind::Bzip2, segment.at, what);
                match work {
                    Some(work) => self.put(&segment, work, out)?,
                    None if segment.bits == 0 => self.confirm(&segment, out)?,
                    None if segment.end.is_some() || segment.parts == PARTS => {
                        return Err(failed(BAD_BLOCK));
                    }
                    None => {
                        let rest: Vec<Segment> = pairs.by_ref().map(|(segment, _)| segment).collect();
                        rest.into_iter().rev().for_each(|segment| self.queue.push_front(segment));
                        self.merge(segment)?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Puts what is no block by itself before what follows it.
    fn merge(&mut self, segment: Segment) -> Result<()> {
        let end = segment.bit + segment.bits;
        let mut bytes = segment.bytes;
        bytes.truncate(end / 8);
        if let Some(next) = self.queue.front_mut() {
            bytes.append(&mut next.bytes);
            let bits = segment.bits + next.bits;
            let parts = segment.parts + next.parts;
            *next = Segment { bytes, bit: segment.bit, bits, at: segment.at, parts, level: next.level, end: next.end };
            if next.bytes.len() > LARGEST || parts > PARTS {
                return Err(corrupt(Kind::Bzip2, segment.at, BAD_BLOCK));
            }
            return Ok(());
        }
        let before = bytes.len();
        self.seen += before;
        self.from += before * 8;
        if let At::End(bits) = &mut self.at {
            *bits += before * 8;
        }
        bytes.append(&mut self.held);
        self.held = bytes;
        self.base = segment.at;
        self.bit = segment.bit;
        self.parts += segment.parts;
        if self.parts > PARTS {
            return Err(corrupt(Kind::Bzip2, segment.at, BAD_BLOCK));
        }
        Ok(())
    }

    fn put(&mut self, segment: &Segment, mut work: Work, out: &mut dyn Sink) -> Result<()> {
        loop {
            out.write(&work.out)?;
            self.decoded += work.out.len() as u64;
            if work.ended {
                return self.confirm(segment, out);
            }
            work.out.clear();
            work.advance().map_err(|what| corrupt(Kind::Bzip2, segment.at, what))?;
        }
    }

    /// A segment has been put out whole.
    fn confirm(&mut self, segment: &Segment, out: &mut dyn Sink) -> Result<()> {
        if segment.bits > 0 {
            self.combined = self.combined.rotate_left(1) ^ segment.crc();
        }
        let (source, state) = match segment.end {
            Some(crc) if crc != self.combined => {
                return Err(corrupt(Kind::Bzip2, segment.behind(), "the checksum of a stream is wrong"));
            }
            Some(_) => {
                self.combined = 0;
                (segment.behind(), State::Boundary)
            }
            None => {
                let (source, bit) = segment.next();
                (source, State::Block { level: segment.level, bit: bit as u8, combined: self.combined })
            }
        };
        if out.restart_due() {
            out.restart(Restart::encode(source, self.decoded, &state)?)?;
        }
        Ok(())
    }
}

impl Codec for Bzip2 {
    fn push(&mut self, input: &[u8], out: &mut dyn Sink) -> Result<()> {
        for piece in input.chunks(PIECE) {
            self.held.extend_from_slice(piece);
            while self.step(out)? {}
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Sink) -> Result<()> {
        if let At::End(bits) = self.at
            && self.held.len() >= (bits + MAGIC_BITS + CRC_BITS).div_ceil(8)
        {
            self.end_of_stream(out)?;
        }
        self.decode(out)?;
        let inside = match self.at {
            At::Start if self.held.is_empty() && self.streams > 0 => return Ok(()),
            At::Start if !may_begin(&self.held) => return Err(self.no_stream()),
            At::Start | At::First => "the header of a stream",
            At::Block => "a block",
            At::End(_) => "the end of a stream",
        };
        Err(truncated(Kind::Bzip2, self.source(), inside))
    }
}

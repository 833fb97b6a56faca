//! LZ4 frames (doc/lz4_Frame_format.md of the LZ4 project, 1.6.4): frames and skippable frames, one after the other.
//!
//! The framing and its checksums are read here, block by block; a block has at most 4 MiB. Decoding can begin again at
//! every frame, and inside a frame whose blocks are independent at every block.

mod partial;
mod xxh32;

use serde::{Deserialize, Serialize};

use self::xxh32::Xxh32;
use super::parts::{self, Parts};
use super::{Codec, Kind, Memory, Restart, Sink, bad_state, corrupt, too_large, truncated, unsupported};
use crate::error::{Error, Result, Stage};
use crate::limits::Limits;

/// Magic Number, little-endian ("General Structure of LZ4 Frame format").
const MAGIC: u32 = 0x184d_2204;
/// 0x184D2A50 to 0x184D2A5F ("Skippable Frames").
const SKIPPABLE: u32 = 0x184d_2a50;
/// Magic and size of a skippable frame.
const SKIPPABLE_HEADER: usize = 8;
/// How far back a block that is linked to those before it may refer ("Block Independence flag").
const WINDOW: usize = 64 << 10;
/// The highest bit of a block's size: its data is not compressed ("Block Size").
const STORED: u32 = 1 << 31;

/// Bits of the FLG byte ("Frame Descriptor").
const INDEPENDENT: u8 = 1 << 5;
const BLOCK_CHECKSUM: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_CHECKSUM: u8 = 1 << 2;
const RESERVED: u8 = 1 << 1;
const DICTIONARY: u8 = 1;

/// By the magic of the first frame; skippable frames, which zstd has too, are stepped over as far as `head` reaches.
pub fn detect(head: &[u8]) -> bool {
    first_frame(head).is_some()
}

fn first_frame(mut head: &[u8]) -> Option<&[u8]> {
    loop {
        match word(head)? {
            MAGIC => return Some(head),
            magic if magic & !0xf == SKIPPABLE => {
                head = head.get(SKIPPABLE_HEADER.checked_add(word(head.get(4..)?)? as usize)?..)?;
            }
            _ => return None,
        }
    }
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.first_chunk()?))
}

/// From the first frame's header. Later frames may have larger blocks; they are bounded as they come.
pub fn memory(head: &[u8], limits: &Limits) -> Result<Memory> {
    let Some(&[_, _, _, _, flags, block]) = first_frame(head).and_then(|frame| frame.first_chunk()) else {
        return Ok(Memory { window: 0, total: 0 });
    };
    let most = descriptor(flags, block, 0, limits, Stage::Plan)? as u64;
    // A block as it came, the same decoded, and what linked blocks refer to.
    Ok(Memory { window: most, total: 2 * most + WINDOW as u64 })
}

/// Bytes of the largest block that FLG and BD allow ("Frame Descriptor").
fn descriptor(flags: u8, block: u8, at: u64, limits: &Limits, stage: Stage) -> Result<usize> {
    let bad = |what: String| Error { stage, ..corrupt(Kind::Lz4, at, what) };
    if flags >> 6 != 1 {
        return Err(unsupported(Kind::Lz4, stage, format!("has version {} of the frame format, not 1", flags >> 6)));
    }
    if flags & RESERVED != 0 || block & 0x8f != 0 {
        return Err(bad("a reserved bit of a frame's header is set".into()));
    }
    let most = match block >> 4 {
        // 64 KiB, 256 KiB, 1 MiB, 4 MiB ("Block Maximum Size").
        size @ 4..=7 => 1usize << (8 + 2 * size),
        size => return Err(bad(format!("there is no block size of number {size}"))),
    };
    if flags & DICTIONARY != 0 {
        return Err(unsupported(Kind::Lz4, stage, "needs a dictionary, which is not in it"));
    }
    if most as u64 > limits.decoder_window {
        return Err(too_large(Kind::Lz4, stage, most as u64, limits));
    }
    Ok(most)
}

/// The frame that is being decoded.
#[derive(Clone, Serialize, Deserialize)]
struct Frame {
    flags: u8,
    block: u8,
    /// Decoded bytes that are promised, if any are.
    size: Option<u64>,
    decoded: u64,
    hash: Xxh32,
}

impl Frame {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The state in a [`Restart`].
#[derive(Serialize, Deserialize)]
enum State {
    /// Between frames.
    Boundary,
    /// Before a block of a frame whose blocks are independent, or its end.
    Block(Frame),
}

#[derive(Clone, Copy)]
enum At {
    /// Before a frame or the end.
    Boundary,
    /// FLG and BD.
    Descriptor,
    /// What follows them, up to the header's checksum.
    Header {
        flags: u8,
        block: u8,
    },
    BlockSize,
    /// A block of so many bytes, stored or compressed, and its checksum.
    Block {
        length: usize,
        stored: bool,
    },
    ContentChecksum,
    SkipSize,
    /// Bytes of a skippable frame that are still to come.
    Skip(u32),
}

pub struct Lz4 {
    limits: Limits,
    at: At,
    /// What came of the part that `at` names.
    held: Vec<u8>,
    frame: Frame,
    /// A decoded block has at most this many bytes.
    most: usize,
    room: Vec<u8>,
    /// The end of what was decoded before in the frame; only kept when blocks are linked.
    window: Vec<u8>,
    frames: u64,
    source: u64,
    decoded: u64,
}

impl Lz4 {
    pub fn new(limits: &Limits, from: Option<&Restart>) -> Result<Self> {
        let frame = Frame { flags: 0, block: 0, size: None, decoded: 0, hash: Xxh32::new() };
        let mut this = Self {
            limits: limits.clone(),
            at: At::Boundary,
            held: Vec::new(),
            frame,
            most: 0,
            room: Vec::new(),
            window: Vec::new(),
            frames: from.map_or(0, |from| u64::from(from.source_offset > 0)),
            source: from.map_or(0, |from| from.source_offset),
            decoded: from.map_or(0, |from| from.decoded_offset),
        };
        if let Some(from) = from
            && let State::Block(frame) = from.decode(Kind::Lz4)?
        {
            if !frame.has(INDEPENDENT) {
                return Err(bad_state(Kind::Lz4));
            }
            this.begin(frame)?;
        }
        Ok(this)
    }

    fn begin(&mut self, frame: Frame) -> Result<()> {
        self.most = descriptor(frame.flags, frame.block, self.source, &self.limits, Stage::Decode)?;
        self.room.resize(self.most, 0);
        self.window.clear();
        self.frame = frame;
        self.at = At::BlockSize;
        Ok(())
    }

    fn no_frame(&self) -> Error {
        let what = if self.frames == 0 { "it does not begin with a frame" } else { "what follows a frame is no frame" };
        corrupt(Kind::Lz4, self.source, what)
    }

    fn header(&mut self, flags: u8, block: u8, bytes: &[u8]) -> Result<()> {
        let (fields, check) = bytes.split_at(bytes.len() - 1);
        // The second byte of the hash ("Header Checksum").
        if check[0] != (Xxh32::of(&[&[flags, block], fields].concat()) >> 8) as u8 {
            return Err(corrupt(Kind::Lz4, self.source, "the checksum of a frame's header is wrong"));
        }
        let size = fields.first_chunk().map(|size| u64::from_le_bytes(*size));
        self.begin(Frame { flags, block, size, decoded: 0, hash: Xxh32::new() })
    }

    fn block(&mut self, bytes: &[u8], length: usize, stored: bool, out: &mut dyn Sink) -> Result<()> {
        let (data, check) = bytes.split_at(length);
        if word(check).is_some_and(|check| check != Xxh32::of(data)) {
            return Err(corrupt(Kind::Lz4, self.source, "the checksum of a block is wrong"));
        }
        let content = if stored {
            data
        } else {
            let n = lz4_flex::block::decompress_into_with_dict(data, &mut self.room, &self.window)
                .map_err(|error| corrupt(Kind::Lz4, self.source, error))?;
            &self.room[..n]
        };
        self.frame.decoded += content.len() as u64;
        if self.frame.size.is_some_and(|size| self.frame.decoded > size) {
            return Err(corrupt(Kind::Lz4, self.source, "a frame's content is longer than its header says"));
        }
        if self.frame.has(CONTENT_CHECKSUM) {
            self.frame.hash.update(content);
        }
        out.write(content)?;
        self.decoded += content.len() as u64;
        if !self.frame.has(INDEPENDENT) {
            let kept = &content[content.len().saturating_sub(WINDOW)..];
            self.window.drain(..(self.window.len() + kept.len()).saturating_sub(WINDOW));
            self.window.extend_from_slice(kept);
        }
        self.at = At::BlockSize;
        if self.frame.has(INDEPENDENT) && out.restart_due() {
            let state = State::Block(self.frame.clone());
            out.restart(Restart::encode(self.source, self.decoded, &state)?)?;
        }
        Ok(())
    }

    fn end_mark(&mut self, out: &mut dyn Sink) -> Result<()> {
        if self.frame.size.is_some_and(|size| self.frame.decoded != size) {
            return Err(corrupt(Kind::Lz4, self.source, "a frame's content is shorter than its header says"));
        }
        if !self.frame.has(CONTENT_CHECKSUM) {
            return self.end_of_frame(out);
        }
        self.at = At::ContentChecksum;
        Ok(())
    }

    fn end_of_frame(&mut self, out: &mut dyn Sink) -> Result<()> {
        self.at = At::Boundary;
        self.frames += 1;
        if out.restart_due() {
            out.restart(Restart::encode(self.source, self.decoded, &State::Boundary)?)?;
        }
        Ok(())
    }
}

impl Parts for Lz4 {
    fn need(&self) -> usize {
        match self.at {
            At::Boundary | At::BlockSize | At::ContentChecksum | At::SkipSize => 4,
            At::Descriptor => 2,
            At::Header { flags, .. } => 1 + if flags & CONTENT_SIZE == 0 { 0 } else { 8 },
            At::Block { length, .. } => length + if self.frame.has(BLOCK_CHECKSUM) { 4 } else { 0 },
            At::Skip(_) => 0,
        }
    }

    fn held(&mut self) -> &mut Vec<u8> {
        &mut self.held
    }

    fn advance(&mut self, bytes: usize) {
        self.source += bytes as u64;
    }

    fn step(&mut self, bytes: &[u8], out: &mut dyn Sink) -> Result<()> {
        let value = word(bytes).unwrap_or(0);
        match self.at {
            At::Boundary if value == MAGIC => self.at = At::Descriptor,
            At::Boundary if value & !0xf == SKIPPABLE => self.at = At::SkipSize,
            At::Boundary => return Err(self.no_frame()),
            At::Descriptor => {
                let (flags, block) = (bytes[0], bytes[1]);
                descriptor(flags, block, self.source, &self.limits, Stage::Decode)?;
                self.at = At::Header { flags, block };
            }
            At::Header { flags, block } => self.header(flags, block, bytes)?,
            At::BlockSize if value == 0 => return self.end_mark(out),
            At::BlockSize => {
                let length = (value & !STORED) as usize;
                if length > self.most {
                    let what = format!("a block has {length} bytes, the frame allows {}", self.most);
                    return Err(corrupt(Kind::Lz4, self.source, what));
                }
                self.at = At::Block { length, stored: value & STORED != 0 };
            }
            At::Block { length, stored } => return self.block(bytes, length, stored, out),
            At::ContentChecksum => {
                if value != self.frame.hash.digest() {
                    return Err(corrupt(Kind::Lz4, self.source, "the checksum of a frame's content is wrong"));
                }
                return self.end_of_frame(out);
            }
            At::SkipSize => {
                self.at = At::Skip(value);
                return self.skip(&mut &[][..], out);
            }
            At::Skip(_) => {}
        }
        Ok(())
    }

    fn skip(&mut self, input: &mut &[u8], out: &mut dyn Sink) -> Result<()> {
        let At::Skip(left) = self.at else { return Ok(()) };
        let n = (left as usize).min(input.len());
        *input = &input[n..];
        self.source += n as u64;
        match left - n as u32 {
            0 => self.end_of_frame(out),
            left => {
                self.at = At::Skip(left);
                Ok(())
            }
        }
    }
}

impl Codec for Lz4 {
    fn push(&mut self, input: &[u8], out: &mut dyn Sink) -> Result<()> {
        parts::push(self, input, out)
    }

    fn finish(&mut self, out: &mut dyn Sink) -> Result<()> {
        if let At::Block { length, stored } = self.at {
            // The head of a source may end inside its first block.
            let data = &self.held[..self.held.len().min(length)];
            if stored {
                out.write(data)?;
            } else {
                out.write(&partial::decode(data, &self.window, self.most))?;
            }
        }
        let inside = match self.at {
            At::Boundary if self.held.is_empty() && self.frames > 0 => return Ok(()),
            At::Boundary => {
                let n = self.held.len();
                let mut skippable = SKIPPABLE.to_le_bytes();
                skippable[0] |= self.held.first().unwrap_or(&0) & 0xf;
                if self.held != MAGIC.to_le_bytes()[..n] && self.held != skippable[..n] {
                    return Err(self.no_frame());
                }
                "the header of a frame"
            }
            At::Descriptor | At::Header { .. } => "the header of a frame",
            At::BlockSize | At::Block { .. } => "a frame",
            At::ContentChecksum => "the checksum of a frame",
            At::SkipSize | At::Skip(_) => "a skippable frame",
        };
        Err(truncated(Kind::Lz4, self.source, inside))
    }
}

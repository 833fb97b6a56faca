//! Zstandard (RFC 8878): frames and skippable frames, one after the other.
//!
//! Frame headers are read here, so that windows are bounded before anything is allocated and the offsets of frames
//! are exact; the frames themselves are libzstd's.

use serde::{Deserialize, Serialize};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::{Codec, Kind, Memory, Restart, Sink, corrupt, too_large, truncated, unsupported};
use crate::error::{Code, Error, Result, Stage};
use crate::limits::Limits;

/// Magic_Number, little-endian (RFC 8878, 3.1.1).
const MAGIC: u32 = 0xfd2f_b528;
/// 0x184D2A50 to 0x184D2A5F (RFC 8878, 3.1.2).
const SKIPPABLE: u32 = 0x184d_2a50;
/// Magic and Frame_Size of a skippable frame (RFC 8878, 3.1.2).
const SKIPPABLE_HEADER: usize = 8;
/// Magic 4, descriptor 1, window 1, dictionary 4, content size 8 (RFC 8878, 3.1.1.1).
const LONGEST_HEADER: usize = 18;
/// Beside the window libzstd keeps two blocks of 128 KiB (RFC 8878, 3.1.1.2.4) and its tables: rounded up.
const BESIDE: u64 = 1 << 20;
/// A window of up to this is always taken (RFC 8878, 3.1.1.1.2, recommends it as the least to support).
const LEAST_LOG: u32 = 10;

/// By the magic of the first frame; skippable frames are stepped over as far as `head` reaches.
pub fn detect(head: &[u8]) -> bool {
    first_frame(head).is_some_and(|rest| rest.is_empty() || word(rest) == Some(MAGIC))
}

/// What follows the skippable frames; empty when they go beyond `head`. None when there is no magic.
fn first_frame(mut head: &[u8]) -> Option<&[u8]> {
    loop {
        match word(head)? {
            MAGIC => return Some(head),
            magic if magic & !0xf == SKIPPABLE => {
                let length = SKIPPABLE_HEADER + word(head.get(4..)?)? as usize;
                head = head.get(length..).unwrap_or(&[]);
                if head.len() < 4 {
                    return Some(&[]);
                }
            }
            _ => return None,
        }
    }
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// From the first frame's header. Later frames may ask for more; they are bounded as they come.
pub fn memory(head: &[u8], limits: &Limits) -> Result<Memory> {
    let window = match first_frame(head).map(|frame| Header::parse(frame, 0)) {
        Some(Ok(Some(header))) => header.check(limits, Stage::Plan)?,
        Some(Err(error)) => return Err(Error { stage: Stage::Plan, ..error }),
        _ => 0,
    };
    Ok(Memory { window, total: window.saturating_add(BESIDE) })
}

/// Frame_Header (RFC 8878, 3.1.1.1).
struct Header {
    window: u64,
    dictionary: u32,
}

impl Header {
    /// None when bytes are missing. `bytes` begins with the magic.
    fn parse(bytes: &[u8], at: u64) -> Result<Option<Header>> {
        let Some(&descriptor) = bytes.get(4) else { return Ok(None) };
        let single = descriptor & 0x20 != 0;
        if descriptor & 0x08 != 0 {
            return Err(corrupt(Kind::Zstd, at, "a reserved bit of a frame's header is set"));
        }
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let content = match descriptor >> 6 {
            0 => usize::from(single),
            log => 1 << log,
        };
        let mut at = 5;
        let mut field = |length: usize| {
            let mut value = [0; 8];
            value[..length].copy_from_slice(bytes.get(at..at + length)?);
            at += length;
            Some(u64::from_le_bytes(value))
        };
        let (Some(window), Some(dictionary), Some(size)) =
            (field(usize::from(!single)), field(dictionary), field(content))
        else {
            return Ok(None);
        };
        let window = if single {
            // A two-byte size is stored less 256 (RFC 8878, 3.1.1.1.4).
            if content == 2 { size + 256 } else { size }
        } else {
            // Exponent and Mantissa (RFC 8878, 3.1.1.1.2).
            let base = 1u64 << (10 + (window >> 3));
            base + base / 8 * (window & 7)
        };
        Ok(Some(Header { window, dictionary: dictionary as u32 }))
    }

    /// The window, when it is within the bound.
    fn check(&self, limits: &Limits, stage: Stage) -> Result<u64> {
        if self.dictionary != 0 {
            let what = format!("needs the dictionary {}, which is not in it", self.dictionary);
            return Err(unsupported(Kind::Zstd, stage, what));
        }
        if self.window > limits.decoder_window.max(1 << LEAST_LOG) {
            return Err(too_large(Kind::Zstd, stage, self.window, limits));
        }
        Ok(self.window)
    }
}

/// The state in a [`Restart`]: a frame begins, nothing before it matters.
#[derive(Serialize, Deserialize)]
struct State {}

enum At {
    /// Before a frame or the end; `held` has what came of its header.
    Boundary,
    Frame,
    /// Bytes of a skippable frame that are still to come.
    Skip(u32),
}

pub struct Zstd {
    context: DCtx<'static>,
    limits: Limits,
    at: At,
    held: Vec<u8>,
    frames: u64,
    source: u64,
    decoded: u64,
}

impl Zstd {
    pub fn new(limits: &Limits, from: Option<&Restart>) -> Result<Self> {
        let no_memory = || Error::new(Code::Io, Stage::Decode, "no memory for the zstd decoder");
        let mut context = DCtx::try_create().ok_or_else(no_memory)?;
        // libzstd bounds by powers of two; the exact bound is `Header::check`.
        let log = limits.decoder_window.max(1 << LEAST_LOG).checked_next_power_of_two().map_or(31, u64::ilog2).min(31);
        context
            .set_parameter(DParameter::WindowLogMax(log))
            .map_err(|code| Error::new(Code::Io, Stage::Decode, zstd_safe::get_error_name(code)))?;
        if let Some(from) = from {
            from.decode::<State>(Kind::Zstd)?;
        }
        Ok(Self {
            context,
            limits: limits.clone(),
            at: At::Boundary,
            held: Vec::with_capacity(LONGEST_HEADER),
            frames: from.map_or(0, |from| u64::from(from.source_offset > 0)),
            source: from.map_or(0, |from| from.source_offset),
            decoded: from.map_or(0, |from| from.decoded_offset),
        })
    }

    /// Takes bytes until the frame's header is complete.
    fn boundary(&mut self, input: &mut &[u8], out: &mut dyn Sink) -> Result<()> {
        while let Some((byte, rest)) = input.split_first() {
            self.held.push(*byte);
            self.source += 1;
            *input = rest;
            let Some(magic) = word(&self.held) else {
                self.magic_so_far()?;
                continue;
            };
            if magic & !0xf == SKIPPABLE {
                if let Some(length) = word(&self.held[4..]) {
                    self.held.clear();
                    self.at = At::Skip(length);
                    return self.skip(input, out);
                }
                continue;
            }
            self.magic_so_far()?;
            if let Some(header) = Header::parse(&self.held, self.source)? {
                header.check(&self.limits, Stage::Decode)?;
                self.at = At::Frame;
                let header = std::mem::take(&mut self.held);
                // `frame` counts them.
                self.source -= header.len() as u64;
                let result = self.frame(&mut &header[..], out);
                self.held = header;
                self.held.clear();
                return result;
            }
        }
        Ok(())
    }

    /// Fails as soon as no magic begins as `held` does.
    fn magic_so_far(&self) -> Result<()> {
        let n = self.held.len().min(4);
        let frame = self.held[..n] == MAGIC.to_le_bytes()[..n];
        let mut skippable = SKIPPABLE.to_le_bytes();
        skippable[0] |= self.held[0] & 0xf;
        if frame || self.held[..n] == skippable[..n] {
            return Ok(());
        }
        let what = if self.frames == 0 { "it does not begin with a frame" } else { "what follows a frame is no frame" };
        Err(corrupt(Kind::Zstd, self.source - self.held.len() as u64, what))
    }

    fn frame(&mut self, input: &mut &[u8], out: &mut dyn Sink) -> Result<()> {
        loop {
            let space = out.space()?;
            let room = space.len();
            let mut to = OutBuffer::around(space);
            let mut from = InBuffer::around(input);
            let left = self.context.decompress_stream(&mut to, &mut from);
            let (read, wrote) = (from.pos(), to.pos());
            *input = &input[read..];
            self.source += read as u64;
            if wrote > 0 {
                self.decoded += wrote as u64;
                out.commit(wrote)?;
            }
            match left {
                Ok(0) => return self.end_of_frame(out),
                Ok(_) if input.is_empty() && wrote < room => return Ok(()),
                Ok(_) if read == 0 && wrote == 0 && !input.is_empty() => {
                    return Err(corrupt(Kind::Zstd, self.source, "the decoder is stuck"));
                }
                Ok(_) => {}
                Err(code) => return Err(corrupt(Kind::Zstd, self.source, zstd_safe::get_error_name(code))),
            }
        }
    }

    fn end_of_frame(&mut self, out: &mut dyn Sink) -> Result<()> {
        self.at = At::Boundary;
        self.frames += 1;
        self.context
            .reset(ResetDirective::SessionOnly)
            .map_err(|code| Error::new(Code::Io, Stage::Decode, zstd_safe::get_error_name(code)))?;
        if out.restart_due() {
            out.restart(Restart::encode(self.source, self.decoded, &State {})?)?;
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

impl Codec for Zstd {
    fn push(&mut self, mut input: &[u8], out: &mut dyn Sink) -> Result<()> {
        let input = &mut input;
        while !input.is_empty() {
            match self.at {
                At::Boundary => self.boundary(input, out)?,
                At::Frame => self.frame(input, out)?,
                At::Skip(_) => self.skip(input, out)?,
            }
        }
        Ok(())
    }

    fn finish(&mut self, _out: &mut dyn Sink) -> Result<()> {
        let inside = match self.at {
            At::Boundary if self.held.is_empty() && self.frames > 0 => return Ok(()),
            At::Boundary => "the header of a frame",
            At::Frame => "a frame",
            At::Skip(_) => "a skippable frame",
        };
        Err(truncated(Kind::Zstd, self.source, inside))
    }
}

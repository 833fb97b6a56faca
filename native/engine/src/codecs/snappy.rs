//! Snappy's framing format (framing_format.txt of the Snappy project): chunks of at most 64 KiB, each with its checksum.
//!
//! The framing and its checksums are read here, chunk by chunk: decoding can begin again at every one. Nothing marks the end
//! of a stream, so one that is cut between two chunks is a whole one; and no checksum covers the type and length of a chunk.

use serde::{Deserialize, Serialize};
use snap::raw::{Decoder, decompress_len};

use super::parts::{self, Parts};
use super::{Codec, Kind, Memory, Restart, Sink, corrupt, truncated, unsupported};
use crate::error::{Result, Stage};

/// A stream identifier, which every stream begins with ("Stream identifier").
const MAGIC: [u8; 10] = *b"\xff\x06\0\0sNaPpY";
/// Type and length of a chunk ("General structure").
const HEADER: usize = 4;
/// Of the decoded data of a chunk, in front of it ("Checksum format").
const CHECKSUM: usize = 4;
/// Decoded bytes of a chunk ("Compressed data").
const MOST: usize = 64 << 10;
/// Bytes that so many are compressed to (MaxCompressedLength in snappy.cc). The format would allow 16 MiB, which no program
/// writes and others refuse as well.
const MOST_COMPRESSED: usize = 32 + MOST + MOST / 6;

/// Types of chunks ("Chunk types").
const COMPRESSED: u8 = 0x00;
const STORED: u8 = 0x01;
const COMPRESSED_UNCHECKED: u8 = 0x02;
const STORED_UNCHECKED: u8 = 0x03;
/// From here on, up to an identifier, chunks are passed over; those below it must not be.
const SKIPPABLE: u8 = 0x80;
const IDENTIFIER: u8 = 0xff;

pub fn detect(head: &[u8]) -> bool {
    head.starts_with(&MAGIC)
}

/// The same for every stream: a chunk as it came, and the same decoded.
pub fn memory() -> Memory {
    Memory { window: MOST as u64, total: (CHECKSUM + MOST_COMPRESSED + MOST) as u64 }
}

/// The state in a [`Restart`]: a chunk begins, nothing before it matters.
#[derive(Serialize, Deserialize)]
struct State {}

#[derive(Clone, Copy)]
enum At {
    /// Before a chunk or the end.
    Boundary,
    /// The content of a stream identifier.
    Identifier,
    /// A checksum, and data up to so many bytes together.
    Data { length: usize, stored: bool },
    /// Bytes of a chunk that are still to be passed over.
    Skip(usize),
}

pub struct Snappy {
    decoder: Decoder,
    at: At,
    /// What came of the part that `at` names.
    held: Vec<u8>,
    room: Vec<u8>,
    /// A stream identifier has come.
    begun: bool,
    source: u64,
    decoded: u64,
}

impl Snappy {
    pub fn new(from: Option<&Restart>) -> Result<Self> {
        if let Some(from) = from {
            from.decode::<State>(Kind::Snappy)?;
        }
        Ok(Self {
            decoder: Decoder::new(),
            at: At::Boundary,
            held: Vec::new(),
            room: vec![0; MOST],
            begun: from.is_some_and(|from| from.source_offset > 0),
            source: from.map_or(0, |from| from.source_offset),
            decoded: from.map_or(0, |from| from.decoded_offset),
        })
    }

    /// Fails as soon as no chunk that is read here begins as `header` does.
    fn ensure_known(&self, header: &[u8]) -> Result<()> {
        let at = self.source;
        match header[0] {
            _ if !self.begun && !MAGIC.starts_with(header) => {
                Err(corrupt(Kind::Snappy, at, "it does not begin with a stream identifier"))
            }
            COMPRESSED_UNCHECKED | STORED_UNCHECKED => {
                Err(unsupported(Kind::Snappy, Stage::Decode, "has chunks without a checksum"))
            }
            kind if kind > STORED_UNCHECKED && kind < SKIPPABLE => {
                Err(corrupt(Kind::Snappy, at, format!("what follows a chunk is none: there is no type {kind:#04x}")))
            }
            _ => Ok(()),
        }
    }

    fn data(&mut self, bytes: &[u8], stored: bool, out: &mut dyn Sink) -> Result<()> {
        let bad = |what: &dyn std::fmt::Display| corrupt(Kind::Snappy, self.source, what);
        let (check, data) = bytes.split_at(CHECKSUM);
        let content = if stored {
            data
        } else {
            let length = decompress_len(data).map_err(|error| bad(&error))?;
            if length > MOST {
                return Err(bad(&format!("a chunk decodes to {length} bytes, at most {MOST} are allowed")));
            }
            let n = self.decoder.decompress(data, &mut self.room).map_err(|error| bad(&error))?;
            &self.room[..n]
        };
        if *check != masked(crc32c::crc32c(content)).to_le_bytes() {
            return Err(bad(&"the checksum of a chunk is wrong"));
        }
        out.write(content)?;
        self.decoded += content.len() as u64;
        self.end_of_chunk(out)
    }

    fn end_of_chunk(&mut self, out: &mut dyn Sink) -> Result<()> {
        self.at = At::Boundary;
        if out.restart_due() {
            out.restart(Restart::encode(self.source, self.decoded, &State {})?)?;
        }
        Ok(())
    }
}

/// As checksums are stored ("Checksum format").
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

impl Parts for Snappy {
    fn need(&self) -> usize {
        match self.at {
            At::Boundary => HEADER,
            At::Identifier => MAGIC.len() - HEADER,
            At::Data { length, .. } => length,
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
        match self.at {
            At::Boundary => {
                self.ensure_known(bytes)?;
                let length = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], 0]) as usize;
                self.at = match bytes[0] {
                    kind @ (COMPRESSED | STORED) => {
                        let stored = kind == STORED;
                        let most = CHECKSUM + if stored { MOST } else { MOST_COMPRESSED };
                        if !(CHECKSUM..=most).contains(&length) {
                            let what = format!("a chunk has {length} bytes, {CHECKSUM} to {most} are allowed");
                            return Err(corrupt(Kind::Snappy, self.source, what));
                        }
                        At::Data { length, stored }
                    }
                    IDENTIFIER if length == MAGIC.len() - HEADER => At::Identifier,
                    IDENTIFIER => {
                        let what = format!("a stream identifier has {length} bytes, not {}", MAGIC.len() - HEADER);
                        return Err(corrupt(Kind::Snappy, self.source, what));
                    }
                    _ => {
                        self.at = At::Skip(length);
                        return self.skip(&mut &[][..], out);
                    }
                };
                Ok(())
            }
            At::Identifier => {
                if *bytes != MAGIC[HEADER..] {
                    return Err(corrupt(Kind::Snappy, self.source, "a stream identifier has another name in it"));
                }
                self.begun = true;
                self.end_of_chunk(out)
            }
            At::Data { stored, .. } => self.data(bytes, stored, out),
            At::Skip(_) => Ok(()),
        }
    }

    fn skip(&mut self, input: &mut &[u8], out: &mut dyn Sink) -> Result<()> {
        let At::Skip(left) = self.at else { return Ok(()) };
        let n = left.min(input.len());
        *input = &input[n..];
        self.source += n as u64;
        self.at = At::Skip(left - n);
        if left == n { self.end_of_chunk(out) } else { Ok(()) }
    }
}

impl Codec for Snappy {
    fn push(&mut self, input: &[u8], out: &mut dyn Sink) -> Result<()> {
        parts::push(self, input, out)
    }

    fn finish(&mut self, _out: &mut dyn Sink) -> Result<()> {
        let inside = match self.at {
            At::Boundary if self.held.is_empty() && self.begun => return Ok(()),
            At::Boundary => {
                if !self.held.is_empty() {
                    self.ensure_known(&self.held)?;
                }
                "the header of a chunk"
            }
            At::Identifier => "a stream identifier",
            At::Data { .. } | At::Skip(_) => "a chunk",
        };
        Err(truncated(Kind::Snappy, self.source, inside))
    }
}

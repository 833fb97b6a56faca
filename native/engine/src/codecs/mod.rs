//! Compression around an image: the contract and the table. Each codec is one file.

use std::fmt::Display;

use crate::archives::{Pick, tar, zip};
use crate::error::{Code, Error, Result, Stage};
use crate::limits::Limits;

pub mod bzip2;
pub mod gzip;
pub mod layers;
pub mod lz4;
mod parts;
pub mod snappy;
pub mod xz;
pub mod zstd;

/// Where decoded bytes go, in order.
pub trait Sink {
    /// Room to decode into: at least one byte, aligned work is up to the sink. Blocks while the stages behind
    /// are full; fails with ABORTED when the transfer was stopped.
    fn space(&mut self) -> Result<&mut [u8]>;
    /// The first `n` bytes of the last `space()` are decoded now.
    fn commit(&mut self, n: usize) -> Result<()>;
    /// Whether a checkpoint is due. Asked at each place where decoding could begin again, so it is cheap.
    fn restart_due(&self) -> bool;
    /// Decoding can begin again here. All decoded bytes below `decoded_offset` have been committed.
    fn restart(&mut self, at: Restart) -> Result<()>;

    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let space = self.space()?;
            let n = space.len().min(bytes.len());
            space[..n].copy_from_slice(&bytes[..n]);
            self.commit(n)?;
            bytes = &bytes[n..];
        }
        Ok(())
    }
}

/// A place where decoding can begin again: at a gzip member or deflate block, a zstd frame, an xz block,
/// an lz4 frame or independent block, a bzip2 block, a snappy chunk, any byte of a member of an archive.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Restart {
    /// Offset in the codec's input of the first byte that must be pushed again.
    pub source_offset: u64,
    /// Offset in the codec's output of the first byte that comes out then.
    pub decoded_offset: u64,
    /// What the codec needs to go on there (its own encoding); at most 64 KiB.
    #[serde(with = "serde_bytes")]
    pub state: Vec<u8>,
}

impl Restart {
    pub(crate) fn encode<T: serde::Serialize>(source_offset: u64, decoded_offset: u64, state: &T) -> Result<Restart> {
        let state = postcard::to_allocvec(state)
            .map_err(|e| Error::new(Code::Io, Stage::Decode, format!("a restart point could not be kept: {e}")))?;
        Ok(Restart { source_offset, decoded_offset, state })
    }

    /// The codec's own state. A state that another version wrote, or that was damaged, is CORRUPT.
    pub(crate) fn decode<'a, T: serde::Deserialize<'a>>(&'a self, kind: Kind) -> Result<T> {
        postcard::from_bytes(&self.state).map_err(|_| bad_state(kind))
    }
}

fn bad_state(kind: Kind) -> Error {
    let what = format!("the checkpoint holds no usable state of the {} decoder; begin again with --fresh", kind.name());
    Error::new(Code::Corrupt, Stage::Decode, what)
}

/// `at`: offset in the codec's input.
fn corrupt(kind: Kind, at: u64, what: impl Display) -> Error {
    Error::new(Code::Corrupt, Stage::Decode, format!("the {} stream is damaged near byte {at}: {what}", kind.name()))
}

fn truncated(kind: Kind, at: u64, inside: &str) -> Error {
    let what = format!("the {} stream ends at byte {at} inside {inside}: the source is not complete", kind.name());
    Error::new(Code::Truncated, Stage::Decode, what)
}

fn unsupported(kind: Kind, stage: Stage, what: impl Display) -> Error {
    Error::new(Code::Unsupported, stage, format!("the {} stream {what}; decompress it before the import", kind.name()))
}

/// `window`: what the stream asks for.
fn too_large(kind: Kind, stage: Stage, window: u64, limits: &Limits) -> Error {
    let limit = limits.decoder_window;
    let what = format!(
        "the {} stream needs a window of {window} bytes, {limit} are allowed: raise --memory by {} bytes or more",
        kind.name(),
        window.saturating_sub(limit)
    );
    Error::new(Code::TooLarge, stage, what)
}

/// Undo one layer of compression, for input in pieces of any size.
pub trait Codec: Send {
    /// Decodes a piece of input. Pieces come in order, of any length from 1 byte.
    fn push(&mut self, input: &[u8], out: &mut dyn Sink) -> Result<()>;
    /// The input is complete. MUST fail with TRUNCATED when the stream is not at a lawful end, with CORRUPT
    /// on a bad check or trailing garbage (zero padding after gzip, xz stream padding, zstd and lz4 skippable
    /// frames, snappy's skippable chunks are lawful).
    fn finish(&mut self, out: &mut dyn Sink) -> Result<()>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    Gzip,
    Zstd,
    Xz,
    Lz4,
    Bzip2,
    Snappy,
    /// Archives, of which one member comes out.
    Tar,
    Zip,
}

impl Kind {
    /// Every compression; an archive is none.
    pub const ALL: [Kind; 6] = [Kind::Gzip, Kind::Zstd, Kind::Xz, Kind::Lz4, Kind::Bzip2, Kind::Snappy];

    pub fn is_archive(self) -> bool {
        matches!(self, Kind::Tar | Kind::Zip)
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Gzip => "gzip",
            Kind::Zstd => "zstd",
            Kind::Xz => "xz",
            Kind::Lz4 => "lz4",
            Kind::Bzip2 => "bzip2",
            Kind::Snappy => "snappy",
            Kind::Tar => "tar",
            Kind::Zip => "zip",
        }
    }

    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().chain([Kind::Tar, Kind::Zip]).find(|kind| kind.name() == name)
    }

    /// Recognises a codec by its magic number, never by a name.
    pub fn detect(head: &[u8]) -> Option<Kind> {
        if gzip::detect(head) {
            Some(Kind::Gzip)
        } else if zstd::detect(head) {
            Some(Kind::Zstd)
        } else if xz::detect(head) {
            Some(Kind::Xz)
        } else if lz4::detect(head) {
            Some(Kind::Lz4)
        } else if bzip2::detect(head) {
            Some(Kind::Bzip2)
        } else if snappy::detect(head) {
            Some(Kind::Snappy)
        } else if tar::detect(head) {
            Some(Kind::Tar)
        } else if zip::detect(head) {
            Some(Kind::Zip)
        } else {
            None
        }
    }

    /// A decoder for a whole stream, or for what follows `from`; of an archive the only disk.
    pub fn open(self, limits: &Limits, from: Option<&Restart>) -> Result<Box<dyn Codec>> {
        self.open_picking(&Pick::Only, limits, from)
    }

    /// The same; of an archive what `pick` says.
    pub fn open_picking(self, pick: &Pick, limits: &Limits, from: Option<&Restart>) -> Result<Box<dyn Codec>> {
        let codec: Box<dyn Codec> = match self {
            Kind::Gzip => Box::new(gzip::Gzip::new(limits, from)?),
            Kind::Zstd => Box::new(zstd::Zstd::new(limits, from)?),
            Kind::Xz => Box::new(xz::Xz::new(limits, from)?),
            Kind::Lz4 => Box::new(lz4::Lz4::new(limits, from)?),
            Kind::Bzip2 => Box::new(bzip2::Bzip2::new(limits, from)?),
            Kind::Snappy => Box::new(snappy::Snappy::new(from)?),
            Kind::Tar => Box::new(tar::Tar::new(pick, from)?),
            // Nowhere else can it begin again.
            Kind::Zip if from.is_some() => return Err(bad_state(self)),
            Kind::Zip => Box::new(zip::Zip::new(pick)),
        };
        Ok(Box::new(Once { codec, failed: None }))
    }

    /// Memory that decoding will take, read from the head of the stream: (window or dictionary, all together).
    pub fn memory(self, head: &[u8], limits: &Limits) -> Result<Memory> {
        match self {
            Kind::Gzip => gzip::memory(head, limits),
            Kind::Zstd => zstd::memory(head, limits),
            Kind::Xz => xz::memory(head, limits),
            Kind::Lz4 => lz4::memory(head, limits),
            Kind::Bzip2 => bzip2::memory(head, limits),
            Kind::Snappy => Ok(snappy::memory()),
            Kind::Tar => Ok(tar::memory()),
            Kind::Zip => Ok(zip::memory()),
        }
    }
}

/// After an error a decoder is not asked again: the error stays.
struct Once {
    codec: Box<dyn Codec>,
    failed: Option<Error>,
}

impl Once {
    fn then(&mut self, call: impl FnOnce(&mut dyn Codec) -> Result<()>) -> Result<()> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => call(&mut *self.codec).inspect_err(|error| self.failed = Some(error.clone())),
        }
    }
}

impl Codec for Once {
    fn push(&mut self, input: &[u8], out: &mut dyn Sink) -> Result<()> {
        self.then(|codec| codec.push(input, out))
    }

    fn finish(&mut self, out: &mut dyn Sink) -> Result<()> {
        self.then(|codec| codec.finish(out))
    }
}

/// What a decoder needs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub window: u64,
    pub total: u64,
}

//! The digest of the source, on a thread of its own behind the decoder.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use md5::Md5;
use sha1::Sha1;
use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest, Sha256, Sha512};

use crate::error::{Code, Error, Result, Stage};

use super::checkpoint::{HashState, Note};
use super::input::Piece;

/// A digest over all bytes of a source as transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceDigest {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
    /// Castagnoli's CRC (RFC 3720, section 12.1), big-endian: what stores promise of what they keep.
    Crc32c([u8; 4]),
    /// Old checksums (RFC 1321, RFC 3174), which people still have of old images.
    Md5([u8; 16]),
    Sha1([u8; 20]),
}

impl SourceDigest {
    /// Whether two contents that have it in common can be made: then it tells damage, and not what something is.
    pub fn is_weak(self) -> bool {
        matches!(self, Self::Crc32c(_) | Self::Md5(_) | Self::Sha1(_))
    }

    /// Reads `sha256:<64 hex>`, and likewise `sha512`, `sha1`, `md5` and `crc32c`. Throws BAD_SPEC.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::new(Code::BadSpec, Stage::Plan, "a digest is sha256:<64 hex> or sha512:<128 hex>");
        let (algorithm, hex) = text.split_once(':').ok_or_else(bad)?;
        if !hex.is_ascii() || hex.len() % 2 != 0 {
            return Err(bad());
        }
        let bytes: Option<Vec<u8>> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).ok()).collect();
        let bytes = bytes.ok_or_else(bad)?;
        match algorithm {
            "sha256" => bytes.try_into().map(SourceDigest::Sha256).map_err(|_| bad()),
            "sha512" => bytes.try_into().map(SourceDigest::Sha512).map_err(|_| bad()),
            "crc32c" => bytes.try_into().map(SourceDigest::Crc32c).map_err(|_| bad()),
            "md5" => bytes.try_into().map(SourceDigest::Md5).map_err(|_| bad()),
            "sha1" => bytes.try_into().map(SourceDigest::Sha1).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for SourceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes): (_, &[u8]) = match self {
            SourceDigest::Sha256(bytes) => ("sha256", bytes),
            SourceDigest::Sha512(bytes) => ("sha512", bytes),
            SourceDigest::Crc32c(bytes) => ("crc32c", bytes),
            SourceDigest::Md5(bytes) => ("md5", bytes),
            SourceDigest::Sha1(bytes) => ("sha1", bytes),
        };
        write!(f, "{name}:")?;
        bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

pub enum Feed {
    Piece(Piece),
    /// Tell the checkpointer the state here.
    Barrier(u64),
}

/// Which hash runs beside SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    Nothing,
    /// Three times as dear as SHA-256.
    Sha512,
    Crc32c,
    Md5,
    Sha1,
}

impl Beside {
    pub fn of(demanded: Option<SourceDigest>) -> Self {
        match demanded {
            Some(SourceDigest::Sha512(_)) => Self::Sha512,
            Some(SourceDigest::Crc32c(_)) => Self::Crc32c,
            Some(SourceDigest::Md5(_)) => Self::Md5,
            Some(SourceDigest::Sha1(_)) => Self::Sha1,
            Some(SourceDigest::Sha256(_)) | None => Self::Nothing,
        }
    }
}

enum Second {
    Nothing,
    Sha512(Box<Sha512>),
    Crc32c(u32),
    Md5(Box<Md5>),
    Sha1(Box<Sha1>),
}

/// The running hashes: SHA-256 always, another where it is demanded.
struct Hashes {
    sha256: Sha256,
    second: Second,
}

impl Hashes {
    fn new(beside: Beside) -> Self {
        let second = match beside {
            Beside::Nothing => Second::Nothing,
            Beside::Sha512 => Second::Sha512(Box::default()),
            Beside::Crc32c => Second::Crc32c(0),
            Beside::Md5 => Second::Md5(Box::default()),
            Beside::Sha1 => Second::Sha1(Box::default()),
        };
        Self { sha256: Sha256::new(), second }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        match &mut self.second {
            Second::Nothing => {}
            Second::Sha512(sha512) => sha512.update(bytes),
            Second::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            Second::Md5(md5) => md5.update(bytes),
            Second::Sha1(sha1) => sha1.update(bytes),
        }
    }

    fn state(&self) -> Vec<u8> {
        let mut state = self.sha256.serialize().to_vec();
        match &self.second {
            Second::Nothing => {}
            Second::Sha512(sha512) => state.extend_from_slice(&sha512.serialize()),
            Second::Crc32c(crc) => state.extend_from_slice(&crc.to_be_bytes()),
            Second::Md5(md5) => state.extend_from_slice(&md5.serialize()),
            Second::Sha1(sha1) => state.extend_from_slice(&sha1.serialize()),
        }
        state
    }

    fn from_state(state: &[u8], beside: Beside) -> Option<Self> {
        let (first, second) = state.split_at_checked(Sha256::new().serialize().len())?;
        Some(Self {
            sha256: Sha256::deserialize(first.try_into().ok()?).ok()?,
            second: match beside {
                Beside::Nothing => Second::Nothing,
                Beside::Sha512 => Second::Sha512(Box::new(Sha512::deserialize(second.try_into().ok()?).ok()?)),
                Beside::Crc32c => Second::Crc32c(u32::from_be_bytes(second.try_into().ok()?)),
                Beside::Md5 => Second::Md5(Box::new(Md5::deserialize(second.try_into().ok()?).ok()?)),
                Beside::Sha1 => Second::Sha1(Box::new(Sha1::deserialize(second.try_into().ok()?).ok()?)),
            },
        })
    }
}

pub struct Hasher {
    hashes: Hashes,
    /// Source offset up to which everything has been hashed.
    position: u64,
    /// A state that must be met when the same source is read again from its beginning.
    expected: Option<(u64, Vec<u8>)>,
}

impl Hasher {
    pub fn new(beside: Beside) -> Self {
        Self { hashes: Hashes::new(beside), position: 0, expected: None }
    }

    /// Goes on from `state` at `offset`.
    pub fn resume(offset: u64, state: &[u8], beside: Beside) -> Result<Self> {
        let hashes = Hashes::from_state(state, beside).ok_or_else(|| {
            Error::new(
                Code::Corrupt,
                Stage::Target,
                "the checkpoint holds no valid digest state; run again with --fresh",
            )
        })?;
        Ok(Self { hashes, position: offset, expected: None })
    }

    /// Hashes from the beginning and demands that the state at `offset` is the one that was seen then.
    pub fn replay(offset: u64, state: Vec<u8>, beside: Beside) -> Self {
        Self { expected: Some((offset, state)), ..Self::new(beside) }
    }

    fn update(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        // A gap means that not the whole source is read: then there is no digest of it.
        if offset > self.position {
            return Ok(());
        }
        let known = (self.position - offset).min(bytes.len() as u64) as usize;
        let mut bytes = &bytes[known..];
        if let Some((at, state)) = &self.expected
            && *at <= self.position + bytes.len() as u64
        {
            let n = (*at - self.position) as usize;
            self.hashes.update(&bytes[..n]);
            self.position = *at;
            bytes = &bytes[n..];
            if self.hashes.state() != *state {
                let what = format!(
                    "the first {at} bytes are not the ones that this transfer began with; run again with --fresh to start over"
                );
                return Err(Error::new(Code::Changed, Stage::Source, what));
            }
            self.expected = None;
        }
        self.hashes.update(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn run(&mut self, feed: &Receiver<Feed>, notes: &Sender<Note>) -> Result<()> {
        while let Ok(feed) = feed.recv() {
            match feed {
                Feed::Piece(piece) => self.update(piece.offset, &piece.bytes)?,
                Feed::Barrier(number) => {
                    let state = HashState { number, offset: self.position, state: Some(self.hashes.state()) };
                    // A closed channel means that the conversion is over.
                    let _ = notes.send(Note::Hash(state));
                }
            }
        }
        Ok(())
    }

    /// Runs until the feed closes and leaves itself in `result`.
    pub fn run_to(
        mut self,
        feed: &Receiver<Feed>,
        notes: &Sender<Note>,
        result: &Arc<Mutex<Option<Hasher>>>,
    ) -> Result<()> {
        self.run(feed, notes)?;
        *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(self);
        Ok(())
    }

    /// The digest of people, SHA-512 where that was demanded, else SHA-256, and the weak one where one was; if all `length`
    /// bytes were seen.
    pub fn finish(self, length: Option<u64>) -> Result<Option<(SourceDigest, Option<SourceDigest>)>> {
        if let Some((at, _)) = self.expected {
            let what = format!(
                "the source ends at {} bytes, the transfer that is being continued had read {at}",
                self.position
            );
            return Err(Error::new(Code::Changed, Stage::Source, what));
        }
        if length != Some(self.position) {
            return Ok(None);
        }
        let sha256 = SourceDigest::Sha256(self.hashes.sha256.finalize().into());
        Ok(Some(match self.hashes.second {
            Second::Nothing => (sha256, None),
            Second::Sha512(sha512) => (SourceDigest::Sha512(sha512.finalize().into()), None),
            Second::Crc32c(crc) => (sha256, Some(SourceDigest::Crc32c(crc.to_be_bytes()))),
            Second::Md5(md5) => (sha256, Some(SourceDigest::Md5(md5.finalize().into()))),
            Second::Sha1(sha1) => (sha256, Some(SourceDigest::Sha1(sha1.finalize().into()))),
        }))
    }
}

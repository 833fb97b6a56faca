//! Codecs around an archive, found as they come: each layer begins with its magic.

use crate::archives::Pick;
use crate::archives::entry::{self, BLOCK};
use crate::archives::tar;
use crate::codecs::{Codec, Kind, Restart, Sink};
use crate::error::{Code, Error, Result, Stage};
use crate::limits::Limits;

use super::walk::Walk;

/// Codecs around an archive at most: as many as an image may have.
const DEEPEST: usize = 3;

/// Takes the bytes of a layer, from its first.
pub struct Layers {
    depth: usize,
    /// Those around the archive, where they are known; else each begins with its magic.
    told: Option<Vec<Kind>>,
    limits: Limits,
    state: State,
}

enum State {
    /// What of the first block has come.
    Unknown(Vec<u8>),
    Packed {
        codec: Box<dyn Codec>,
        inner: Box<Layers>,
        kind: Kind,
    },
    Archive,
}

impl Layers {
    pub fn new(limits: &Limits, told: Option<&[Kind]>) -> Self {
        Self {
            depth: 0,
            told: told.map(<[Kind]>::to_vec),
            limits: limits.clone(),
            state: State::Unknown(Vec::with_capacity(BLOCK)),
        }
    }

    /// Names of the codecs that were found, the outermost first.
    pub fn names(&self) -> Vec<&'static str> {
        match &self.state {
            State::Packed { kind, inner, .. } => std::iter::once(kind.name()).chain(inner.names()).collect(),
            _ => Vec::new(),
        }
    }

    pub fn push(&mut self, mut bytes: &[u8], to: &mut Walk) -> Result<()> {
        if let State::Unknown(head) = &mut self.state {
            let (more, rest) = bytes.split_at(bytes.len().min(BLOCK - head.len()));
            head.extend_from_slice(more);
            if head.len() < BLOCK {
                return Ok(());
            }
            self.know(to)?;
            bytes = rest;
        }
        self.forward(bytes, to)
    }

    /// The layer is complete.
    pub fn finish(&mut self, to: &mut Walk) -> Result<()> {
        if matches!(self.state, State::Unknown(_)) {
            self.know(to)?;
        }
        match &mut self.state {
            State::Packed { codec, inner, .. } => {
                codec.finish(&mut Into::new(inner, to))?;
                inner.finish(to)
            }
            _ => to.finish(),
        }
    }

    fn forward(&mut self, bytes: &[u8], to: &mut Walk) -> Result<()> {
        match &mut self.state {
            State::Packed { codec, inner, .. } => codec.push(bytes, &mut Into::new(inner, to)),
            _ => to.push(bytes),
        }
    }

    /// Decides by the first block, or by all there is of it, and passes it on.
    fn know(&mut self, to: &mut Walk) -> Result<()> {
        let State::Unknown(head) = std::mem::replace(&mut self.state, State::Archive) else { return Ok(()) };
        let kind = match &self.told {
            Some(told) => told.get(self.depth).copied(),
            None => Kind::detect(&head).filter(|&kind| kind != Kind::Tar),
        };
        match kind {
            Some(kind) => {
                if self.depth == DEEPEST {
                    let what = format!("the archive is compressed more than {DEEPEST} times over");
                    return Err(Error::new(Code::Unsupported, Stage::Decode, what));
                }
                kind.memory(&head, &self.limits)?;
                let codec = kind.open_picking(&Pick::Only, &self.limits, None)?;
                let inner = Box::new(Self { depth: self.depth + 1, ..Self::new(&self.limits, self.told.as_deref()) });
                self.state = State::Packed { codec, inner, kind };
            }
            // Older forms have no magic, but a checksum.
            None if tar::detect(&head) || head.first_chunk().is_some_and(is_a_header) => {}
            None => {
                let what = "this is no tar archive, nor one in gzip, zstd, xz, lz4, bzip2 or snappy: a disk image is imported without --archive";
                return Err(Error::new(Code::Unsupported, Stage::Decode, what));
            }
        }
        self.forward(&head, to)
    }
}

/// An archive without any entry is two blocks of zeros.
fn is_a_header(block: &[u8; BLOCK]) -> bool {
    *block == [0; BLOCK] || entry::parse(block, 0).is_ok()
}

/// The inner layer as the codec's sink.
struct Into<'a> {
    inner: &'a mut Layers,
    to: &'a mut Walk,
    buffer: Vec<u8>,
}

impl<'a> Into<'a> {
    fn new(inner: &'a mut Layers, to: &'a mut Walk) -> Self {
        Self { inner, to, buffer: vec![0; 64 << 10] }
    }
}

impl Sink for Into<'_> {
    fn space(&mut self) -> Result<&mut [u8]> {
        Ok(&mut self.buffer)
    }

    fn commit(&mut self, n: usize) -> Result<()> {
        self.inner.push(&self.buffer[..n], self.to)
    }

    fn restart_due(&self) -> bool {
        false
    }

    fn restart(&mut self, _at: Restart) -> Result<()> {
        Ok(())
    }
}

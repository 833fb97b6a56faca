//! Codecs within codecs.

use crate::archives::Pick;
use crate::error::{Code, Error, Result, Stage};
use crate::limits::Limits;

use super::{Codec, Kind, Restart, Sink};

/// Codecs within codecs, the outermost first. Only a single layer can begin again in the middle.
pub fn open_layers(kinds: &[Kind], pick: &Pick, limits: &Limits, from: Option<&Restart>) -> Result<Box<dyn Codec>> {
    match kinds {
        [only] => only.open_picking(pick, limits, from),
        [outer, inner @ ..] => {
            let outer = outer.open_picking(pick, limits, None)?;
            Ok(Box::new(Nested { outer, inner: open_layers(inner, pick, limits, None)? }))
        }
        [] => Err(Error::new(Code::BadSpec, Stage::Decode, "no codec to open")),
    }
}

struct Nested {
    outer: Box<dyn Codec>,
    inner: Box<dyn Codec>,
}

/// The inner codec as the outer one's sink.
pub struct Between<'a> {
    inner: &'a mut dyn Codec,
    out: &'a mut dyn Sink,
    buffer: Vec<u8>,
}

impl<'a> Between<'a> {
    pub fn new(inner: &'a mut dyn Codec, out: &'a mut dyn Sink) -> Self {
        Self { inner, out, buffer: vec![0; 64 << 10] }
    }
}

impl Sink for Between<'_> {
    fn space(&mut self) -> Result<&mut [u8]> {
        Ok(&mut self.buffer)
    }

    fn commit(&mut self, n: usize) -> Result<()> {
        self.inner.push(&self.buffer[..n], self.out)
    }

    fn restart_due(&self) -> bool {
        false
    }

    fn restart(&mut self, _at: Restart) -> Result<()> {
        Ok(())
    }
}

/// Restart points of an inner layer mean nothing to the source.
struct NoRestart<'a>(&'a mut dyn Sink);

impl Sink for NoRestart<'_> {
    fn space(&mut self) -> Result<&mut [u8]> {
        self.0.space()
    }

    fn commit(&mut self, n: usize) -> Result<()> {
        self.0.commit(n)
    }

    fn restart_due(&self) -> bool {
        false
    }

    fn restart(&mut self, _at: Restart) -> Result<()> {
        Ok(())
    }
}

impl Codec for Nested {
    fn push(&mut self, input: &[u8], out: &mut dyn Sink) -> Result<()> {
        self.outer.push(input, &mut Between::new(&mut *self.inner, &mut NoRestart(out)))
    }

    fn finish(&mut self, out: &mut dyn Sink) -> Result<()> {
        let out = &mut NoRestart(out);
        self.outer.finish(&mut Between::new(&mut *self.inner, out))?;
        self.inner.finish(out)
    }
}

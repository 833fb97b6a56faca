//! Codecs that take their source in parts whose lengths are known beforehand: a part that comes in pieces is gathered, one
//! that comes whole is taken where it lies.

use super::Sink;
use crate::error::Result;

pub trait Parts {
    /// Bytes that the next step takes at once; 0 = what comes is passed over.
    fn need(&self) -> usize;

    /// What came of the next part.
    fn held(&mut self) -> &mut Vec<u8>;

    /// So many bytes of the source came.
    fn advance(&mut self, bytes: usize);

    /// Takes a part, of as many bytes as were needed.
    fn step(&mut self, part: &[u8], out: &mut dyn Sink) -> Result<()>;

    /// Passes over what needs to be of `input`, which may be a piece of it.
    fn skip(&mut self, input: &mut &[u8], out: &mut dyn Sink) -> Result<()>;
}

/// As `Codec::push`.
pub fn push(codec: &mut impl Parts, mut input: &[u8], out: &mut dyn Sink) -> Result<()> {
    while !input.is_empty() {
        let need = codec.need();
        if need == 0 {
            codec.skip(&mut input, out)?;
            continue;
        }
        let (piece, rest) = input.split_at((need - codec.held().len()).min(input.len()));
        input = rest;
        codec.advance(piece.len());
        if piece.len() == need {
            codec.step(piece, out)?;
            continue;
        }
        let held = codec.held();
        if held.is_empty() {
            held.reserve_exact(need);
        }
        held.extend_from_slice(piece);
        if held.len() == need {
            let mut part = std::mem::take(held);
            codec.step(&part, out)?;
            // Its room is for the next one.
            part.clear();
            *codec.held() = part;
        }
    }
    Ok(())
}

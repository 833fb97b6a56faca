//! The first MiB of a target, as an input of a few hundred bytes: patches on the journal's filler, each of them an
//! offset (3 bytes), a length (2 bytes), both little-endian, and the bytes.

use diskferry_engine::journal::FILLER;

pub fn apply(input: &[u8], target: &mut [u8]) {
    let mut input = input;
    while let Some((head, rest)) = input.split_first_chunk::<5>() {
        let at = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
        let (bytes, rest) = rest.split_at(usize::from(u16::from_le_bytes([head[3], head[4]])).min(rest.len()));
        if let Some(place) = target.get_mut(at..) {
            let n = bytes.len().min(place.len());
            place[..n].copy_from_slice(&bytes[..n]);
        }
        input = rest;
    }
}

/// The patches that make `target` out of filler.
pub fn of(target: &[u8]) -> Vec<u8> {
    let mut patches = Vec::new();
    let mut at = 0;
    while at < target.len() {
        let length = target[at..].iter().take(4096).rposition(|byte| *byte != FILLER).map_or(0, |last| last + 1);
        if length > 0 {
            patches.extend_from_slice(&(at as u32).to_le_bytes()[..3]);
            patches.extend_from_slice(&(length as u16).to_le_bytes());
            patches.extend_from_slice(&target[at..at + length]);
        }
        at += 4096;
    }
    patches
}

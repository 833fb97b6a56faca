//! Metadata that was read ahead must be the same when it passes again.

use std::ops::Range;

use crate::error::{Code, Error, Result, Stage};

/// Bytes kept of each BLAKE3 hash.
const KEPT: usize = 16;

struct Seen {
    range: Range<u64>,
    hash: [u8; KEPT],
}

fn cut(hash: &blake3::Hash) -> [u8; KEPT] {
    let mut kept = [0; KEPT];
    kept.copy_from_slice(&hash.as_bytes()[..KEPT]);
    kept
}

/// Hashes of ranges that were read, compared in one later ascending pass.
#[derive(Default)]
pub struct Recheck {
    seen: Vec<Seen>,
    next: usize,
    sorted: bool,
    hasher: blake3::Hasher,
    /// Bytes of the next range that were hashed.
    hashed: u64,
}

impl Recheck {
    pub fn note(&mut self, at: u64, bytes: &[u8]) {
        if self.seen.last().is_none_or(|s| s.range.start != at) {
            self.seen.push(Seen { range: at..at + bytes.len() as u64, hash: cut(&blake3::hash(bytes)) });
        }
    }

    /// Fails with CHANGED when a range differs from what was noted.
    pub fn pass(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        if !self.sorted {
            self.seen.sort_by_key(|s| s.range.start);
            self.sorted = true;
        }
        let end = at + bytes.len() as u64;
        while let Some(seen) = self.seen.get(self.next) {
            let from = seen.range.start + self.hashed;
            let to = seen.range.end.min(end);
            if from >= end {
                break;
            }
            if from >= at {
                self.hasher.update(&bytes[(from - at) as usize..(to - at) as usize]);
                self.hashed += to - from;
                if to < seen.range.end {
                    break;
                }
                if cut(&self.hasher.finalize()) != seen.hash {
                    return Err(changed(&seen.range));
                }
            }
            // A range that began before the pass was not read a second time.
            self.next += 1;
            self.hashed = 0;
            self.hasher.reset();
        }
        Ok(())
    }
}

pub fn changed(range: &Range<u64>) -> Error {
    Error::new(
        Code::Changed,
        Stage::Format,
        format!(
            "bytes {} to {} of the image are not what they were before: the source has changed",
            range.start, range.end
        ),
    )
}

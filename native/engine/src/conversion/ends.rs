//! The ends of the disk that are held back until everything is verified (design, decision 4).

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::digest::LEAF;

/// Bytes held back at each end, at least.
pub const HELD: u64 = 1 << 20;

/// The head `[0, 1 MiB)` and the tail (from the leaf boundary at or below `length - 1 MiB`). A disk of 2 MiB or less is held whole.
pub struct Ends {
    /// Guards the bytes of the head; workers copy into it.
    head: Mutex<Vec<u8>>,
    /// Guards where the tail begins and its bytes.
    tail: Mutex<Tail>,
}

struct Tail {
    start: u64,
    bytes: Vec<u8>,
}

/// Where the tail of a disk begins.
pub fn tail_start(length: u64) -> u64 {
    if length <= 2 * HELD { HELD.min(length) } else { (length - HELD) / LEAF * LEAF }
}

impl Ends {
    /// `length` of the disk, or None while it is not known: then there is no tail yet.
    pub fn new(length: Option<u64>) -> Self {
        let head = HELD.min(length.unwrap_or(HELD));
        let ends = Self {
            head: Mutex::new(vec![0; head as usize]),
            tail: Mutex::new(Tail { start: u64::MAX, bytes: Vec::new() }),
        };
        if let Some(length) = length {
            ends.set_length(length);
        }
        ends
    }

    /// The disk's length is known now. Bytes of the tail that are not given later are zeros.
    pub fn set_length(&self, length: u64) {
        self.head.lock().unwrap_or_else(PoisonError::into_inner).resize(HELD.min(length) as usize, 0);
        let start = tail_start(length);
        *self.tail.lock().unwrap_or_else(PoisonError::into_inner) =
            Tail { start, bytes: vec![0; (length - start) as usize] };
    }

    /// Guest ranges that are held.
    pub fn ranges(&self) -> Vec<Range<u64>> {
        let head = self.head.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let tail = (!tail.bytes.is_empty()).then(|| tail.start..tail.start + tail.bytes.len() as u64);
        std::iter::once(0..head).chain(tail).collect()
    }

    /// Copies what of `bytes` lies in a held end; answers the part between, that is to be written.
    pub fn capture<'a>(&self, at: u64, bytes: &'a [u8]) -> (u64, &'a [u8]) {
        let (mut at, mut bytes) = (at, bytes);
        if at < HELD {
            let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
            let end = (at + bytes.len() as u64).min(head.len() as u64);
            if end > at {
                let n = (end - at) as usize;
                head[at as usize..end as usize].copy_from_slice(&bytes[..n]);
                bytes = &bytes[n..];
                at = end;
            }
        }
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let end = at + bytes.len() as u64;
        let tail_end = tail.start.saturating_add(tail.bytes.len() as u64);
        if end > tail.start && !tail.bytes.is_empty() {
            let from = at.max(tail.start);
            let to = end.min(tail_end);
            let begin = (from - tail.start) as usize;
            tail.bytes[begin..begin + (to - from) as usize]
                .copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
            bytes = &bytes[..(from - at) as usize];
        }
        (at, bytes)
    }

    /// What of `[at, at + len)` is not held. The held parts are zeros already unless something was captured there,
    /// which a format does not do for bytes that it calls zero.
    pub fn between(&self, at: u64, len: u64) -> Range<u64> {
        let head = self.head.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner).start;
        let start = at.max(head);
        start..(at + len).min(tail).max(start)
    }

    pub fn holds_any_of(&self, at: u64, len: u64) -> bool {
        let between = self.between(at, len);
        between.start != at || between.end != at + len
    }

    pub fn take(&self) -> (Vec<u8>, u64, Vec<u8>) {
        let head = std::mem::take(&mut *self.head.lock().unwrap_or_else(PoisonError::into_inner));
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = std::mem::take(&mut tail.bytes);
        (head, tail.start, bytes)
    }
}

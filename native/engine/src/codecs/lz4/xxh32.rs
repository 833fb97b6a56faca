//! XXH32 with seed 0 (doc/xxhash_spec.md of the xxHash project, 0.1.1): written out, because a restart keeps its state.

use serde::{Deserialize, Serialize};

/// XXH32's PRIME32_1 to PRIME32_5 ("XXH32 algorithm description").
const PRIMES: [u32; 5] = [0x9e37_79b1, 0x85eb_ca77, 0xc2b2_ae3d, 0x27d4_eb2f, 0x1656_67b1];
/// Bytes that the four lanes take together.
const STRIPE: usize = 16;

#[derive(Clone, Serialize, Deserialize)]
pub struct Xxh32 {
    lanes: [u32; 4],
    /// What does not fill a stripe yet: the first `length % 16` bytes count.
    held: [u8; STRIPE],
    length: u64,
}

impl Xxh32 {
    pub fn new() -> Self {
        let lanes = [PRIMES[0].wrapping_add(PRIMES[1]), PRIMES[1], 0, 0u32.wrapping_sub(PRIMES[0])];
        Self { lanes, held: [0; STRIPE], length: 0 }
    }

    pub fn of(bytes: &[u8]) -> u32 {
        let mut hash = Self::new();
        hash.update(bytes);
        hash.digest()
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        let held = (self.length % STRIPE as u64) as usize;
        self.length = self.length.wrapping_add(bytes.len() as u64);
        if held > 0 {
            let n = (STRIPE - held).min(bytes.len());
            self.held[held..held + n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if held + n < STRIPE {
                return;
            }
            self.lanes = stripe(self.lanes, &self.held);
        }
        let (stripes, rest) = bytes.as_chunks::<STRIPE>();
        self.lanes = stripes.iter().fold(self.lanes, stripe);
        self.held[..rest.len()].copy_from_slice(rest);
    }

    pub fn digest(&self) -> u32 {
        let [a, b, c, d] = self.lanes;
        let long = || a.rotate_left(1).wrapping_add(b.rotate_left(7)).wrapping_add(c.rotate_left(12));
        let mut hash = if self.length >= STRIPE as u64 { long().wrapping_add(d.rotate_left(18)) } else { PRIMES[4] };
        // The length counts modulo 2^32 (step 4 of the description).
        hash = hash.wrapping_add(self.length as u32);
        let (words, bytes) = self.held[..(self.length % STRIPE as u64) as usize].as_chunks::<4>();
        for word in words {
            hash = hash.wrapping_add(u32::from_le_bytes(*word).wrapping_mul(PRIMES[2]));
            hash = hash.rotate_left(17).wrapping_mul(PRIMES[3]);
        }
        for byte in bytes {
            hash = hash.wrapping_add(u32::from(*byte).wrapping_mul(PRIMES[4]));
            hash = hash.rotate_left(11).wrapping_mul(PRIMES[0]);
        }
        hash = (hash ^ (hash >> 15)).wrapping_mul(PRIMES[1]);
        hash = (hash ^ (hash >> 13)).wrapping_mul(PRIMES[2]);
        hash ^ (hash >> 16)
    }
}

fn stripe(mut lanes: [u32; 4], bytes: &[u8; STRIPE]) -> [u32; 4] {
    for (lane, word) in lanes.iter_mut().zip(bytes.as_chunks::<4>().0) {
        let sum = lane.wrapping_add(u32::from_le_bytes(*word).wrapping_mul(PRIMES[1]));
        *lane = sum.rotate_left(13).wrapping_mul(PRIMES[0]);
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `xxhsum -H32`.
    #[test]
    fn known_values_in_pieces_of_any_size() {
        let fox = b"The quick brown fox jumps over the lazy dog";
        for (text, expected) in [(&b""[..], 0x02cc_5d05), (b"abc", 0x32d1_53ff), (fox, 0xe85e_a4de)] {
            for piece in [1, 5, 16, 100] {
                let mut hash = Xxh32::new();
                text.chunks(piece).for_each(|piece| hash.update(piece));
                assert_eq!(hash.digest(), expected, "{text:?} by {piece}");
            }
        }
    }
}

//! Finds the zeros in a buffer: what is zero is neither written nor hashed.

use std::ops::Range;

/// Grain at which zero runs are looked for: the page and file-system block of nearly every target.
pub const GRAIN: usize = 4096;
/// Bytes joined by OR before one look at the result: four cache lines keep the vector units busy,
/// and data that is not zero is still noticed at once.
const STRIDE: usize = 256;

/// Whether every byte is zero (so also when there are none).
pub fn is_zero(bytes: &[u8]) -> bool {
    let (strides, rest) = bytes.as_chunks::<STRIDE>();
    for stride in strides {
        // A loop without a branch is what the compiler turns into vector instructions.
        let (words, _) = stride.as_chunks::<8>();
        if words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) != 0 {
            return false;
        }
    }
    rest.iter().all(|byte| *byte == 0)
}

/// The runs of grains of `grain` bytes (the last may be short) that are not all zero, ascending, as offsets
/// into `bytes`. Adjacent grains come as one run.
pub fn data_runs(bytes: &[u8], grain: usize) -> impl Iterator<Item = Range<usize>> {
    let grain = grain.max(1);
    let mut grains = bytes.chunks(grain).map(is_zero).enumerate();
    let length = bytes.len();
    std::iter::from_fn(move || {
        let (first, _) = grains.find(|(_, zero)| !zero)?;
        let end = grains.find(|(_, zero)| *zero).map_or(length, |(index, _)| index * grain);
        Some(first * grain..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_bit_anywhere_is_seen() {
        for length in [0, 1, 7, 255, 256, 257, 4096, 4097] {
            let mut bytes = vec![0u8; length];
            assert!(is_zero(&bytes));
            for at in 0..length {
                bytes[at] = 1 << (at % 8);
                assert!(!is_zero(&bytes), "bit at {at} of {length}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn runs_are_joined_and_the_last_grain_may_be_short() {
        let mut bytes = vec![0u8; 5 * 16 + 3];
        bytes[16] = 1;
        bytes[47] = 1;
        bytes[82] = 1;
        assert_eq!(data_runs(&bytes, 16).collect::<Vec<_>>(), [16..48, 80..83]);
        assert_eq!(data_runs(&[], 16).count(), 0);
        assert_eq!(data_runs(&[0; 64], 16).count(), 0);
        assert!(data_runs(&[1; 20], 16).eq(std::iter::once(0..20)));
    }
}

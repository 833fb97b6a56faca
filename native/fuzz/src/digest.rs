//! The disk digest taken up from a checkpoint.

use diskferry_engine::digest::{DiskDigest, GROUP_LEAVES, LEAF};

use crate::memory;
use crate::random::Random;

/// Groups that are open at once, 32 KiB each.
const OPEN: usize = 4;

/// First byte: how long the disk is, as a power of two, 255 for a length that is not known; then the checkpoint's bytes.
pub fn check(input: &[u8]) {
    let Some((power, stored)) = input.split_first() else { return };
    let length = (*power != 255).then(|| (1_u64 << (power & 63)) + u64::from(power >> 6));
    // A stored run takes two bytes or more, a run in memory some 80.
    let bound = 64 * stored.len() + (OPEN + 2) * (40 << 10) + (1 << 20);
    memory::within(bound, || {
        let digest = DiskDigest::new(length, OPEN);
        if digest.restore(stored).is_err() {
            assert!(digest.complete_groups(usize::MAX).len() <= 2, "a digest that was refused has left something");
            return;
        }
        let again = digest.complete_groups(usize::MAX);
        let other = DiskDigest::new(length, OPEN);
        other.restore(&again).expect("what was written can be read");
        assert!(other.complete_groups(usize::MAX) == again, "the second reading gives something else");
        let most = stored.len() / 2;
        assert!(digest.complete_groups(most).len() <= most);

        let mut random = Random::of(input);
        let length = length.unwrap_or_else(|| random.draw());
        use_it(&digest, length, &mut random);
        for range in digest.missing(length) {
            assert!(range.start < range.end && range.end <= length.div_ceil(LEAF));
            digest.set_zero(range.start, range.end - range.start);
        }
        // Groups of which some leaves were set are given up when there are too many, so it may take another round.
        let _ = digest.finish(length);
    });
}

fn use_it(digest: &DiskDigest, length: u64, random: &mut Random) {
    let leaves = length.div_ceil(LEAF);
    for _ in 0..random.below(8) {
        let leaf = random.below(leaves);
        match random.below(3) {
            0 => digest.set(leaf, &vec![[1; 32]; random.length(2 * GROUP_LEAVES)]),
            1 => digest.set_zero(leaf, random.draw() >> random.below(56)),
            _ => digest.forget(leaf),
        }
    }
}

//! The disk digest against a second, simple implementation of docs/disk-digest.md.

// A list of one range is what is meant here.
#![allow(clippy::single_range_in_vec_init)]

use std::ops::Range;
use std::path::Path;

use diskferry_engine::bytes::Aligned;
use diskferry_engine::digest::{
    DiskDigest, GROUP_LEAVES, Hash, LEAF, ZERO, from_text, leaf_hash, of_target, recompute, to_text,
};
use diskferry_engine::error::Code;
use diskferry_engine::targets::{self, Target};
use proptest::prelude::*;

const GROUP: u64 = GROUP_LEAVES as u64;

fn keyed(context: &str, parts: &[&[u8]]) -> Hash {
    blake3::derive_key(context, &parts.concat())
}

/// The node over the leaves `[first, first + 2^level)`, straight from the definition. `value` gives a leaf;
/// what lies beyond `leaves` is zero.
fn subtree(first: u64, level: u32, leaves: u64, value: &dyn Fn(u64) -> Hash) -> Hash {
    if first >= leaves {
        return [0; 32];
    }
    if level == 0 {
        return value(first);
    }
    let left = subtree(first, level - 1, leaves, value);
    let right = subtree(first + (1 << (level - 1)), level - 1, leaves, value);
    if left == [0; 32] && right == [0; 32] {
        return [0; 32];
    }
    keyed("diskferry 2026 disk digest node v1", &[&left, &right])
}

fn root(length: u64, value: &dyn Fn(u64) -> Hash) -> Hash {
    let leaves = length.div_ceil(65536);
    let level = (0..).find(|level| 1u64 << level >= leaves).unwrap();
    let top = subtree(0, level, leaves, value);
    keyed("diskferry 2026 disk digest root v1", &[&length.to_le_bytes(), &top])
}

fn of_bytes(disk: &[u8]) -> Hash {
    root(disk.len() as u64, &|leaf| {
        let start = leaf as usize * 65536;
        let bytes = &disk[start..disk.len().min(start + 65536)];
        if bytes.iter().all(|byte| *byte == 0) {
            [0; 32]
        } else {
            keyed("diskferry 2026 disk digest leaf v1", &[bytes])
        }
    })
}

/// A leaf value that stands for some content; every third one is zero.
fn made_up(leaf: u64) -> Hash {
    if leaf.is_multiple_of(3) { ZERO } else { keyed("test leaf", &[&leaf.to_le_bytes()]) }
}

fn set(digest: &DiskDigest, leaves: Range<u64>, value: &dyn Fn(u64) -> Hash) {
    digest.set(leaves.start, &leaves.clone().map(value).collect::<Vec<_>>());
}

fn length_of(leaves: u64) -> u64 {
    leaves * LEAF - LEAF / 2
}

/// The vectors of docs/disk-digest.md.
#[test]
fn the_published_vectors_hold() {
    let counting = |length: usize| (0..length).map(|at| (at % 251) as u8).collect::<Vec<_>>();
    let mut hole = counting(65536 * 5 + 1);
    hole[65536..4 * 65536].fill(0);
    let vectors: [(&str, Vec<u8>); 7] = [
        ("empty", vec![]),
        ("one zero byte", vec![0]),
        ("1 MiB of zeros", vec![0; 1 << 20]),
        ("one byte 01", vec![1]),
        ("65536 bytes counting", counting(65536)),
        ("65537 bytes counting", counting(65537)),
        ("327681 bytes counting, leaves 1 to 3 zero", hole),
    ];
    let document = include_str!("../../../docs/disk-digest.md");
    for (name, disk) in vectors {
        let digest = DiskDigest::new(Some(disk.len() as u64), 1);
        for (leaf, bytes) in disk.chunks(LEAF as usize).enumerate() {
            digest.set(leaf as u64, &[leaf_hash(bytes)]);
        }
        let text = to_text(&digest.finish(disk.len() as u64).unwrap());
        assert_eq!(text, to_text(&of_bytes(&disk)), "{name}");
        assert!(
            document.contains(&format!("| {name} | `{text}` |")),
            "docs/disk-digest.md lacks: | {name} | `{text}` |"
        );
    }
}

#[test]
fn the_text_form_is_read_back() {
    let hash = leaf_hash(b"x");
    assert_eq!(from_text(&to_text(&hash)).unwrap(), hash);
    for bad in ["", "dd1:", "dd2:00", &to_text(&hash)[..60], &format!("{}00", to_text(&hash))] {
        assert_eq!(from_text(bad).unwrap_err().code, Code::BadSpec, "{bad}");
    }
}

#[test]
fn a_sparse_disk_of_64_tib_is_instant_and_small() {
    let length = 64u64 << 40;
    let digest = DiskDigest::new(Some(length), 4);
    let started = std::time::Instant::now();
    set(&digest, 5..6, &|_| leaf_hash(b"low"));
    digest.set_zero(0, 5);
    digest.set_zero(6, (length / LEAF) - 6);
    assert_eq!(digest.missing(length), []);
    let found = digest.finish(length).unwrap();
    assert!(started.elapsed().as_secs() < 1, "{:?}", started.elapsed());
    assert!(digest.complete_groups(1 << 20).len() < 64);
    let mut expected = leaf_hash(b"low");
    for level in 0..30 {
        let pair = if 5 >> level & 1 == 1 { [ZERO, expected] } else { [expected, ZERO] };
        expected = keyed("diskferry 2026 disk digest node v1", &[&pair.concat()]);
    }
    assert_eq!(found, keyed("diskferry 2026 disk digest root v1", &[&length.to_le_bytes(), &expected]));
}

#[test]
fn nothing_unknown_passes() {
    let length = length_of(2 * GROUP + 7);
    let digest = DiskDigest::new(None, 8);
    assert_eq!(digest.missing(length), [0..2 * GROUP + 7]);
    set(&digest, 3..2 * GROUP + 7, &made_up);
    assert_eq!(digest.missing(length), [0..3]);
    let error = digest.finish(length).unwrap_err();
    assert_eq!(error.code, Code::Corrupt);
    assert!(error.message.starts_with("3 of 2055 "), "{}", error.message);
    digest.set_zero(0, 1);
    digest.set(1, &[made_up(1), made_up(2)]);
    assert_eq!(digest.finish(length).unwrap(), root(length, &made_up));
    // A disk that turns out shorter than what was hashed.
    assert_eq!(digest.finish(length_of(GROUP + 3)).unwrap_err().code, Code::Corrupt);
    assert_eq!(DiskDigest::new(Some(5), 1).finish(6).unwrap_err().code, Code::Corrupt);
}

#[test]
fn a_forgotten_leaf_must_be_given_again() {
    let length = length_of(3 * GROUP);
    let digest = DiskDigest::new(Some(length), 8);
    digest.set_zero(0, 3 * GROUP);
    digest.forget(GROUP + 9);
    assert_eq!(digest.missing(length), [GROUP + 9..GROUP + 10]);
    digest.set(GROUP + 9, &[leaf_hash(b"new")]);
    let value = |leaf| if leaf == GROUP + 9 { leaf_hash(b"new") } else { ZERO };
    assert_eq!(digest.finish(length).unwrap(), root(length, &value));
    // Of a group that is folded all leaves have to be given again; of an open one just that one.
    digest.forget(GROUP);
    assert_eq!(digest.missing(length), [GROUP..2 * GROUP]);
    digest.set(GROUP, &[ZERO, ZERO]);
    digest.forget(GROUP);
    assert_eq!(digest.missing(length), [GROUP..GROUP + 1, GROUP + 2..2 * GROUP]);
    digest.forget(u64::MAX);
}

#[test]
fn hostile_checkpoints_are_refused_and_change_nothing() {
    let length = length_of(40 * GROUP);
    let digest = DiskDigest::new(Some(length), 8);
    set(&digest, 0..GROUP, &made_up);
    let good = digest.complete_groups(usize::MAX);
    let huge = [0xffu8; 9];
    let bad: [&[u8]; 9] = [
        &[2],
        &[1],
        &[1, 0, 0],
        &[1, 0, 0, 0],
        &[1, 0, 0, 3],
        &[1, 0, 0, 2 * 41],
        &[1, 0, 40, 2],
        &good[..good.len() - 1],
        &[&[1, 0][..], &huge, &[1]].concat(),
    ];
    for bytes in bad {
        assert_eq!(digest.restore(bytes).unwrap_err().code, Code::Corrupt, "{bytes:?}");
    }
    assert_eq!(digest.missing(length), [GROUP..40 * GROUP]);
    assert_eq!(digest.complete_groups(10).len(), 3);
    assert_eq!(digest.complete_groups(0).len(), 0);
    digest.restore(&[]).unwrap();
    assert_eq!(digest.missing(length), [0..40 * GROUP]);
}

fn target_with(path: &Path, disk: &[u8]) -> std::sync::Arc<dyn Target> {
    let target = targets::open(path).unwrap();
    target.set_length(disk.len() as u64).unwrap();
    for (index, piece) in disk.chunks(LEAF as usize).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            target.write(index as u64 * LEAF, piece).unwrap();
        }
    }
    target
}

#[test]
fn a_target_is_read_where_it_is_no_hole() {
    let directory = tempfile::tempdir().unwrap();
    let mut disk = Aligned::zeroed(9 << 20);
    for range in [10..20, 3 << 20..(5 << 20) + 77, (9 << 20) - 5000..(9 << 20) - 1] {
        for at in range {
            disk[at] = (at % 255) as u8 + 1;
        }
    }
    for length in [disk.len(), disk.len() - 1, disk.len() - 4999, 65536, 1, 0] {
        let target = target_with(&directory.path().join(format!("{length}")), &disk[..length]);
        let mut told = 0;
        let found = of_target(&*target, length as u64, &|| false, &mut |bytes| told += bytes).unwrap();
        assert_eq!(to_text(&found), to_text(&of_bytes(&disk[..length])), "{length} bytes");
        assert_eq!(told, length as u64);
        let error = of_target(&*target, length as u64 + 1, &|| false, &mut |_| {}).unwrap_err();
        assert_eq!(error.code, Code::Truncated);
    }
}

#[test]
fn what_a_checkpoint_lacks_is_recomputed_and_stopping_stops() {
    let directory = tempfile::tempdir().unwrap();
    let length = 130 << 20;
    let mut disk = Aligned::zeroed(length);
    disk.iter_mut().enumerate().skip(1 << 20).for_each(|(at, byte)| *byte = (at >> 12) as u8);
    let target = target_with(&directory.path().join("disk"), &disk);
    let digest = DiskDigest::new(Some(length as u64), 8);
    let value = |leaf: u64| leaf_hash(&disk[(leaf * LEAF) as usize..((leaf + 1) * LEAF) as usize]);
    set(&digest, 0..GROUP, &value);
    set(&digest, GROUP + 1..GROUP + 50, &value);
    let mut read = 0;
    recompute(&digest, &*target, length as u64, &|| false, &mut |bytes| read += bytes).unwrap();
    assert_eq!(read, length as u64 - (GROUP + 49) * LEAF);
    assert_eq!(digest.finish(length as u64).unwrap(), of_bytes(&disk));
    assert_eq!(of_target(&*target, length as u64, &|| true, &mut |_| {}).unwrap_err().code, Code::Aborted);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Pieces in any order, with few open groups, checkpoints and restores in between, a length that is known
    /// from the start or only at the end: the same digest as the simple one.
    #[test]
    fn any_order_gives_the_digest_of_the_definition(
        leaves in prop_oneof![1u64..40, 1000u64..1050, 1u64..6000],
        seed in any::<u64>(),
        known in any::<bool>(),
        open_groups in 1usize..6,
        cuts in proptest::collection::vec(any::<u64>(), 0..30),
        zero_from in any::<u64>(),
        zero_count in 0u64..5000,
        restore_at in proptest::collection::vec(0usize..30, 0..4),
    ) {
        let length = length_of(leaves);
        let zeros = { let from = zero_from % leaves; from..(from + zero_count).min(leaves) };
        let value = |leaf: u64| if zeros.contains(&leaf) { ZERO } else { made_up(leaf) };
        let mut ends: Vec<u64> = cuts.iter().map(|cut| cut % leaves).chain([0, zeros.start, zeros.end, leaves]).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut pieces: Vec<Range<u64>> = ends.windows(2).map(|pair| pair[0]..pair[1]).collect();
        let mut state = seed | 1;
        for index in (1..pieces.len()).rev() {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            pieces.swap(index, (state >> 33) as usize % (index + 1));
        }
        let mut digest = DiskDigest::new(known.then_some(length), open_groups);
        for (index, piece) in pieces.into_iter().enumerate() {
            if restore_at.contains(&index) {
                let next = DiskDigest::new(known.then_some(length), open_groups);
                next.restore(&digest.complete_groups(usize::MAX)).unwrap();
                prop_assert_eq!(next.complete_groups(usize::MAX), digest.complete_groups(usize::MAX));
                digest = next;
            }
            if zeros.start <= piece.start && piece.end <= zeros.end {
                digest.set_zero(piece.start, piece.end - piece.start);
            } else {
                set(&digest, piece, &value);
            }
        }
        // What was given up or not in the checkpoint is computed again, group by group.
        while let Some(range) = digest.missing(length).first().cloned() {
            set(&digest, range.start..range.end.min((range.start / GROUP + 1) * GROUP), &value);
        }
        prop_assert_eq!(digest.finish(length).unwrap(), root(length, &value));
    }

    #[test]
    fn any_bytes_may_be_restored(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let digest = DiskDigest::new(None, 2);
        let _ = digest.restore(&[&[1], &bytes[..]].concat());
        digest.missing(1 << 40);
        digest.set(77, &[ZERO; 5]);
        let _ = digest.finish(1 << 30);
    }
}

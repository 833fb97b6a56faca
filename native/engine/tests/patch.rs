//! A disk that is put together in any order is what was written last, wherever that was.

use diskferry_engine::conversion::patch::{Options, Patch};
use diskferry_engine::digest;
use diskferry_engine::error::Code;
use diskferry_engine::targets;
use proptest::prelude::*;

const SIZE: u64 = 5 << 20;

#[derive(Clone, Debug)]
enum Act {
    Write(u64, usize, u8),
    Zero(u64, u64),
    Flush,
}

fn act() -> impl Strategy<Value = Act> {
    let place = prop_oneof![0..SIZE, Just(0), Just((1 << 20) - 100), Just(SIZE - (1 << 20) - 100), Just(SIZE - 3000)];
    prop_oneof![
        (place.clone(), 1..300_000_usize, 1..=255_u8).prop_map(|(at, len, value)| Act::Write(
            at,
            len.min((SIZE - at) as usize),
            value
        )),
        (place, 1..2_000_000_u64).prop_map(|(at, len)| Act::Zero(at, len.min(SIZE - at))),
        Just(Act::Flush),
    ]
}

fn begin(path: &std::path::Path, size: u64) -> diskferry_engine::error::Result<Patch> {
    let (key, identity) = ([1; 32], "{\"name\":\"test\"}".to_owned());
    Patch::begin(targets::open(path)?, Options { key, identity, marked: None, size, preallocate: false })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn the_disk_is_what_was_written_last(acts in proptest::collection::vec(act(), 0..12)) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("disk.img");
        let patch = begin(&path, SIZE).unwrap();
        let mut expected = vec![0; SIZE as usize];
        for act in acts {
            match act {
                Act::Write(at, len, value) => {
                    patch.write(at, &vec![value; len]).unwrap();
                    expected[at as usize..at as usize + len].fill(value);
                }
                Act::Zero(at, len) => {
                    patch.zero(at, len).unwrap();
                    expected[at as usize..(at + len) as usize].fill(0);
                }
                Act::Flush => patch.flush().unwrap(),
            }
        }
        for extent in patch.extents().unwrap().windows(2) {
            prop_assert!(extent[0].end < extent[1].start);
        }
        let told = patch.finish().unwrap();
        prop_assert!(std::fs::read(&path).unwrap() == expected);
        drop(patch);
        let target = targets::open(&path).unwrap();
        prop_assert_eq!(told, digest::of_target(&*target, SIZE, &|| false, &mut |_| ()).unwrap());
    }
}

#[test]
fn beyond_its_end_and_behind_its_finish_nothing_is_written() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("disk.img");
    let patch = begin(&path, SIZE).unwrap();
    let code = |result: diskferry_engine::error::Result<()>| result.err().map(|error| error.code);
    assert_eq!(code(patch.write(SIZE - 1, &[1, 2])), Some(Code::BadSpec));
    assert_eq!(code(patch.zero(u64::MAX, 2)), Some(Code::BadSpec));
    patch.write(0, &[7; 512]).unwrap();
    // It is not a disk yet.
    assert_ne!(std::fs::read(&path).unwrap()[..512], [7; 512]);
    patch.abort();
    assert_eq!(code(patch.write(0, &[1])), Some(Code::Aborted));
    assert_eq!(patch.finish().err().map(|error| error.code), Some(Code::Aborted));
    drop(patch);
    let small = begin(&path, 4096).unwrap();
    small.write(1000, &[9; 1000]).unwrap();
    small.finish().unwrap();
    let found = std::fs::read(&path).unwrap();
    assert_eq!((found.len(), found[999], found[1000], found[1999], found[2000]), (4096, 0, 9, 9, 0));
}

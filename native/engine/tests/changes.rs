//! What has changed of a disk is put onto the disk as it was, in place.

mod conversions;

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use conversions::limits;
use diskferry_engine::conversion::{Conversion, Next, Options, Pushed, Way};
use diskferry_engine::digest;
use diskferry_engine::error::{Code, Result};
use diskferry_engine::formats::Named;
use diskferry_engine::sniff::{self, Told};
use diskferry_engine::targets;

const MIB: usize = 1 << 20;
const LENGTH: usize = 24 * MIB + 512;

/// A disk, and what became of it: data over zeros, zeros over data, both ends, a part of a leaf.
fn states() -> (Vec<u8>, Vec<u8>, Vec<Range<u64>>) {
    let mut before: Vec<u8> = (0..LENGTH).map(|at| (at / 512 % 251) as u8 + 1).collect();
    before[4 * MIB..8 * MIB].fill(0);
    let mut after = before.clone();
    let parts = [0..512, 5 * MIB..6 * MIB, 10 * MIB..11 * MIB, 12 * MIB + 4096..12 * MIB + 8192, LENGTH - 512..LENGTH];
    for (n, part) in parts.iter().enumerate() {
        after[part.clone()].fill(if n == 2 { 0 } else { 0xe0 + n as u8 });
    }
    (before, after, parts.map(|part| part.start as u64..part.end as u64).to_vec())
}

fn options(after: &[u8], changed: Vec<Range<u64>>) -> Options {
    let told = Told { format: Named::parse("raw"), ..Told::default() };
    Options {
        sniffed: sniff::sniff_told(&told, &after[..MIB], Some(after.len() as u64), &limits()),
        way: Way::Seek,
        extents: Some(changed),
        onto: true,
        whole_source: false,
        ..conversions::of(after)
    }
}

/// Brings what is asked for, up to `most` bytes; how many those were.
fn carry(conversion: &Conversion, file: &[u8], most: usize) -> Result<usize> {
    let mut carried = 0;
    loop {
        let requests = match conversion.intake().next(1000)? {
            Next::Finished => return Ok(carried),
            Next::Wait => {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            Next::Fetch(requests) => requests,
        };
        for request in requests {
            let (mut at, end) = (request.from as usize, request.to.unwrap_or(file.len() as u64) as usize);
            while at < end {
                let n = (end - at).min(64 << 10).min(most - carried);
                if n == 0 {
                    return Ok(carried);
                }
                match conversion.intake().push(at as u64, &file[at..at + n])? {
                    Pushed::Taken => (at, carried) = (at + n, carried + n),
                    Pushed::Full => std::thread::sleep(Duration::from_micros(200)),
                    Pushed::PassOver => panic!("there is one pass"),
                }
            }
        }
    }
}

fn start(path: &Path, options: Options) -> Result<Conversion> {
    Conversion::start(targets::open(path)?, options)
}

fn wrong(path: &Path, expected: &[u8]) -> Option<usize> {
    let found = std::fs::read(path).unwrap();
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).position(|(found, expected)| found != expected)
}

#[test]
fn only_what_changed_is_read_and_the_rest_stays() {
    let (before, after, changed) = states();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("disk.img");
    std::fs::write(&path, &before).unwrap();
    let conversion = start(&path, options(&after, changed)).unwrap();
    let carried = carry(&conversion, &after, usize::MAX).unwrap();
    let report = conversion.finish().unwrap();
    assert_eq!(wrong(&path, &after), None);
    // Both ends, and what changed.
    assert!(carried < 5 * MIB, "{carried}");
    let target = targets::open(&path).unwrap();
    let digest = digest::of_target(&*target, LENGTH as u64, &|| false, &mut |_| ()).unwrap();
    assert_eq!(report.disk_digest, digest);
}

#[test]
fn while_it_is_under_way_neither_end_is_a_disks_and_it_goes_on_or_begins_again() {
    let (before, after, changed) = states();
    for resume in [true, false] {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("disk.img");
        std::fs::write(&path, &before).unwrap();
        let conversion = start(&path, options(&after, changed.clone())).unwrap();
        carry(&conversion, &after, 3 * MIB).unwrap();
        std::thread::sleep(Duration::from_millis(2500));
        drop(conversion);
        let found = std::fs::read(&path).unwrap();
        assert_ne!(found[..512], before[..512]);
        assert!(found[LENGTH - 4096..].iter().all(|byte| *byte == 0));
        let conversion = start(&path, Options { resume, ..options(&after, changed.clone()) }).unwrap();
        carry(&conversion, &after, usize::MAX).unwrap();
        conversion.finish().unwrap();
        assert_eq!(wrong(&path, &after), None, "resume: {resume}");
    }
}

#[test]
fn a_longer_disk_stays_as_long_and_is_zeros_behind_the_source() {
    let (before, after, changed) = states();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("disk.img");
    let longer = 30 * MIB;
    let grown = |state: &[u8]| [state, &vec![0; longer - LENGTH]].concat();
    std::fs::write(&path, grown(&before)).unwrap();
    let size = Some(longer as u64);
    let conversion = start(&path, Options { size, ..options(&after, changed) }).unwrap();
    carry(&conversion, &after, usize::MAX).unwrap();
    conversion.finish().unwrap();
    assert_eq!(wrong(&path, &grown(&after)), None);
}

#[test]
fn what_is_no_disk_to_change_is_refused_and_untouched() {
    let (before, after, changed) = states();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("disk.img");
    let refused = |options: Options| match start(&path, options) {
        Err(error) => assert_eq!(error.code, Code::BadSpec, "{error:?}"),
        Ok(_) => panic!("was not refused"),
    };
    refused(options(&after, changed.clone()));
    assert!(!path.exists());
    std::fs::write(&path, &before[..LENGTH - 512]).unwrap();
    refused(options(&after, changed.clone()));
    std::fs::write(&path, &before).unwrap();
    refused(Options { extents: None, ..options(&after, Vec::new()) });
    refused(Options { whole_source: true, ..options(&after, changed.clone()) });
    refused(options(&after[..2 * MIB], Vec::new()));
    assert_eq!(wrong(&path, &before), None);
}

//! What conversions are begun with in tests.
#![allow(dead_code, reason = "each test file uses a part")]

use diskferry_engine::conversion::{Options, Way};
use diskferry_engine::limits::Limits;
use diskferry_engine::sniff;

pub const KEY: [u8; 32] = [7; 32];
/// Bytes of a source that are looked at.
const HEAD: usize = 1 << 20;

pub fn limits() -> Limits {
    Limits { workers: 2, ..Limits::default() }
}

/// All of `source` in order, anew. Tests name what they have otherwise.
pub fn of(source: &[u8]) -> Options {
    let limits = limits();
    let length = Some(source.len() as u64);
    Options {
        sniffed: sniff::sniff(&source[..source.len().min(HEAD)], length, &limits),
        key: KEY,
        marked: None,
        identity: "{\"name\":\"test\"}".to_owned(),
        way: Way::Stream,
        source_length: length,
        seekable: true,
        extents: None,
        onto: false,
        kept: None,
        whole_source: true,
        resume: false,
        size: None,
        preallocate: false,
        digest: None,
        disk_digest: None,
        spill: None,
        limits,
        failpoint: None,
    }
}

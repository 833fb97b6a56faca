//! A guest disk in memory, images that qemu-img makes, and every way to decode one.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use diskferry_engine::bytes::Bytes;
use diskferry_engine::error::{Code, Error, Result, Stage};
use diskferry_engine::formats::qcow2::Header;
use diskferry_engine::formats::{Disk, Format, Open, Options, Packing, Wants};
use diskferry_engine::limits::Limits;
use diskferry_engine::sniff::sniff;

/// A generator of its own, so that a failure can be repeated from its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) ^ (self.0 >> 11 << 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

/// A disk in memory that refuses to be told the same byte twice.
pub struct Memory {
    pub bytes: Vec<u8>,
    pub covered: Vec<bool>,
    last_origin: u64,
    in_order: bool,
}

impl Memory {
    pub fn new(size: u64) -> Self {
        Self { bytes: vec![0xee; size as usize], covered: vec![false; size as usize], last_origin: 0, in_order: false }
    }
    fn cover(&mut self, at: u64, len: usize) {
        let range = at as usize..at as usize + len;
        assert!(range.end <= self.covered.len(), "{range:?} lies beyond the disk");
        assert!(!self.covered[range.clone()].contains(&true), "{range:?} is covered twice");
        self.covered[range].fill(true);
    }
    fn ordered(&mut self, origin: u64) {
        assert!(!self.in_order || origin >= self.last_origin, "origin {origin} after {}", self.last_origin);
        self.last_origin = origin;
    }
}

impl Disk for Memory {
    fn data(&mut self, at: u64, origin: u64, bytes: Bytes) -> Result<()> {
        self.ordered(origin);
        self.cover(at, bytes.len());
        self.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        Ok(())
    }
    fn packed(&mut self, at: u64, len: usize, origin: u64, how: Packing, bytes: Bytes) -> Result<()> {
        self.ordered(origin);
        let mut out = vec![0; len];
        let bad = |_| Error::new(Code::Corrupt, Stage::Format, "a compressed cluster cannot be unpacked");
        match how {
            Packing::Deflate => {
                let mut inflater = libdeflater::Decompressor::new();
                let n = inflater.deflate_decompress(&bytes, &mut out).map_err(|_| bad(0))?;
                if n != len {
                    return Err(bad(0));
                }
            }
            Packing::Zlib => {
                let mut inflater = libdeflater::Decompressor::new();
                let n = inflater.zlib_decompress(&bytes, &mut out).map_err(|_| bad(0))?;
                if n != len {
                    return Err(bad(0));
                }
            }
            Packing::Zstd => {
                let mut context = zstd_safe::DCtx::create();
                let mut output = zstd_safe::OutBuffer::around(&mut out[..]);
                let mut input = zstd_safe::InBuffer::around(&bytes);
                while output.pos() < len {
                    let before = (input.pos, output.pos());
                    let left = context.decompress_stream(&mut output, &mut input).map_err(|_| bad(0))?;
                    if left == 0 && output.pos() < len || before == (input.pos, output.pos()) {
                        return Err(bad(0));
                    }
                }
            }
        }
        let n = len.min(self.bytes.len() - at as usize);
        self.cover(at, n);
        self.bytes[at as usize..at as usize + n].copy_from_slice(&out[..n]);
        Ok(())
    }
    fn zero(&mut self, at: u64, len: u64) -> Result<()> {
        self.cover(at, len as usize);
        self.bytes[at as usize..(at + len) as usize].fill(0);
        Ok(())
    }
}

pub fn pieces(length: usize, random: &mut Option<Random>) -> usize {
    match random {
        Some(r) => (if r.below(3) == 0 { 1 + r.below(700) } else { 1 + r.below(200_000) } as usize).min(length),
        None => length.min(1 << 20),
    }
}

/// Feeds a format what it wants from `file` until it wants nothing. Returns the number of passes.
pub fn drive(format: &mut dyn Format, file: &[u8], disk: &mut Memory, mut random: Option<Random>) -> Result<usize> {
    let mut passes = 0;
    loop {
        let ranges = match format.wants()? {
            Wants::Nothing => break,
            Wants::Rest(from) => std::iter::once(from.min(file.len() as u64)..file.len() as u64).collect(),
            Wants::Ranges(ranges) => ranges,
        };
        passes += 1;
        assert!(passes < 1000, "it never ends");
        let mut last = 0;
        disk.last_origin = 0;
        'pass: for Range { start, end } in ranges {
            assert!(start >= last && start < end || start == end, "{start}..{end} after {last}");
            last = end;
            let (mut at, end) = (start.min(file.len() as u64) as usize, end.min(file.len() as u64) as usize);
            while at < end {
                let n = pieces(end - at, &mut random);
                format.take(at as u64, &Bytes::copy_of(&file[at..at + n]), disk)?;
                at += n;
                if format.turned() {
                    break 'pass;
                }
            }
        }
    }
    format.finish(Some(file.len() as u64), disk)?;
    Ok(passes)
}

pub fn limits() -> Limits {
    Limits::default()
}

pub fn header(file: &[u8], length: Option<u64>) -> Result<Header> {
    Header::parse(&file[..file.len().min(1 << 20)], length, &limits())
}

/// Virtual size, and what opens the image.
pub fn image(file: &[u8], length: Option<u64>) -> Result<(u64, Arc<dyn Open>)> {
    let of_head = |bytes: usize| sniff(&file[..file.len().min(bytes)], length, &limits());
    let sniffed = Some(of_head(1 << 20)).filter(|s| s.wanted == 0).unwrap_or_else(|| of_head(8 << 20));
    match sniffed.refusal {
        Some(refusal) => Err(refusal),
        None => {
            let raw = || Error::new(Code::Corrupt, Stage::Format, "taken for a raw disk");
            Ok((sniffed.virtual_size.ok_or_else(raw)?, sniffed.image.ok_or_else(raw)?))
        }
    }
}

pub fn decode(file: &[u8], options: Options, random: Option<Random>) -> Result<Memory> {
    let (size, opener) = image(file, options.file_length)?;
    let mut disk = Memory::new(size);
    disk.in_order = options.metadata_first;
    let resumed = options.from.is_some();
    let mut format = opener.open(options)?;
    drive(&mut *format, file, &mut disk, random)?;
    if !resumed {
        assert!(!disk.covered.contains(&false), "not everything was covered");
    }
    Ok(disk)
}

pub fn in_order(file: &[u8]) -> Options {
    Options { file_length: Some(file.len() as u64), ..Options::default() }
}

pub fn seek(file: &[u8], whole: bool) -> Options {
    Options { seekable: true, metadata_first: true, whole, ..in_order(file) }
}

#[track_caller]
pub fn same(what: &str, got: &Memory, expected: &[u8]) {
    assert_eq!(got.bytes.len(), expected.len(), "{what}: length");
    if let Some(at) = (0..expected.len()).find(|&i| got.covered[i] && got.bytes[i] != expected[i]) {
        panic!("{what}: differs at {at}: {} is not {}", got.bytes[at], expected[at]);
    }
}

/// Decodes an image in every way and compares.
#[track_caller]
pub fn every_way(what: &str, file: &[u8], expected: &[u8]) {
    let seed = file.len() as u64;
    let ok = |way: &str, result: Result<Memory>| match result {
        Ok(disk) => same(&format!("{what}, {way}"), &disk, expected),
        Err(error) => panic!("{what}, {way}: {error}"),
    };
    ok("in order", decode(file, in_order(file), None));
    ok("length unknown", decode(file, Options::default(), None));
    ok("small pieces", decode(file, in_order(file), Some(Random(seed))));
    ok("whole", decode(file, seek(file, true), None));
    ok("whole, small pieces", decode(file, seek(file, true), Some(Random(seed + 1))));
    ok("needed", decode(file, seek(file, false), Some(Random(seed + 2))));
    let mut tight = Options { seekable: true, ..in_order(file) };
    tight.limits.hold_back = 0;
    ok("turning", decode(file, tight.clone(), None));
    tight.whole = true;
    tight.limits.map = 1024;
    ok("turning, whole", decode(file, tight.clone(), Some(Random(seed + 4))));
    tight.metadata_first = true;
    ok("batches", decode(file, tight, None));
    resume(what, file, expected, seed);
}

/// What a first run wrote from below the watermark and what the second delivers make the disk.
#[track_caller]
pub fn resume(what: &str, file: &[u8], expected: &[u8], seed: u64) {
    let mut random = Random(seed);
    for whole in [false, true] {
        let from = random.below(file.len() as u64 + 1);
        let size = expected.len() as u64;
        let head = size.min(100_000);
        let held = vec![0..head, head.max(size.saturating_sub(70_000))..size];
        let options = Options { from: Some(from), held: held.clone(), ..seek(file, whole) };
        let disk = decode(file, options, None).unwrap_or_else(|e| panic!("{what}, resumed at {from}: {e}"));
        same(&format!("{what}, resumed at {from}"), &disk, expected);
        for range in held {
            let range = range.start as usize..range.end as usize;
            assert!(!disk.covered[range].contains(&false), "{what}: held ends are missing");
        }
        // All that was not delivered came from below.
        let mut first = Origins { from, below: vec![false; expected.len()] };
        let mut format = image(file, None).unwrap().1.open(seek(file, false)).unwrap();
        drive_origins(&mut *format, file, &mut first);
        for i in 0..expected.len() {
            assert!(disk.covered[i] || first.below[i], "{what}: byte {i} is lost when resumed at {from}");
        }
    }
}

pub struct Origins {
    from: u64,
    below: Vec<bool>,
}

impl Disk for Origins {
    fn data(&mut self, at: u64, origin: u64, bytes: Bytes) -> Result<()> {
        let n = (bytes.len() as u64).min(self.from.saturating_sub(origin));
        self.below[at as usize..(at + n) as usize].fill(true);
        Ok(())
    }
    fn packed(&mut self, at: u64, len: usize, origin: u64, _: Packing, _: Bytes) -> Result<()> {
        let end = (at as usize + len).min(self.below.len());
        if origin < self.from {
            self.below[at as usize..end].fill(true);
        }
        Ok(())
    }
    fn zero(&mut self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
}

pub fn drive_origins(format: &mut dyn Format, file: &[u8], disk: &mut Origins) {
    while let Wants::Ranges(ranges) = format.wants().unwrap() {
        for r in ranges {
            let bytes = Bytes::copy_of(&file[r.start as usize..(r.end as usize).min(file.len())]);
            format.take(r.start, &bytes, disk).unwrap();
        }
    }
}

pub struct Images(pub tempfile::TempDir);

impl Images {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    pub fn run(&self, program: &str, args: &[&str]) -> bool {
        let out = Command::new(program).args(args).current_dir(self.0.path()).output().unwrap();
        out.status.success()
    }
    #[track_caller]
    pub fn must(&self, program: &str, args: &[&str]) {
        let out = Command::new(program).args(args).current_dir(self.0.path()).output().unwrap();
        assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    pub fn raw_of(&self, name: &str) -> Vec<u8> {
        self.must("qemu-img", &["convert", "-O", "raw", name, "oracle.raw"]);
        std::fs::read(self.path("oracle.raw")).unwrap()
    }
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

/// Text, noise and holes.
pub fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0u8; size];
    let mut at = 0;
    while at < size {
        let end = size.min(at + 512 * (1 + random.below(400) as usize));
        match random.below(4) {
            0 => bytes[at..end].iter_mut().for_each(|b| *b = random.next() as u8),
            1 => bytes[at..end].iter_mut().enumerate().for_each(|(i, b)| *b = b"disk images, "[i % 13]),
            2 => bytes[at..end].iter_mut().for_each(|b| *b = b'a' + random.below(3) as u8),
            _ => {}
        }
        at = end;
    }
    bytes
}

pub fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

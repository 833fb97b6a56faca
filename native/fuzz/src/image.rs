//! Images of every format by every way, and the sniffing of heads.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use diskferry_engine::bytes::Bytes;
use diskferry_engine::error::{Code, Error, Result};
use diskferry_engine::formats::qcow2::Header;
use diskferry_engine::formats::{Disk, Format, Open, Options, Packing, Wants};
use diskferry_engine::limits::Limits;
use diskferry_engine::sniff::sniff;

use crate::random::Random;
use crate::{LIMITS, memory, repair};

/// Calls, and bytes, after which the disk ends the transfer: an image of a few KiB can name a disk of many TiB.
const CALLS: usize = 20_000;
const DATA: u64 = 64 << 20;
/// Rounds of `wants` after which an image of this size must have come to its end.
const ROUNDS: usize = 2_000;
const PIECE: usize = 64 << 10;
/// Compressed clusters are sized in sectors (docs/interop/qcow2.txt, "Compressed Clusters Descriptor").
const SECTOR: u64 = 512;
/// The offset in a refcount table entry, without bits that are reserved (docs/interop/qcow2.txt).
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// What a decoder of these limits may allocate: hold-back, map, tables, and copies of what it delivers.
const BOUND: usize = 24 << 20;

/// Where bytes of the disk come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Zeros,
    /// Offset in the file.
    Data(u64),
    Packed(u64),
}

/// An image whose head was accepted.
struct Subject<'a> {
    file: &'a [u8],
    size: u64,
    opener: Arc<dyn Open>,
    /// What more is known of a qcow2.
    qcow2: Option<Header>,
    /// It goes on only where one of its units begins.
    units: bool,
}

impl<'a> Subject<'a> {
    fn of(file: &'a [u8], length: Option<u64>, limits: &Limits) -> Option<Self> {
        let head = &file[..file.len().min(1 << 20)];
        let sniffed = sniff(head, length, limits);
        if sniffed.refusal.is_some() || !sniffed.codecs.is_empty() {
            return None;
        }
        let size = sniffed.virtual_size?;
        assert!(size <= limits.virtual_size);
        let qcow2 = if sniffed.format == "qcow2" { Header::parse(head, length, limits).ok() } else { None };
        let units = sniffed.features.first().is_some_and(|kind| kind == "streamOptimized");
        Some(Self { file, size, opener: sniffed.image?, qcow2, units })
    }
}

/// Checks what is written to it.
struct Checked<'a> {
    file: &'a [u8],
    size: u64,
    /// Length of its compressed clusters, where that is known beforehand.
    cluster: Option<u64>,
    /// Data comes unpacked.
    unpacked: bool,
    /// Start → (end, origin); disjoint.
    covered: BTreeMap<u64, (u64, From)>,
    calls: usize,
    bytes: u64,
    /// No data from below it may come any more: a checkpoint could have been taken there.
    floor: u64,
    /// Start → end of what was taken from the file; disjoint.
    taken: BTreeMap<u64, u64>,
    /// The checkpoint that the transfer goes on from: the origin of what may come from below it.
    from: Option<u64>,
    /// Two parts of the disk came from the same bytes, or one from a refcount block: it may come from below the floor.
    shared: bool,
}

impl<'a> Checked<'a> {
    fn new(subject: &Subject<'a>) -> Self {
        let file = subject.file;
        let mut new = Self {
            file,
            size: subject.size,
            cluster: subject.qcow2.as_ref().map(Header::cluster_size),
            unpacked: subject.units,
            covered: BTreeMap::new(),
            calls: 0,
            bytes: 0,
            floor: 0,
            taken: BTreeMap::new(),
            from: None,
            shared: false,
        };
        let Some(header) = &subject.qcow2 else { return new };
        let cluster = header.cluster_size();
        // Refcount blocks hold nothing of the disk in any sound image; in order their bytes are not kept.
        let table = header.refcount_range();
        let table = usize::try_from(table.start).ok().and_then(|start| file.get(start..)).unwrap_or(&[]);
        for entry in table.as_chunks::<8>().0.iter().take((header.refcount_table_length / 8) as usize) {
            let block = u64::from_be_bytes(*entry) & OFFSET;
            if block.is_multiple_of(cluster) && (block as usize) < file.len() {
                new.taken.insert(block, block + cluster);
            }
        }
        new
    }

    /// `reach`: bytes from `origin` on that no other part of the disk should have.
    fn take(&mut self, origin: u64, reach: u64) {
        let (mut start, mut end) = (origin, origin + reach);
        while let Some((&first, &last)) = self.taken.range(..end).next_back()
            && last > start
        {
            self.shared = true;
            self.taken.remove(&first);
            (start, end) = (start.min(first), end.max(last));
        }
        self.taken.insert(start, end);
    }

    fn cover(&mut self, at: u64, len: u64, from: From) -> Result<()> {
        assert!(len > 0, "nothing was written at {at}");
        let end = at.checked_add(len).expect("an offset of the disk overflows");
        assert!(end <= self.size, "[{at}, {end}) lies beyond the disk of {} bytes", self.size);
        if let Some((start, (before, _))) = self.covered.range(..end).next_back() {
            assert!(*before <= at, "[{at}, {end}) was written twice, also as [{start}, {before})");
        }
        self.covered.insert(at, (end, from));
        self.calls += 1;
        if self.calls > CALLS || self.bytes > DATA { Err(Error::aborted()) } else { Ok(()) }
    }

    fn expect_from_file(&self, origin: u64, bytes: &[u8]) {
        assert!(
            self.shared || origin >= self.floor,
            "data came from {origin}, a checkpoint could stand at {}",
            self.floor
        );
        if self.from == Some(origin) {
            return;
        }
        let found = usize::try_from(origin).ok().and_then(|at| self.file.get(at..at.checked_add(bytes.len())?));
        assert!(found == Some(bytes), "what was given as {} bytes of the file at {origin} is not", bytes.len());
    }
}

impl Disk for Checked<'_> {
    fn data(&mut self, at: u64, origin: u64, bytes: Bytes) -> Result<()> {
        // A stream's last grain, cut by the end of the disk, has been unpacked.
        if !self.unpacked {
            self.take(origin, bytes.len() as u64);
            self.expect_from_file(origin, &bytes);
        }
        self.bytes += bytes.len() as u64;
        self.cover(at, bytes.len() as u64, From::Data(origin))
    }

    fn packed(&mut self, at: u64, len: usize, origin: u64, _how: Packing, bytes: Bytes) -> Result<()> {
        // Another one may begin in its last sector.
        let last = (origin + bytes.len() as u64 - 1) / SECTOR * SECTOR;
        self.take(origin, last.saturating_sub(origin).max(1));
        self.expect_from_file(origin, &bytes);
        let cluster = self.cluster.unwrap_or(len as u64);
        assert_eq!(len as u64, cluster, "a compressed cluster of another size");
        assert!(at.is_multiple_of(cluster), "a compressed cluster at {at}");
        assert!(!bytes.is_empty() && bytes.len() as u64 <= 2 * cluster + 512, "{} compressed bytes", bytes.len());
        self.bytes += len as u64;
        self.cover(at, cluster.min(self.size - at), From::Packed(origin))
    }

    fn zero(&mut self, at: u64, len: u64) -> Result<()> {
        self.cover(at, len, From::Zeros)
    }
}

/// Feeds one pass; false when the format has turned.
fn feed(
    format: &mut dyn Format,
    disk: &mut Checked,
    range: Range<u64>,
    random: &mut Random,
    in_order: bool,
) -> Result<bool> {
    let length = disk.file.len() as u64;
    let (start, end) = (range.start.min(length), range.end.min(length));
    let mut at = start;
    for piece in random.pieces(&disk.file[start as usize..end as usize], PIECE) {
        format.take(at, &Bytes::copy_of(piece), disk)?;
        at += piece.len() as u64;
        if in_order {
            disk.floor = disk.floor.max(format.pinned().unwrap_or(at).min(at));
        }
        if format.turned() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn run(format: &mut dyn Format, disk: &mut Checked, random: &mut Random, resumed: bool) -> Result<()> {
    let mut in_order = true;
    for _ in 0..ROUNDS {
        match format.wants()? {
            Wants::Nothing => {
                return format.finish(Some(disk.file.len() as u64), disk);
            }
            Wants::Rest(from) => {
                feed(format, disk, from..u64::MAX, random, in_order && !resumed)?;
            }
            Wants::Ranges(ranges) => {
                in_order = false;
                let mut reached = 0;
                for range in ranges {
                    assert!(range.start >= reached && range.start < range.end, "{range:?} was wanted after {reached}");
                    reached = range.end;
                    if !feed(format, disk, range, random, false)? {
                        break;
                    }
                }
            }
        }
    }
    panic!("{ROUNDS} rounds and no end");
}

struct Outcome {
    result: Result<()>,
    covered: Vec<(u64, u64, From)>,
}

/// One way through the image. None when its header is refused.
fn decode(file: &[u8], metadata_first: bool, choose: &mut Random) -> Option<Outcome> {
    let limits = Limits {
        hold_back: [0, 64 << 10, 1 << 20][choose.below(3) as usize],
        map: [0, 4 << 10, 1 << 20][choose.below(3) as usize],
        ..LIMITS.clone()
    };
    let seekable = metadata_first || choose.one_in(2);
    // Who gives ranges tells the length too.
    let known = seekable || choose.one_in(2);
    let file_length = known.then_some(file.len() as u64);
    let subject = Subject::of(file, file_length, &limits)?;
    let size = subject.size;
    let resumed = choose.one_in(4) && !subject.units;
    let mut held = Vec::new();
    if resumed {
        let first = choose.below(size.saturating_add(1)).min(1 << 20);
        held.push(0..first);
        let last = choose.below((size - first).min(1 << 20).saturating_add(1));
        held.push(size - last..size);
    }
    let from = resumed.then(|| choose.below(file.len() as u64 + 1));
    let options = Options {
        file_length,
        seekable,
        metadata_first,
        whole: choose.one_in(2),
        from,
        skip_below: None,
        tables_first: choose.one_in(2),
        held,
        limits,
        spill: None,
        keeps: choose.one_in(2),
    };
    let mut disk = Checked::new(&subject);
    disk.from = from;
    let result = memory::within(BOUND, || {
        let mut format = subject.opener.open(options)?;
        run(&mut *format, &mut disk, choose, resumed)
    });
    if result.is_ok() && !resumed {
        let covered: u64 = disk.covered.iter().map(|(start, (end, _))| end - start).sum();
        assert_eq!(covered, size, "the disk is not whole, and nothing was said");
    }
    // A disk of a transfer that goes on has parts that are there already.
    if resumed {
        return None;
    }
    Some(Outcome { result, covered: joined(disk.covered) })
}

/// Neighbours that were only cut differently are joined.
fn joined(covered: BTreeMap<u64, (u64, From)>) -> Vec<(u64, u64, From)> {
    let mut joined: Vec<(u64, u64, From)> = Vec::new();
    for (start, (end, from)) in covered {
        let follows = |last: &(u64, u64, From)| match (last.2, from) {
            (From::Zeros, From::Zeros) => true,
            (From::Data(a), From::Data(b)) => a + (start - last.0) == b,
            _ => false,
        };
        match joined.last_mut() {
            Some(last) if last.1 == start && follows(last) => last.1 = end,
            _ => joined.push((start, end, from)),
        }
    }
    joined
}

/// The input, and a second time with what checksums would stop made right.
fn twice(file: &[u8], check: fn(&[u8])) {
    check(file);
    if file.starts_with(b"conectix") {
        let mut file = file.to_vec();
        repair::vhd(&mut file);
        check(&file);
    }
}

pub fn check_in_order(file: &[u8]) {
    twice(file, in_order);
}

pub fn check_ranges(file: &[u8]) {
    twice(file, ranges_first);
}

/// The image arrives in order; where the decoder turns, it gets the ranges that it asks for.
fn in_order(file: &[u8]) {
    let mut choose = Random::of(file);
    if let Some(whole) = decode(file, false, &mut choose)
        && whole.result.is_ok()
    {
        check_cut(file, &whole, &mut choose);
        check_kept(file, &mut choose);
    }
}

/// The transfer is cut anywhere on its first pass, and goes on from the watermark that it had reached: what was
/// written before and what is written then is the whole disk.
fn check_cut(file: &[u8], whole: &Outcome, choose: &mut Random) {
    let limits = LIMITS.clone();
    let file_length = Some(file.len() as u64);
    let Some(subject) = Subject::of(file, file_length, &limits) else { return };
    let options = Options { file_length, seekable: true, limits, ..Options::default() };
    let mut before = Checked::new(&subject);
    let Ok(mut format) = subject.opener.open(options.clone()) else { return };
    let cut = choose.below(file.len() as u64 + 1);
    if format.wants().is_err() || !feed(&mut *format, &mut before, 0..cut, choose, true).is_ok_and(|whole| whole) {
        return;
    }
    let watermark = format.pinned().unwrap_or(cut).min(cut);

    let mut after = Checked::new(&subject);
    after.from = Some(watermark);
    let options = Options { from: Some(watermark), metadata_first: true, ..options };
    let result = memory::within(BOUND, || run(&mut *subject.opener.open(options)?, &mut after, choose, true));
    assert!(result.is_ok(), "cut at {cut}, watermark {watermark}: {result:?}, {:?} at once", whole.result);
    let written = |from: From, start: u64, end: u64| match from {
        // What the engine recognises as written before, it does not write again.
        From::Data(origin) => (start + watermark.saturating_sub(origin).min(end - start))..end,
        From::Packed(origin) if origin < watermark => end..end,
        _ => start..end,
    };
    let first = before.covered.iter().map(|(start, (end, _))| *start..*end);
    let second = after.covered.iter().map(|(start, (end, from))| written(*from, *start, *end));
    let mut all: Vec<Range<u64>> = first.chain(second).collect();
    all.sort_unstable_by_key(|range| range.start);
    let mut reached = 0;
    for range in all.into_iter().filter(|range| !range.is_empty()) {
        assert!(range.start <= reached, "cut at {cut}, watermark {watermark}: [{reached}, {}) is missing", range.start);
        reached = reached.max(range.end);
    }
    assert_eq!(reached, after.size, "cut at {cut}, watermark {watermark}: the end is missing");
}

/// The same of a source that cannot be read again: what was kept of it below the watermark, and the rest, are the whole disk.
fn check_kept(file: &[u8], choose: &mut Random) {
    let limits = LIMITS.clone();
    let file_length = choose.one_in(2).then_some(file.len() as u64);
    let Some(subject) = Subject::of(file, file_length, &limits) else { return };
    let size = subject.size;
    let head = choose.below(size.saturating_add(1)).min(1 << 20);
    let held = vec![0..head, size - choose.below((size - head).min(1 << 20).saturating_add(1))..size];
    let options = Options { file_length, held: held.clone(), limits, keeps: true, ..Options::default() };
    let mut before = Checked::new(&subject);
    let Ok(mut format) = subject.opener.open(options.clone()) else { return };
    let cut = choose.below(file.len() as u64 + 1);
    if format.wants().is_err() {
        return;
    }
    let mut kept: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    for piece in choose.pieces(&file[..cut as usize], PIECE) {
        if format.take(at, &Bytes::copy_of(piece), &mut before).is_err() || format.turned() {
            return;
        }
        let end = at + piece.len() as u64;
        let Some(ranges) = format.keeps() else { return };
        for range in ranges {
            assert!(range.start >= at && range.start < range.end && range.end <= end, "{range:?} of {at}..{end} is kept");
            kept.push(range);
        }
        at = end;
    }
    let watermark = format.pinned().unwrap_or(cut).min(cut);

    let mut after = Checked::new(&subject);
    after.from = Some(watermark);
    let options = Options { from: Some(watermark), skip_below: Some(watermark), ..options };
    let result = memory::within(BOUND, || {
        let mut format = subject.opener.open(options)?;
        format.wants()?;
        for range in kept {
            let end = range.end.min(watermark);
            if range.start < end {
                format.take(range.start, &Bytes::copy_of(&file[range.start as usize..end as usize]), &mut after)?;
            }
        }
        feed(&mut *format, &mut after, watermark..u64::MAX, choose, false)?;
        format.finish(Some(file.len() as u64), &mut after)
    });
    // A table behind the watermark may name data before it that another part of the disk shares.
    if result.as_ref().is_err_and(|error| matches!(error.code, Code::NeedsScratch | Code::TooLarge)) {
        return;
    }
    assert!(result.is_ok(), "cut at {cut}, watermark {watermark}: {result:?}");
    let inside = |range: Range<u64>, of: &Range<u64>| range.start.max(of.start)..range.end.min(of.end);
    let mut all = Vec::new();
    for (start, (end, _)) in &before.covered {
        all.push(inside(*start..*end, &(held[0].end..held[1].start)));
    }
    for (start, (end, from)) in &after.covered {
        let (start, end) = (*start, *end);
        all.extend(held.iter().map(|of| inside(start..end, of)));
        let written = match *from {
            From::Data(origin) => (start + watermark.saturating_sub(origin).min(end - start))..end,
            From::Packed(origin) if origin < watermark => end..end,
            _ => start..end,
        };
        all.push(inside(written, &(held[0].end..held[1].start)));
    }
    all.retain(|range| range.start < range.end);
    all.sort_unstable_by_key(|range| range.start);
    let mut reached = 0;
    for range in all {
        assert!(range.start <= reached, "cut at {cut}, watermark {watermark}: [{reached}, {}) is missing", range.start);
        reached = reached.max(range.end);
    }
    assert_eq!(reached, size, "cut at {cut}, watermark {watermark}: the end is missing");
}

/// The tables first, then the data; and the same disk as in order.
fn ranges_first(file: &[u8]) {
    let mut choose = Random::of(file);
    let ranges = decode(file, true, &mut choose);
    let order = decode(file, false, &mut choose);
    let (Some(ranges), Some(order)) = (ranges, order) else { return };
    let bounded = |outcome: &Outcome| {
        let code = outcome.result.as_ref().err().map(|error| error.code);
        matches!(code, Some(Code::Aborted | Code::NeedsScratch | Code::TooLarge))
    };
    if bounded(&ranges) || bounded(&order) {
        return;
    }
    let (by_ranges, in_order) = (&ranges.result, &order.result);
    assert_eq!(by_ranges.is_ok(), in_order.is_ok(), "by ranges {by_ranges:?}, in order {in_order:?}");
    if by_ranges.is_ok() {
        assert!(ranges.covered == order.covered, "the two ways give different disks");
    }
}

/// Any head, with any length that the source may have told.
pub fn check_sniff(head: &[u8]) {
    let mut random = Random::of(head);
    let limits = Limits { workers: 1 + 2 * random.below(2) as usize, ..LIMITS.clone() };
    let lengths = [None, Some(head.len() as u64), Some(head.len() as u64 + random.below(1 << 40)), Some(random.draw())];
    for length in lengths {
        let bound = 3 * head.len() + 2 * limits.decoder_memory as usize;
        let sniffed = memory::within(bound, || sniff(head, length, &limits));
        if sniffed.refusal.is_some() {
            continue;
        }
        assert!(sniffed.window <= limits.decoder_window);
        assert!(sniffed.virtual_size.is_none_or(|size| size <= limits.virtual_size));
        assert_eq!(sniffed.image.is_some(), sniffed.format != "raw");
    }
}

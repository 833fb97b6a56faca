//! The beginning of a conversion: prepare the target, open the journal, start the threads.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};

use crate::digest::DiskDigest;
use crate::error::{Code, Error, Result, Stage};
use crate::formats::raw::Raw;
use crate::formats::{self, Format};
use crate::journal::{Checkpoint, Finishing, Journal, Key, Recovered, Store, ZeroKnown};
use crate::mark;
use crate::targets::{Kind, Target, qcow2};

use super::barriers::Barriers;
use super::checkpoint::{Checkpointer, Durable};
use super::decoder::Decoder;
use super::ends::{Ends, HELD, tail_start};
use super::epoch::Epoch;
use super::finish::Rest;
use super::hasher::{Beside, Hasher};
use super::intake::Intake;
use super::jobs::Jobs;
use super::kept::Kept;
use super::leaves::Leaves;
use super::queue::Queue;
use super::shared::Counters;
use super::worker::{self, Sinkhole};
use super::{Conversion, Options, Way};

/// Input slabs of a plain image: what the transport may be ahead, and what jobs hold until they are written.
const PLAIN_SLABS: usize = 10;
/// Input slabs in front of a codec, which lets go of them at once.
const CODED_SLABS: usize = 4;
/// Slabs of decoded bytes on their way to the workers.
const OUTPUT_SLABS: usize = 6;
/// Groups of the disk digest that are open at once: 8 MiB of memory, 16 GiB of disk in any order.
const OPEN_GROUPS: usize = 256;
/// Room at the beginning of a device that is cleared beyond the head: LUKS2 keeps its second header, and VMFS its
/// magic, between 1 and 4 MiB.
const CLEARED: u64 = 8 << 20;

/// The journal's view of a target.
struct TargetStore {
    target: Arc<dyn Target>,
    length: u64,
}

impl Store for TargetStore {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.target.read(at, into)
    }
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.target.write(at, bytes)
    }
    fn flush(&self) -> Result<()> {
        self.target.flush()
    }
    fn length(&self) -> u64 {
        self.length
    }
}

/// `length` of the target in bytes, now.
pub fn journal_store(target: &Arc<dyn Target>, length: u64) -> Arc<dyn Store> {
    Arc::new(TargetStore { target: Arc::clone(target), length })
}

/// What an earlier run left, as far as this one goes on from it.
enum Past {
    None,
    Checkpoint(Box<Checkpoint>),
    Finishing(Finishing),
}

/// A file may be longer than its file system has room for: what is zero takes none. Unless all is to be reserved,
/// only writing tells whether it fits.
pub(super) fn expect_room(disk: Option<u64>, preallocate: bool, target: &dyn Target) -> Result<()> {
    let facts = target.facts();
    let code = match facts.kind {
        Kind::Block | Kind::Image => Code::TooLarge,
        Kind::File if preallocate => Code::NoSpace,
        Kind::File | Kind::Null => return Ok(()),
    };
    match disk {
        Some(disk) if disk > facts.capacity => {
            let message = format!("the disk needs {disk} bytes, the target has {}", facts.capacity);
            Err(Error::new(code, Stage::Target, message))
        }
        _ => Ok(()),
    }
}

/// Empties a file, or clears what a probe would find on a device. Of a disk that is changed in place only the tail is
/// cleared: the journal takes the head, and both are read again.
pub(super) fn prepare(target: &dyn Target, disk: Option<u64>, preallocate: bool, onto: bool) -> Result<()> {
    let facts = target.facts();
    match facts.kind {
        _ if onto => {
            let disk = disk.unwrap_or(0);
            if preallocate {
                target.preallocate(disk)?;
            }
            target.zero(tail_start(disk), disk - tail_start(disk))?;
        }
        Kind::File => {
            target.create()?;
            target.set_length(0)?;
            // The journal needs the first MiB, however small the disk is.
            target.set_length(disk.unwrap_or(0).max(HELD))?;
            if preallocate && let Some(disk) = disk {
                target.preallocate(disk)?;
            }
        }
        Kind::Block => {
            let end = facts.length;
            target.zero(HELD.min(end), CLEARED.min(end) - HELD.min(end))?;
            let last = end.saturating_sub(HELD) / HELD * HELD;
            let from = last.max(CLEARED.min(end));
            target.zero(from, end - from)?;
        }
        Kind::Null | Kind::Image => {}
    }
    Ok(())
}

/// Whether no range is asked for that the source does not have. A compressed cluster of qcow2 is said in sectors, of
/// which the last may be cut by the end of the file (docs/interop/qcow2.txt, "Compressed Clusters Descriptor").
fn knows_ends(o: &Options) -> bool {
    o.source_length.is_some() || o.sniffed.image.is_none() || !o.sniffed.codecs.is_empty()
}

/// Offset in the image below which the target has the data.
fn skipped(c: &Checkpoint) -> u64 {
    c.written_to.unwrap_or(c.watermark)
}

/// Offset in the image below which what was kept is needed: above, all comes again.
fn kept_below(past: &Past, coded: bool) -> u64 {
    match past {
        Past::None => 0,
        Past::Checkpoint(c) if coded => c.restart.as_ref().map_or(0, |restart| restart.decoded_offset),
        Past::Checkpoint(c) => c.watermark,
        Past::Finishing(_) => u64::MAX,
    }
}

fn open_format(o: &Options, past: &Past, in_file_order: bool, ends: &Ends) -> Result<Box<dyn Format>> {
    let coded = !o.sniffed.codecs.is_empty();
    let going_on = o.kept.is_some() && !matches!(past, Past::None);
    let from = match past {
        // What of the file is given again lies below this, and is enough.
        Past::Checkpoint(_) if going_on && o.sniffed.image.is_some() => Some(kept_below(past, coded)),
        Past::Finishing(_) if going_on && o.sniffed.image.is_some() => Some(u64::MAX),
        _ if coded || in_file_order => None,
        Past::None => None,
        Past::Checkpoint(c) => Some(c.watermark),
        Past::Finishing(_) => Some(u64::MAX),
    };
    let skip_below = match past {
        Past::Checkpoint(c) if from.is_none() || going_on => Some(skipped(c)),
        _ => None,
    };
    let file_length = if coded { None } else { o.source_length };
    let Some(image) = &o.sniffed.image else {
        let raw = Raw::new(file_length, from.unwrap_or(0), &ends.ranges());
        let by_extents = o.way == Way::Seek && o.seekable && !coded && !o.whole_source && file_length.is_some();
        return Ok(Box::new(match &o.extents {
            Some(extents) if by_extents && o.onto => {
                raw.by_extents(with_ends(extents, &ends.ranges(), file_length), true)
            }
            Some(extents) if by_extents => raw.by_extents(extents.clone(), false),
            _ => raw,
        }));
    };
    let seekable = !coded && o.seekable;
    image.open(formats::Options {
        file_length,
        seekable,
        metadata_first: seekable && (o.way == Way::Seek || from.is_some()),
        whole: o.whole_source && !matches!(past, Past::Finishing(_)),
        from,
        skip_below,
        tables_first: matches!(past, Past::Checkpoint(c) if c.way == Way::Seek.name()),
        held: ends.ranges(),
        limits: o.limits.clone(),
        spill: o.spill.clone(),
        keeps: o.kept.is_some(),
    })
}

pub fn start(target: Arc<dyn Target>, o: Options) -> Result<Conversion> {
    if let Some(refusal) = &o.sniffed.refusal {
        return Err(refusal.clone());
    }
    let image_length = o.sniffed.virtual_size;
    if let (Some(size), Some(image)) = (o.size, image_length)
        && image > size
    {
        let what = format!("the image needs {image} bytes, --size gives the disk {size}");
        return Err(Error::new(Code::TooLarge, Stage::Plan, what));
    }
    expect_room(o.size.or(image_length), o.preallocate, &*target)?;
    check_extents(&o)?;
    if o.onto {
        check_base(&o, &*target)?;
    }

    let kind = target.facts().kind;
    // An image file replaces what is marked only when it is whole.
    if let Some(path) = o.marked.as_ref().filter(|_| kind != Kind::Image) {
        mark::clear(path);
    }
    let size = o.size.or(image_length).map(qcow2::whole_sectors).filter(|_| kind == Kind::Image).or(o.size);
    let o = Options { size, ..o };
    let key = Key::new(o.key);
    let is_block = kind == Kind::Block;
    let (journal, past, zeroed) = open_journal(&target, &key, &o)?;
    let disk = match &past {
        Past::Finishing(f) => Some(f.virtual_size),
        _ => o.size.or(image_length),
    };

    let intake = Intake::new(if o.sniffed.codecs.is_empty() { PLAIN_SLABS } else { CODED_SLABS });
    let Intake { shared, input, requests } = intake.clone();
    let resumes = match &past {
        Past::None => 0,
        Past::Checkpoint(c) => c.resumes + 1,
        Past::Finishing(f) => f.resumes + 1,
    };
    let o = Options { seekable: o.seekable && knows_ends(&o), ..o };
    let kept = match (&o.kept, &past) {
        (None, _) => None,
        (Some(kept), Past::None) => Some((Kept::begin(&kept.path, &kept.head)?, None)),
        (Some(kept), past) => {
            let (kept, records) = Kept::resume(&kept.path, kept_below(past, !o.sniffed.codecs.is_empty()))?;
            Some((kept, Some(records)))
        }
    };
    let going_on = matches!(kept, Some((_, Some(_))));
    let in_file_order = !o.seekable;
    let replay = in_file_order && !going_on;
    let ends = Ends::new(disk);
    let format = open_format(&o, &past, in_file_order, &ends)?;
    let to = Arc::new(Sinkhole {
        target: Arc::clone(&target),
        digest: DiskDigest::new(disk, OPEN_GROUPS),
        ends,
        leaves: Leaves::default(),
        zeroed,
        shared: Arc::clone(&shared),
    });
    let beside = Beside::of(o.digest);
    let mut hasher = Hasher::new(beside);
    let (mut skip_below, mut restart, mut resumed_at) = (0, None, 0);
    match &past {
        Past::None => {}
        Past::Finishing(_) => skip_below = u64::MAX,
        Past::Checkpoint(c) => {
            to.digest.restore(&c.groups)?;
            skip_below = skipped(c);
            resumed_at = c.watermark;
            if let Some(state) = &c.source_hash {
                hasher = if replay {
                    Hasher::replay(c.hash_offset, state.clone(), beside)
                } else {
                    Hasher::resume(c.hash_offset, state, beside)?
                };
            }
            restart = if replay { None } else { c.restart.clone() };
            restore_counters(&shared.counters, c, format.in_disk_order());
        }
    }
    // A coded stream that must begin at its first byte hashes from there as well.
    if let Past::Checkpoint(c) = &past
        && !replay
        && !o.sniffed.codecs.is_empty()
        && c.restart.is_none()
        && let Some(state) = &c.source_hash
    {
        hasher = Hasher::replay(c.hash_offset, state.clone(), beside);
    }

    let jobs = Arc::new(Jobs::new(Arc::clone(&shared)));
    let durable = Arc::new(Durable::default());
    let (notes, note_receiver) = mpsc::channel();
    let (feed, feed_receiver) = mpsc::channel();
    let journal = Arc::new(Mutex::new(journal));
    let head_only = matches!(past, Past::Finishing(_));
    let small = disk.is_some_and(|length| tail_start(length) <= HELD);
    // Zeros take no room in a file: how long it may become is not bounded by what is free.
    let capacity = if kind == Kind::File { o.limits.virtual_size } else { target.facts().capacity };

    let decoder = Decoder {
        input,
        requests,
        shared: Arc::clone(&shared),
        feed,
        queue: Queue::new(
            Arc::clone(&jobs),
            Arc::clone(&to),
            Epoch::token(0, notes.clone()),
            disk,
            capacity,
            skip_below,
        ),
        barriers: Barriers::new(
            notes.clone(),
            Arc::clone(&durable),
            Arc::clone(&shared),
            kind.keeps_journal() && !small && !head_only,
        ),
        format,
        codecs: o.sniffed.codecs.clone(),
        pick: o.sniffed.told.pick.clone(),
        limits: o.limits.clone(),
        output_slabs: OUTPUT_SLABS,
        restart,
        head_only,
        kept: kept.as_ref().map(|(kept, _)| kept.clone()),
        kept_in_vain: false,
        go_on: match kept {
            Some((_, Some(records))) => Some((records, resumed_at)),
            _ => None,
        },
        image_length,
        source_length: o.source_length,
    };
    let mut threads = Vec::new();
    for n in 0..o.limits.workers.max(1) {
        let (jobs, to) = (Arc::clone(&jobs), Arc::clone(&to));
        threads.push(shared.spawn(&format!("work-{n}"), Stage::Format, None, move || worker::run(&jobs, &to, disk))?);
    }
    let hashed = Arc::new(Mutex::new(None));
    let hash_thread = {
        let (notes, hashed) = (notes.clone(), Arc::clone(&hashed));
        shared.spawn("hash", Stage::Source, None, move || hasher.run_to(&feed_receiver, &notes, &hashed))?
    };
    let checkpointer = Checkpointer {
        kept: decoder.kept.clone(),
        notes: note_receiver,
        to: Arc::clone(&to),
        journal: Arc::clone(&journal),
        durable,
        template: Checkpoint {
            identity: o.identity.clone(),
            way: o.way.name().to_owned(),
            virtual_size: disk,
            file_length: o.source_length,
            zero_known: if is_block || o.onto { ZeroKnown::No } else { ZeroKnown::NewFile },
            resumes,
            watermark: 0,
            restart: None,
            written_to: None,
            source_hash: None,
            hash_offset: 0,
            groups: Vec::new(),
            head_hash: None,
            written: 0,
            zeroed: 0,
            skipped: 0,
        },
        length: disk,
    };
    let checkpoint_thread = shared.spawn("checkpoint", Stage::Target, None, move || checkpointer.run())?;
    let decoded = Arc::new(Mutex::new(None));
    let decode_thread = {
        let decoded = Arc::clone(&decoded);
        shared.spawn("decode", Stage::Decode, None, move || {
            let result = decoder.run()?;
            *decoded.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(result);
            Ok(())
        })?
    };

    let workers = o.limits.workers.max(1);
    Ok(Conversion {
        intake,
        workers,
        resumed_at,
        rest: Mutex::new(Some(Rest {
            shared,
            to,
            jobs,
            journal,
            notes,
            threads,
            hash_thread,
            checkpoint_thread,
            decode_thread,
            decoded,
            hashed,
            past_finishing: match past {
                Past::Finishing(f) => Some(f),
                _ => None,
            },
            resumes,
            options: o,
        })),
    })
}

/// The extents of a source come from a server or a file system: they ascend, and end with it.
fn check_extents(o: &Options) -> Result<()> {
    let mut end = 0;
    for extent in o.extents.iter().flatten() {
        if extent.start < end || extent.end <= extent.start || o.source_length.is_none_or(|n| extent.end > n) {
            let what =
                format!("the source says that it has data from {} to {}, behind {end}", extent.start, extent.end);
            return Err(Error::new(Code::BadSpec, Stage::Source, what));
        }
        end = extent.end;
    }
    Ok(())
}

/// What changed, and the held ends, whose room on the target the journal takes.
fn with_ends(changed: &[Range<u64>], held: &[Range<u64>], length: Option<u64>) -> Vec<Range<u64>> {
    let within = |r: &Range<u64>| r.start..r.end.min(length.unwrap_or(0));
    let mut all: Vec<_> = changed.iter().chain(held).map(within).filter(|r| r.start < r.end).collect();
    all.sort_by_key(|r| r.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(all.len());
    for range in all {
        match merged.last_mut().filter(|last| range.start <= last.end) {
            Some(last) => last.end = last.end.max(range.end),
            None => merged.push(range),
        }
    }
    merged
}

/// Whether what changed can be put onto what the target holds: a raw source by its extents, a whole disk below it.
fn check_base(o: &Options, target: &dyn Target) -> Result<()> {
    let bad = |what: String| Err(Error::new(Code::BadSpec, Stage::Target, what));
    let raw = o.sniffed.image.is_none() && o.sniffed.codecs.is_empty() && !o.whole_source;
    let (true, Some(length)) = (raw && o.extents.is_some() && o.way == Way::Seek && o.seekable, o.source_length) else {
        return bad("only what a raw source tells of its changes can be put onto a disk".to_owned());
    };
    let facts = target.facts();
    let disk = o.size.unwrap_or(length);
    if !facts.kind.keeps_journal() || !facts.exists || facts.length < disk || disk < length {
        let has = facts.length;
        return bad(format!(
            "changes of a disk of {length} bytes need the disk before them, the target has {has} bytes"
        ));
    }
    if tail_start(disk) <= HELD {
        return bad(format!("a disk of {disk} bytes is all held until it is whole: it is imported anew, not changed"));
    }
    Ok(())
}

/// Takes over the journal that is there, or begins one. Answers also whether what is not written reads as zeros.
fn open_journal(target: &Arc<dyn Target>, key: &Key, o: &Options) -> Result<(Option<Journal>, Past, bool)> {
    let facts = target.facts();
    if !facts.kind.keeps_journal() {
        return Ok((None, Past::None, true));
    }
    let disk = o.size.or(o.sniffed.virtual_size);
    let file = facts.kind == Kind::File;
    // A file grows as it is written; how long it is at the moment says nothing.
    let length = if file { i64::MAX as u64 } else { facts.length };
    if o.resume {
        let (journal, recovered) = Journal::take_over(journal_store(target, length), key)?;
        match recovered {
            Recovered::Checkpoint(c) => {
                let zeroed = matches!(c.zero_known, ZeroKnown::NewFile);
                return Ok((Some(journal), Past::Checkpoint(c), zeroed));
            }
            Recovered::Finishing { finishing, identity } => {
                // The last steps write over the identity's text: then its hash tells whose transfer this is.
                if identity.is_none() && finishing.identity_hash != crate::journal::hash(o.identity.as_bytes()) {
                    let what = "the target holds a nearly finished transfer of another source, or of this one before it \
                                changed: run that command again to go on, or give --fresh to drop it";
                    return Err(Error::new(Code::Changed, Stage::Target, what));
                }
                return Ok((Some(journal), Past::Finishing(*finishing), true));
            }
            // Too early for a checkpoint: the transfer begins anew.
            _ => {}
        }
    }
    prepare(&**target, disk.or(o.source_length.filter(|_| o.onto)), o.preallocate, o.onto)?;
    let journal = Journal::begin(journal_store(target, length), key, &o.identity)?;
    Ok((Some(journal), Past::None, file && !o.onto))
}

/// Bytes that earlier runs dealt with. A raw image goes on behind them; other formats tell all their zeros again.
fn restore_counters(counters: &Counters, c: &Checkpoint, in_disk_order: bool) {
    counters.written.store(c.written, Ordering::Relaxed);
    counters.watermark.store(c.watermark, Ordering::Relaxed);
    if in_disk_order {
        counters.zeroed.store(c.zeroed, Ordering::Relaxed);
        counters.skipped.store(c.skipped, Ordering::Relaxed);
    }
}

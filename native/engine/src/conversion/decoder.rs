//! The decoder thread: pieces of the source, through the codecs, into the image format, onto the queue of jobs.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use crate::archives::Pick;
use crate::bytes::{Bytes, Pool, SLAB, SlabMut};
use crate::codecs::layers::open_layers;
use crate::codecs::{self, Restart, Sink};
use crate::digest::LEAF;
use crate::error::{Code, Error, Result, Stage};
use crate::formats::{Format, Wants};
use crate::limits::Limits;

use super::barriers::Barriers;
use super::ends::HELD;
use super::hasher::Feed;
use super::input::{Input, Piece, Taken};
use super::kept::{Kept, Records};
use super::queue::Queue;
use super::requests::Requests;
use super::shared::{Counters, Shared};

pub struct Decoder {
    pub input: Arc<Input>,
    pub requests: Arc<Requests>,
    pub shared: Arc<Shared>,
    pub feed: Sender<Feed>,
    pub queue: Queue,
    pub barriers: Barriers,
    pub format: Box<dyn Format>,
    pub codecs: Vec<codecs::Kind>,
    pub pick: Pick,
    pub limits: Limits,
    pub output_slabs: usize,
    /// Where a coded stream goes on from a checkpoint; its head is decoded again from the beginning first.
    pub restart: Option<Restart>,
    /// Only the head is wanted: everything else is on the target and verified.
    pub head_only: bool,
    /// Where what must be remembered of the source goes.
    pub kept: Option<Kept>,
    /// The format can only be begun at its beginning: so are runs that go on with a source that cannot be read again.
    pub kept_in_vain: bool,
    /// What an earlier run remembered, and the offset of the source from which it is sent again.
    pub go_on: Option<(Records, u64)>,
    /// Virtual size, where the format states it.
    pub image_length: Option<u64>,
    /// Length of the source, where it is known before the end.
    pub source_length: Option<u64>,
}

/// What came of it.
pub struct Decoded {
    /// Length of the disk as the image has it.
    pub image_length: u64,
    /// Length of the source, if it was read to its end or known.
    pub source_length: Option<u64>,
}

impl Decoder {
    pub fn run(mut self) -> Result<Decoded> {
        let decoded = if self.codecs.is_empty() { self.plain()? } else { self.coded()? };
        self.requests.finish();
        self.shared.wake();
        Ok(decoded)
    }

    /// Remembers what of a piece a run that goes on must be given again.
    fn keep(&mut self, offset: u64, bytes: &Bytes) -> Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        match self.format.keeps() {
            Some(ranges) => kept.add(offset, bytes, &ranges),
            None => {
                self.kept_in_vain = true;
                Ok(())
            }
        }
    }

    /// Gives the format what an earlier run kept of the image.
    fn recall(&mut self, mut records: Records) -> Result<()> {
        while let Some((offset, bytes)) = records.next()? {
            self.format.take(offset, &bytes, &mut self.queue)?;
            let _ = self.format.keeps();
            self.queue.settle()?;
            self.shared.check()?;
        }
        Ok(())
    }

    fn begin_round(&self, wants: &Wants) {
        self.input.begin_round();
        match wants {
            Wants::Rest(from) => self.requests.rest(*from),
            Wants::Ranges(ranges) => self.requests.ranges(ranges),
            Wants::Nothing => return,
        }
        self.shared.wake();
    }

    fn leave_pass(&self) {
        self.requests.clear();
        self.input.leave_pass();
    }

    fn taken(&self, piece: &Piece) -> Result<()> {
        Counters::add(&self.shared.counters.source, piece.bytes.len() as u64);
        self.shared.check()
    }

    /// No compression around the image: its offsets are the source's.
    fn plain(&mut self) -> Result<Decoded> {
        let mut length = self.source_length;
        let mut next = None;
        if let Some((records, from)) = self.go_on.take() {
            self.format.wants()?;
            self.recall(records)?;
            next = Some(Wants::Rest(from));
            if self.head_only {
                return Ok(Decoded { image_length: self.image_length.or(length).unwrap_or(0), source_length: length });
            }
        }
        loop {
            let wants = match next.take() {
                Some(wants) => wants,
                None => self.format.wants()?,
            };
            if matches!(wants, Wants::Nothing) {
                break;
            }
            self.begin_round(&wants);
            loop {
                match self.input.take()? {
                    Taken::Piece(piece) => {
                        self.taken(&piece)?;
                        let (offset, bytes) = (piece.offset, piece.bytes.clone());
                        // The digest's thread works on the same slab while the format looks at it.
                        let _ = self.feed.send(Feed::Piece(piece));
                        self.format.take(offset, &bytes, &mut self.queue)?;
                        self.keep(offset, &bytes)?;
                        self.queue.settle()?;
                        let end = offset + bytes.len() as u64;
                        drop(bytes);
                        if self.format.turned() {
                            self.leave_pass();
                            break;
                        }
                        self.plain_barrier(end)?;
                    }
                    Taken::RoundOver if matches!(wants, Wants::Ranges(_)) => break,
                    Taken::Ended(n) => {
                        self.check_length(n)?;
                        length = Some(n);
                        break;
                    }
                    Taken::RoundOver => {
                        return Err(Error::new(Code::Truncated, Stage::Source, "the source stopped before its end"));
                    }
                }
            }
        }
        self.format.finish(length, &mut self.queue)?;
        let image_length = self.image_length.or(length).unwrap_or(0);
        if !self.head_only {
            self.queue.end(image_length)?;
        }
        self.queue.settle()?;
        Ok(Decoded { image_length, source_length: length })
    }

    fn check_length(&self, got: u64) -> Result<()> {
        match self.source_length {
            Some(expected) if expected != got => Err(Error::new(
                Code::Truncated,
                Stage::Source,
                format!("the source was to have {expected} bytes and ended at {got}"),
            )),
            _ => Ok(()),
        }
    }

    fn plain_barrier(&mut self, end: u64) -> Result<()> {
        if !self.barriers.due()? {
            return Ok(());
        }
        let queued = if self.format.in_disk_order() { self.queue.queued_to() } else { u64::MAX };
        let watermark = self.format.pinned().unwrap_or(u64::MAX).min(end).min(queued);
        let watermark = if self.format.exact() { watermark } else { whole_leaves(watermark) };
        let watermark = if self.kept_in_vain { 0 } else { watermark };
        let tables_first = self.format.tables_first();
        self.barriers.set(&mut self.queue, &self.feed, (watermark, None, watermark), tables_first)
    }

    /// One pass of a compressed stream from `from`; stops when `enough` decoded bytes are out.
    fn coded_pass(&mut self, from: Option<&Restart>, enough: Option<u64>) -> Result<Option<(u64, u64)>> {
        let mut codec = open_layers(&self.codecs, &self.pick, &self.limits, from)?;
        let source_from = from.map_or(0, |r| r.source_offset);
        let decoded_from = from.map_or(0, |r| r.decoded_offset);
        self.begin_round(&Wants::Rest(source_from));
        let written_before = self.queue.skip_below();
        let mut out = Output {
            pool: Pool::new(self.output_slabs),
            slab: None,
            at: decoded_from,
            slab_start: 0,
            format: &mut *self.format,
            queue: &mut self.queue,
            barriers: &mut self.barriers,
            kept: self.kept.as_ref().filter(|_| enough.is_none()),
            kept_in_vain: false,
            feed: &self.feed,
            shared: &self.shared,
            source: source_from,
            restart_taken_at: source_from,
            offered: None,
            usable: from.cloned(),
            written_before,
            enough,
        };
        let ended = loop {
            match self.input.take()? {
                Taken::Piece(piece) => {
                    Counters::add(&self.shared.counters.source, piece.bytes.len() as u64);
                    self.shared.check()?;
                    let end = piece.offset + piece.bytes.len() as u64;
                    let bytes = piece.bytes.clone();
                    let _ = self.feed.send(Feed::Piece(piece));
                    out.source = end;
                    codec.push(&bytes, &mut out)?;
                    if enough.is_some_and(|n| out.at >= n) {
                        out.deliver()?;
                        break None;
                    }
                }
                Taken::Ended(n) => {
                    codec.finish(&mut out)?;
                    out.deliver()?;
                    break Some((n, out.at));
                }
                Taken::RoundOver => {
                    return Err(Error::new(Code::Truncated, Stage::Source, "the source stopped before its end"));
                }
            }
        };
        if ended.is_none() {
            self.leave_pass();
        }
        Ok(ended)
    }

    fn coded(&mut self) -> Result<Decoded> {
        let restart = self.restart.take();
        let mut ended = None;
        if let Some((records, _)) = self.go_on.take() {
            self.recall(records)?;
            if !self.head_only {
                ended = self.coded_pass(restart.as_ref(), None)?;
            }
            return self.coded_end(ended);
        }
        let head_first = self.head_only && self.format.in_disk_order();
        if head_first || restart.as_ref().is_some_and(|r| r.decoded_offset > 0) {
            ended = self.coded_pass(None, Some(HELD))?;
        }
        if ended.is_none() && !head_first {
            ended = self.coded_pass(restart.as_ref(), None)?;
        }
        self.coded_end(ended)
    }

    fn coded_end(&mut self, ended: Option<(u64, u64)>) -> Result<Decoded> {
        let Some((source_length, decoded_length)) = ended else {
            return Ok(Decoded { image_length: self.image_length.unwrap_or(0), source_length: self.source_length });
        };
        self.check_length(source_length)?;
        if !self.head_only {
            self.format.finish(Some(decoded_length), &mut self.queue)?;
            self.queue.end(self.image_length.unwrap_or(decoded_length))?;
            self.queue.settle()?;
        }
        Ok(Decoded { image_length: self.image_length.unwrap_or(decoded_length), source_length: Some(source_length) })
    }
}

/// A run that goes on writes from here: in the middle of a leaf, or of a sector, it would write over what the run
/// before it wrote there, because it does not know it. A codec may begin again at any byte, so this is not a given.
fn whole_leaves(offset: u64) -> u64 {
    offset / LEAF * LEAF
}

/// Decoded bytes on their way into the format, in slabs aligned to the decoded offset.
struct Output<'a> {
    pool: Pool,
    slab: Option<SlabMut>,
    /// Decoded offset of the next byte.
    at: u64,
    /// Where in the slab its content begins.
    slab_start: usize,
    format: &'a mut dyn Format,
    queue: &'a mut Queue,
    barriers: &'a mut Barriers,
    kept: Option<&'a Kept>,
    kept_in_vain: bool,
    feed: &'a Sender<Feed>,
    shared: &'a Shared,
    source: u64,
    restart_taken_at: u64,
    /// A restart point whose output is not queued whole yet.
    offered: Option<Restart>,
    /// The newest one below which everything is queued.
    usable: Option<Restart>,
    /// What an earlier run wrote of a raw disk; it may reach further than this run has decoded yet.
    written_before: u64,
    /// Decoded bytes from here on are not wanted in this pass.
    enough: Option<u64>,
}

impl Output<'_> {
    fn slab_end(&self) -> usize {
        match (self.at % SLAB as u64) as usize {
            0 if self.slab.is_some() => SLAB,
            n => n,
        }
    }

    /// Gives what the slab holds to the format.
    fn deliver(&mut self) -> Result<()> {
        let end = self.slab_end();
        let Some(slab) = self.slab.take() else { return Ok(()) };
        if end <= self.slab_start {
            return Ok(());
        }
        let offset = self.at - (end - self.slab_start) as u64;
        if self.enough.is_some_and(|n| offset >= n) {
            return Ok(());
        }
        let bytes: Bytes = slab.freeze(self.slab_start, end);
        self.format.take(offset, &bytes, self.queue)?;
        match (self.kept, self.format.keeps()) {
            (Some(kept), Some(ranges)) => kept.add(offset, &bytes, &ranges)?,
            (kept, ranges) => self.kept_in_vain |= kept.is_some() && ranges.is_none(),
        }
        self.queue.settle()?;
        drop(bytes);
        self.barrier()
    }

    fn barrier(&mut self) -> Result<()> {
        // Only the head is read again: the checkpoint that is there reaches further than one of this pass would.
        if self.enough.is_some() {
            return Ok(());
        }
        let raw = self.format.in_disk_order();
        let queued = if raw {
            self.written_before.max(whole_leaves(self.queue.queued_to().min(self.at)))
        } else {
            whole_leaves(self.format.pinned().unwrap_or(self.at))
        };
        // Of other images the tables would be missing, unless they are kept.
        let restarts = (raw || self.kept.is_some()) && !self.kept_in_vain;
        if let Some(offered) = &self.offered
            && restarts
            && offered.decoded_offset <= queued
        {
            self.usable = self.offered.take();
        }
        if !self.barriers.due()? {
            return Ok(());
        }
        let restart = if restarts { self.usable.clone() } else { None };
        let watermark = restart.as_ref().map_or(0, |r| r.source_offset);
        let tables_first = self.format.tables_first();
        self.barriers.set(self.queue, self.feed, (watermark, restart, queued), tables_first)
    }
}

impl Sink for Output<'_> {
    fn space(&mut self) -> Result<&mut [u8]> {
        if self.slab.is_none() {
            let began = Instant::now();
            let shared = self.shared;
            let Some(slab) = self.pool.take(|| shared.stopped()) else {
                return Err(shared.failure().unwrap_or_else(Error::aborted));
            };
            Counters::since(&self.shared.counters.decode_blocked_ns, began);
            self.slab = Some(slab);
            self.slab_start = (self.at % SLAB as u64) as usize;
        }
        let from = (self.at % SLAB as u64) as usize;
        self.slab.as_mut().map(|slab| &mut slab[from..]).ok_or_else(Error::aborted)
    }

    fn commit(&mut self, n: usize) -> Result<()> {
        self.at += n as u64;
        if self.at.is_multiple_of(SLAB as u64) && n > 0 { self.deliver() } else { Ok(()) }
    }

    fn restart_due(&self) -> bool {
        self.offered.is_none() && self.barriers.restart_due(self.source, self.restart_taken_at)
    }

    fn restart(&mut self, at: Restart) -> Result<()> {
        self.restart_taken_at = self.source;
        self.offered = Some(at);
        Ok(())
    }
}

//! The guest disk as a format sees it: cuts what the format says into jobs for the workers.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::bytes::Bytes;
use crate::error::{Code, Error, Result, Stage};
use crate::formats::{Disk, Packing};

use super::ends::{HELD, tail_start};
use super::epoch::Token;
use super::jobs::{Job, Jobs, Packed, Work};
use super::worker::{MOST_UNPACKED, Sinkhole};

/// Unpacked bytes that one packed job gathers: large enough for one write, small enough to spread over workers.
const PACKED_JOB: usize = 512 << 10;

/// Data of a disk whose end is not known yet: the last MiB that came waits here, since it may be the tail.
#[derive(Default)]
struct Delay {
    pieces: VecDeque<(u64, u64, Bytes)>,
    bytes: u64,
}

pub struct Queue {
    jobs: Arc<Jobs>,
    to: Arc<Sinkhole>,
    pub token: Token,
    /// Length of the disk, where it is known before the end.
    length: Option<u64>,
    /// Most bytes the disk can have.
    capacity: u64,
    /// Data whose origin lies below is on the target already.
    skip_below: u64,
    packed: Vec<Packed>,
    packed_bytes: usize,
    delay: Delay,
    /// End of the data that came last.
    reached: u64,
}

impl Queue {
    pub fn new(
        jobs: Arc<Jobs>,
        to: Arc<Sinkhole>,
        token: Token,
        length: Option<u64>,
        capacity: u64,
        skip_below: u64,
    ) -> Self {
        Self {
            jobs,
            to,
            token,
            length,
            capacity,
            skip_below,
            packed: Vec::new(),
            packed_bytes: 0,
            delay: Delay::default(),
            reached: 0,
        }
    }

    fn add(&self, work: Work, ends_only: bool) -> Result<()> {
        self.jobs.add(Job { work, ends_only, token: Arc::clone(&self.token) })
    }

    fn fits(&self, end: u64) -> Result<()> {
        match self.length {
            Some(length) if end > length => Err(Error::new(
                Code::TooLarge,
                Stage::Format,
                format!("the image holds more than the {length} bytes that the disk is to have; give a larger --size"),
            )),
            None if end > self.capacity => Err(Error::new(
                Code::TooLarge,
                Stage::Target,
                format!("the image unpacks to more than the {} bytes that fit on the target", self.capacity),
            )),
            _ => Ok(()),
        }
    }

    fn queue_data(&self, at: u64, origin: u64, bytes: &Bytes) -> Result<()> {
        let len = bytes.len() as u64;
        let done = self.skip_below.saturating_sub(origin).min(len);
        if done > 0 {
            let part = bytes.slice(0, done as usize);
            if self.to.ends.holds_any_of(at, done) {
                self.add(Work::Data { at, bytes: part }, true)?;
            }
        }
        if done < len {
            self.add(Work::Data { at: at + done, bytes: bytes.slice(done as usize, len as usize) }, false)?;
        }
        Ok(())
    }

    /// Origin below which everything is on the target already.
    pub fn skip_below(&self) -> u64 {
        self.skip_below
    }

    /// For data in the order of the disk: offset below which everything that came has been queued to be written.
    pub fn queued_to(&self) -> u64 {
        match (self.delay.pieces.front(), self.length) {
            (Some((at, _, _)), _) => *at,
            (None, Some(length)) => self.reached.min(tail_start(length)),
            (None, None) => self.reached,
        }
    }

    /// Sends on what is gathered: at the end of each input slab, so that no slab is kept waiting.
    pub fn settle(&mut self) -> Result<()> {
        if self.packed.is_empty() {
            return Ok(());
        }
        self.packed_bytes = 0;
        let clusters = std::mem::take(&mut self.packed);
        self.add(Work::Packed(clusters), false)
    }

    /// The image ends at `length`; a disk that is to be longer is zeros from there.
    pub fn end(&mut self, length: u64) -> Result<()> {
        self.settle()?;
        self.fits(length)?;
        if self.length.is_none() {
            self.to.ends.set_length(length);
            for (at, origin, bytes) in std::mem::take(&mut self.delay.pieces) {
                // The tail is captured here and now: the workers do not know the length.
                let start = tail_start(length).max(at) - at;
                let cut = start.min(bytes.len() as u64) as usize;
                if cut > 0 {
                    self.queue_data(at, origin, &bytes.slice(0, cut))?;
                }
                self.to.ends.capture(at + cut as u64, &bytes[cut..]);
            }
        } else if let Some(disk) = self.length
            && length < disk
        {
            self.zero(length, disk - length)?;
        }
        Ok(())
    }
}

impl Disk for Queue {
    fn data(&mut self, at: u64, origin: u64, bytes: Bytes) -> Result<()> {
        self.fits(at + bytes.len() as u64)?;
        self.reached = at + bytes.len() as u64;
        if self.length.is_some() {
            return self.queue_data(at, origin, &bytes);
        }
        self.delay.bytes += bytes.len() as u64;
        self.delay.pieces.push_back((at, origin, bytes));
        // What leaves ends on a slab boundary, so the tail that remains begins on a leaf boundary.
        while let Some((_, _, first)) = self.delay.pieces.front()
            && self.delay.bytes - first.len() as u64 >= HELD + crate::digest::LEAF
        {
            let (at, origin, bytes) = self.delay.pieces.pop_front().expect("just seen");
            self.delay.bytes -= bytes.len() as u64;
            self.queue_data(at, origin, &bytes)?;
        }
        Ok(())
    }

    fn packed(&mut self, at: u64, len: usize, origin: u64, how: Packing, bytes: Bytes) -> Result<()> {
        if len > MOST_UNPACKED {
            return Err(Error::new(Code::Corrupt, Stage::Format, format!("a compressed cluster of {len} bytes")));
        }
        if origin < self.skip_below {
            if self.to.ends.holds_any_of(at, len as u64) {
                self.add(Work::Packed(vec![Packed { at, len, how, bytes }]), true)?;
            }
            return Ok(());
        }
        let follows = self.packed.last().is_some_and(|last| last.at + last.len as u64 == at);
        if !follows || self.packed_bytes + len > PACKED_JOB {
            self.settle()?;
        }
        self.packed_bytes += len;
        self.packed.push(Packed { at, len, how, bytes });
        Ok(())
    }

    fn zero(&mut self, at: u64, len: u64) -> Result<()> {
        self.fits(at + len)?;
        let rest = self.to.ends.between(at, len);
        if rest.is_empty() {
            return Ok(());
        }
        if self.to.zeroed {
            return self.to.zero_region(rest.start, rest.end - rest.start, self.length);
        }
        // In pieces, so that a stop is noticed between them.
        let mut at = rest.start;
        while at < rest.end {
            let n = (rest.end - at).min(256 << 20);
            self.add(Work::Zero { at, len: n }, false)?;
            at += n;
        }
        Ok(())
    }
}

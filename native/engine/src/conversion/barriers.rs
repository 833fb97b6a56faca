//! When a checkpoint is due, and what it says: the decoder asks after each piece.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::codecs::Restart;
use crate::error::Result;

use super::checkpoint::{Barrier, Durable, Note};
use super::epoch::Epoch;
use super::hasher::Feed;
use super::queue::Queue;
use super::shared::{Counters, Shared};

/// A checkpoint is begun after this many more bytes of the source or this long, whichever comes first ...
const CHECKPOINT_BYTES: u64 = 16 << 20;
const CHECKPOINT_TIME: Duration = Duration::from_secs(1);
/// ... and the decoder waits rather than run further than this ahead of the last durable one: with what the transport and
/// the kernel's socket buffers hold (32 MiB by default, tcp(7)), a kill costs less than 128 MiB of the source.
const MOST_AT_RISK: u64 = 40 << 20;

/// Barriers of one transfer.
pub struct Barriers {
    pub notes: Sender<Note>,
    pub durable: Arc<Durable>,
    pub shared: Arc<Shared>,
    /// No checkpoints for disks that are held whole, and for the null target.
    pub enabled: bool,
    next: u64,
    last_at: Instant,
    /// Bytes taken from the source in this run when the last barrier was set. Not an offset: one that goes on reads
    /// tables from anywhere first.
    last_taken: u64,
    /// The barrier that is not durable yet, and the bytes that were taken before it. One at a time: the next one covers more.
    open: Option<(u64, u64)>,
    /// Bytes that were taken before the last durable barrier.
    durable_at: u64,
}

impl Barriers {
    pub fn new(notes: Sender<Note>, durable: Arc<Durable>, shared: Arc<Shared>, enabled: bool) -> Self {
        let last_at = Instant::now();
        Self { notes, durable, shared, enabled, next: 0, last_at, last_taken: 0, open: None, durable_at: 0 }
    }

    fn retire(&mut self) {
        if let Some((number, taken)) = self.open
            && self.durable.count() > number
        {
            self.durable_at = taken;
            self.open = None;
        }
    }

    fn taken(&self) -> u64 {
        self.shared.counters.source.load(Ordering::Relaxed)
    }

    /// Whether a checkpoint is to be begun now. Waits when too much would be lost by a kill.
    pub fn due(&mut self) -> Result<bool> {
        if !self.enabled {
            return Ok(false);
        }
        self.retire();
        let taken = self.taken();
        if let Some((number, _)) = self.open
            && taken.saturating_sub(self.durable_at) > MOST_AT_RISK
        {
            let began = Instant::now();
            self.durable.wait_for(number + 1, &self.shared)?;
            Counters::since(&self.shared.counters.decode_blocked_ns, began);
            self.retire();
        }
        Ok(self.open.is_none()
            && (taken.saturating_sub(self.last_taken) >= CHECKPOINT_BYTES || self.last_at.elapsed() >= CHECKPOINT_TIME))
    }

    /// A restart point is wanted a little before the checkpoint that will use it.
    pub fn restart_due(&self, source: u64, taken_at: u64) -> bool {
        self.enabled
            && (source.saturating_sub(taken_at) >= CHECKPOINT_BYTES / 4
                || self.last_at.elapsed() >= CHECKPOINT_TIME / 2)
    }

    pub fn set(
        &mut self,
        queue: &mut Queue,
        feed: &Sender<Feed>,
        at: (u64, Option<Restart>, u64),
        tables_first: Option<bool>,
    ) -> Result<()> {
        queue.settle()?;
        let number = self.next;
        self.next += 1;
        self.last_at = Instant::now();
        self.last_taken = self.taken();
        self.open = Some((number, self.last_taken));
        let (watermark, restart, written_to) = at;
        // Closed channels mean that the conversion has failed; the next check says so.
        let _ = feed.send(Feed::Barrier(number));
        let _ = self.notes.send(Note::Barrier(Barrier { number, watermark, restart, written_to, tables_first }));
        queue.token = Epoch::token(number + 1, self.notes.clone());
        self.shared.check()
    }
}

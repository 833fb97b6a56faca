//! The thread that makes checkpoints: waits until everything queued before a barrier is on the target, flushes,
//! and writes the journal's other slot. Workers do not stop for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::codecs::Restart;
use crate::error::Result;
use crate::journal::{Checkpoint, Journal};

use super::Way;
use super::kept::Kept;
use super::shared::{Counters, Shared};
use super::worker::Sinkhole;

/// Room for the disk digest's groups in a journal slot of 384 KiB, beside the identity and a codec's state.
const GROUPS_ROOM: usize = 256 << 10;

/// Where the transfer would go on, as the decoder sees it at a barrier.
pub struct Barrier {
    pub number: u64,
    pub watermark: u64,
    pub restart: Option<Restart>,
    pub written_to: u64,
    /// As the format says it, see `Format::tables_first`.
    pub tables_first: Option<bool>,
}

/// State of the source's digest at `offset`.
pub struct HashState {
    pub number: u64,
    pub offset: u64,
    pub state: Option<Vec<u8>>,
}

pub enum Note {
    Barrier(Barrier),
    Hash(HashState),
    /// Every job of this epoch is done.
    Written(u64),
    Close,
}

#[derive(Default)]
struct Open {
    barrier: Option<Barrier>,
    hash: Option<HashState>,
    written: bool,
}

/// How many barriers are durable, for the decoder to wait on.
#[derive(Default)]
pub struct Durable {
    /// Guards the number of the last durable barrier, plus one.
    count: Mutex<u64>,
    changed: Condvar,
    /// The same, to be read without waiting.
    seen: AtomicU64,
}

impl Durable {
    pub fn count(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    fn set(&self, count: u64) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) = count;
        self.seen.store(count, Ordering::Release);
        self.changed.notify_all();
    }

    pub fn wait_for(&self, count: u64, shared: &Shared) -> Result<()> {
        let mut have = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *have < count {
            shared.check()?;
            have = self.changed.wait_timeout(have, Duration::from_millis(50)).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

pub struct Checkpointer {
    /// Flushed before a checkpoint that relies on it.
    pub kept: Option<Kept>,
    pub notes: Receiver<Note>,
    pub to: Arc<Sinkhole>,
    /// Guards the journal; only this thread writes checkpoints, `finish` takes it at the end.
    pub journal: Arc<Mutex<Option<Journal>>>,
    pub durable: Arc<Durable>,
    /// What every checkpoint of this transfer repeats.
    pub template: Checkpoint,
    pub length: Option<u64>,
}

impl Checkpointer {
    pub fn run(self) -> Result<()> {
        let shared = Arc::clone(&self.to.shared);
        let mut open: BTreeMap<u64, Open> = BTreeMap::new();
        loop {
            let note = match self.notes.recv_timeout(Duration::from_millis(50)) {
                Ok(note) => note,
                Err(RecvTimeoutError::Timeout) => {
                    shared.check()?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            match note {
                Note::Barrier(barrier) => {
                    let number = barrier.number;
                    open.entry(number).or_default().barrier = Some(barrier);
                }
                Note::Hash(hash) => {
                    let number = hash.number;
                    open.entry(number).or_default().hash = Some(hash);
                }
                Note::Written(number) => open.entry(number).or_default().written = true,
                Note::Close => return Ok(()),
            }
            while let Some(entry) = open.first_entry() {
                let number = *entry.key();
                let Open { barrier: Some(_), hash: Some(_), written: true } = entry.get() else { break };
                if let Open { barrier: Some(barrier), hash: Some(hash), .. } = entry.remove() {
                    shared.check()?;
                    self.checkpoint(barrier, hash)?;
                    self.durable.set(number + 1);
                }
            }
        }
    }

    fn checkpoint(&self, barrier: Barrier, hash: HashState) -> Result<()> {
        for gathered in self.to.leaves.drain() {
            self.to.gathered(&gathered, self.length)?;
        }
        // Taken before the flush: every leaf in it was written before, so the flush makes it durable.
        let groups = self.to.digest.complete_groups(GROUPS_ROOM);
        self.to.target.flush()?;
        if let Some(kept) = &self.kept {
            kept.flush()?;
        }
        let counters = &self.to.shared.counters;
        // The way may have turned since the start, and a run that goes on reads again what this one cannot vouch for.
        let way = match barrier.tables_first {
            Some(true) => Way::Seek.name(),
            Some(false) if self.template.way == Way::Seek.name() => Way::Stream.name(),
            _ => &self.template.way,
        };
        let checkpoint = Checkpoint {
            way: way.to_owned(),
            watermark: barrier.watermark,
            restart: barrier.restart,
            written_to: Some(barrier.written_to),
            source_hash: hash.state,
            hash_offset: hash.offset,
            groups,
            written: counters.written.load(Ordering::Relaxed),
            zeroed: counters.zeroed.load(Ordering::Relaxed),
            skipped: counters.skipped.load(Ordering::Relaxed),
            ..self.template.clone()
        };
        if let Some(journal) = &mut *self.journal.lock().unwrap_or_else(PoisonError::into_inner) {
            journal.checkpoint(&checkpoint)?;
        }
        counters.watermark.store(barrier.watermark, Ordering::Relaxed);
        Counters::add(&counters.checkpoints, 1);
        Ok(())
    }
}

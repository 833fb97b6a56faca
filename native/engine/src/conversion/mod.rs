//! The way of the bytes below JavaScript. Threads and what flows between them:
//!
//! ```text
//! push() ─► Input ─► decoder ─► Jobs ─► workers ─► target
//!                      │  └────► hasher (digest of the source)
//!                      └───────► checkpointer (journal), which waits for workers and hasher
//! ```

mod barriers;
pub(crate) mod checkpoint;
mod decoder;
mod ends;
mod epoch;
mod finish;
pub(crate) mod hasher;
pub(crate) mod input;
mod intake;
mod jobs;
mod kept;
mod leaves;
pub mod patch;
mod queue;
mod requests;
mod seal;
pub(crate) mod shared;
mod start;
mod worker;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::sniff::Sniffed;
use crate::targets::Target;

pub use hasher::SourceDigest;
pub use input::Pushed;
pub use intake::Intake;
pub use requests::{Next, Request};
pub use start::journal_store;

/// How the source is read. See the design's table of ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Stream,
    Seek,
    Spill,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::Stream => "stream",
            Way::Seek => "seek",
            Way::Spill => "spill",
        }
    }

    pub fn from_name(name: &str) -> Option<Way> {
        [Way::Stream, Way::Seek, Way::Spill].into_iter().find(|way| way.name() == name)
    }
}

/// Where what must be remembered of a source is kept.
#[derive(Clone, Debug)]
pub struct Keeping {
    pub path: std::path::PathBuf,
    /// The head of the source.
    pub head: Vec<u8>,
}

#[derive(Clone)]
pub struct Options {
    pub sniffed: Sniffed,
    /// Authenticates the journal.
    pub key: [u8; 32],
    /// JSON of the caller that identifies source and options.
    pub identity: String,
    /// Path of a file that is to be marked as finished.
    pub marked: Option<std::path::PathBuf>,
    pub way: Way,
    pub source_length: Option<u64>,
    /// The source honours ranges. A qcow2 of unknown `source_length` is read in order even so.
    pub seekable: bool,
    /// Where a raw source can have data, ascending and disjoint, the rest of it being zeros: in the way `seek` only this
    /// is read, unless `whole_source`.
    pub extents: Option<Vec<std::ops::Range<u64>>>,
    /// The target holds an earlier state of the disk, of which `extents` are what has changed since: all else stays.
    pub onto: bool,
    /// The whole source is to be read, so that its digest is known.
    pub whole_source: bool,
    /// A file for what must be remembered of a source that cannot be read again, so that the rest of it is enough to go on:
    /// see [`kept`].
    pub kept: Option<Keeping>,
    /// Go on from what the journal holds.
    pub resume: bool,
    /// Exact length of the disk.
    pub size: Option<u64>,
    pub preallocate: bool,
    pub digest: Option<SourceDigest>,
    pub disk_digest: Option<[u8; 32]>,
    pub spill: Option<std::path::PathBuf>,
    pub limits: Limits,
    /// A named step of finishing at which the process kills itself, for tests of recovery.
    pub failpoint: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub virtual_size: u64,
    pub source_bytes: u64,
    pub written: u64,
    pub zeroed: u64,
    pub skipped: u64,
    pub source_digest: Option<SourceDigest>,
    pub disk_digest: [u8; 32],
    pub reread: u64,
    pub resumes: u32,
    pub checkpoints: u64,
}

/// Bytes and nanoseconds since the start.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub source_bytes: u64,
    pub written: u64,
    pub zeroed: u64,
    pub skipped: u64,
    pub watermark: u64,
    pub decode_starved: u64,
    pub decode_blocked: u64,
    pub decode_busy: u64,
    pub work_busy: u64,
    pub write_busy: u64,
    pub work_idle: u64,
    pub workers: usize,
    /// Source bytes that had been dealt with before this run.
    pub resumed_at: u64,
}

/// One transfer under way. Dropping it aborts.
pub struct Conversion {
    intake: Intake,
    workers: usize,
    resumed_at: u64,
    /// Guards what `finish` and `abort` consume.
    rest: Mutex<Option<finish::Rest>>,
}

impl Conversion {
    /// Prepares the target (only now is it touched), opens or begins the journal, starts the threads.
    pub fn start(target: Arc<dyn Target>, options: Options) -> Result<Self> {
        start::start(target, options)
    }

    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    pub fn progress(&self) -> Progress {
        let c = &self.intake.shared.counters;
        let get = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        let (starved, blocked) = (get(&c.decode_starved_ns), get(&c.decode_blocked_ns));
        let elapsed = u64::try_from(self.intake.shared.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Progress {
            source_bytes: get(&c.source),
            written: get(&c.written),
            zeroed: get(&c.zeroed),
            skipped: get(&c.skipped),
            watermark: get(&c.watermark),
            decode_starved: starved,
            decode_blocked: blocked,
            decode_busy: elapsed.saturating_sub(starved).saturating_sub(blocked),
            work_busy: get(&c.work_busy_ns),
            write_busy: get(&c.write_busy_ns),
            work_idle: get(&c.work_idle_ns),
            workers: self.workers,
            resumed_at: self.resumed_at,
        }
    }

    /// Drains, verifies, flushes, writes the held ends. Blocks; to be called once, after `next` answered Finished.
    pub fn finish(&self) -> Result<Report> {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner).take();
        let report = rest.ok_or_else(Error::aborted)?.finish();
        // JavaScript may not collect the object that holds this for as long as its process lives.
        self.intake.input.close();
        report
    }

    /// Stops the threads and leaves the journal. May be called any number of times.
    pub fn abort(&self) {
        self.intake.shared.fail(Error::aborted());
        if let Some(rest) = self.rest.lock().unwrap_or_else(PoisonError::into_inner).take() {
            rest.join();
            self.intake.input.close();
        }
    }
}

impl Drop for Conversion {
    fn drop(&mut self) {
        self.abort();
    }
}

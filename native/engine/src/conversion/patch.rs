//! Random access to a disk that somebody puts together in any order, by any number of hands: the ends are held back as in
//! a conversion, and the disk is one only when it is finished.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::bytes::{ALIGN, Aligned};
use crate::digest::DiskDigest;
use crate::error::{Code, Error, Result, Stage};
use crate::journal::{self, Finishing, Journal, Key};
use crate::mark;
use crate::targets::{Kind, Target};

use super::ends::Ends;
use super::seal::{Held, Sealing, clear_beyond, complete_digest};
use super::start::{expect_room, journal_store, prepare};

/// Groups of the disk digest that are open at once.
const OPEN_GROUPS: usize = 256;
/// Longest piece that is written at once.
pub const LONGEST: usize = 8 << 20;
/// Zeros for the held ends, a piece at a time.
const ZEROS: usize = 1 << 16;

#[derive(Clone, Debug)]
pub struct Options {
    /// Authenticates the journal.
    pub key: [u8; 32],
    /// JSON of the caller.
    pub identity: String,
    /// Path of a file that is to be marked as finished.
    pub marked: Option<PathBuf>,
    /// Exact length of the disk.
    pub size: u64,
    pub preallocate: bool,
}

/// A disk being put together. No two calls at a time may touch the same byte of it.
pub struct Patch {
    target: Arc<dyn Target>,
    ends: Ends,
    options: Options,
    /// Guards the journal, which `finish` consumes.
    journal: Mutex<Option<Journal>>,
    /// Guards the first failure: after it the disk cannot be finished.
    failure: Mutex<Option<Error>>,
}

impl Patch {
    /// Prepares the target (only now is it touched): a disk of zeros. Fails with TOO_LARGE, NO_SPACE, BAD_SPEC.
    pub fn begin(target: Arc<dyn Target>, options: Options) -> Result<Self> {
        let facts = target.facts().clone();
        if !facts.kind.keeps_journal() {
            return Err(Error::new(Code::BadSpec, Stage::Target, "a disk in pieces needs a file or a block device"));
        }
        expect_room(Some(options.size), options.preallocate, &*target)?;
        if let Some(path) = &options.marked {
            mark::clear(path);
        }
        prepare(&*target, Some(options.size), options.preallocate, false)?;
        let length = if facts.kind == Kind::File { i64::MAX as u64 } else { facts.length };
        let journal = Journal::begin(journal_store(&target, length), &Key::new(options.key), &options.identity)?;
        let patch = Self {
            target,
            ends: Ends::new(Some(options.size)),
            journal: Mutex::new(Some(journal)),
            failure: Mutex::new(None),
            options,
        };
        if facts.kind == Kind::Block {
            // What an earlier tenant left reads as zeros: only what is written will be told.
            patch.zero(0, patch.options.size)?;
        }
        Ok(patch)
    }

    fn within(&self, at: u64, len: u64) -> Result<()> {
        let size = self.options.size;
        if at.checked_add(len).is_some_and(|end| end <= size) {
            return Ok(());
        }
        let what = format!("bytes {at} to {} are not of a disk of {size}", at.saturating_add(len));
        Err(Error::new(Code::BadSpec, Stage::Target, what))
    }

    fn check(&self) -> Result<()> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }

    /// What failed once stays so: the target may not hold what was said to be there.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
        }
        result
    }

    /// Writes all of `bytes`, at most [`LONGEST`]. Fails with BAD_SPEC beyond the disk's end, NO_SPACE, IO.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.within(at, bytes.len() as u64)?;
        self.check()?;
        let (at, rest) = self.ends.capture(at, bytes);
        if rest.is_empty() {
            return Ok(());
        }
        // At the same place within a page as on the disk: then it goes past the page cache.
        let lead = (at % ALIGN as u64) as usize;
        let mut aligned = Aligned::zeroed(lead + rest.len());
        aligned[lead..].copy_from_slice(rest);
        self.noted(self.target.write(at, &aligned[lead..]))
    }

    /// The range reads as zeros afterwards. Fails as `write` does.
    pub fn zero(&self, at: u64, len: u64) -> Result<()> {
        self.within(at, len)?;
        self.check()?;
        let zeros = [0; ZEROS];
        for held in self.ends.ranges() {
            let (mut from, to) = (held.start.max(at), held.end.min(at + len));
            while from < to {
                let n = (to - from).min(ZEROS as u64);
                self.ends.capture(from, &zeros[..n as usize]);
                from += n;
            }
        }
        let mut rest = self.ends.between(at, len);
        while rest.start < rest.end {
            let n = (rest.end - rest.start).min(1 << 30);
            self.noted(self.target.zero(rest.start, n))?;
            rest.start += n;
        }
        Ok(())
    }

    /// What was written before is durable, but for the held ends, which are in memory until the disk is finished.
    pub fn flush(&self) -> Result<()> {
        self.check()?;
        self.noted(self.target.flush())
    }

    /// Where there may be data, ascending; all else is zeros.
    pub fn extents(&self) -> Result<Vec<Range<u64>>> {
        let mut all = self.target.data_ranges(0, self.options.size)?;
        all.extend(self.ends.ranges());
        all.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(all.len());
        for range in all {
            match merged.last_mut().filter(|last| range.start <= last.end) {
                Some(last) => last.end = last.end.max(range.end),
                None => merged.push(range),
            }
        }
        Ok(merged)
    }

    /// Reads the disk once for its digest, and makes it one; its digest. To be called once, when nobody writes any more.
    pub fn finish(&self) -> Result<[u8; 32]> {
        self.check()?;
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(Error::aborted)?;
        let size = self.options.size;
        if self.target.facts().kind == Kind::Block {
            clear_beyond(&*self.target, size, &|| self.check())?;
        }
        let (head, tail_at, tail) = self.ends.take();
        let held = Held { head, tail_at, tail };
        self.target.flush()?;
        let digest = DiskDigest::new(Some(size), OPEN_GROUPS);
        complete_digest(&digest, &self.target, size, &held, &|| self.check())?;
        let disk_digest = digest.finish(size)?;
        let finishing = Finishing {
            identity_hash: journal::hash(self.options.identity.as_bytes()),
            virtual_size: size,
            disk_digest,
            source_digest: None,
            head_hash: journal::hash(&held.head),
            written: 0,
            zeroed: 0,
            skipped: 0,
            resumes: 0,
        };
        let sealing = Sealing {
            target: &*self.target,
            length: size,
            disk_digest,
            identity: &self.options.identity,
            marked: self.options.marked.as_deref(),
            preallocate: self.options.preallocate,
            failpoint: None,
        };
        sealing.seal(Some(journal), finishing, &held)?;
        Ok(disk_digest)
    }

    /// Nothing more is taken; the journal stays, and no disk.
    pub fn abort(&self) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Error::aborted);
    }
}

//! The last steps of a disk: all of it is on the target but its ends.

use std::path::Path;
use std::sync::Arc;

use crate::bytes::{Aligned, SLAB};
use crate::digest::{DiskDigest, LEAF, leaf_hash};
use crate::error::Result;
use crate::journal::{Finishing, Journal};
use crate::mark;
use crate::targets::{Kind, Target};
use crate::zeros::{GRAIN, data_runs};

use super::ends::{HELD, tail_start};

/// The held ends of a disk: the head, where the tail begins, and the tail.
pub struct Held {
    pub head: Vec<u8>,
    pub tail_at: u64,
    pub tail: Vec<u8>,
}

impl Held {
    fn parts(&self) -> [(u64, &[u8]); 2] {
        [(0, &self.head), (self.tail_at, &self.tail)]
    }
}

/// Hashes of leaves that no worker kept: the held ends from memory, the rest from the target, whose holes are zeros.
/// Answers how many bytes were read.
pub fn complete_digest(
    digest: &DiskDigest,
    target: &Arc<dyn Target>,
    length: u64,
    held: &Held,
    check: &dyn Fn() -> Result<()>,
) -> Result<u64> {
    for (at, bytes) in held.parts() {
        let hashes: Vec<_> = bytes.chunks(LEAF as usize).map(leaf_hash).collect();
        digest.set(at / LEAF, &hashes);
    }
    let mut reread = 0;
    let mut buffer = Aligned::zeroed(SLAB);
    for range in digest.missing(length) {
        let (mut at, end) = (range.start * LEAF, (range.end * LEAF).min(length));
        for data in target.data_ranges(at, end)? {
            let begin = at.max(data.start / LEAF * LEAF);
            digest.set_zero(at / LEAF, (begin - at) / LEAF);
            at = begin;
            let until = data.end.next_multiple_of(LEAF).min(end);
            while at < until {
                check()?;
                let n = (until - at).min(buffer.len() as u64);
                let piece = &mut buffer[..n as usize];
                target.read(at, piece)?;
                let hashes: Vec<_> = piece.chunks(LEAF as usize).map(leaf_hash).collect();
                digest.set(at / LEAF, &hashes);
                reread += n;
                at += n;
            }
        }
        digest.set_zero(at / LEAF, (end.max(at) - at).div_ceil(LEAF));
    }
    Ok(reread)
}

/// What the last steps are told.
pub struct Sealing<'a> {
    pub target: &'a dyn Target,
    /// Of the disk, in bytes.
    pub length: u64,
    pub disk_digest: [u8; 32],
    /// As in [`super::Options`].
    pub identity: &'a str,
    pub marked: Option<&'a Path>,
    pub preallocate: bool,
    pub failpoint: Option<&'a str>,
}

impl Sealing<'_> {
    /// Writes the held ends, and what commits the disk last; without a journal they are there.
    pub fn seal(&self, journal: Option<Journal>, finishing: Finishing, held: &Held) -> Result<()> {
        if let Some(journal) = journal {
            let cut = || self.last_but_one();
            let step = |name: &'static str| fail(self.failpoint, name);
            let sector = self.target.facts().logical_block as usize;
            step("finish-data");
            if tail_start(self.length) <= HELD {
                let disk = [&held.head[..], &held.tail[..]].concat();
                journal.finish_small(&disk, sector, &cut, &step)?;
            } else {
                journal.finish(finishing, &held.head, held.tail_at, &held.tail, sector, &cut, &step)?;
            }
        }
        if self.target.facts().kind == Kind::File && !self.preallocate {
            held.parts().into_iter().try_for_each(|(at, bytes)| give_back(self.target, at, bytes))?;
        }
        self.mark();
        Ok(())
    }

    /// Goes on with the last steps where an earlier run was cut in them.
    pub fn seal_again(&self, journal: Journal, head: &[u8]) -> Result<()> {
        let sector = self.target.facts().logical_block as usize;
        journal.finish_again(head, sector, &|| self.last_but_one(), &|step| fail(self.failpoint, step))?;
        self.mark();
        Ok(())
    }

    /// Everything is in place but what commits the disk: a file gets its length and the announcement of its mark.
    fn last_but_one(&self) -> Result<()> {
        if self.target.facts().kind == Kind::File {
            self.target.set_length(self.length)?;
        }
        if let Some(path) = self.marked {
            // A file system without extended attributes keeps no mark; the disk is whole all the same.
            let _ = mark::announce(path, self.identity, self.disk_digest, self.length);
        }
        Ok(())
    }

    fn mark(&self) {
        if let Some(path) = self.marked {
            // As above.
            let _ = mark::write(path, self.identity, self.disk_digest, self.length);
        }
    }
}

/// The room of the journal and of the held ends becomes a hole again where the disk is zeros.
fn give_back(target: &dyn Target, at: u64, bytes: &[u8]) -> Result<()> {
    let mut from = 0;
    for run in data_runs(bytes, GRAIN).chain(std::iter::once(bytes.len()..bytes.len())) {
        if run.start > from {
            target.zero(at + from as u64, (run.start - from) as u64)?;
        }
        from = run.end;
    }
    Ok(())
}

/// Kills the process at a step that a test names.
fn fail(wanted: Option<&str>, step: &str) {
    if wanted == Some(step) {
        let me = rustix::process::getpid();
        let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
    }
}

/// What lies beyond the disk may be an earlier tenant's: zeros, and the last partial sector filled up.
pub fn clear_beyond(target: &dyn Target, length: u64, check: &dyn Fn() -> Result<()>) -> Result<()> {
    let end = target.facts().length;
    let mut at = length;
    while at < end {
        check()?;
        let n = (end - at).min(1 << 30);
        target.zero(at, n)?;
        at += n;
    }
    Ok(())
}

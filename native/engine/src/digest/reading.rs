//! Computes leaves from what is on a target: for `verify`, and for what a checkpoint does not remember.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{DiskDigest, GROUP_LEAVES, Hash, LEAF, leaf_hash};
use crate::bytes::Aligned;
use crate::error::{Code, Error, Result, Stage};
use crate::sandbox;
use crate::targets::Target;

/// Leaves of one read: 1 MiB, from which on larger reads gain nothing.
const PIECE: u64 = 16;
/// Leaves of which the holes are asked for at once (1 GiB), which bounds the answer.
const WINDOW: u64 = 16384;
/// One thread reads while the other hashes; more only help where the device is faster than two cores.
const THREADS: usize = 2;

/// Which leaves are to be read next.
struct Plan<'a> {
    target: &'a dyn Target,
    digest: &'a DiskDigest,
    length: u64,
    /// Leaves that were not looked at yet, ascending.
    ahead: VecDeque<Range<u64>>,
    /// Leaves with data in the current window, ascending.
    data: VecDeque<Range<u64>>,
    /// Bytes of holes passed since the last piece.
    skipped: u64,
}

impl Plan<'_> {
    fn next(&mut self) -> Result<Option<Range<u64>>> {
        while self.data.is_empty() {
            let Some(range) = self.ahead.front_mut() else { return Ok(None) };
            let window = range.start..range.end.min(range.start + WINDOW);
            range.start = window.end;
            if range.is_empty() {
                self.ahead.pop_front();
            }
            self.look(window)?;
        }
        let Some(range) = self.data.front_mut() else { return Ok(None) };
        let piece = range.start..range.end.min(range.start + PIECE);
        range.start = piece.end;
        if range.is_empty() {
            self.data.pop_front();
        }
        Ok(Some(piece))
    }

    fn look(&mut self, window: Range<u64>) -> Result<()> {
        let bytes = window.start * LEAF..(window.end * LEAF).min(self.length);
        let mut reached = window.start;
        for range in self.target.data_ranges(bytes.start, bytes.end)? {
            // Leaves that hold any data; two ranges may meet in one leaf.
            let leaves = (range.start / LEAF).max(reached)..range.end.div_ceil(LEAF).min(window.end);
            if leaves.is_empty() {
                continue;
            }
            self.hole(reached..leaves.start);
            reached = leaves.end;
            self.data.push_back(leaves);
        }
        self.hole(reached..window.end);
        Ok(())
    }

    fn hole(&mut self, leaves: Range<u64>) {
        self.digest.set_zero(leaves.start, leaves.end - leaves.start);
        self.skipped += (leaves.end * LEAF).min(self.length) - (leaves.start * LEAF).min(self.length);
    }
}

/// Reads the leaves of a disk of `length` bytes that `digest` does not know and sets them there.
/// `on` is told the bytes that were read or found to be a hole since it was last called; both calls come on the
/// calling thread. ABORTED when `stop` says true (asked ten times a second), TRUNCATED when the target is
/// shorter than `length`.
pub fn recompute(
    digest: &DiskDigest,
    target: &dyn Target,
    length: u64,
    stop: &dyn Fn() -> bool,
    on: &mut dyn FnMut(u64),
) -> Result<()> {
    let ranges = digest.missing(length);
    if length > 0 {
        // A file that ends early must not pass for one with a hole at its end.
        target.read(length - 1, &mut [0])?;
    }
    let plan = Plan { target, digest, length, ahead: ranges.into(), data: VecDeque::new(), skipped: 0 };
    // Guards the plan; held to take the next piece, and to ask for the holes of a window.
    let plan = Mutex::new(plan);
    let stopped = AtomicBool::new(false);
    let (told, news) = mpsc::channel();
    std::thread::scope(|scope| {
        let work = |told: Sender<u64>| {
            sandbox::enter(None)?;
            read_pieces(&plan, &stopped, &told)
        };
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let told = told.clone();
                scope.spawn(move || work(told))
            })
            .collect();
        drop(told);
        loop {
            match news.recv_timeout(Duration::from_millis(100)) {
                Ok(bytes) => on(bytes),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if stop() {
                stopped.store(true, Ordering::Relaxed);
            }
        }
        let results = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(payload) => Err(Error::panicked(Stage::Verify, &*payload)),
        });
        // Every thread is joined before the first error is chosen; the other one then only says ABORTED.
        let results: Vec<_> = results.collect();
        let failed = results.into_iter().filter_map(std::result::Result::err);
        failed.min_by_key(|error| error.code == Code::Aborted).map_or(Ok(()), Err)
    })
}

fn read_pieces(plan: &Mutex<Plan<'_>>, stopped: &AtomicBool, told: &Sender<u64>) -> Result<()> {
    let mut buffer = Aligned::zeroed((PIECE * LEAF) as usize);
    let result = loop {
        if stopped.load(Ordering::Relaxed) {
            break Err(Error::aborted());
        }
        let (piece, skipped, target, digest, length) = {
            let mut plan = plan.lock().unwrap_or_else(PoisonError::into_inner);
            let piece = plan.next();
            (piece, std::mem::take(&mut plan.skipped), plan.target, plan.digest, plan.length)
        };
        let piece = match piece {
            Ok(Some(piece)) => piece,
            Ok(None) => {
                let _ = told.send(skipped);
                break Ok(());
            }
            Err(error) => break Err(error),
        };
        let at = piece.start * LEAF;
        let bytes = &mut buffer[..((piece.end * LEAF).min(length) - at) as usize];
        if let Err(error) = target.read(at, bytes) {
            break Err(error);
        }
        target.drop_cache(at, bytes.len() as u64);
        let hashes: Vec<Hash> = bytes.chunks(LEAF as usize).map(leaf_hash).collect();
        digest.set(piece.start, &hashes);
        // Nobody listens only when the scope is unwinding.
        let _ = told.send(skipped + bytes.len() as u64);
    };
    if result.is_err() {
        stopped.store(true, Ordering::Relaxed);
    }
    result
}

/// The digest of what is on `target`, by reading its first `length` bytes where they are not holes. Errors and
/// callbacks as in [`recompute`].
pub fn of_target(target: &dyn Target, length: u64, stop: &dyn Fn() -> bool, on: &mut dyn FnMut(u64)) -> Result<Hash> {
    // The holes of a whole window are set at once, so all its groups may be open together.
    let digest = DiskDigest::new(Some(length), (WINDOW as usize).div_ceil(GROUP_LEAVES) + THREADS + 1);
    recompute(&digest, target, length, stop, on)?;
    digest.finish(length)
}

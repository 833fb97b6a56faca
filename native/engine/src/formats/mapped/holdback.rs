//! Bytes of the image that have no place yet: in memory up to a bound, then in a spill file up to another.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bytes are kept in chunks of this size, aligned to it in the image file.
const CHUNK: u64 = 64 << 10;

enum Store {
    Memory(Box<[u8]>),
    /// Slot number in the spill file.
    Spilled(u64),
}

struct Spill {
    directory: PathBuf,
    /// Opened at once: the thread that decodes may open nothing.
    file: File,
    free: Vec<u64>,
    slots: u64,
    bound: u64,
}

impl Spill {
    /// A file in `directory` of at most `bound` bytes.
    fn new(directory: PathBuf, bound: u64) -> Result<Self> {
        let file = unlinked(&directory)?;
        Ok(Self { directory, file, free: Vec::new(), slots: 0, bound: bound / CHUNK })
    }

    fn failed(&self, cause: &std::io::Error) -> Error {
        Error::target(format!("the spill file in {} failed", self.directory.display()), cause)
    }
}

/// A new file without a name, so that nothing is left behind however the process ends.
fn unlinked(directory: &Path) -> Result<File> {
    let mut last = None;
    for attempt in 0..16 {
        let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let path = directory.join(format!(".diskferry-spill-{}-{stamp}-{attempt}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path).map_err(|e| Error::target("cannot unlink the spill file", &e))?;
                return Ok(file);
            }
            Err(cause) => last = Some(cause),
        }
    }
    let cause = last.unwrap_or_else(|| std::io::Error::other("no free name"));
    Err(Error::target(format!("cannot create a spill file in {}", directory.display()), &cause))
}

/// A sparse set of bytes of the image file.
pub struct HoldBack {
    /// Start to end of what is held; disjoint, and never touching.
    ranges: BTreeMap<u64, u64>,
    chunks: BTreeMap<u64, Store>,
    /// Chunks in memory, oldest first; may name chunks that are gone.
    order: VecDeque<u64>,
    in_memory: u64,
    /// Bytes of chunks that may be in memory.
    bound: u64,
    spill: Option<Spill>,
}

impl HoldBack {
    /// At most `bound` bytes in memory and `spill_bound` more in an unlinked file in the directory `spill`.
    /// Fails with the system's error when no file can be made there.
    pub fn new(bound: u64, spill: Option<PathBuf>, spill_bound: u64) -> Result<Self> {
        Ok(Self {
            ranges: BTreeMap::new(),
            chunks: BTreeMap::new(),
            order: VecDeque::new(),
            in_memory: 0,
            // One chunk is being filled while another may be read.
            bound: bound.max(2 * CHUNK),
            spill: spill.map(|directory| Spill::new(directory, spill_bound)).transpose()?,
        })
    }

    /// Keeps bytes; false when there is no room, and then only a part of them was kept.
    pub fn add(&mut self, mut at: u64, mut bytes: &[u8]) -> Result<bool> {
        while !bytes.is_empty() {
            let index = at / CHUNK;
            let inside = (at % CHUNK) as usize;
            let n = bytes.len().min(CHUNK as usize - inside);
            if !self.chunks.contains_key(&index) {
                if self.in_memory + CHUNK > self.bound && !self.evict()? {
                    return Ok(false);
                }
                self.in_memory += CHUNK;
                self.order.push_back(index);
                self.chunks.insert(index, Store::Memory(vec![0; CHUNK as usize].into_boxed_slice()));
            }
            match self.chunks.get_mut(&index) {
                Some(Store::Memory(data)) => data[inside..inside + n].copy_from_slice(&bytes[..n]),
                Some(Store::Spilled(slot)) => {
                    let place = *slot * CHUNK + inside as u64;
                    let spill = self.spill.as_mut().expect("spilled chunks have a spill");
                    let done = spill.file.write_all_at(&bytes[..n], place);
                    done.map_err(|e| spill.failed(&e))?;
                }
                None => {}
            }
            self.note(at, at + n as u64);
            at += n as u64;
            bytes = &bytes[n..];
        }
        Ok(true)
    }

    /// Moves the oldest chunk to the spill file; false when there is none or it is full.
    fn evict(&mut self) -> Result<bool> {
        let Some(spill) = self.spill.as_mut() else { return Ok(false) };
        while let Some(index) = self.order.pop_front() {
            let Some(Store::Memory(data)) = self.chunks.get(&index) else { continue };
            let slot = match spill.free.pop() {
                Some(slot) => slot,
                None if spill.slots < spill.bound => {
                    spill.slots += 1;
                    spill.slots - 1
                }
                None => {
                    self.order.push_front(index);
                    return Ok(false);
                }
            };
            let done = spill.file.write_all_at(data, slot * CHUNK);
            done.map_err(|e| spill.failed(&e))?;
            self.chunks.insert(index, Store::Spilled(slot));
            self.in_memory -= CHUNK;
            return Ok(true);
        }
        Ok(false)
    }

    fn note(&mut self, mut from: u64, mut to: u64) {
        if let Some((&start, &end)) = self.ranges.range(..=from).next_back()
            && end >= from
        {
            from = start;
            to = to.max(end);
        }
        while let Some((&start, &end)) = self.ranges.range(from..=to).next() {
            self.ranges.remove(&start);
            to = to.max(end);
        }
        self.ranges.insert(from, to);
    }

    /// End of the unbroken run of held bytes that contains `at`.
    pub fn run_end(&self, at: u64) -> Option<u64> {
        self.ranges.range(..=at).next_back().map(|(_, &end)| end).filter(|&end| end > at)
    }

    /// Reads held bytes; all of `out` must be held.
    pub fn read(&self, mut at: u64, mut out: &mut [u8]) -> Result<()> {
        while !out.is_empty() {
            let inside = (at % CHUNK) as usize;
            let n = out.len().min(CHUNK as usize - inside);
            let (now, rest) = out.split_at_mut(n);
            match self.chunks.get(&(at / CHUNK)) {
                Some(Store::Memory(data)) => now.copy_from_slice(&data[inside..inside + n]),
                Some(Store::Spilled(slot)) => {
                    let spill = self.spill.as_ref().expect("spilled chunks have a spill");
                    spill.file.read_exact_at(now, slot * CHUNK + inside as u64).map_err(|e| spill.failed(&e))?;
                }
                None => now.fill(0),
            }
            at += n as u64;
            out = rest;
        }
        Ok(())
    }

    pub fn remove(&mut self, range: Range<u64>) {
        let (from, to) = (range.start, range.end);
        if from >= to {
            return;
        }
        if let Some((&start, &end)) = self.ranges.range(..from).next_back()
            && end > from
        {
            self.ranges.insert(start, from);
            if end > to {
                self.ranges.insert(to, end);
                return;
            }
            self.release(start.max(from - 1), end);
        }
        while let Some((&start, &end)) = self.ranges.range(from..to).next() {
            self.ranges.remove(&start);
            if end > to {
                self.ranges.insert(to, end);
            }
            self.release(start, end.min(to));
        }
    }

    /// Frees the chunks that overlap `[from, to)` and hold nothing any more.
    fn release(&mut self, from: u64, to: u64) {
        for index in from / CHUNK..=(to - 1) / CHUNK {
            let (start, end) = (index * CHUNK, (index + 1) * CHUNK);
            if self.run_end(start).is_some() || self.ranges.range(start..end).next().is_some() {
                continue;
            }
            match self.chunks.remove(&index) {
                Some(Store::Memory(_)) => self.in_memory -= CHUNK,
                Some(Store::Spilled(slot)) => {
                    self.spill.as_mut().expect("spilled chunks have a spill").free.push(slot);
                }
                None => {}
            }
        }
        // Names of chunks that are gone are dropped before they outnumber the others.
        if self.order.len() > 2 * self.chunks.len() + 16 {
            let chunks = &self.chunks;
            let mut seen = std::collections::HashSet::new();
            self.order.retain(|i| matches!(chunks.get(i), Some(Store::Memory(_))) && seen.insert(*i));
        }
    }

    pub fn clear(&mut self) {
        if !self.ranges.is_empty() {
            self.remove(0..u64::MAX);
        }
    }

    /// Lowest offset that is held.
    pub fn first(&self) -> Option<u64> {
        self.ranges.first_key_value().map(|(&start, _)| start)
    }

    /// Bytes that may be held in all.
    pub fn room(&self) -> u64 {
        self.bound + self.spill.as_ref().map_or(0, |s| s.bound * CHUNK)
    }
}

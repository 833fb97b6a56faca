//! Workers: inflate, find zeros, hash leaves, write. They know the target and the digest, not the image format.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::bytes::{ALIGN, Aligned};
use crate::digest::{DiskDigest, LEAF, leaf_hash};
use crate::error::{Code, Error, Result, Stage};
use crate::formats::Packing;
use crate::targets::Target;
use crate::zeros::{data_runs, is_zero};

use super::ends::Ends;
use super::jobs::{Job, Jobs, Packed, Work};
use super::leaves::{Gathered, Leaves};
use super::shared::{Counters, Shared};

/// The largest cluster (qcow2: cluster_bits <= 21) and so the largest packed job.
pub const MOST_UNPACKED: usize = 2 << 20;

/// How bytes reach the target.
#[derive(Clone, Copy)]
enum Writing {
    /// Past the page cache, from a slab that nobody else is waiting for: no copy is made.
    Direct,
    /// Copied, from a buffer that is needed again at once: the thread need not wait for the device.
    Behind,
}

/// Where decoded bytes go; shared by workers, decoder and checkpointer.
pub struct Sinkhole {
    pub target: Arc<dyn Target>,
    pub digest: DiskDigest,
    pub ends: Ends,
    pub leaves: Leaves,
    /// What is not written reads as zeros: a new file.
    pub zeroed: bool,
    pub shared: Arc<Shared>,
}

impl Sinkhole {
    /// Length of the leaf that begins at `at`, given the disk's length if it is known.
    fn leaf_len(length: Option<u64>, at: u64) -> u64 {
        length.map_or(LEAF, |length| LEAF.min(length - at))
    }

    /// Writes a region of the disk outside the held ends.
    fn region(&self, at: u64, bytes: &[u8], how: Writing, length: Option<u64>) -> Result<()> {
        let (mut at, mut bytes) = (at, bytes);
        let lead = (at.next_multiple_of(LEAF) - at).min(bytes.len() as u64) as usize;
        if lead > 0 {
            self.part(at, &bytes[..lead], length)?;
            at += lead as u64;
            bytes = &bytes[lead..];
        }
        let end = at + bytes.len() as u64;
        let whole_end = if length == Some(end) { end } else { end / LEAF * LEAF };
        let whole = (whole_end.max(at) - at) as usize;
        if whole > 0 {
            self.whole_leaves(at, &bytes[..whole], how)?;
        }
        if whole < bytes.len() {
            self.part(at + whole as u64, &bytes[whole..], length)?;
        }
        Ok(())
    }

    fn part(&self, at: u64, bytes: &[u8], length: Option<u64>) -> Result<()> {
        let (leaf, from) = (at / LEAF, at % LEAF);
        let _leaving = self.leaves.leaving();
        let data = if is_zero(bytes) { None } else { Some(bytes) };
        match self.leaves.add(leaf, Self::leaf_len(length, leaf * LEAF), from, bytes.len() as u64, data) {
            Some(gathered) => self.gathered(&gathered, length),
            None => Ok(()),
        }
    }

    /// Writes a leaf that was gathered, or what there is of it.
    pub fn gathered(&self, g: &Gathered, length: Option<u64>) -> Result<()> {
        let at = g.leaf * LEAF;
        let len = Self::leaf_len(length, at) as usize;
        if g.whole {
            return match &g.buffer {
                Some(buffer) => self.whole_leaves(at, &buffer[..len], Writing::Behind),
                None => self.zeros(at, len as u64).map(|()| self.digest.set_zero(g.leaf, 1)),
            };
        }
        // Not all of it is known yet: write the parts; the leaf's hash is taken from the target at the end.
        self.digest.forget(g.leaf);
        for run in runs(g.data) {
            let end = run.end.min(len);
            if let Some(buffer) = &g.buffer {
                self.write(at + run.start as u64, &buffer[run.start..end], Writing::Behind)?;
            }
        }
        for run in runs(g.zero) {
            self.zeros(at + run.start as u64, (run.end.min(len) - run.start) as u64)?;
        }
        Ok(())
    }

    fn whole_leaves(&self, at: u64, bytes: &[u8], how: Writing) -> Result<()> {
        let began = Instant::now();
        let hashes: Vec<[u8; 32]> = bytes.chunks(LEAF as usize).map(leaf_hash).collect();
        Counters::since(&self.shared.counters.work_busy_ns, began);
        if self.zeroed {
            let mut written = 0;
            for run in data_runs(bytes, self.target.grain()) {
                written += run.len() as u64;
                self.write(at + run.start as u64, &bytes[run], how)?;
            }
            Counters::add(&self.shared.counters.skipped, bytes.len() as u64 - written);
        } else {
            // Leaves that are all zero are zeroed by the cheapest call; shorter runs are written as they are.
            for run in data_runs(bytes, LEAF as usize) {
                self.write(at + run.start as u64, &bytes[run], how)?;
            }
            let mut zero_from = 0;
            for run in data_runs(bytes, LEAF as usize).chain(std::iter::once(bytes.len()..bytes.len())) {
                self.zeros(at + zero_from as u64, (run.start - zero_from) as u64)?;
                zero_from = run.end;
            }
        }
        self.digest.set(at / LEAF, &hashes);
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8], how: Writing) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        match how {
            Writing::Direct => self.target.write(at, bytes)?,
            Writing::Behind => self.target.write_behind(at, bytes)?,
        }
        Counters::since(&self.shared.counters.write_busy_ns, began);
        Counters::add(&self.shared.counters.written, bytes.len() as u64);
        Ok(())
    }

    /// Makes `[at, at + len)` read as zeros.
    fn zeros(&self, at: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        if self.zeroed {
            Counters::add(&self.shared.counters.skipped, len);
            return Ok(());
        }
        let began = Instant::now();
        self.target.zero(at, len)?;
        Counters::since(&self.shared.counters.write_busy_ns, began);
        Counters::add(&self.shared.counters.zeroed, len);
        Ok(())
    }

    /// Zeros of the image's own word, outside the held ends: whole leaves at once, the edges leaf by leaf.
    pub fn zero_region(&self, at: u64, len: u64, length: Option<u64>) -> Result<()> {
        let (mut at, end) = (at, at + len);
        while at < end {
            let leaf_at = at / LEAF * LEAF;
            let leaf_end = leaf_at + Self::leaf_len(length, leaf_at);
            if at > leaf_at || end < leaf_end {
                let n = leaf_end.min(end) - at;
                let _leaving = self.leaves.leaving();
                let left = self.leaves.add(at / LEAF, leaf_end - leaf_at, at - leaf_at, n, None);
                if let Some(gathered) = left {
                    self.gathered(&gathered, length)?;
                }
                at += n;
            } else {
                let whole_end = if length == Some(end) { end } else { end / LEAF * LEAF };
                self.zeros(at, whole_end - at)?;
                self.digest.set_zero(at / LEAF, (whole_end - at).div_ceil(LEAF));
                at = whole_end;
            }
        }
        Ok(())
    }
}

/// Runs of set bits, as byte ranges of 512-byte sectors.
fn runs(mut bits: u128) -> impl Iterator<Item = Range<usize>> {
    std::iter::from_fn(move || {
        if bits == 0 {
            return None;
        }
        let start = bits.trailing_zeros();
        let ones = (bits >> start).trailing_ones();
        bits = if start + ones >= 128 { 0 } else { bits >> (start + ones) << (start + ones) };
        Some(start as usize * 512..(start + ones) as usize * 512)
    })
}

/// One thread's tools for unpacking.
pub struct Unpacker {
    buffer: Aligned,
    deflate: libdeflater::Decompressor,
    zstd: zstd_safe::DCtx<'static>,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self {
            buffer: Aligned::zeroed(MOST_UNPACKED + ALIGN),
            deflate: libdeflater::Decompressor::new(),
            zstd: zstd_safe::DCtx::create(),
        }
    }
}

impl Unpacker {
    /// Unpacks clusters that follow each other; the answer lies at the same offset within a page as on the disk,
    /// so that it can be written directly.
    pub fn unpack(&mut self, clusters: &[Packed]) -> Result<&[u8]> {
        let lead = clusters.first().map_or(0, |c| (c.at % ALIGN as u64) as usize);
        let mut end = lead;
        for cluster in clusters {
            let out = &mut self.buffer[end..end + cluster.len];
            let unpacked = match cluster.how {
                Packing::Deflate => self.deflate.deflate_decompress(&cluster.bytes, out).ok(),
                Packing::Zlib => self.deflate.zlib_decompress(&cluster.bytes, out).ok(),
                Packing::Zstd => zstd_safe::find_frame_compressed_size(&cluster.bytes)
                    .and_then(|n| self.zstd.decompress(out, &cluster.bytes[..n]))
                    .ok(),
            };
            if unpacked != Some(cluster.len) {
                let what = format!(
                    "the compressed cluster for disk offset {} ({} bytes in the image) does not unpack to {} bytes",
                    cluster.at,
                    cluster.bytes.len(),
                    cluster.len
                );
                return Err(Error::new(Code::Corrupt, Stage::Format, what));
            }
            end += cluster.len;
        }
        Ok(&self.buffer[lead..end])
    }
}

/// One worker's life. `length` of the disk, where it is known.
pub fn run(jobs: &Jobs, to: &Sinkhole, length: Option<u64>) -> Result<()> {
    let mut unpacker = None;
    while let Some(Job { work, ends_only, token }) = jobs.take()? {
        let place = |at: u64, bytes: &[u8], how: Writing| {
            let kept = length.map_or(bytes.len(), |l| bytes.len().min(l.saturating_sub(at) as usize));
            let (at, rest) = to.ends.capture(at, &bytes[..kept]);
            if ends_only || rest.is_empty() { Ok(()) } else { to.region(at, rest, how, length) }
        };
        let done = match work {
            Work::Data { at, bytes } => place(at, &bytes, Writing::Direct),
            Work::Packed(clusters) => {
                let began = Instant::now();
                let at = clusters.first().map_or(0, |c| c.at);
                let unpacked = unpacker.get_or_insert_with(Unpacker::default).unpack(&clusters);
                Counters::since(&to.shared.counters.work_busy_ns, began);
                unpacked.and_then(|bytes| place(at, bytes, Writing::Behind))
            }
            Work::Zero { at, len } => to.zero_region(at, len, length),
        };
        if let Err(error) = done {
            // Before the token goes: a checkpoint must never take this job for done.
            to.shared.fail(error.clone());
            return Err(error);
        }
        drop(token);
    }
    Ok(())
}

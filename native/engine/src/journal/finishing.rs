//! The last steps of a transfer: the held ends go to their places. Each step can be cut and repeated.
//!
//! One sector commits the disk (sector 0, or that of a lone file system's magic), so all else must be durable before
//! it, also both headers of a GPT, which some tools trust without sector 0. So the end's last block first lies masked in its own place (the record tells its pieces
//! apart), the front stays filler, and both become plain in one short step before the last.

use crate::bytes::Aligned;
use crate::error::{Code, Error, Result, Stage};

use super::layout::{BLOCK, Ends, FRONT, Kind, PIECES, ROOM, SECTOR, commit_place, write_aligned};
use super::{Finishing, Journal, hash, probes, random};

/// Names that the failpoint is called with, in order; each when its step is durable.
pub const STEPS: [&str; 5] = ["finish-tail", "finish-record", "finish-head", "finish-front", "finish-sector"];

fn refused(message: String) -> Error {
    Error::new(Code::BadSpec, Stage::Target, message)
}

impl Journal {
    /// Writes the held ends; when it returns, the disk is whole and the journal is gone.
    ///
    /// The caller has verified everything and flushed all data between the ends. `head` is the disk's first MiB,
    /// `tail` its bytes from `tail_at` (a multiple of 4096, not below 1 MiB) to the end, with at least the whole
    /// last block of 4096. `sector` is what the target writes as one: 512 or 4096. `before_last` is called once all
    /// but the front and the last block is in place (a file is cut to its length there). `fail` is called after
    /// each of [`STEPS`]. Fails with BUSY when another run took over, before the next step.
    #[expect(clippy::too_many_arguments, reason = "one call, named fields would only move them")]
    pub fn finish(
        mut self,
        finishing: Finishing,
        head: &[u8],
        tail_at: u64,
        tail: &[u8],
        sector: usize,
        before_last: &dyn Fn() -> Result<()>,
        fail: &dyn Fn(&'static str),
    ) -> Result<()> {
        let end = tail_at.checked_add(tail.len() as u64).unwrap_or(0);
        let mut ends = Ends { place: 0, end, mask_nonce: [0; 16], pieces: [[0; 8]; PIECES] };
        if tail.is_empty()
            || end > self.store.length()
            || tail_at < ROOM as u64
            || !tail_at.is_multiple_of(BLOCK as u64)
        {
            return Err(refused(format!(
                "the held end [{tail_at}, {end}) does not fit a target of {} bytes",
                self.store.length()
            )));
        }
        self.check_head(&finishing, head)?;
        check_sector(sector)?;
        ends.place = commit_place(head) / sector * sector;
        if finishing.identity_hash != self.record.identity {
            return Err(refused("the disk to finish is not the one that the journal was begun for".to_owned()));
        }
        self.ensure_ours()?;

        // `tail_at` is aligned, so the last block begins within the tail.
        let split = (ends.last_at() - tail_at) as usize;
        let (before, last) = tail.split_at(split);
        write_aligned(&*self.store, tail_at, before)?;
        let mut masked = Aligned::zeroed(last.len());
        for _ in 0..16 {
            ends.mask_nonce = random()?;
            masked.copy_from_slice(last);
            self.key.mask(&ends.mask_nonce, &mut masked);
            if !probes::visible_at_end(&masked) {
                break;
            }
        }
        for (index, piece) in last.chunks(SECTOR).enumerate() {
            ends.pieces[index] = self.key.piece(&ends.mask_nonce, index, piece);
        }
        self.store.write(ends.last_at(), &masked)?;
        self.store.flush()?;
        fail(STEPS[0]);

        self.ensure_ours()?;
        self.record.kind = Kind::Finishing(Box::new(finishing), ends.clone());
        self.write_record(false)?;
        fail(STEPS[1]);

        self.write_ends(&ends, Aligned::zeroed(last.len()), head, sector, before_last, fail)
    }

    /// Finishes again after a cut, for a journal taken over with [`Recovered::Finishing`](super::Recovered). Only
    /// the head is needed again; fails with CHANGED when it is not the one that was verified.
    pub fn finish_again(
        self,
        head: &[u8],
        sector: usize,
        before_last: &dyn Fn() -> Result<()>,
        fail: &dyn Fn(&'static str),
    ) -> Result<()> {
        let Kind::Finishing(finishing, ends) = self.record.kind.clone() else {
            return Err(refused("the transfer was not finishing; its data comes first".to_owned()));
        };
        self.check_head(&finishing, head)?;
        check_sector(sector)?;
        if ends.end > self.store.length() {
            return Err(refused(format!(
                "the target has {} bytes now, the disk ends at {}",
                self.store.length(),
                ends.end
            )));
        }
        let last = Aligned::zeroed((ends.end - ends.last_at()) as usize);
        self.write_ends(&ends, last, head, sector, before_last, fail)
    }

    /// Writes a disk that was held whole (at most 2 MiB), sector 0 last. A cut leaves the record of the start, with the
    /// identity or without it. `before_last` and `fail` as in [`Journal::finish`].
    pub fn finish_small(
        self,
        disk: &[u8],
        sector: usize,
        before_last: &dyn Fn() -> Result<()>,
        fail: &dyn Fn(&'static str),
    ) -> Result<()> {
        check_sector(sector)?;
        if disk.len() as u64 > self.store.length() {
            return Err(refused(format!(
                "a disk of {} bytes does not fit a target of {} bytes",
                disk.len(),
                self.store.length()
            )));
        }
        self.ensure_ours()?;
        let (first, rest) = disk.split_at(disk.len().min(sector));
        if self.armed {
            self.write_record(true)?;
        }
        fail(STEPS[1]);
        write_aligned(&*self.store, first.len() as u64, rest)?;
        self.store.flush()?;
        self.ensure_ours()?;
        // Only now: of a file that is cut to less than the journal's room nothing but the record is left. Durable before
        // sector 0, which would otherwise make a file of the journal's length visible.
        before_last()?;
        self.store.flush()?;
        fail(STEPS[3]);
        write_aligned(&*self.store, 0, first)?;
        self.store.flush()?;
        fail(STEPS[4]);
        Ok(())
    }

    fn check_head(&self, finishing: &Finishing, head: &[u8]) -> Result<()> {
        if head.len() != ROOM {
            return Err(refused(format!("the held head has {} bytes instead of {ROOM}", head.len())));
        }
        if hash(head) != finishing.head_hash {
            let message = "the source's head is not the one that was verified; begin again with --fresh";
            return Err(Error::new(Code::Changed, Stage::Target, message));
        }
        Ok(())
    }

    /// Everything after the record stands. `last` is room for the last block.
    fn write_ends(
        &self,
        ends: &Ends,
        mut last: Aligned,
        head: &[u8],
        sector: usize,
        before_last: &dyn Fn() -> Result<()>,
        fail: &dyn Fn(&'static str),
    ) -> Result<()> {
        self.ensure_ours()?;
        self.read_last(ends, &mut last)?;
        write_aligned(&*self.store, FRONT as u64, &head[FRONT..])?;
        before_last()?;
        // From here on GPT headers come to stand, so sgdisk must be turned away; either form of the record is valid.
        self.write_record(true)?;
        fail(STEPS[2]);

        self.ensure_ours()?;
        self.store.write(ends.last_at(), &last)?;
        // Aligned again, in case the target moved to a device of other sectors since the cut.
        let place = ends.place / sector * sector;
        let after = place + sector;
        write_aligned(&*self.store, after as u64, &head[after..FRONT])?;
        if place > 0 {
            write_aligned(&*self.store, 0, &head[..place])?;
        }
        self.store.flush()?;
        fail(STEPS[3]);

        self.ensure_ours()?;
        write_aligned(&*self.store, place as u64, &head[place..after])?;
        self.store.flush()?;
        fail(STEPS[4]);
        Ok(())
    }

    /// The last block in the clear. A cut may have left each of its sectors masked or plain.
    fn read_last(&self, ends: &Ends, last: &mut [u8]) -> Result<()> {
        self.store.read(ends.last_at(), last)?;
        let mut unmasked = last.to_vec();
        self.key.mask(&ends.mask_nonce, &mut unmasked);
        for (index, (piece, unmasked)) in last.chunks_mut(SECTOR).zip(unmasked.chunks(SECTOR)).enumerate() {
            let expected = ends.pieces[index];
            if self.key.piece(&ends.mask_nonce, index, piece) == expected {
                continue;
            }
            if self.key.piece(&ends.mask_nonce, index, unmasked) != expected {
                let at = ends.last_at() + (index * SECTOR) as u64;
                let message = format!(
                    "the disk's last block was changed at offset {at} since it was verified; begin again with --fresh"
                );
                return Err(Error::new(Code::Corrupt, Stage::Target, message));
            }
            piece.copy_from_slice(unmasked);
        }
        Ok(())
    }
}

fn check_sector(sector: usize) -> Result<()> {
    if sector == SECTOR || sector == BLOCK {
        return Ok(());
    }
    Err(refused(format!("targets with sectors of {sector} bytes are not known; 512 and 4096 are")))
}

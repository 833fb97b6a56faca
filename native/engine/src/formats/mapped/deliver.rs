//! Handing the bytes of a piece to the disk, and keeping what has no place yet.

use std::ops::Range;

use super::map::Extent;
use super::{HOLD_MORE, Mapped, Phase, Piece, SECTOR, Tail};
use crate::bytes::Bytes;
use crate::error::{Code, Error, Result, Stage};
use crate::formats::Disk;

/// Ends of compressed clusters are remembered for this many bytes of the file.
const TAIL_REACH: u64 = 8 << 20;

/// What became of a piece.
#[derive(Default)]
pub(super) struct Delivered {
    /// Parts of the piece that have an owner; ascending starts.
    pub claims: Vec<Range<u64>>,
    /// Lowest place of a compressed cluster that ends behind the piece.
    pub waiting: Option<u64>,
    /// Where [`crate::formats::Options::keeps`]: parts of the piece whose data is not in the held ranges, and is; ascending
    /// starts.
    pub loose: Vec<Range<u64>>,
    pub held: Vec<Range<u64>>,
}

impl Mapped {
    pub(super) fn unpack(&mut self, x: &Extent, bytes: Bytes, disk: &mut dyn Disk) -> Result<()> {
        let cluster = self.layout.cluster();
        self.accounted += cluster.min(self.layout.size() - x.guest);
        disk.packed(x.guest, cluster as usize, x.origin(self.checkpoint()), self.layout.packing(), bytes)
    }

    pub(super) fn deliver(&mut self, piece: &Piece, disk: &mut dyn Disk) -> Result<Delivered> {
        let mut done = Delivered::default();
        let claiming = self.phase == Phase::InOrder && !self.tables_known();
        let mut waiting: Vec<Extent> = Vec::new();
        let mut run: Option<Extent> = None;
        while let Some(x) = self.map.pop_below(piece.end) {
            if x.packed() {
                self.note_owner(&x, x.host.max(piece.start)..x.end().min(piece.end), &mut done);
                if x.end() > piece.end {
                    waiting.push(x);
                    continue;
                }
                let bytes = if x.host >= piece.start {
                    Some(piece.bytes.slice((x.host - piece.start) as usize, (x.end() - piece.start) as usize))
                } else {
                    self.fetch(x.host..x.end(), piece)?.map(|bytes| Bytes::copy_of(&bytes))
                };
                let Some(bytes) = bytes else {
                    self.missed.push(x);
                    continue;
                };
                if let Some(open) = run.take() {
                    self.emit(&open, piece, disk)?;
                }
                self.unpack(&x, bytes, disk)?;
                if claiming {
                    self.keep_tail(&x, piece)?;
                    done.claims.push(x.host..x.end());
                    self.hold.remove(x.host..x.end().min(piece.start).max(x.host));
                }
                continue;
            }
            let (from, to) = (x.host.max(piece.start), x.end().min(piece.end));
            if x.host < piece.start {
                self.missed.push(x.part(x.host, x.end().min(piece.start)));
            }
            if from >= to {
                continue;
            }
            if to < x.end() {
                self.map.push(x.part(to, x.end()));
            }
            if claiming {
                done.claims.push(from..to);
            }
            let part = x.part(from, to);
            self.note_owner(&part, from..to, &mut done);
            run = Some(match run {
                Some(open)
                    if open.end() == part.host
                        && open.guest + open.len() == part.guest
                        && open.is_late() == part.is_late() =>
                {
                    Extent::new(open.host, open.guest, open.len() + part.len(), false).late(open.is_late())
                }
                Some(open) => {
                    self.emit(&open, piece, disk)?;
                    part
                }
                None => part,
            });
        }
        if let Some(open) = run {
            self.emit(&open, piece, disk)?;
        }
        for x in waiting {
            done.waiting = Some(done.waiting.map_or(x.host, |lowest: u64| lowest.min(x.host)));
            self.map.push(x);
        }
        Ok(done)
    }

    /// A run that goes on needs the bytes again of data in the held ranges alone.
    fn note_owner(&self, x: &Extent, part: Range<u64>, done: &mut Delivered) {
        let guest = if x.packed() { x.guest..x.guest + self.layout.cluster() } else { x.guest..x.guest + x.len() };
        let held = |range: &Range<u64>| range.start < guest.end && guest.start < range.end;
        if self.options.keeps && part.start < part.end {
            let parts = if self.options.held.iter().any(held) { &mut done.held } else { &mut done.loose };
            parts.push(part);
        }
    }

    fn emit(&mut self, x: &Extent, piece: &Piece, disk: &mut dyn Disk) -> Result<()> {
        self.accounted += x.len();
        let (from, to) = ((x.host - piece.start) as usize, (x.end() - piece.start) as usize);
        disk.data(x.guest, x.origin(self.checkpoint()), piece.bytes.slice(from, to))
    }

    /// Keeps the last sector of a compressed cluster, because the next one may begin in it. Here and not in the hold-back,
    /// where a few bytes of each cluster would take a chunk of 64 KiB.
    pub(super) fn keep_tail(&mut self, x: &Extent, piece: &Piece) -> Result<()> {
        let sector = (x.end() - 1) / SECTOR * SECTOR;
        let from = sector.max(x.host);
        if self
            .tails
            .get(&sector)
            .is_none_or(|tail| tail.from > from || tail.from + (tail.bytes.len() as u64) < x.end())
            && let Some(bytes) = self.fetch(from..x.end(), piece)?
        {
            let bytes = bytes.into_owned().into_boxed_slice();
            self.tails.insert(sector, Tail { from, bytes });
        }
        Ok(())
    }

    /// All tables are known: only the beginnings of clusters that end behind the piece are kept.
    pub(super) fn keep_parts(&mut self, piece: &Piece, waiting: Option<u64>) -> Result<()> {
        let Some(lowest) = waiting else {
            self.hold.clear();
            self.tails.clear();
            return Ok(());
        };
        let from = lowest.max(piece.start);
        self.keep(from, piece)?;
        if self.tails.is_empty() {
            self.hold.remove(0..lowest);
        }
        Ok(())
    }

    fn keep(&mut self, from: u64, piece: &Piece) -> Result<()> {
        self.keep_range(from, piece.end, piece)
    }

    fn keep_range(&mut self, from: u64, to: u64, piece: &Piece) -> Result<()> {
        if from >= to || self.turned {
            return Ok(());
        }
        let bytes = &piece.bytes[(from - piece.start) as usize..(to - piece.start) as usize];
        if self.hold.add(from, bytes)? {
            return Ok(());
        }
        if self.phase != Phase::InOrder {
            return Err(Error::new(
                Code::TooLarge,
                Stage::Format,
                format!("more than {} bytes of tables and clusters are incomplete at once", self.hold.room()),
            ));
        }
        let (room, at) = (self.hold.room(), piece.end);
        let why = || format!("the image is not in order: up to byte {at}, more than {room} bytes have no place yet");
        self.turn(why, HOLD_MORE)
    }

    /// Keeps the beginnings of tables that end behind the piece.
    pub(super) fn keep_metadata(&mut self, piece: &Piece) -> Result<()> {
        if !self.directory_known {
            let inside = |at: u64| at.clamp(piece.start, piece.end);
            let directory = self.layout.directory();
            return self.keep_range(inside(directory.start), inside(directory.end), piece);
        }
        match self.tables.get(self.next_table) {
            Some(table) if self.next_table < self.batch_end && table.host < piece.end => {
                let end = self.table_range(table).end;
                if end > piece.end {
                    self.keep(table.host.max(piece.start), piece)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Some tables are still to come: everything that has no owner is kept.
    pub(super) fn keep_unknown(&mut self, piece: &Piece, mut claims: Vec<Range<u64>>) -> Result<()> {
        let cluster = self.layout.cluster();
        claims.extend_from_slice(self.layout.reserved());
        if self.directory_known {
            claims.push(self.layout.directory_room());
        }
        if let Some(blocks) = &self.blocks {
            claims.push(self.layout.refcounts());
            let first = blocks.partition_point(|&block| block + cluster <= piece.start);
            let near = blocks[first..].iter().take_while(|&&block| block < piece.end);
            claims.extend(near.filter(|&&b| self.directory_known && !self.is_table(b)).map(|&b| b..b + cluster));
        }
        let read = &self.tables[..self.next_table];
        let first = read.partition_point(|t| self.table_range(t).end <= piece.start);
        claims.extend(read[first..].iter().map(|t| self.table_range(t)));
        claims.sort_unstable_by_key(|claim| claim.start);
        let mut at = piece.start;
        for claim in claims {
            if claim.start > at {
                self.keep_range(at, claim.start.min(piece.end), piece)?;
            }
            at = at.max(claim.end);
            if at >= piece.end {
                break;
            }
        }
        self.keep_range(at, piece.end, piece)?;
        self.forget_tails(piece.end)
    }

    fn forget_tails(&mut self, position: u64) -> Result<()> {
        while let Some((&sector, _)) = self.tails.first_key_value() {
            if sector + TAIL_REACH > position {
                break;
            }
            let Some((_, tail)) = self.tails.pop_first() else { break };
            // What follows it is held back, so it may be the beginning of that.
            let end = tail.from + tail.bytes.len() as u64;
            if self.hold.run_end(end).is_some() && !self.hold.add(tail.from, &tail.bytes)? {
                break;
            }
        }
        Ok(())
    }

    /// The file ended at `end`: the last compressed cluster may reach beyond it, within a sector.
    pub(super) fn deliver_last(&mut self, end: u64, disk: &mut dyn Disk) -> Result<()> {
        let empty = Bytes::copy_of(&[]);
        let piece = Piece { start: end, end, bytes: &empty };
        let mut others = Vec::new();
        while let Some(x) = self.map.pop_below(end) {
            let whole = x.packed() && x.end() > end && (x.end() - 1) / SECTOR * SECTOR < end;
            match if whole { self.fetch(x.host..end, &piece)? } else { None } {
                Some(bytes) => self.unpack(&x, Bytes::copy_of(&bytes), disk)?,
                None => others.push(x),
            }
        }
        others.into_iter().for_each(|x| self.map.push(x));
        Ok(())
    }
}

//! Formats whose tables map the clusters of the disk to places in the file, decoded while the file arrives: qcow2, VMDK,
//! VHD, VDI, Parallels, QED. A [`Layout`] says where the tables are and how their entries read; all else is the same.
//!
//! In order: data whose table has passed is delivered at once, all else is held back until its table comes.
//! Metadata first: the tables are asked for, then the data, ascending. A decoder that began in order and finds
//! that the image is not in order goes over to the second way where the source can seek.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::bytes::Bytes;
use crate::error::{Code, Error, Result, Stage};
use crate::formats::{Disk, Format, Options, Wants, head};

mod deliver;
pub mod flat;
mod holdback;
mod layout;
mod map;
mod read;
mod recheck;

use holdback::HoldBack;
pub use layout::{Entry, Layout, SECTOR, SUBCLUSTERS, corrupt};
use map::Map;
use recheck::{Recheck, changed};

/// Tables nearer to each other than this are read in one range.
const TABLE_GAP: u64 = 64 << 10;
/// Data nearer to each other than this is read in one range.
const DATA_GAP: u64 = 256 << 10;
/// Ranges asked for in one round.
const ROUND: usize = 16384;

/// What helps where bytes have no place yet, and ...
const HOLD_MORE: &str =
    "give a directory for it (`--spill DIR`), more `--memory`, or a source that can be read by ranges";
/// ... where bytes are needed again that were given away: holding more back would not bring them.
const READ_AGAIN: &str = "that can only be read by ranges: give the image not compressed, as a file or from a server \
                          that honours ranges";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    InOrder,
    Metadata,
    Data,
    /// The one pass over the whole file that follows when all tables are known.
    Rest,
}

/// A piece of the file.
struct Piece<'a> {
    start: u64,
    end: u64,
    bytes: &'a Bytes,
}

/// A table of entries: 16 bytes, sorted by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Table {
    host: u64,
    index: u32,
}

/// The end of a compressed cluster: another one may begin in the same sector.
struct Tail {
    from: u64,
    bytes: Box<[u8]>,
}

pub struct Mapped {
    layout: Box<dyn Layout>,
    options: Options,
    phase: Phase,
    turned: bool,
    started: bool,
    rest_asked: bool,
    /// Offset at which the pass over the rest begins.
    rest_from: u64,
    /// End of the last piece.
    position: u64,
    directory_known: bool,
    /// Every table that is needed.
    tables: Vec<Table>,
    /// Tables before this one were read, and of it the entries before `next_entry`.
    next_table: usize,
    next_entry: u64,
    /// Tables before this one were asked for in this round.
    batch_end: usize,
    /// Refcount blocks, which hold nothing of the disk; sorted.
    blocks: Option<Vec<u64>>,
    map: Map,
    /// The table at hand may not have been known when the checkpoint was taken.
    late: bool,
    /// Extents whose bytes did not come in the pass in which they were expected.
    missed: Vec<map::Extent>,
    hold: HoldBack,
    tails: BTreeMap<u64, Tail>,
    recheck: Recheck,
    /// A run of zeros that may still grow.
    zeros: Range<u64>,
    /// Guest bytes that were delivered, are zeros, or are on the target already.
    accounted: u64,
    /// What of the last piece is to be kept for a run that goes on.
    keeps: Vec<Range<u64>>,
    /// State at the last question, to see that there is progress.
    asked: Option<(usize, u64, usize, u64, bool)>,
}

impl Mapped {
    /// Decodes the image of a layout that was parsed from its head.
    pub fn new(layout: Box<dyn Layout>, mut options: Options) -> Result<Self> {
        head::accept_size(layout.size(), &options.limits)?;
        options.held.sort_by_key(|r| r.start);
        // The tables themselves pass through the hold-back where a piece ends inside one.
        let bound = options.limits.hold_back.max(layout.least_hold_back());
        let hold = HoldBack::new(bound, options.spill.clone(), options.limits.spill)?;
        let seek = options.metadata_first && options.seekable;
        let tables = tables_of_header(&*layout)?;
        Ok(Self {
            rest_from: options.from.unwrap_or(0).min(options.file_length.unwrap_or(u64::MAX)),
            phase: if seek { Phase::Metadata } else { Phase::InOrder },
            layout,
            options,
            turned: false,
            started: false,
            rest_asked: false,
            position: 0,
            directory_known: tables.is_some(),
            tables: tables.unwrap_or_default(),
            next_table: 0,
            next_entry: 0,
            batch_end: 0,
            blocks: None,
            map: Map::default(),
            late: false,
            missed: Vec::new(),
            hold,
            tails: BTreeMap::new(),
            recheck: Recheck::default(),
            zeros: 0..0,
            accounted: 0,
            keeps: Vec::new(),
            asked: None,
        })
    }

    fn from(&self) -> u64 {
        self.options.from.unwrap_or(0)
    }

    /// Data from below this offset was delivered before the transfer was cut, as far as its tables were known then.
    fn checkpoint(&self) -> u64 {
        self.options.skip_below.or(self.options.from).unwrap_or(0)
    }

    fn tables_known(&self) -> bool {
        self.directory_known && self.next_table >= self.tables.len()
    }

    /// Goes over to asking for ranges, or fails with `remedy`.
    fn turn(&mut self, why: impl FnOnce() -> String, remedy: &str) -> Result<()> {
        if !self.options.seekable {
            return Err(Error::new(Code::NeedsScratch, Stage::Format, format!("{}; {remedy}", why())));
        }
        self.turned = true;
        Ok(())
    }

    fn metadata_round(&mut self) -> Vec<Range<u64>> {
        self.phase = Phase::Metadata;
        if !self.directory_known {
            let head = 0..self.layout.head().len() as u64;
            let directory = self.layout.directory();
            let joined = directory.start < head.end + TABLE_GAP;
            let first = if joined { 0..directory.end } else { head };
            return std::iter::once(first).chain((!joined).then_some(directory)).collect();
        }
        let mut left = self.options.limits.map / 2;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        self.batch_end = self.next_table;
        while let Some(table) = self.tables.get(self.batch_end) {
            let length = self.layout.table_length(table.index);
            let end = table.host + length;
            let again = self.batch_end > 0 && self.tables[self.batch_end - 1].host == table.host && !ranges.is_empty();
            if !again && left < length && !ranges.is_empty() {
                break;
            }
            let full = ranges.len() == ROUND;
            match ranges.last_mut() {
                Some(last) if table.host < last.end + TABLE_GAP => last.end = last.end.max(end),
                _ if full => break,
                _ => ranges.push(table.host..end),
            }
            left = left.saturating_sub(if again { 0 } else { length });
            self.batch_end += 1;
        }
        ranges
    }

    fn lowest_undelivered(&self) -> Option<u64> {
        self.missed.iter().map(|x| x.host).chain(self.map.first().map(|x| x.host)).min()
    }
}

impl Format for Mapped {
    fn wants(&mut self) -> Result<Wants> {
        if self.phase == Phase::InOrder && !self.turned {
            self.turned = false;
            return Ok(if std::mem::replace(&mut self.started, true) { Wants::Nothing } else { Wants::Rest(0) });
        }
        if self.turned {
            self.turned = false;
            self.rest_from = self.position.max(self.rest_from);
            self.phase = Phase::Metadata;
        }
        self.hold.clear();
        self.tails.clear();
        for extent in std::mem::take(&mut self.missed) {
            self.map.push(extent);
        }
        self.position = 0;
        let state = (self.next_table, self.next_entry, self.map.len(), self.accounted, self.directory_known);
        let stuck = self.asked == Some(state);
        self.asked = Some(state);
        if self.rest_asked {
            return Ok(Wants::Nothing);
        }
        // The same question twice: the source did not bring what it was asked for, which `finish` tells.
        if !stuck && (!self.directory_known || !self.tables_known() && self.map.memory() <= self.options.limits.map / 2)
        {
            return Ok(Wants::Ranges(self.metadata_round()));
        }
        let rest = self.options.whole && self.tables_known();
        let limit = if rest { self.rest_from } else { u64::MAX };
        if !stuck && self.map.first().is_some_and(|x| x.host < limit) {
            self.phase = Phase::Data;
            return Ok(Wants::Ranges(self.map.ranges(limit, DATA_GAP, ROUND)));
        }
        if rest && self.options.file_length.is_none_or(|n| self.rest_from < n) && self.rest_from < u64::MAX {
            self.phase = Phase::Rest;
            self.rest_asked = true;
            return Ok(Wants::Rest(self.rest_from));
        }
        Ok(Wants::Nothing)
    }

    fn take(&mut self, offset: u64, bytes: &Bytes, disk: &mut dyn Disk) -> Result<()> {
        if self.turned || bytes.is_empty() {
            return Ok(());
        }
        let piece = Piece { start: offset, end: offset + bytes.len() as u64, bytes };
        let head = self.layout.head();
        if let Some(from) = usize::try_from(piece.start).ok().filter(|&from| from < head.len()) {
            let n = bytes.len().min(head.len() - from);
            if bytes[..n] != head[from..from + n] {
                return Err(changed(&(0..head.len() as u64)));
            }
        }
        self.position = piece.end;
        match self.phase {
            Phase::Metadata => {
                self.read_metadata(&piece, disk)?;
                self.keep_metadata(&piece)
            }
            Phase::Data | Phase::Rest => {
                if self.phase == Phase::Rest {
                    self.recheck.pass(offset, bytes)?;
                }
                let delivered = self.deliver(&piece, disk)?;
                self.keep_parts(&piece, delivered.waiting)
            }
            Phase::InOrder => {
                if self.options.keeps && piece.start >= self.from() {
                    // What was kept beyond need: nothing below waits for a table that is still to come.
                    self.hold.remove(0..self.from());
                }
                let reading = !self.tables_known() || self.blocks.is_none();
                if reading {
                    self.read_metadata(&piece, disk)?;
                }
                let delivered = self.deliver(&piece, disk)?;
                if self.options.keeps {
                    self.keeps = kept(piece.start..piece.end, &delivered.loose, delivered.held);
                }
                if let Some(&x) = self.missed.first() {
                    let why =
                        || format!("disk offset {} lies across bytes of the image that another part has", x.guest);
                    self.turn(why, READ_AGAIN)?;
                }
                if self.turned {
                    return Ok(());
                }
                if self.tables_known() {
                    self.keep_parts(&piece, delivered.waiting)
                } else {
                    self.keep_unknown(&piece, delivered.claims)
                }
            }
        }
    }

    fn finish(&mut self, length: Option<u64>, disk: &mut dyn Disk) -> Result<()> {
        let end = length.or(self.options.file_length).unwrap_or(self.position);
        if !self.turned {
            self.deliver_last(end, disk)?;
        }
        self.flush_zeros(disk)?;
        let missing = self.layout.size().saturating_sub(self.accounted);
        if missing == 0 && self.tables_known() && self.map.is_empty() && self.missed.is_empty() {
            return Ok(());
        }
        let tables = if self.directory_known {
            format!("{} of {} tables were read", self.next_table, self.tables.len())
        } else {
            "the list of its tables was not found".to_owned()
        };
        let clusters = missing.div_ceil(self.layout.cluster());
        Err(Error::new(
            Code::Truncated,
            Stage::Format,
            format!(
                "the {} image ended after {end} bytes with {missing} of {} bytes of the disk missing \
                 ({clusters} clusters; {tables}): fetch it again",
                self.layout.name(),
                self.layout.size()
            ),
        ))
    }

    fn pinned(&self) -> Option<u64> {
        let lowest = match self.phase {
            Phase::InOrder => {
                let tails = self.tails.first_key_value().map(|(_, tail)| tail.from);
                let waiting = self.lowest_undelivered().filter(|&host| host < self.position);
                self.hold.first().into_iter().chain(tails).chain(waiting).min()
            }
            _ if !self.tables_known() => Some(0),
            _ => self.lowest_undelivered(),
        };
        lowest.map(|at| at.max(self.from()))
    }

    fn turned(&self) -> bool {
        self.turned
    }

    fn keeps(&mut self) -> Option<Vec<Range<u64>>> {
        Some(std::mem::take(&mut self.keeps))
    }

    fn tables_first(&self) -> Option<bool> {
        let known = match self.phase {
            Phase::InOrder => false,
            _ if self.options.tables_first => true,
            // Data that is delivered again because its table came late may lie below where this run goes on.
            _ if self.tables_known() => self.lowest_undelivered().is_none_or(|host| host >= self.from()),
            _ => self.from() == 0,
        };
        Some(known)
    }
}

/// What of `whole` is left without `loose`, and `held`, which may share sectors with that. Both ascend by their starts.
fn kept(whole: Range<u64>, loose: &[Range<u64>], held: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut parts = held;
    let mut at = whole.start;
    for part in loose {
        if part.start > at {
            parts.push(at..part.start);
        }
        at = at.max(part.end);
    }
    if at < whole.end {
        parts.push(at..whole.end);
    }
    parts.sort_unstable_by_key(|part| part.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(parts.len());
    for part in parts {
        match merged.last_mut().filter(|last| part.start <= last.end) {
            Some(last) => last.end = last.end.max(part.end),
            None => merged.push(part),
        }
    }
    merged
}

/// Tables whose places the header gives; `None` when a directory has to be read first.
fn tables_of_header(layout: &dyn Layout) -> Result<Option<Vec<Table>>> {
    if !layout.directory().is_empty() {
        return Ok(None);
    }
    let mut tables = Vec::new();
    for index in 0..layout.tables() {
        if let Some(host) = layout.table(index, &[])? {
            tables.push(Table { host, index });
        }
    }
    tables.sort_unstable();
    Ok(Some(tables))
}

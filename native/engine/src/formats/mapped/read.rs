//! Reading the directory of tables, refcount table and tables, from the hold-back and the piece at hand.

use std::borrow::Cow;
use std::ops::Range;

use super::map::{Extent, LONGEST};
use super::{Entry, Mapped, Phase, Piece, READ_AGAIN, SECTOR, SUBCLUSTERS, Table};
use crate::bytes::Bytes;
use crate::error::{Code, Error, Result, Stage};
use crate::formats::Disk;

/// Largest slice in which held data is delivered.
const SLICE: u64 = 1 << 20;

/// Data of consecutive entries, as it is put together.
#[derive(Clone, Copy)]
struct Run {
    host: u64,
    guest: u64,
    len: u64,
}

impl Mapped {
    /// Bytes of the file from what is at hand; `None` if a part is not.
    pub(super) fn fetch<'a>(&self, range: Range<u64>, piece: &'a Piece) -> Result<Option<Cow<'a, [u8]>>> {
        if range.start >= piece.start && range.end <= piece.end {
            let (from, to) = ((range.start - piece.start) as usize, (range.end - piece.start) as usize);
            return Ok(Some(Cow::Borrowed(&piece.bytes[from..to])));
        }
        // Nothing is allocated before all of it is known to be at hand.
        let mut at = range.start;
        let mut parts: Vec<(u64, u64)> = Vec::new();
        while at < range.end {
            let to = if at >= piece.start && at < piece.end {
                piece.end
            } else if let Some(end) = self.hold.run_end(at) {
                if at < piece.start { end.min(piece.start) } else { end }
            } else if let Some(end) = self.tail_end(at) {
                end
            } else {
                return Ok(None);
            };
            parts.push((at, to.min(range.end)));
            at = to;
        }
        let mut out = vec![0; (range.end - range.start) as usize];
        for (from, to) in parts {
            let place = &mut out[(from - range.start) as usize..(to - range.start) as usize];
            if from >= piece.start && from < piece.end {
                place.copy_from_slice(&piece.bytes[(from - piece.start) as usize..(to - piece.start) as usize]);
            } else if self.hold.run_end(from).is_some() {
                self.hold.read(from, place)?;
            } else if let Some(tail) = self.tails.get(&(from / SECTOR * SECTOR)) {
                let start = (from - tail.from) as usize;
                place.copy_from_slice(&tail.bytes[start..start + place.len()]);
            }
        }
        Ok(Some(Cow::Owned(out)))
    }

    fn tail_end(&self, at: u64) -> Option<u64> {
        let tail = self.tails.get(&(at / SECTOR * SECTOR))?;
        let end = tail.from + tail.bytes.len() as u64;
        (tail.from <= at && at < end).then_some(end)
    }

    /// Reads every table whose end has come.
    pub(super) fn read_metadata(&mut self, piece: &Piece, disk: &mut dyn Disk) -> Result<()> {
        let directory = self.layout.directory();
        if !self.directory_known && directory.end <= piece.end && directory.end > piece.start {
            let Some(bytes) = self.fetch(directory, piece)? else { return Ok(()) };
            self.read_directory(&bytes, disk)?;
        }
        self.read_refcounts(piece)?;
        let metadata = self.phase == Phase::Metadata;
        while self.directory_known && self.next_table < self.tables.len() {
            let table = self.tables[self.next_table];
            let range = self.table_range(&table);
            if range.end > piece.end || (metadata && self.next_table >= self.batch_end) {
                break;
            }
            let Some(bytes) = self.fetch(range.clone(), piece)? else {
                if !metadata {
                    let at = table.host;
                    let why = || format!("the table at {at} has passed before it was known, and was not kept");
                    self.turn(why, READ_AGAIN)?;
                }
                break;
            };
            if self.options.whole && self.options.seekable {
                self.recheck.note(table.host, &bytes);
            }
            if !self.read_table(table, &bytes, piece, disk)? {
                break;
            }
            self.next_table += 1;
            self.next_entry = 0;
            if self.tables.get(self.next_table).is_none_or(|next| next.host != table.host) {
                self.hold.remove(range);
            }
            if !metadata && self.map.memory() > self.options.limits.map.max(1 << 20) {
                self.full_map()?;
            }
            if self.turned {
                break;
            }
        }
        Ok(())
    }

    fn full_map(&mut self) -> Result<()> {
        if self.options.seekable {
            self.turned = true;
            return Ok(());
        }
        Err(Error::new(
            Code::TooLarge,
            Stage::Format,
            format!(
                "the map of the {} image takes more than {} bytes of memory; allow more with `--memory`, \
                 or give a source that can be read by ranges",
                self.layout.name(),
                self.options.limits.map
            ),
        ))
    }

    fn read_directory(&mut self, bytes: &[u8], disk: &mut dyn Disk) -> Result<()> {
        let directory = self.layout.directory();
        if self.options.whole && self.options.seekable {
            self.recheck.note(directory.start, bytes);
        }
        let (span, size) = (self.layout.span(), self.layout.size());
        let room = self.layout.directory_room();
        let refcounts = self.layout.refcounts();
        let mut tables = Vec::new();
        for index in 0..self.layout.tables() {
            let guest = u64::from(index) * span;
            let Some(host) = self.layout.table(index, bytes)? else {
                self.zero(guest, span.min(size - guest), disk)?;
                continue;
            };
            let table = Table { host, index };
            let range = self.table_range(&table);
            let over = |other: &Range<u64>| overlap(range.start, range.end, other);
            if over(&room) || over(&refcounts) || self.layout.reserved().iter().any(over) {
                return Err(self.layout.corrupt(&format!("table {index} is at {host}, over other tables")));
            }
            self.expect_in_file(host, range.end - range.start, "table")?;
            tables.push(table);
            if (tables.len() * size_of::<Table>()) as u64 > self.options.limits.map.max(1 << 20) {
                return Err(Error::new(
                    Code::TooLarge,
                    Stage::Format,
                    format!(
                        "the {} image has more than {} tables; allow more with `--memory`",
                        self.layout.name(),
                        tables.len()
                    ),
                ));
            }
        }
        tables.sort_unstable();
        self.tables = tables;
        self.directory_known = true;
        self.hold.remove(room);
        self.drop_blocks();
        Ok(())
    }

    pub(super) fn table_range(&self, table: &Table) -> Range<u64> {
        table.host..table.host + self.layout.table_length(table.index)
    }

    /// Refcount blocks are known so that they need not be held back; nothing else depends on them.
    fn read_refcounts(&mut self, piece: &Piece) -> Result<()> {
        let range = self.layout.refcounts();
        if self.phase != Phase::InOrder || self.blocks.is_some() || range.end > piece.end {
            return Ok(());
        }
        let mut blocks = Vec::new();
        if let Some(bytes) = self.fetch(range.clone(), piece)? {
            blocks = self.layout.refcount_blocks(&bytes);
            blocks.sort_unstable();
            blocks.dedup();
        }
        self.hold.remove(range);
        self.blocks = Some(blocks);
        self.drop_blocks();
        Ok(())
    }

    /// Held refcount blocks would pin the watermark, so they go as soon as they are known not to be tables.
    fn drop_blocks(&mut self) {
        let cluster = self.layout.cluster();
        if !self.directory_known {
            return;
        }
        for &block in self.blocks.iter().flatten().take_while(|&&block| block < self.position) {
            if !self.is_table(block) {
                self.hold.remove(block..block + cluster);
            }
        }
    }

    pub(super) fn is_table(&self, host: u64) -> bool {
        self.tables.binary_search_by(|t| t.host.cmp(&host)).is_ok()
    }

    fn expect_in_file(&self, host: u64, len: u64, what: &str) -> Result<()> {
        match self.options.file_length {
            Some(file) if host + len > file => Err(Error::new(
                Code::Truncated,
                Stage::Format,
                format!(
                    "the {what} at {host} ends at {}, but the {} image has {file} bytes: fetch it again",
                    host + len,
                    self.layout.name()
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Reads the entries of a table; false when the map is full, and then `next_entry` is the next to read.
    fn read_table(&mut self, table: Table, bytes: &[u8], piece: &Piece, disk: &mut dyn Disk) -> Result<bool> {
        let (cluster, size) = (self.layout.cluster(), self.layout.size());
        let base = u64::from(table.index) * self.layout.span();
        let entries = self.layout.span() / cluster;
        // In order, data may have been given away before a later table came that names it too. A checkpoint taken in
        // between lies above that data, so what such a table names is delivered again.
        let checkpoint = self.checkpoint();
        let unseen = checkpoint > 0 && self.table_range(&table).end > checkpoint;
        self.late = unseen && !self.options.tables_first;
        let mut run: Option<Run> = None;
        let mut used: Vec<Range<u64>> = Vec::new();
        let mut finished = true;
        for entry in self.next_entry..entries {
            let guest = base + entry * cluster;
            if guest >= size {
                break;
            }
            if self.phase == Phase::Metadata && !self.map.is_empty() && self.map.memory() >= self.options.limits.map {
                self.next_entry = entry;
                finished = false;
                break;
            }
            let needed = cluster.min(size - guest);
            match self.layout.entry(guest, entry as usize, bytes)? {
                Entry::Zero => self.zero(guest, needed, disk)?,
                Entry::Data { host } => self.join(&mut run, host, guest, needed, piece, &mut used, disk)?,
                Entry::Packed { host, len } => {
                    self.place_packed(host, guest, u64::from(len), piece, &mut used, disk)?
                }
                Entry::Subclusters { host, allocated } => {
                    let sub = cluster / u64::from(SUBCLUSTERS);
                    for i in (0..SUBCLUSTERS).take_while(|i| u64::from(*i) * sub < needed) {
                        let from = u64::from(i) * sub;
                        let len = sub.min(needed - from);
                        if allocated >> i & 1 == 0 {
                            self.zero(guest + from, len, disk)?;
                        } else {
                            self.join(&mut run, host + from, guest + from, len, piece, &mut used, disk)?;
                        }
                    }
                }
            }
        }
        if let Some(run) = run {
            self.place_run(run, piece, &mut used, disk)?;
        }
        // Only now, because two entries of one table may share a cluster.
        for range in used {
            self.hold.remove(range);
        }
        Ok(finished)
    }

    #[allow(clippy::too_many_arguments)]
    fn join(
        &mut self,
        run: &mut Option<Run>,
        host: u64,
        guest: u64,
        len: u64,
        piece: &Piece,
        used: &mut Vec<Range<u64>>,
        disk: &mut dyn Disk,
    ) -> Result<()> {
        if let Some(open) = run {
            if open.host + open.len == host && open.guest + open.len == guest && open.len + len <= LONGEST {
                open.len += len;
                return Ok(());
            }
            self.place_run(*open, piece, used, disk)?;
        }
        *run = Some(Run { host, guest, len });
        Ok(())
    }

    fn over_metadata(&self, host: u64, end: u64) -> bool {
        let first = self.tables.partition_point(|t| self.table_range(t).end <= host);
        self.layout.reserved().iter().any(|range| overlap(host, end, range))
            || overlap(host, end, &self.layout.directory_room())
            || overlap(host, end, &self.layout.refcounts())
            || self.tables.get(first).is_some_and(|t| t.host < end)
    }

    fn over_tables(&self, guest: u64, host: u64) -> Error {
        self.layout.corrupt(&format!("data of disk offset {guest} is at {host}, over the header or a table"))
    }

    /// Plain data: what is on the target already is counted, the rest is placed.
    fn place_run(&mut self, run: Run, piece: &Piece, used: &mut Vec<Range<u64>>, disk: &mut dyn Disk) -> Result<()> {
        let Run { host, guest, len } = run;
        if self.over_metadata(host, host + len) {
            return Err(self.over_tables(guest, host));
        }
        self.expect_in_file(host, len, "data")?;
        let below = if self.late { 0 } else { self.from().clamp(host, host + len) - host };
        if below > 0 {
            let mut wanted = Vec::new();
            for range in &self.options.held {
                let (from, to) = (range.start.max(guest), range.end.min(guest + below));
                if from < to {
                    wanted.push(from..to);
                }
            }
            let again: u64 = wanted.iter().map(|r| r.end - r.start).sum();
            self.accounted += below - again;
            for range in wanted {
                let at = host + (range.start - guest);
                self.place(Extent::new(at, range.start, range.end - range.start, false), piece, used, disk)?;
            }
        }
        if below < len {
            let rest = Extent::new(host + below, guest + below, len - below, false);
            self.place(rest.late(self.late), piece, used, disk)?;
        }
        Ok(())
    }

    fn place_packed(
        &mut self,
        host: u64,
        guest: u64,
        len: u64,
        piece: &Piece,
        used: &mut Vec<Range<u64>>,
        disk: &mut dyn Disk,
    ) -> Result<()> {
        // Of its last sector the first byte is the only one that is surely its own.
        let last = ((host + len - 1) / SECTOR * SECTOR).max(host);
        if self.over_metadata(host, last + 1) {
            return Err(self.over_tables(guest, host));
        }
        let needed = self.layout.cluster().min(self.layout.size() - guest);
        let done = host < self.from() && !self.late;
        if done && !self.options.held.iter().any(|r| r.start < guest + needed && guest < r.end) {
            self.accounted += needed;
            return Ok(());
        }
        let mut end = host + len;
        if let Some(file) = self.options.file_length {
            // Only the last sector may be cut by the end of the file; its rest holds nothing.
            self.expect_in_file(host, last + 1 - host, "compressed data")?;
            end = end.min(file);
        }
        self.place(Extent::new(host, guest, end - host, true).late(self.late), piece, used, disk)
    }

    /// Delivers what has passed from the hold-back, and notes the rest.
    fn place(&mut self, x: Extent, piece: &Piece, used: &mut Vec<Range<u64>>, disk: &mut dyn Disk) -> Result<()> {
        if self.phase != Phase::InOrder || x.host >= piece.start {
            self.map.push(x);
            return Ok(());
        }
        if x.packed() {
            if x.end() > piece.end && self.fetch(x.host..piece.end, piece)?.is_some() {
                self.map.push(x);
                return Ok(());
            }
            if x.end() <= piece.end
                && let Some(bytes) = self.fetch(x.host..x.end(), piece)?
            {
                let bytes = Bytes::copy_of(&bytes);
                self.unpack(&x, bytes, disk)?;
                self.keep_tail(&x, piece)?;
                used.push(x.host..x.end());
                return Ok(());
            }
            return self.go_back(x);
        }
        let past = x.end().min(piece.start);
        let mut at = x.host;
        while at < past {
            let to = past.min(at + SLICE);
            let Some(bytes) = self.fetch(at..to, piece)? else {
                self.go_back(x.part(at, to))?;
                at = to;
                continue;
            };
            let part = x.part(at, to);
            self.accounted += part.len();
            disk.data(part.guest, part.origin(self.checkpoint()), Bytes::copy_of(&bytes))?;
            used.push(at..to);
            at = to;
        }
        if x.end() > past {
            self.map.push(x.part(past, x.end()));
        }
        Ok(())
    }

    /// The bytes have passed and were given away: another part of the disk shares them.
    fn go_back(&mut self, x: Extent) -> Result<()> {
        let why = || {
            format!(
                "disk offset {} shares bytes {} to {} of the image with another part of the disk",
                x.guest,
                x.host,
                x.end()
            )
        };
        self.turn(why, READ_AGAIN)?;
        self.map.push(x);
        Ok(())
    }

    pub(super) fn zero(&mut self, at: u64, len: u64, disk: &mut dyn Disk) -> Result<()> {
        self.accounted += len;
        if self.zeros.end == at && !self.zeros.is_empty() {
            self.zeros.end = at + len;
            return Ok(());
        }
        if self.zeros.start == at + len && !self.zeros.is_empty() {
            self.zeros.start = at;
            return Ok(());
        }
        self.flush_zeros(disk)?;
        self.zeros = at..at + len;
        Ok(())
    }

    pub(super) fn flush_zeros(&mut self, disk: &mut dyn Disk) -> Result<()> {
        let zeros = std::mem::replace(&mut self.zeros, 0..0);
        if zeros.is_empty() { Ok(()) } else { disk.zero(zeros.start, zeros.end - zeros.start) }
    }
}

fn overlap(from: u64, to: u64, range: &Range<u64>) -> bool {
    from < range.end && range.start < to
}

//! L1 and L2 tables of the file that is written (docs/interop/qcow2.txt, "Cluster mapping"): of the L2 tables as many as
//! fit into a bound are in memory, the others lie at their place in the file.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::targets::descriptors::Descriptors;

use super::allocation::Allocation;

/// "Refcount is exactly one": set for everything here that is not compressed.
pub const COPIED: u64 = 1 << 63;
pub const COMPRESSED: u64 = 1 << 62;
/// L2 tables kept in memory, in bytes: with clusters of 64 KiB they map 64 GiB of disk.
const KEPT: u64 = 8 << 20;
/// Bytes of an entry.
pub const ENTRY: u64 = 8;
/// Most bytes of an L1 table that QEMU takes (block/qcow2.h, QCOW_MAX_L1_SIZE).
pub const MOST_L1: u64 = 32 << 20;

struct Table {
    entries: Vec<u64>,
    changed: bool,
    touched: u64,
}

pub struct Tables {
    cluster: u64,
    /// Offsets of the L2 tables; 0 = there is none. As long as the highest one needs.
    l1: Vec<u64>,
    open: HashMap<usize, Table>,
    clock: u64,
}

impl Tables {
    /// `cluster` in bytes.
    pub fn new(cluster: u64) -> Self {
        Self { cluster, l1: Vec::new(), open: HashMap::new(), clock: 0 }
    }

    /// The entry of guest cluster `guest`; 0 = it reads as zeros.
    pub fn entry(&mut self, guest: u64, file: &Descriptors) -> Result<u64> {
        let (table, index) = self.place(guest);
        match self.l1.get(table) {
            None | Some(0) => Ok(0),
            Some(_) => Ok(self.load(table, file)?.entries[index]),
        }
    }

    pub fn set(&mut self, guest: u64, entry: u64, room: &mut Allocation, file: &Descriptors) -> Result<()> {
        let (table, index) = self.place(guest);
        if self.l1.len() <= table {
            self.l1.resize(table + 1, 0);
        }
        if self.l1[table] == 0 {
            self.make_room(file)?;
            self.l1[table] = room.clusters(1);
            let entries = vec![0; (self.cluster / ENTRY) as usize];
            self.open.insert(table, Table { entries, changed: true, touched: 0 });
        }
        let loaded = self.load(table, file)?;
        loaded.entries[index] = entry;
        loaded.changed = true;
        Ok(())
    }

    /// Writes what is not in the file yet; the L1 table for a disk of `length` bytes.
    pub fn finish(&mut self, length: u64, file: &Descriptors) -> Result<Vec<u8>> {
        for (index, table) in self.open.drain() {
            if table.changed {
                file.write(self.l1[index], &in_order(&table.entries))?;
            }
        }
        self.l1.resize(l1_entries(length, self.cluster) as usize, 0);
        let flagged: Vec<u64> = self.l1.iter().map(|at| if *at == 0 { 0 } else { *at | COPIED }).collect();
        Ok(in_order(&flagged))
    }

    fn place(&self, guest: u64) -> (usize, usize) {
        let entries = self.cluster / ENTRY;
        ((guest / entries) as usize, (guest % entries) as usize)
    }

    fn load(&mut self, table: usize, file: &Descriptors) -> Result<&mut Table> {
        if !self.open.contains_key(&table) {
            self.make_room(file)?;
            let mut bytes = vec![0; self.cluster as usize];
            file.read(self.l1[table], &mut bytes)?;
            let entries = bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect();
            self.open.insert(table, Table { entries, changed: false, touched: 0 });
        }
        self.clock += 1;
        let loaded = self.open.get_mut(&table).ok_or_else(Error::aborted)?;
        loaded.touched = self.clock;
        Ok(loaded)
    }

    /// Lets go of the table that was touched longest ago where there are too many.
    fn make_room(&mut self, file: &Descriptors) -> Result<()> {
        if (self.open.len() as u64) < (KEPT / self.cluster).max(2) {
            return Ok(());
        }
        let oldest = self.open.iter().min_by_key(|(_, table)| table.touched).map(|(index, _)| *index);
        if let Some((index, table)) = oldest.and_then(|index| self.open.remove_entry(&index))
            && table.changed
        {
            file.write(self.l1[index], &in_order(&table.entries))?;
        }
        Ok(())
    }
}

/// Entries that the L1 table of a disk of `length` bytes has.
pub fn l1_entries(length: u64, cluster: u64) -> u64 {
    length.div_ceil(cluster * (cluster / ENTRY))
}

/// Numbers are big-endian in the file.
fn in_order(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

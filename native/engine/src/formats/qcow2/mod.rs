//! QEMU's qcow2, versions 2 and 3 (docs/interop/qcow2.txt): L1 table, L2 tables, clusters.

use std::ops::Range;

use super::fields::be64;
use super::mapped::{Entry, Layout};
use super::{Driver, Packing, no_more};
use crate::error::Result;

mod describe;
pub mod header;
mod tables;

pub use header::Header;

pub const DRIVER: Driver = Driver {
    name: "qcow2",
    detect: |head| head.starts_with(&header::MAGIC),
    needs: no_more,
    describe: describe::describe,
};

impl Layout for Header {
    fn name(&self) -> &'static str {
        DRIVER.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn head(&self) -> &[u8] {
        &self.raw
    }

    fn cluster(&self) -> u64 {
        self.cluster_size()
    }

    fn span(&self) -> u64 {
        self.l2_span()
    }

    fn reserved(&self) -> &[Range<u64>] {
        std::slice::from_ref(&self.first_cluster)
    }

    fn directory(&self) -> Range<u64> {
        self.l1_range()
    }

    fn directory_room(&self) -> Range<u64> {
        self.l1_clusters()
    }

    fn table(&self, index: u32, directory: &[u8]) -> Result<Option<u64>> {
        tables::l1_entry(self, u64::from(index), be64(directory, index as usize * 8))
    }

    fn table_length(&self, _index: u32) -> u64 {
        self.cluster_size()
    }

    fn entry(&self, guest: u64, n: usize, table: &[u8]) -> Result<Entry> {
        let at = n * self.l2_entry_size() as usize;
        let bitmap = if self.extended_l2 { be64(table, at + 8) } else { 0 };
        tables::l2_entry(self, guest, be64(table, at), bitmap)
    }

    fn packing(&self) -> Packing {
        self.packing
    }

    fn refcounts(&self) -> Range<u64> {
        self.refcount_range()
    }

    fn refcount_blocks(&self, table: &[u8]) -> Vec<u64> {
        let mut blocks: Vec<u64> =
            table.chunks_exact(8).filter_map(|raw| tables::refcount_entry(be64(raw, 0))).collect();
        blocks.retain(|block| block % self.cluster_size() == 0);
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    }

    fn least_hold_back(&self) -> u64 {
        4 * self.cluster_size() + self.l1_needed * 8 + self.refcount_table_length
    }
}

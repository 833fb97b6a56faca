//! QEMU's QED (docs/interop/qed_spec.rst): two levels of tables.

use std::ops::Range;
use std::sync::Arc;

use super::fields::{le32, le64};
use super::mapped::{Entry, Layout, corrupt};
use super::{Driver, EARLY, Image, Order, head, no_more};
use crate::error::{Code, Error, Result, Stage};
use crate::limits::Limits;

pub const DRIVER: Driver = Driver { name: "qed", detect: |head| head.starts_with(b"QED\0"), needs: no_more, describe };

const HEADER: u64 = 64;
const BACKING_FILE: u64 = 1;
const NEED_CHECK: u64 = 2;
/// A backing file that is not probed.
const NO_PROBE: u64 = 4;
/// An L2 entry of a cluster that reads as zeros.
const ZERO_CLUSTER: u64 = 1;
/// Tables of 16 clusters of 64 MiB are lawful; more than this nobody makes, and a table is read as one.
const MOST_TABLE: u64 = 1 << 20;

#[derive(Clone, Debug)]
struct Qed {
    cluster: u64,
    /// Bytes of a table of either level.
    table: u64,
    l1: u64,
    size: u64,
    head: Vec<u8>,
    reserved: Vec<Range<u64>>,
}

fn describe(bytes: &[u8], file_length: Option<u64>, limits: &Limits) -> Result<Image> {
    head::expect_head(bytes, HEADER, DRIVER.name)?;
    let bad = |what: &str| corrupt(DRIVER.name, what);
    let features = le64(bytes, 16);
    if features & (BACKING_FILE | NO_PROBE) != 0 {
        return Err(head::difference("QED"));
    }
    if features & !NEED_CHECK != 0 {
        return Err(head::unsupported(format!("the QED image has features that are not known here ({features:#x})")));
    }
    let (cluster, clusters) = (u64::from(le32(bytes, 4)), u64::from(le32(bytes, 8)));
    if !cluster.is_power_of_two() || !(4 << 10..=64 << 20).contains(&cluster) {
        return Err(bad(&format!("its clusters have {cluster} bytes")));
    }
    if !clusters.is_power_of_two() || clusters > 16 {
        return Err(bad(&format!("its tables have {clusters} clusters")));
    }
    let table = cluster * clusters;
    if table > MOST_TABLE {
        let message = format!("the tables of the QED image have {table} bytes; at most {MOST_TABLE} are accepted");
        return Err(Error::new(Code::TooLarge, Stage::Format, message));
    }
    let header = u64::from(le32(bytes, 12)).max(1) * cluster;
    let layout = Qed {
        cluster,
        table,
        l1: le64(bytes, 40),
        size: le64(bytes, 48),
        head: bytes[..HEADER as usize].to_vec(),
        reserved: std::iter::once(0..header).collect(),
    };
    head::accept_size(layout.size, limits)?;
    if layout.size > table / 8 * layout.span() {
        return Err(bad(&format!("its tables have no room for {} bytes of disk", layout.size)));
    }
    if !layout.l1.is_multiple_of(cluster) || !(header..1 << 56).contains(&layout.l1) {
        return Err(bad(&format!("its L1 table is at {}", layout.l1)));
    }
    head::expect_file(layout.directory().end, file_length, "L1 table", DRIVER.name)?;
    let mut said = vec![format!("cluster size {cluster}")];
    if features & NEED_CHECK != 0 {
        said.push("not closed properly".to_owned());
    }
    Ok(Image {
        virtual_size: layout.size,
        order: if layout.l1 < EARLY.max(4 * cluster) { Order::Stream } else { Order::Metadata },
        features: said,
        left_out: Vec::new(),
        opener: Arc::new(layout),
    })
}

impl Layout for Qed {
    fn name(&self) -> &'static str {
        DRIVER.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn head(&self) -> &[u8] {
        &self.head
    }

    fn cluster(&self) -> u64 {
        self.cluster
    }

    fn span(&self) -> u64 {
        self.table / 8 * self.cluster
    }

    fn reserved(&self) -> &[Range<u64>] {
        &self.reserved
    }

    fn directory(&self) -> Range<u64> {
        self.l1..self.l1 + u64::from(self.tables()) * 8
    }

    fn directory_room(&self) -> Range<u64> {
        self.l1..self.l1 + self.table
    }

    fn table(&self, index: u32, directory: &[u8]) -> Result<Option<u64>> {
        let offset = le64(directory, index as usize * 8);
        if !offset.is_multiple_of(self.cluster) || offset >= 1 << 56 {
            return Err(self.corrupt(&format!("L2 table {index} is at {offset}")));
        }
        Ok(Some(offset).filter(|&offset| offset != 0))
    }

    fn table_length(&self, _index: u32) -> u64 {
        self.table
    }

    fn entry(&self, guest: u64, n: usize, table: &[u8]) -> Result<Entry> {
        match le64(table, n * 8) {
            0 | ZERO_CLUSTER => Ok(Entry::Zero),
            host if host.is_multiple_of(self.cluster) && host < 1 << 56 => Ok(Entry::Data { host }),
            host => Err(self.corrupt(&format!("the data of disk offset {guest} is at {host}"))),
        }
    }
}

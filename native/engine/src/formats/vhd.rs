//! Microsoft's VHD with a table of blocks, "dynamic" (Virtual Hard Disk Image Format Specification 1.0, 2006). A fixed
//! VHD has no header: it is a raw disk, with a sector behind it that is no part of it.

use std::sync::Arc;

use super::fields::{be32, be64};
use super::mapped::corrupt;
use super::mapped::flat::{Code32, Flat};
use super::{Driver, EARLY, Image, Order, head, no_more};
use crate::error::Result;
use crate::limits::Limits;

pub const DRIVER: Driver =
    Driver { name: "vhd", detect: |head| head.starts_with(b"conectix"), needs: no_more, describe };

pub(super) const FOOTER: usize = 512;
const DYNAMIC_HEADER: usize = 1024;
const SECTOR: u64 = 512;
pub(super) const VERSION: u32 = 0x0001_0000;
pub(super) const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;
/// Programs whose disks have the size that the footer states; others count the geometry (QEMU, block/vpc.c).
const BY_SIZE: [&[u8]; 6] = [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0"];
/// Largest geometry, of 65535 cylinders, 16 heads and 255 sectors: it says nothing of the size.
const MOST_SECTORS: u64 = 65535 * 16 * 255;

/// One's complement of the sum of all bytes but those of the checksum itself ("Checksum").
pub(super) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |part: &[u8]| part.iter().map(|&b| u32::from(b)).sum::<u32>();
    !(sum(&bytes[..at]) + sum(&bytes[at + 4..]))
}

pub use super::vhd_fixed::describe_fixed;

fn describe(bytes: &[u8], file_length: Option<u64>, limits: &Limits) -> Result<Image> {
    let bad = |what: &str| corrupt(DRIVER.name, what);
    head::expect_head(bytes, FOOTER as u64, DRIVER.name)?;
    let footer = &bytes[..FOOTER];
    if be32(footer, 64) != checksum(footer, 64) {
        return Err(bad("the checksum of its footer's copy is wrong"));
    }
    if be32(footer, 12) != VERSION {
        return Err(head::unsupported(format!("VHD version {:#010x} is not known", be32(footer, 12))));
    }
    match be32(footer, 60) {
        DYNAMIC => {}
        DIFFERENCING => return Err(head::difference("VHD")),
        FIXED => return Err(bad("a fixed disk has its footer at the end, not at the beginning")),
        other => return Err(head::unsupported(format!("VHD disk type {other} is not known"))),
    }
    let at = be64(footer, 16);
    let dynamic = usize::try_from(at).ok().and_then(|at| bytes.get(at..at.checked_add(DYNAMIC_HEADER)?));
    let Some(dynamic) = dynamic.filter(|d| d.starts_with(b"cxsparse") && at >= FOOTER as u64) else {
        return Err(bad(&format!("there is no header of a dynamic disk at {at}")));
    };
    if be32(dynamic, 36) != checksum(dynamic, 36) {
        return Err(bad("the checksum of its dynamic header is wrong"));
    }
    let block = u64::from(be32(dynamic, 32));
    if !block.is_power_of_two() || block < SECTOR {
        return Err(bad(&format!("its blocks have {block} bytes")));
    }
    // A bit for each sector stands before the data of a block, filled up to a sector ("Data Blocks").
    let bitmap = block.div_ceil(SECTOR * 8).next_multiple_of(SECTOR);
    let size = size(footer);
    let head_end = at as usize + DYNAMIC_HEADER;
    let layout = Flat {
        name: DRIVER.name,
        size,
        cluster: block,
        table: be64(dynamic, 16),
        code: Code32 { big_endian: true, none_from: u32::MAX, first: 0, base: bitmap, unit: SECTOR },
        head: bytes[..head_end].to_vec(),
        reserved: vec![0..FOOTER as u64, at..head_end as u64],
    };
    layout.check(u64::from(be32(dynamic, 28)), file_length, limits)?;
    Ok(Image {
        virtual_size: size,
        order: if layout.table < EARLY { Order::Stream } else { Order::Metadata },
        features: vec!["dynamic".to_owned(), format!("block size {block}")],
        left_out: Vec::new(),
        opener: Arc::new(layout),
    })
}

/// Virtual PC's disks have the size of their geometry, Hyper-V's the size that is stated; see [`BY_SIZE`].
fn size(footer: &[u8]) -> u64 {
    let stated = be64(footer, 48);
    let geometry = be32(footer, 56);
    let sectors = u64::from(geometry >> 16) * u64::from(geometry >> 8 & 0xff) * u64::from(geometry & 0xff);
    if sectors == MOST_SECTORS || BY_SIZE.contains(&&footer[28..32]) { stated } else { sectors * SECTOR }
}

//! VirtualBox's VDI, dynamic and static (VirtualBox source, src/VBox/Storage/VDICore.h; QEMU, block/vdi.c).

use std::sync::Arc;

use super::fields::{le32, le64};
use super::mapped::corrupt;
use super::mapped::flat::{Code32, Flat};
use super::{Driver, EARLY, Image, Order, head, no_more};
use crate::error::Result;
use crate::limits::Limits;

pub const DRIVER: Driver = Driver { name: "vdi", detect, needs: no_more, describe };

/// Signature at 0x40, little-endian.
const SIGNATURE: [u8; 4] = [0x7f, 0x10, 0xda, 0xbe];
/// Bytes of the pre-header and the header of version 1.1.
const HEADER: u64 = 0x200;
/// Entries of blocks that were never written, and that were discarded.
const DISCARDED: u32 = 0xffff_fffe;

fn detect(head: &[u8]) -> bool {
    head.get(0x40..0x44) == Some(&SIGNATURE)
}

fn describe(bytes: &[u8], file_length: Option<u64>, limits: &Limits) -> Result<Image> {
    head::expect_head(bytes, HEADER, DRIVER.name)?;
    let bad = |what: &str| corrupt(DRIVER.name, what);
    let version = le32(bytes, 0x44);
    if version != 0x0001_0001 {
        return Err(head::unsupported(format!(
            "VDI version {}.{} is not known; 1.1 is",
            version >> 16,
            version & 0xffff
        )));
    }
    let kind = match le32(bytes, 0x4c) {
        1 => "dynamic",
        2 => "static",
        // VDI_IMAGE_TYPE_UNDO and VDI_IMAGE_TYPE_DIFF.
        3 | 4 => return Err(head::difference("VDI")),
        other => return Err(head::unsupported(format!("VDI image type {other} is not known"))),
    };
    // UUIDs of the image that this one is linked to, and of its parent.
    if bytes[0x1a8..0x1c8].iter().any(|&b| b != 0) {
        return Err(head::difference("VDI"));
    }
    let (table, data) = (u64::from(le32(bytes, 0x154)), u64::from(le32(bytes, 0x158)));
    let (block, extra, blocks) = (le32(bytes, 0x178), le32(bytes, 0x17c), le32(bytes, 0x180));
    if extra != 0 {
        return Err(head::unsupported(format!("VDI blocks with {extra} extra bytes are not known")));
    }
    if !block.is_power_of_two() || table < HEADER || data < table {
        return Err(bad(&format!("blocks of {block} bytes, the table at {table}, the data at {data}")));
    }
    // VBoxManage makes images of odd sizes; QEMU rounds them up to a sector too.
    let size = le64(bytes, 0x170).checked_next_multiple_of(512).unwrap_or(u64::MAX);
    let layout = Flat {
        name: DRIVER.name,
        size,
        cluster: u64::from(block),
        table,
        code: Code32 { big_endian: false, none_from: DISCARDED, first: 0, base: data, unit: u64::from(block) },
        head: bytes[..HEADER as usize].to_vec(),
        reserved: std::iter::once(0..HEADER).collect(),
    };
    layout.check(u64::from(blocks), file_length, limits)?;
    if data < table + u64::from(blocks) * 4 {
        return Err(bad(&format!("its data begins at {data}, inside its table")));
    }
    Ok(Image {
        virtual_size: size,
        order: if table < EARLY { Order::Stream } else { Order::Metadata },
        features: vec![kind.to_owned(), format!("block size {block}")],
        left_out: Vec::new(),
        opener: Arc::new(layout),
    })
}

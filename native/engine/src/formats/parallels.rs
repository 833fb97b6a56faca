//! Parallels' expanding images (QEMU, docs/interop/parallels.rst).

use std::sync::Arc;

use super::fields::{le32, le64};
use super::mapped::corrupt;
use super::mapped::flat::{Code32, Flat};
use super::{Driver, Image, Order, head, no_more};
use crate::error::Result;
use crate::limits::Limits;

pub const DRIVER: Driver = Driver { name: "parallels", detect, needs: no_more, describe };

/// Entries of the first count in sectors, ...
const MAGIC: &[u8] = b"WithoutFreeSpace";
/// ... of the second in clusters.
const MAGIC_EXTENDED: &[u8] = b"WithouFreSpacExt";
const HEADER: u64 = 64;
const SECTOR: u64 = 512;
/// "Yton": opened for writing, and not closed.
const IN_USE: u32 = 0x746f_6e59;

fn detect(head: &[u8]) -> bool {
    head.starts_with(MAGIC) || head.starts_with(MAGIC_EXTENDED)
}

fn describe(bytes: &[u8], file_length: Option<u64>, limits: &Limits) -> Result<Image> {
    head::expect_head(bytes, HEADER, DRIVER.name)?;
    let version = le32(bytes, 16);
    if version != 2 {
        return Err(head::unsupported(format!("version {version} of Parallels images is not known; 2 is")));
    }
    let extended = bytes.starts_with(MAGIC_EXTENDED);
    let cluster = u64::from(le32(bytes, 28)) * SECTOR;
    // Without the extension only the lower half counts.
    let sectors = if extended { le64(bytes, 36) } else { u64::from(le32(bytes, 36)) };
    let Some(size) = sectors.checked_mul(SECTOR) else {
        return Err(corrupt(DRIVER.name, &format!("its disk has {sectors} sectors")));
    };
    let layout = Flat {
        name: DRIVER.name,
        size,
        cluster,
        table: HEADER,
        code: Code32 {
            big_endian: false,
            none_from: u32::MAX,
            first: 1,
            base: 0,
            unit: if extended { cluster } else { SECTOR },
        },
        head: bytes[..HEADER as usize].to_vec(),
        reserved: std::iter::once(0..HEADER).collect(),
    };
    layout.check(u64::from(le32(bytes, 32)), file_length, limits)?;
    let mut features = vec![format!("cluster size {cluster}")];
    if le32(bytes, 44) == IN_USE {
        features.push("not closed properly".to_owned());
    }
    // The format extension holds dirty bitmaps only.
    let left_out = if le64(bytes, 56) == 0 { Vec::new() } else { vec!["format extension".to_owned()] };
    Ok(Image { virtual_size: size, order: Order::Stream, features, left_out, opener: Arc::new(layout) })
}

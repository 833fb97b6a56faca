//! What the head of an image says for people and for the plan.

use std::sync::Arc;

use super::header::Header;
use crate::error::Result;
use crate::formats::head::printable;
use crate::formats::{EARLY, Image, Order, Packing};
use crate::limits::Limits;

/// What the head of a qcow2 image says.
pub fn describe(head: &[u8], file_length: Option<u64>, limits: &Limits) -> Result<Image> {
    let h = Header::parse(head, file_length, limits)?;
    let mut features = vec![format!("version {}", h.version), format!("cluster size {}", h.cluster_size())];
    if h.packing == Packing::Zstd {
        features.push("zstd clusters".to_owned());
    }
    for (present, name) in
        [(h.extended_l2, "extended L2"), (h.lazy_refcounts, "lazy refcounts"), (h.dirty, "not closed properly")]
    {
        if present {
            features.push(name.to_owned());
        }
    }
    if h.refcount_order != 4 {
        features.push(format!("refcount width {}", 1u32 << h.refcount_order));
    }
    let late = h.l1_needed > 0 && h.l1_offset >= EARLY.max(4 * h.cluster_size());
    Ok(Image {
        virtual_size: h.size,
        order: if late || h.snapshots > 0 { Order::Metadata } else { Order::Stream },
        features,
        left_out: left_out(&h, head),
        opener: Arc::new(h),
    })
}

/// At most this many snapshots and bitmaps are named one by one.
const NAMED: u32 = 16;

fn left_out(h: &Header, head: &[u8]) -> Vec<String> {
    let mut list = Vec::new();
    let (names, all) = snapshot_names(h, head);
    list.extend(names.iter().map(|name| format!("internal snapshot \"{name}\"")));
    if !all {
        list.push(format!("{} internal snapshots", h.snapshots - names.len() as u32));
    }
    let (names, all) = bitmap_names(h, head);
    list.extend(names.iter().map(|name| format!("bitmap \"{name}\"")));
    if !all {
        list.push(format!("{} bitmaps", h.bitmaps - names.len() as u32));
    }
    list.extend(h.extensions.iter().map(|kind| format!("header extension {kind:#010x}")));
    list
}

fn number(head: &[u8], at: usize, width: usize) -> Option<usize> {
    Some(head.get(at..at.checked_add(width)?)?.iter().fold(0, |n, &b| n << 8 | usize::from(b)))
}

/// Names from the snapshot table ("Snapshots" in qcow2.txt), as far as the head has it, and whether these are all.
fn snapshot_names(h: &Header, head: &[u8]) -> (Vec<String>, bool) {
    let mut names = Vec::new();
    let mut at = usize::try_from(h.snapshots_offset).unwrap_or(usize::MAX);
    for _ in 0..h.snapshots.min(NAMED) {
        let next = (|| {
            let id = number(head, at.checked_add(12)?, 2)?;
            let name = number(head, at + 14, 2)?;
            let extra = number(head, at + 36, 4)?;
            let start = at.checked_add(40)?.checked_add(extra)?.checked_add(id)?;
            names.push(printable(head.get(start..start.checked_add(name)?)?));
            Some((start + name).next_multiple_of(8))
        })();
        let Some(next) = next else { break };
        at = next;
    }
    let all = names.len() as u32 == h.snapshots;
    (names, all)
}

/// Names from the bitmap directory ("Bitmap directory" in qcow2.txt), as for snapshots.
fn bitmap_names(h: &Header, head: &[u8]) -> (Vec<String>, bool) {
    let mut names = Vec::new();
    let mut at = usize::try_from(h.bitmap_directory.1).unwrap_or(usize::MAX);
    for _ in 0..h.bitmaps.min(NAMED) {
        let next = (|| {
            let name = number(head, at.checked_add(18)?, 2)?;
            let extra = number(head, at + 20, 4)?;
            let start = at.checked_add(24)?.checked_add(extra)?;
            names.push(printable(head.get(start..start.checked_add(name)?)?));
            Some((start + name).next_multiple_of(8))
        })();
        let Some(next) = next else { break };
        at = next;
    }
    let all = names.len() as u32 == h.bitmaps;
    (names, all)
}

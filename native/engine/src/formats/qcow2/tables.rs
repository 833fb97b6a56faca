//! Entries of L1 and L2 tables (docs/interop/qcow2.txt, "Cluster mapping").

use super::header::Header;
use crate::error::{Error, Result};
use crate::formats::mapped::{self, Entry, SECTOR};

/// Bits 9 to 55 of an L1, L2 or refcount table entry: an offset in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits 0 to 8 and 56 to 62 of an L1 entry.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Bits 1 to 8 and 56 to 61 of an L2 entry that is not compressed.
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
const COMPRESSED: u64 = 1 << 62;
const ALL_ZERO: u64 = 1;
pub fn corrupt(what: impl AsRef<str>) -> Error {
    mapped::corrupt("qcow2", what.as_ref())
}

/// Offset of an L2 table, `None` where the whole range reads as zeros.
pub fn l1_entry(header: &Header, index: u64, raw: u64) -> Result<Option<u64>> {
    let offset = raw & OFFSET;
    if raw & L1_RESERVED != 0 {
        return Err(corrupt(format!("entry {index} of the L1 table has reserved bits set ({raw:#018x})")));
    }
    if offset == 0 {
        return Ok(None);
    }
    if !offset.is_multiple_of(header.cluster_size()) {
        return Err(corrupt(format!("L2 table {index} is at {offset}, which is not on a cluster boundary")));
    }
    Ok(Some(offset))
}

/// Offset of a refcount block; what is wrong in it does not matter to the disk.
pub fn refcount_entry(raw: u64) -> Option<u64> {
    Some(raw & OFFSET).filter(|&offset| offset != 0)
}

/// Decodes the entry for guest cluster `guest`; `bitmap` is the second word of an extended entry, else 0.
pub fn l2_entry(header: &Header, guest: u64, raw: u64, bitmap: u64) -> Result<Entry> {
    let bad = |what: &str| corrupt(format!("the L2 entry for disk offset {guest} {what} ({raw:#018x} {bitmap:#x})"));
    if raw & COMPRESSED != 0 {
        let offset_bits = 62 - (header.cluster_bits - 8);
        let host = raw & ((1 << offset_bits) - 1);
        let sectors = (raw & (COMPRESSED - 1)) >> offset_bits;
        let len = (sectors + 1) * SECTOR - host % SECTOR;
        if host < header.cluster_size() || host > OFFSET {
            return Err(bad("places a compressed cluster where none can be"));
        }
        if bitmap != 0 {
            return Err(bad("gives subclusters to a compressed cluster"));
        }
        return Ok(Entry::Packed { host, len: len as u32 });
    }
    if raw & L2_RESERVED != 0 {
        return Err(bad("has reserved bits set"));
    }
    let host = raw & OFFSET;
    if !host.is_multiple_of(header.cluster_size()) {
        return Err(bad("is not on a cluster boundary"));
    }
    if header.extended_l2 {
        if raw & ALL_ZERO != 0 {
            return Err(bad("sets a bit that extended entries reserve"));
        }
        let (allocated, zero) = (bitmap as u32, (bitmap >> 32) as u32);
        if allocated & zero != 0 {
            return Err(bad("says of a subcluster that it is both data and zeros"));
        }
        return match (host, allocated) {
            (_, 0) => Ok(Entry::Zero),
            (0, _) => Err(bad("has subclusters but no cluster")),
            (host, u32::MAX) => Ok(Entry::Data { host }),
            (host, allocated) => Ok(Entry::Subclusters { host, allocated }),
        };
    }
    if raw & ALL_ZERO != 0 {
        if header.version < 3 {
            return Err(bad("sets the zero flag, which version 2 does not have"));
        }
        return Ok(Entry::Zero);
    }
    Ok(if host == 0 { Entry::Zero } else { Entry::Data { host } })
}

//! The header of a qcow2 image (docs/interop/qcow2.txt, "Header", "Header extensions").

use crate::error::{Code, Error, Result, Stage};
use crate::formats::Packing;
use crate::formats::bridged::{self, Bridge};
use crate::formats::fields::{be32, be64};
use crate::formats::head::{self, printable};
use crate::limits::Limits;

use super::tables::corrupt;

/// "QFI\xfb".
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of a version 2 header, and of the least version 3 header.
const V2_LENGTH: u64 = 72;
const V3_LENGTH: u64 = 104;
/// Bounds that QEMU keeps as well: L1 table, refcount table (block/qcow2.h), backing file name.
const MAX_L1: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
const MAX_NAME: u64 = 1023;

const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_EXTERNAL: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
const COMPATIBLE_LAZY: u64 = 1;

const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// A header that was checked; offsets and sizes are in bytes of the file.
#[derive(Clone, Debug)]
pub struct Header {
    pub version: u32,
    pub cluster_bits: u32,
    /// What the guest sees.
    pub size: u64,
    /// Entries of the L1 table that the virtual size needs; the table may have more.
    pub l1_needed: u64,
    pub l1_offset: u64,
    pub refcount_table_offset: u64,
    pub refcount_table_length: u64,
    pub refcount_order: u32,
    pub snapshots: u32,
    pub snapshots_offset: u64,
    pub dirty: bool,
    pub lazy_refcounts: bool,
    pub extended_l2: bool,
    pub packing: Packing,
    pub bitmaps: u32,
    /// Length and offset of the bitmap directory.
    pub bitmap_directory: (u64, u64),
    /// Unknown header extensions, which are ignored.
    pub extensions: Vec<u32>,
    /// The header lies in it, and nothing of the disk.
    pub first_cluster: std::ops::Range<u64>,
    /// The bytes that say where the tables are, to recognise a file that changed.
    pub raw: Vec<u8>,
}

fn refuse(code: Code, message: impl Into<String>) -> Error {
    Error::new(code, Stage::Format, message)
}

fn short(have: usize, what: &str, needs: u64) -> Error {
    refuse(Code::Truncated, format!("the qcow2 image ends after {have} bytes, inside its {what} ({needs} bytes)"))
}

/// What of QEMU reads an image that is encrypted (docs/interop/qcow2.txt, `crypt_method`).
pub fn bridge(head: &[u8]) -> Option<Bridge> {
    match be32(head, 32) {
        1 => Some("qcow2+aes"),
        2 => Some("qcow2+luks"),
        _ => None,
    }
}

impl Header {
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub fn l2_entry_size(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    pub fn l2_entries(&self) -> u64 {
        self.cluster_size() / self.l2_entry_size()
    }

    /// Guest bytes that one L2 table maps.
    pub fn l2_span(&self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// Parses and checks the header. `head` is the beginning of the file, at least the header and its extensions
    /// or the whole file. Fails with UNSAFE, ENCRYPTED, CORRUPT, UNSUPPORTED, TOO_LARGE or TRUNCATED.
    pub fn parse(head: &[u8], file_length: Option<u64>, limits: &Limits) -> Result<Self> {
        if !head.starts_with(&MAGIC) {
            return Err(corrupt("it does not begin with the qcow2 magic number"));
        }
        if (head.len() as u64) < V2_LENGTH {
            return Err(short(head.len(), "header", V2_LENGTH));
        }
        let version = be32(head, 4);
        if !(2..=3).contains(&version) {
            return Err(refuse(Code::Unsupported, format!("qcow2 version {version} is not known; 2 and 3 are")));
        }
        if version == 3 && (head.len() as u64) < V3_LENGTH {
            return Err(short(head.len(), "header", V3_LENGTH));
        }
        let cluster_bits = be32(head, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(corrupt(format!("cluster_bits is {cluster_bits}; 9 to 21 are lawful")));
        }
        let cluster = 1u64 << cluster_bits;
        let length = if version == 3 { u64::from(be32(head, 100)) } else { V2_LENGTH };
        if version == 3 && !(V3_LENGTH..=cluster).contains(&length) {
            return Err(corrupt(format!("the header says it has {length} bytes; {V3_LENGTH} to {cluster} are lawful")));
        }
        if (head.len() as u64) < length {
            return Err(short(head.len(), "header", length));
        }
        let (incompatible, compatible) = if version == 3 { (be64(head, 72), be64(head, 80)) } else { (0, 0) };
        let mut header = Header {
            version,
            cluster_bits,
            size: be64(head, 24),
            l1_needed: 0,
            l1_offset: be64(head, 40),
            refcount_table_offset: be64(head, 48),
            refcount_table_length: u64::from(be32(head, 56)) << cluster_bits,
            refcount_order: if version == 3 { be32(head, 96) } else { 4 },
            snapshots: be32(head, 60),
            snapshots_offset: be64(head, 64),
            dirty: incompatible & INCOMPATIBLE_DIRTY != 0,
            lazy_refcounts: compatible & COMPATIBLE_LAZY != 0,
            extended_l2: incompatible & INCOMPATIBLE_EXTENDED_L2 != 0,
            packing: Packing::Deflate,
            bitmaps: 0,
            bitmap_directory: (0, 0),
            extensions: Vec::new(),
            first_cluster: 0..cluster,
            raw: head[..length.min(if version == 3 { V3_LENGTH + 8 } else { V2_LENGTH }) as usize].to_vec(),
        };
        let names = header.read_extensions(head, length, file_length)?;
        header.refuse_features(head, incompatible, &names)?;
        header.read_compression(head, length, incompatible)?;
        header.check_sizes(limits, u64::from(be32(head, 36)))?;
        header.check_places(file_length)?;
        Ok(header)
    }

    /// Returns the names of incompatible features as (bit, name).
    fn read_extensions(&mut self, head: &[u8], length: u64, file_length: Option<u64>) -> Result<Vec<(u8, String)>> {
        let mut names = Vec::new();
        let backing = be64(head, 8);
        let mut end = self.cluster_size();
        if backing >= length {
            end = end.min(backing);
        }
        let mut at = length;
        while at + 8 <= end {
            if at + 8 > head.len() as u64 {
                // Images of other programs may end right after the header.
                if file_length.is_none_or(|n| n > head.len() as u64) && at > length {
                    return Err(corrupt(format!("its header extensions run past byte {}", head.len())));
                }
                break;
            }
            let (kind, size) = (be32(head, at as usize), u64::from(be32(head, at as usize + 4)));
            if kind == 0 {
                break;
            }
            let data = at + 8;
            if size > end - data {
                return Err(corrupt(format!("header extension {kind:#010x} of {size} bytes leaves the first cluster")));
            }
            let Some(bytes) = head.get(data as usize..(data + size) as usize) else {
                return Err(short(head.len(), "header extensions", data + size));
            };
            match kind {
                EXTENSION_FEATURE_NAMES => {
                    for record in bytes.chunks_exact(48).take(192).filter(|r| r[0] == 0) {
                        let name = record[2..].split(|&b| b == 0).next().unwrap_or_default();
                        names.push((record[1], printable(name)));
                    }
                }
                EXTENSION_BITMAPS if size >= 24 => {
                    self.bitmaps = be32(bytes, 0);
                    self.bitmap_directory = (be64(bytes, 8), be64(bytes, 16));
                }
                EXTENSION_BACKING_FORMAT | EXTENSION_ENCRYPTION | EXTENSION_DATA_FILE | EXTENSION_BITMAPS => {}
                other if self.extensions.len() < 16 => self.extensions.push(other),
                _ => {}
            }
            at = data + size.next_multiple_of(8);
        }
        Ok(names)
    }

    fn refuse_features(&self, head: &[u8], incompatible: u64, names: &[(u8, String)]) -> Result<()> {
        let (offset, length) = (be64(head, 8), u64::from(be32(head, 16)));
        if offset != 0 && length != 0 {
            let lawful = length <= MAX_NAME && offset.checked_add(length).is_some_and(|end| end <= head.len() as u64);
            let name = if lawful { printable(&head[offset as usize..(offset + length) as usize]) } else { "?".into() };
            return Err(refuse(
                Code::Unsafe,
                format!(
                    "the qcow2 image is only the difference to a backing file, \"{name}\", which is not followed; \
                     flatten it first: `qemu-img convert -O qcow2 IMAGE FLAT`"
                ),
            ));
        }
        if incompatible & INCOMPATIBLE_EXTERNAL != 0 {
            return Err(refuse(
                Code::Unsafe,
                "the qcow2 image keeps its data in an external file, which is not followed; \
                 flatten it first: `qemu-img convert -O qcow2 IMAGE FLAT`",
            ));
        }
        match be32(head, 32) {
            0 => {}
            method => {
                let how = match method {
                    1 => "AES",
                    2 => "LUKS",
                    _ => "an unknown method",
                };
                return Err(bridged::locked(&format!("the qcow2 image is encrypted ({how})"), "qemu-img convert"));
            }
        }
        if incompatible & INCOMPATIBLE_CORRUPT != 0 {
            return Err(refuse(
                Code::Corrupt,
                "the qcow2 image is marked as corrupt by the program that wrote it; repair it: `qemu-img check -r all IMAGE`",
            ));
        }
        let unknown = incompatible >> 5;
        if unknown != 0 {
            let mut list = Vec::new();
            for bit in (5..64u8).filter(|bit| incompatible >> bit & 1 != 0).take(8) {
                let name = names.iter().find(|(b, _)| *b == bit).map(|(_, name)| name.as_str());
                list.push(name.map_or_else(|| format!("bit {bit}"), |n| format!("bit {bit} \"{n}\"")));
            }
            return Err(refuse(
                Code::Unsupported,
                format!("the qcow2 image uses features that are not known here: {}", list.join(", ")),
            ));
        }
        Ok(())
    }

    fn read_compression(&mut self, head: &[u8], length: u64, incompatible: u64) -> Result<()> {
        let kind = if self.version == 3 && length > V3_LENGTH { head[V3_LENGTH as usize] } else { 0 };
        if (kind != 0) != (incompatible & INCOMPATIBLE_COMPRESSION != 0) {
            return Err(corrupt(format!("its compression type is {kind}, and its feature bit says otherwise")));
        }
        self.packing = match kind {
            0 => Packing::Deflate,
            1 => Packing::Zstd,
            other => return Err(refuse(Code::Unsupported, format!("qcow2 compression type {other} is not known"))),
        };
        if self.extended_l2 && self.cluster_bits < 14 {
            return Err(corrupt(format!("it has extended L2 entries with clusters of {} bytes", self.cluster_size())));
        }
        if self.refcount_order > 6 {
            return Err(corrupt(format!("refcount_order is {}; 0 to 6 are lawful", self.refcount_order)));
        }
        Ok(())
    }

    fn check_sizes(&mut self, limits: &Limits, l1_size: u64) -> Result<()> {
        head::accept_size(self.size, limits)?;
        if l1_size * 8 > MAX_L1 {
            return Err(refuse(
                Code::TooLarge,
                format!("the L1 table of the qcow2 image has {} bytes; at most {MAX_L1} are accepted", l1_size * 8),
            ));
        }
        self.l1_needed = self.size.div_ceil(self.l2_span());
        if l1_size < self.l1_needed {
            return Err(corrupt(format!(
                "its L1 table has {l1_size} entries; {} bytes of disk need {}",
                self.size, self.l1_needed
            )));
        }
        if self.refcount_table_length > MAX_REFCOUNT_TABLE {
            return Err(refuse(
                Code::TooLarge,
                format!(
                    "the refcount table has {} bytes; at most {MAX_REFCOUNT_TABLE} are accepted",
                    self.refcount_table_length
                ),
            ));
        }
        Ok(())
    }

    fn check_places(&self, file_length: Option<u64>) -> Result<()> {
        let cluster = self.cluster_size();
        let dirty = if self.dirty { ", and it was not closed properly" } else { "" };
        let place = |what: &str, offset: u64, length: u64| {
            if !offset.is_multiple_of(cluster) {
                return Err(corrupt(format!("its {what} is at {offset}, which is not on a cluster boundary{dirty}")));
            }
            let Some(end) = offset.checked_add(length).filter(|&end| end < 1 << 56) else {
                return Err(corrupt(format!("its {what} is at {offset}, where no file reaches{dirty}")));
            };
            if offset < cluster {
                return Err(corrupt(format!("its {what} is at {offset}, over the header{dirty}")));
            }
            match file_length {
                Some(file) if end > file => Err(refuse(
                    if self.dirty { Code::Corrupt } else { Code::Truncated },
                    format!("the {what} of the qcow2 image ends at {end}, but the file has {file} bytes{dirty}"),
                )),
                _ => Ok(()),
            }
        };
        if self.l1_needed > 0 {
            place("L1 table", self.l1_offset, self.l1_needed * 8)?;
        }
        if self.refcount_table_length > 0 || self.dirty {
            place("refcount table", self.refcount_table_offset, self.refcount_table_length.max(1))?;
        }
        let (l1, refcounts) = (self.l1_range(), self.refcount_range());
        if !l1.is_empty() && l1.start < refcounts.end && refcounts.start < l1.end {
            return Err(corrupt("its L1 table and its refcount table overlap"));
        }
        Ok(())
    }

    /// The part of the L1 table that is needed.
    pub fn l1_range(&self) -> std::ops::Range<u64> {
        if self.l1_needed == 0 { 0..0 } else { self.l1_offset..self.l1_offset + self.l1_needed * 8 }
    }

    /// The clusters that the L1 table fills; nothing else lies in them.
    pub fn l1_clusters(&self) -> std::ops::Range<u64> {
        let l1 = self.l1_range();
        l1.start..l1.end.next_multiple_of(self.cluster_size())
    }

    pub fn refcount_range(&self) -> std::ops::Range<u64> {
        if self.refcount_table_length == 0 {
            0..0
        } else {
            self.refcount_table_offset..self.refcount_table_offset + self.refcount_table_length
        }
    }
}

//! The header of a sparse extent ("Hosted Sparse Extent Header").

use std::ops::Range;

use super::DRIVER;
use super::descriptor;
use crate::error::{Code, Error, Result, Stage};
use crate::formats::bridged::Bridge;
use crate::formats::fields::{le32, le64};
use crate::formats::head;
use crate::formats::mapped::{SECTOR, corrupt};
use crate::limits::Limits;

const MAGIC: &[u8] = b"KDMV";
const DESCRIPTOR: &[u8] = b"# Disk DescriptorFile";
const LENGTH: u64 = 512;
const REDUNDANT: u32 = 1 << 1;
const ZEROED_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
/// The only method that is named ("compressAlgorithm"): zlib, RFC 1950.
const DEFLATE: u16 = 1;
/// The grain directory stands behind the grains ("GD_AT_END").
const AT_END: u64 = u64::MAX;
/// Entries of a grain table ("numGTEsPerGT").
pub const ENTRIES: u64 = 512;
/// Bytes of a grain table.
pub const TABLE: u64 = ENTRIES * 4;
/// Grains are a power of two of more than 8 sectors ("grainSize"); QEMU knows up to this many bytes.
const GRAINS: Range<u64> = 4096..(64 << 20) + 1;

/// What a worker unpacks as one; those of VMware have 64 KiB.
const MOST_COMPRESSED: u64 = 2 << 20;

/// A checked header; offsets and lengths in bytes.
#[derive(Clone, Debug)]
pub struct Header {
    pub size: u64,
    pub grain: u64,
    /// Of the grain directory; [`u64::MAX`] where it stands at the end.
    pub directory: u64,
    /// Where the grains of a compressed extent begin.
    pub overhead: u64,
    pub descriptor: Range<u64>,
    pub compressed: bool,
    pub redundant: bool,
    pub zeroed_grains: bool,
    pub unclean: bool,
    pub raw: Vec<u8>,
}

pub fn detect(bytes: &[u8]) -> bool {
    [MAGIC, DESCRIPTOR].iter().any(|magic| bytes.starts_with(magic))
}

impl Header {
    pub fn directory_at_end(&self) -> bool {
        self.directory == AT_END
    }

    /// Grain tables that the disk has.
    pub fn tables(&self) -> u64 {
        self.size.div_ceil(self.grain * ENTRIES)
    }

    /// Fails with UNSAFE, UNSUPPORTED, CORRUPT, TOO_LARGE or TRUNCATED.
    pub fn parse(bytes: &[u8], file_length: Option<u64>, limits: &Limits) -> Result<Self> {
        refuse_others(bytes)?;
        head::expect_head(bytes, LENGTH, DRIVER.name)?;
        let bad = |what: &str| corrupt(DRIVER.name, what);
        let version = le32(bytes, 4);
        if !(1..=3).contains(&version) {
            return Err(head::unsupported(format!("VMDK version {version} is not known; 1 to 3 are")));
        }
        // Changed by a program that takes line ends for text ("singleEndLineChar").
        if bytes[73..77] != *b"\n \r\n" {
            return Err(bad("its line ends were changed, as by a transfer in text mode"));
        }
        let flags = le32(bytes, 8);
        let algorithm = u16::from_le_bytes([bytes[77], bytes[78]]);
        let compressed = flags & COMPRESSED != 0;
        if compressed && (algorithm != DEFLATE || flags & MARKERS == 0) {
            let message = format!("the VMDK image is compressed in a way that is not known (method {algorithm})");
            return Err(head::unsupported(message));
        }
        let sectors = |at: usize| {
            let count = le64(bytes, at);
            count.checked_mul(SECTOR).filter(|&n| n < 1 << 62).ok_or_else(|| bad(&format!("{count} sectors")))
        };
        let (size, grain) = (sectors(12)?, sectors(20)?);
        head::accept_size(size, limits)?;
        let most = if compressed { MOST_COMPRESSED } else { GRAINS.end };
        if !grain.is_power_of_two() || !GRAINS.contains(&grain) || grain > most {
            return Err(bad(&format!("its grains have {grain} bytes")));
        }
        if u64::from(le32(bytes, 44)) != ENTRIES {
            return Err(bad(&format!("its grain tables have {} entries", le32(bytes, 44))));
        }
        let start = sectors(28)?;
        let descriptor = start..start + sectors(36)?;
        let directory = if le64(bytes, 56) == AT_END { AT_END } else { sectors(56)? };
        let text = descriptor::text(bytes, &descriptor)?;
        descriptor::check(text, compressed)?;
        let header = Self {
            size,
            grain,
            directory,
            overhead: sectors(64)?,
            descriptor,
            compressed,
            redundant: flags & REDUNDANT != 0,
            zeroed_grains: flags & ZEROED_GRAINS != 0,
            unclean: bytes[72] != 0,
            raw: bytes[..LENGTH as usize].to_vec(),
        };
        header.check_places(file_length, limits)?;
        Ok(header)
    }

    fn check_places(&self, file_length: Option<u64>, limits: &Limits) -> Result<()> {
        let bad = |what: String| corrupt(DRIVER.name, &what);
        if self.directory_at_end() {
            return if self.compressed { Ok(()) } else { Err(bad("its grain directory has no place".to_owned())) };
        }
        let length = self.tables() * 4;
        let end = self.directory + length;
        if self.directory < LENGTH || end >= 1 << 56 {
            return Err(bad(format!("its grain directory is at {}", self.directory)));
        }
        if self.directory < self.descriptor.end && self.descriptor.start < end {
            return Err(bad(format!("its grain directory is at {}, over the descriptor", self.directory)));
        }
        if length > limits.map.max(1 << 20) {
            let message =
                format!("the grain directory of the VMDK image has {length} bytes; allow more with `--memory`");
            return Err(Error::new(Code::TooLarge, Stage::Format, message));
        }
        head::expect_file(end, file_length, "grain directory", DRIVER.name)
    }
}

/// What of QEMU reads a descriptor, with the files that it names.
pub fn bridge(head: &[u8]) -> Option<Bridge> {
    head.starts_with(DESCRIPTOR).then_some("vmdk")
}

fn refuse_others(bytes: &[u8]) -> Result<()> {
    if bytes.starts_with(DESCRIPTOR) {
        let message = "this is only the descriptor of a VMDK, which names other files: give --scratch DIRECTORY with room, \
                       and each of them with --extent FILE unless it lies beside it in the same archive; or make one of all: \
                       `qemu-img convert -O vmdk -o subformat=streamOptimized DESCRIPTOR NEW`";
        return Err(Error::new(Code::Unsafe, Stage::Format, message));
    }
    Ok(())
}

//! What a target holds that is not ours, told from its bytes alone; no program is run for it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::bytes::Aligned;
use crate::error::Result;
use crate::targets::{Facts, Kind, Target};
use crate::zeros::is_zero;

/// Bytes looked at from each end: every signature below lies there.
const END: u64 = 1 << 20;

/// Signatures at a fixed offset: (offset, magic, what it says). The most telling come first: a file system may
/// lie on a device whose boot sector also looks like a partition table. Sources: libblkid's table of
/// superblocks and the headers of each format (ext4: fs/ext4/ext4.h; XFS: xfs_format.h; Btrfs: on-disk format;
/// LUKS: LUKS2 specification 2.1; ISO 9660 section 8.1; swap: swap.h; bcache: uapi/linux/bcache.h).
const SIGNATURES: &[(usize, &[u8], &str)] = &[
    (0, b"LUKS\xba\xbe", "a LUKS encrypted volume"),
    (0, b"XFSB", "an XFS file system"),
    (1080, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    (65600, b"_BHRfS_M", "a Btrfs file system"),
    (0x1018, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf7\x7f\x48\xba\x6d\x81", "a bcache device"),
    (0, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID"),
    (4096 - 10, b"SWAPSPACE2", "swap space"),
    (16384 - 10, b"SWAPSPACE2", "swap space"),
    (65536 - 10, b"SWAPSPACE2", "swap space"),
    (0x4000, b"SKUL\xba\xbe", "a LUKS encrypted volume"),
    (0x8000, b"SKUL\xba\xbe", "a LUKS encrypted volume"),
    (0x10000, b"SKUL\xba\xbe", "a LUKS encrypted volume"),
    (0x20000, b"SKUL\xba\xbe", "a LUKS encrypted volume"),
    (0x40000, b"SKUL\xba\xbe", "a LUKS encrypted volume"),
    (0x80000, b"SKUL\xba\xbe", "a LUKS encrypted volume"),
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (32769, b"CD001", "an ISO 9660 file system"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (54, b"FAT1", "a FAT file system"),
    (82, b"FAT32", "a FAT file system"),
];

/// What is on a target, as a noun phrase, or nothing. A file that is not empty counts, unless it is but a hole.
/// On a device also a single byte that is not zero in the first or last MiB counts. Journals of this program
/// are not told apart here.
pub fn what_is_on(target: &dyn Target) -> Result<Option<String>> {
    let Facts { kind, length, .. } = *target.facts();
    match kind {
        Kind::Null | Kind::Image => Ok(None),
        Kind::File if target.data_ranges(0, length)?.is_empty() => Ok(None),
        Kind::File => Ok(Some(format!("a file with {length} bytes"))),
        Kind::Block => {
            let mut head = Aligned::zeroed(length.min(END) as usize);
            target.read(0, &mut head)?;
            // The end begins at a page, so that its last structures lie where their format says.
            let start = length.saturating_sub(END) / 4096 * 4096;
            let mut tail = Aligned::zeroed((length - start) as usize);
            target.read(start, &mut tail)?;
            target.drop_cache(0, head.len() as u64);
            target.drop_cache(start, tail.len() as u64);
            Ok(recognise(&head, &tail, length).map(str::to_owned))
        }
    }
}

/// Tells what the first and the last bytes of a device of `size` bytes look like. Both ends are 1 MiB and a page
/// long at most, and may overlap.
fn recognise(head: &[u8], tail: &[u8], size: u64) -> Option<&'static str> {
    let at_head = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let tail_start = size - tail.len() as u64;
    let at_tail = |offset: Option<u64>, magic: &[u8]| {
        let within = offset.and_then(|offset| usize::try_from(offset.checked_sub(tail_start)?).ok());
        within.and_then(|within| tail.get(within..)).is_some_and(|rest| rest.starts_with(magic))
    };
    if let Some((_, _, what)) = SIGNATURES.iter().find(|(offset, magic, _)| at_head(*offset, magic)) {
        return Some(what);
    }
    // LVM2: a label in one of the first four sectors, whose type stands 24 bytes on (lvm2, lib/label/label.h).
    if (0..4).any(|sector| at_head(sector * 512, b"LABELONE") && at_head(sector * 512 + 24, b"LVM2 001")) {
        return Some("an LVM physical volume");
    }
    if has_zfs_label(head) || has_zfs_label(tail) {
        return Some("a ZFS member");
    }
    // UEFI 2.10 section 5.3.2: the backup header is the last logical block.
    if [512, 4096].iter().any(|block| at_tail(size.checked_sub(*block), b"EFI PART")) {
        return Some("the backup of a GPT partition table");
    }
    // md(4): version 1.0 lies 8 KiB before the end, rounded down to 4 KiB; version 0.90 in the last 64 KiB block
    // but for a rest, in the byte order of its host.
    let version_1 = (size / 512).checked_sub(16).map(|sector| sector / 8 * 8 * 512);
    let version_0 = (size / 65536 * 65536).checked_sub(65536);
    let magics = [b"\xfc\x4e\x2b\xa9", b"\xa9\x2b\x4e\xfc"];
    if at_tail(version_1, magics[0]) || magics.iter().any(|magic| at_tail(version_0, *magic)) {
        return Some("a member of a Linux RAID");
    }
    if has_partition_entry(head) {
        return Some("an MBR partition table");
    }
    (!is_zero(head) || !is_zero(tail)).then_some("data of unknown origin")
}

/// A ring of uberblocks, each at a multiple of 1 KiB (ZFS on-disk format, section 1.3), of either byte order;
/// one alone may be an accident.
fn has_zfs_label(bytes: &[u8]) -> bool {
    let magics = [b"\x0c\xb1\xba\0\0\0\0\0", b"\0\0\0\0\0\xba\xb1\x0c"];
    let found = bytes.chunks(1024).filter(|chunk| magics.iter().any(|magic| chunk.starts_with(*magic)));
    found.take(2).count() == 2
}

/// The signature 55 AA at 510, and an entry (16 bytes each from 446) with a lawful boot flag, a type, a start and
/// a length (UEFI 2.10 section 5.2.1).
fn has_partition_entry(head: &[u8]) -> bool {
    let Some((entries, [0x55, 0xaa])) = head.get(446..512).and_then(|table| table.split_last_chunk::<2>()) else {
        return false;
    };
    let plausible = |entry: &[u8; 16]| {
        matches!(entry[0], 0 | 0x80) && entry[4] != 0 && !is_zero(&entry[8..12]) && !is_zero(&entry[12..])
    };
    entries.as_chunks::<16>().0.iter().any(plausible)
}

/// Why nobody else may write to a block device now, if that can be seen from here: where it or a partition of
/// it is mounted, or which device is built on it. A mount in another namespace is seen only by O_EXCL.
/// `device` is the number as stat(2) gives it.
pub fn in_use(device: u64) -> Option<String> {
    let numbers = |device: u64| format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let mut mine = BTreeSet::from([numbers(device)]);
    let sys = format!("/sys/dev/block/{}", numbers(device));
    for part in fs::read_dir(&sys).into_iter().flatten().flatten() {
        // Only partitions have these two files, so a link such as `subsystem` is not followed for nothing.
        if part.path().join("partition").exists()
            && let Ok(number) = fs::read_to_string(part.path().join("dev"))
        {
            mine.insert(number.trim().to_owned());
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines() {
        // proc(5): fields 3 and 5 are major:minor and the mount point; after " - " come type and source. Btrfs
        // has numbers of its own in field 3, so the source is looked at too.
        let mut fields = line.split(' ').skip(2);
        let (Some(number), Some(place)) = (fields.next(), fields.nth(1)) else { continue };
        let source = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').nth(1));
        let by_source = source.filter(|source| source.starts_with("/dev/")).and_then(|source| {
            let metadata = fs::metadata(source).ok()?;
            metadata.file_type().is_block_device().then(|| numbers(metadata.rdev()))
        });
        if mine.contains(number) || by_source.is_some_and(|number| mine.contains(&number)) {
            // proc(5): a blank in a path is written \040.
            return Some(format!("it is mounted at {}; unmount it first", place.replace("\\040", " ")));
        }
    }
    let holders = mine.iter().flat_map(|number| fs::read_dir(format!("/sys/dev/block/{number}/holders")));
    let holder = holders.flatten().flatten().next()?;
    Some(format!("it is part of /dev/{}", holder.file_name().to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device of 3 MiB and a bit with `magic` at `offset`, negative from the end.
    fn with(pieces: &[(i64, &[u8])]) -> Option<&'static str> {
        let mut disk = vec![0u8; (3 << 20) + 4096 + 512];
        for (offset, magic) in pieces {
            let at = if *offset < 0 { disk.len() - offset.unsigned_abs() as usize } else { *offset as usize };
            disk[at..at + magic.len()].copy_from_slice(magic);
        }
        let start = (disk.len() - END as usize) / 4096 * 4096;
        recognise(&disk[..END as usize], &disk[start..], disk.len() as u64)
    }

    #[test]
    fn signatures_are_told_apart() {
        assert_eq!(with(&[]), None);
        for (offset, magic, what) in SIGNATURES {
            assert_eq!(with(&[(*offset as i64, magic)]), Some(*what));
        }
        let boot: (i64, &[u8]) = (510, &[0x55, 0xaa]);
        let entry = [0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0];
        assert_eq!(with(&[boot]), Some("data of unknown origin"));
        assert_eq!(with(&[boot, (446, &entry)]), Some("an MBR partition table"));
        assert_eq!(with(&[boot, (494, &entry)]), Some("an MBR partition table"));
        assert_eq!(with(&[boot, (446, &entry), (3, b"NTFS    ")]), Some("an NTFS file system"));
        assert_eq!(with(&[(512, b"LABELONE"), (536, b"LVM2 001")]), Some("an LVM physical volume"));
        assert_eq!(with(&[(512, b"LABELONE")]), Some("data of unknown origin"));
        let uber = b"\x0c\xb1\xba\0\0\0\0\0";
        assert_eq!(with(&[(131_072, uber), (132_096, uber)]), Some("a ZFS member"));
        assert_eq!(with(&[(131_072, uber)]), Some("data of unknown origin"));
        assert_eq!(with(&[(-512, b"EFI PART")]), Some("the backup of a GPT partition table"));
        assert_eq!(with(&[(-4096, b"EFI PART")]), Some("the backup of a GPT partition table"));
        // Version 1.0: 3 MiB + 4608 bytes are 6153 sectors; less 16 and rounded down to 8 that is 6136.
        assert_eq!(with(&[(6136 * 512, b"\xfc\x4e\x2b\xa9")]), Some("a member of a Linux RAID"));
        assert_eq!(with(&[((3 << 20) - 65536, b"\xa9\x2b\x4e\xfc")]), Some("a member of a Linux RAID"));
        assert_eq!(with(&[(-1, &[1])]), Some("data of unknown origin"));
    }

    #[test]
    fn tiny_devices_are_looked_at_whole() {
        for size in [1usize, 511, 512, 4096, 5000] {
            let mut disk = vec![0u8; size];
            assert_eq!(recognise(&disk, &disk, size as u64), None);
            disk[size - 1] = 1;
            assert_eq!(recognise(&disk, &disk, size as u64), Some("data of unknown origin"));
        }
    }
}

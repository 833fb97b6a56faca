//! Magics that would be found inside masked bytes of the journal, by offset from the start of the target.
//!
//! A masked payload is random, so a hit has odds of 2^-32 or less; it is excluded all the same. Considered were
//! the superblock, RAID, topology and partition probes of libblkid 2.38 and block/partitions of Linux 6.12.
//! All the others look at places that hold constant filler: sector 0 (MBR, Sun, SGI, Mac, AIX, Atari, FAT, NTFS,
//! XFS, LUKS, squashfs, APFS, VDO ...), sectors 1 to 7 (GPT of 512, BSD, LVM2, LDM at 6, Acorn at 0xdc0), 0x400 to
//! 0x7ff (ext at 0x438, HFS and HFS+, F2FS, NILFS2, minix, EROFS, VxFS), 8 KiB to 68 KiB (UFS, OCFS2, HPFS, Ultrix,
//! UnixWare, ISO 9660 and UDF at 0x8001, JFS, reiserfs, Btrfs at 0x10040, GFS2; swap at the end of a page of up to 64 KiB).

use std::ops::Range;

struct Probe {
    /// Where the magic may begin.
    within: Range<usize>,
    /// Distance of these places, and the first of them.
    step: usize,
    magics: &'static [&'static [u8]],
}

const KIB: usize = 1024;

const PROBES: &[Probe] = &[
    // Amiga RDB: any of the first 16 sectors (kernel: amiga.c, RDB_ALLOCATION_LIMIT).
    Probe { within: 0..16 * 512, step: 512, magics: &[b"RDSK"] },
    // GPT for logical blocks of 4096 bytes, LVM2, MD 1.2, OCFS2, Stratis, all at the block after sector 0.
    Probe {
        within: 4096..4097,
        step: 1,
        magics: &[b"EFI PART", b"\xfc\x4e\x2b\xa9", b"OCFSV2", b"!Stra0tis\x86\xff\x02^\x41rh"],
    },
    // bcache and bcachefs at 4096 + 24: how both their UUIDs begin.
    Probe { within: 4120..4121, step: 1, magics: &[b"\xc6\x85\x73\xf6"] },
    // HighPoint 37x RAID: sector 9 + 32.
    Probe { within: 4640..4641, step: 1, magics: &[b"\xf0\x16\x78\x5a", b"\xfd\x16\x78\x5a"] },
    // Swap and its hibernation image at the end of a page of 4096 bytes.
    Probe {
        within: 8182..8183,
        step: 1,
        magics: &[b"SWAP-SPACE", b"SWAPSPACE2", b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"],
    },
    // LUKS2, second header at a power of two.
    Probe { within: 128 * KIB..128 * KIB + 1, step: 1, magics: &[b"SKUL\xba\xbe"] },
    Probe { within: 256 * KIB..256 * KIB + 1, step: 1, magics: &[b"SKUL\xba\xbe"] },
    Probe { within: 512 * KIB..512 * KIB + 1, step: 1, magics: &[b"SKUL\xba\xbe"] },
    // UFS superblock at 256 KiB, magic at 0x55c: UFS1, UFS2, FEA, LFN, SEC, 4.4LITE, either byte order.
    Probe {
        within: 256 * KIB + 0x55c..256 * KIB + 0x55d,
        step: 1,
        magics: &[
            b"\x54\x19\x01\x00",
            b"\x00\x01\x19\x54",
            b"\x19\x01\x54\x19",
            b"\x19\x54\x01\x19",
            b"\x95\x10\x01\x00",
            b"\x14\x40\x19\x05",
            b"\x05\x19\x40\x14",
            b"\x95\x01\x12\x00",
            b"\x12\x82\x62\x61",
        ],
    },
    // ZFS uberblocks of the first two labels, a KiB apart from 128 KiB on (OpenZFS vdev_impl.h).
    Probe {
        within: 128 * KIB..512 * KIB,
        step: KIB,
        magics: &[b"\x0c\xb1\xba\x00", b"\x00\x00\x00\x00\x00\xba\xb1\x0c"],
    },
];

/// Whether a probe would find a magic in `bytes` at offset `at`.
pub fn visible(at: usize, bytes: &[u8]) -> bool {
    PROBES.iter().any(|probe| {
        let end = at + bytes.len();
        let skipped = at.saturating_sub(probe.within.start).div_ceil(probe.step) * probe.step;
        (probe.within.start + skipped..probe.within.end.min(end))
            .step_by(probe.step)
            .any(|place| probe.magics.iter().any(|magic| bytes[place - at..].starts_with(magic)))
    })
}

/// The same for the masked last block of the disk, by distance from the start of the sector that is `back` sectors
/// of 512 bytes before the end. MD and ZFS look further in front, see docs/journal.md.
const LAST: &[(usize, usize, &[u8])] = &[
    (1, 0, b"EFI PART"),
    (1, 0, b"PRIVHEAD"),
    // VIA, JMicron, LSI, Silicon Image, Adaptec, DDF (either byte order).
    (1, 0, b"\x55\xaa"),
    (1, 0, b"JM"),
    (1, 0, b"$XIDE$"),
    (1, 0x60, b"\x00\x00\x00\x2f"),
    (1, 0, b"DPTM"),
    (1, 0, b"\xde\x11\xde\x11"),
    (1, 0, b"\x11\xde\x11\xde"),
    (2, 0, b"Intel Raid ISM"),
    (2, 0, b"NVIDIA"),
    // NILFS2's second superblock, and GPT's second header on blocks of 4096 bytes.
    (8, 6, b"\x34\x34"),
    (8, 0, b"EFI PART"),
];

/// Whether a probe would find a magic in the last bytes of a disk.
pub fn visible_at_end(bytes: &[u8]) -> bool {
    LAST.iter().any(|(back, offset, magic)| {
        let start = bytes.len().checked_sub(back * 512);
        start.and_then(|start| bytes.get(start + offset..)).is_some_and(|place| place.starts_with(magic))
    })
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn finds_a_magic_where_a_probe_looks_and_only_there() {
        let mut bytes = vec![0xa6; 8192];
        bytes[1024..1028].copy_from_slice(b"\x0c\xb1\xba\x00");
        assert!(visible(128 << 10, &bytes));
        assert!(!visible((128 << 10) + 512, &bytes));
        assert!(!visible(600 << 10, &bytes));
        let mut block = vec![0xa6; 4096];
        block[512..516].copy_from_slice(b"RDSK");
        assert!(visible(4096, &block));
        block[512] = 0;
        block[4086..].copy_from_slice(b"SWAPSPACE2");
        assert!(visible(4096, &block));
    }
}

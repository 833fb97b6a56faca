//! Formats that QEMU reads and this engine does not: named here, so that none of them passes for a raw disk.

use super::fields::{be32, be64};
use crate::error::{Code, Error, Stage};

/// What of QEMU reads an image: `luks`, `qcow2+luks`, `qcow2+aes`, `qcow`, `bochs`, `cloop`, `vmdk` (a descriptor) or `dmg`.
pub type Bridge = &'static str;

/// QEMU, block/bochs.c: `struct bochs_header`, magic and type.
const BOCHS: &[u8] = b"Bochs Virtual HD Image";
/// QEMU, block/cloop.c: `cloop_probe`.
const CLOOP: &[u8] = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
/// VMware Virtual Disk Format 1.1, "ESX Server Sparse Extents".
const COWD: &[u8] = b"COWD";
/// QEMU, block/vmdk.c: `SESPARSE_CONST_HEADER_MAGIC` and `SESPARSE_SUPPORTED_VERSION`, little-endian.
const SESPARSE: &[u8] = &[0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0];
/// cryptsetup, LUKS1 On-Disk Format Specification 1.2.3: magic; version, big-endian, behind it.
const LUKS: &[u8] = b"LUKS\xba\xbe";
/// QEMU, block/qcow.c: the magic of qcow2, with version 1.
const QCOW: &[u8] = b"QFI\xfb\0\0\0\x01";

/// A DMG says what it is at its end only: it must be told.
pub const DMG: Bridge = "dmg";

fn refuse(code: Code, message: impl Into<String>) -> Error {
    Error::new(code, Stage::Plan, message)
}

/// The image that a head (up to 1 MiB) begins, and why it is not read without QEMU; where QEMU does not read it either,
/// only that. NEEDS_SCRATCH, ENCRYPTED, UNSAFE, UNSUPPORTED.
pub fn detect(head: &[u8]) -> Option<(Option<Bridge>, Error)> {
    if head.starts_with(LUKS) {
        return Some(match head.get(6..8) {
            Some([0, 1]) => (Some("luks"), locked("the image is encrypted with LUKS", "cryptsetup open")),
            _ => {
                let message = "the image is encrypted with LUKS version 2; open it with `cryptsetup open` and import \
                               what is inside";
                (None, refuse(Code::Encrypted, message))
            }
        });
    }
    if head.starts_with(QCOW) && head.len() >= 40 {
        return Some(if be64(head, 8) != 0 {
            let message = "the qcow image is only the difference to a backing file, which is not followed; flatten it \
                           first: `qemu-img convert -O qcow2 IMAGE FLAT`";
            (None, refuse(Code::Unsafe, message))
        } else if be32(head, 36) != 0 {
            let message = "the qcow image is encrypted; decrypt it first with `qemu-img convert`";
            (None, refuse(Code::Encrypted, message))
        } else {
            (Some("qcow"), wants_scratch("a qcow image of version 1"))
        });
    }
    let extents = [(COWD, "COWD"), (SESPARSE, "seSparse")];
    if let Some((_, kind)) = extents.into_iter().find(|(magic, _)| head.starts_with(magic)) {
        let message = format!(
            "an extent of a VMDK ({kind}) without its descriptor is no disk; make one file of both first: \
             `qemu-img convert -O qcow2 DESCRIPTOR NEW`"
        );
        return Some((None, refuse(Code::Unsupported, message)));
    }
    let known: [(&[u8], Bridge, &str); 2] = [(BOCHS, "bochs", "an image of Bochs"), (CLOOP, "cloop", "a cloop image")];
    let (_, bridge, name) = known.into_iter().find(|(magic, ..)| head.starts_with(magic))?;
    Some((Some(bridge), wants_scratch(name)))
}

/// Why an image that is told to be a DMG is not read without QEMU.
pub fn dmg() -> Error {
    wants_scratch("a DMG")
}

fn wants_scratch(name: &str) -> Error {
    let message = format!(
        "the image is {name}, which only QEMU reads: give --scratch DIRECTORY with room for it, or convert it first: \
         `qemu-img convert -O qcow2 IMAGE NEW`"
    );
    refuse(Code::NeedsScratch, message)
}

/// ENCRYPTED, with what opens it.
pub fn locked(what: &str, otherwise: &str) -> Error {
    let message = format!(
        "{what}: give --key-file FILE with its passphrase and --scratch DIRECTORY with room for it, or open it with \
         `{otherwise}` and import what is inside"
    );
    refuse(Code::Encrypted, message)
}

//! The descriptor inside a VMDK ("The Descriptor File"): text, of which only what refuses the image matters. Names of
//! files in it are never used.

use std::ops::Range;

use super::DRIVER;
use crate::error::Result;
use crate::formats::head;
use crate::formats::mapped::corrupt;

/// Longest descriptor that is read; those of VMware have 20 sectors.
const MOST: u64 = 64 << 10;
/// parentCID of an image that has no parent ("CID_NOPARENT").
const NO_PARENT: u32 = 0xffff_ffff;

/// The text; `None` where the image has none.
pub fn text<'a>(head: &'a [u8], range: &Range<u64>) -> Result<Option<&'a [u8]>> {
    if range.is_empty() {
        return Ok(None);
    }
    if range.end - range.start > MOST {
        let what = format!("its descriptor has {} bytes", range.end - range.start);
        return Err(corrupt(DRIVER.name, &what));
    }
    let inside = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
    let Some(bytes) = inside.and_then(|(from, to)| head.get(from..to)) else {
        let what = format!("its descriptor at {} lies beyond the first {} bytes", range.start, head.len());
        return Err(corrupt(DRIVER.name, &what));
    };
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    Ok(Some(&bytes[..end]))
}

/// Refuses what is more than one file, or the difference to another.
pub fn check(text: Option<&[u8]>, compressed: bool) -> Result<()> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        // Streams of some programs have none, and neither has an extent of a split disk.
        return if compressed { Ok(()) } else { Err(one_of_several()) };
    };
    let text = String::from_utf8_lossy(text);
    let mut kind = None;
    let mut extents = 0;
    for line in text.lines().map(str::trim) {
        if let Some((key, value)) = line.split_once('=') {
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "parentcid" if u32::from_str_radix(value, 16) != Ok(NO_PARENT) => {
                    return Err(head::difference("VMDK"));
                }
                "createtype" => kind = Some(value.to_owned()),
                _ => {}
            }
        }
        // Access, size in sectors, type, name: `RW 4192256 SPARSE "disk.vmdk"`.
        let mut words = line.split_ascii_whitespace();
        if matches!(words.next(), Some("RW" | "RDONLY" | "NOACCESS")) {
            extents += 1;
            let kind = words.nth(1).unwrap_or_default();
            if kind != "SPARSE" {
                let kind = head::printable(kind.as_bytes());
                return Err(head::unsupported(format!(
                    "extents of the type \"{kind}\" lie in other files, which are not followed"
                )));
            }
        }
    }
    if extents > 1 {
        return Err(one_of_several());
    }
    match kind.as_deref() {
        // Which of the two it is the header knows.
        Some("monolithicSparse" | "streamOptimized") => Ok(()),
        other => {
            let kind = head::printable(other.unwrap_or_default().as_bytes());
            let message = format!(
                "VMDK images of the type \"{kind}\" are not read; convert it first: `qemu-img convert -O qcow2 IMAGE NEW`"
            );
            Err(head::unsupported(message))
        }
    }
}

fn one_of_several() -> crate::error::Error {
    head::unsupported(
        "this is one of several files of a VMDK, and the others are not followed; make one file of them first: \
         `qemu-img convert -O vmdk -o subformat=streamOptimized DESCRIPTOR NEW`",
    )
}

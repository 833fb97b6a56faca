//! The descriptor of an OVA: which of its files are disks ("References" and "DiskSection", Open Virtualization Format
//! Specification, DMTF DSP0243 2.1.1, sections 7.1 and 9.1). What it names is compared with the names in the archive and
//! never opened.

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

use super::pick::{beside, shown};
use crate::error::{Code, Error, Result, Stage};

/// Disks that are read of a descriptor; hypervisors attach 256 at most (vSphere 8 configuration maximums).
const MOST: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Path of its file in the archive.
    pub file: String,
    /// What the descriptor calls it ("diskId").
    pub id: String,
    /// Bytes that the guest sees, where they are said.
    pub capacity: Option<u64>,
    /// Why its file is not one of the archive, for people.
    pub elsewhere: Option<&'static str>,
}

/// A file that the descriptor refers to.
struct Reference {
    id: String,
    href: String,
    chunked: bool,
}

/// The disks that have a file, each file once, in order. `path` of the descriptor in its archive. Fails with CORRUPT,
/// TOO_LARGE.
pub fn disks(path: &str, text: &[u8]) -> Result<Vec<Disk>> {
    let bad = |what: &dyn std::fmt::Display| {
        Error::new(Code::Corrupt, Stage::Decode, format!("the OVF descriptor {} is damaged: {what}", shown(path)))
    };
    let mut reader = Reader::from_reader(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text));
    let (mut files, mut disks): (Vec<Reference>, Vec<Disk>) = (Vec::new(), Vec::new());
    loop {
        let element = match reader.read_event().map_err(|e| bad(&e))? {
            Event::Start(element) | Event::Empty(element) => element,
            Event::Eof => return Ok(disks),
            _ => continue,
        };
        match element.local_name().as_ref() {
            "File" if files.len() < 4 * MOST => {
                let [id, href, chunks] = attributes(&element, ["id", "href", "chunkSize"]).map_err(|e| bad(&e))?;
                files.push(Reference {
                    id: id.unwrap_or_default(),
                    href: href.unwrap_or_default(),
                    chunked: chunks.is_some(),
                });
            }
            "Disk" => {
                let names = ["diskId", "fileRef", "capacity", "capacityAllocationUnits"];
                let [id, file, capacity, units] = attributes(&element, names).map_err(|e| bad(&e))?;
                // Without a file it is an empty disk.
                let Some(wanted) = file else { continue };
                let unknown = || bad(&format!("a disk has the file \"{}\", which it does not list", shown(&wanted)));
                let file = files.iter().find(|file| file.id == wanted).ok_or_else(unknown)?;
                let disk = disk(path, file, id.unwrap_or_default(), bytes(capacity.as_deref(), units.as_deref()));
                if disks.iter().any(|other| other.file == disk.file) {
                    continue;
                }
                if disks.len() == MOST {
                    let message = format!("the OVF descriptor {} has more than {MOST} disks", shown(path));
                    return Err(Error::new(Code::TooLarge, Stage::Decode, message));
                }
                disks.push(disk);
            }
            _ => {}
        }
    }
}

fn disk(path: &str, file: &Reference, id: String, capacity: Option<u64>) -> Disk {
    let elsewhere = if file.href.contains("://") {
        Some("lies on a server")
    } else if file.chunked {
        Some("is cut into several files")
    } else {
        None
    };
    Disk { file: beside(path, &file.href), id, capacity, elsewhere }
}

/// Values of these attributes, whatever their prefix.
fn attributes<const N: usize>(
    element: &BytesStart<'_>,
    names: [&str; N],
) -> std::result::Result<[Option<String>; N], quick_xml::Error> {
    let mut values = [const { None }; N];
    // Its own search for doubles takes a time that grows with the square of their number.
    for attribute in element.attributes().with_checks(false) {
        let attribute = attribute?;
        let local = attribute.key.local_name();
        if let Some(at) = names.iter().position(|name| *name == local.as_ref()) {
            values[at] = Some(attribute.normalized_value(XmlVersion::Implicit1_0)?.into_owned());
        }
    }
    Ok(values)
}

/// A capacity in units such as `byte * 2^30` ("Programmatic Units", DSP0004 annex C.1); bytes where none are said.
fn bytes(capacity: Option<&str>, units: Option<&str>) -> Option<u64> {
    let mut bytes: u64 = capacity?.trim().parse().ok()?;
    let mut factors = units.unwrap_or("byte").split('*').map(str::trim);
    if factors.next() != Some("byte") {
        return None;
    }
    for factor in factors {
        let (base, exponent) = factor.split_once('^').unwrap_or((factor, "1"));
        let factor = base.trim().parse::<u64>().ok()?.checked_pow(exponent.trim().parse().ok()?)?;
        bytes = bytes.checked_mul(factor)?;
    }
    Some(bytes)
}

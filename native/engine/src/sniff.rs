//! What the head of a source says: codecs, format, virtual size, what would refuse it.

use crate::codecs::{self, Restart, Sink};
use crate::error::{Code, Error, Result, Stage};
use crate::formats::Packing;
use crate::formats::qcow2::{Header, header};
use crate::limits::Limits;

/// Layers of compression that are undone.
const LAYERS: usize = 3;
/// Decoded bytes looked at behind a codec.
const DECODED: usize = 128 << 10;
/// An L1 table that begins below this needs no metadata pass: little is held back until it comes.
const EARLY: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum FormatKind {
    Raw,
    Qcow2,
}

impl FormatKind {
    pub fn name(self) -> &'static str {
        match self {
            FormatKind::Raw => "raw",
            FormatKind::Qcow2 => "qcow2",
        }
    }
}

/// Whether data can be placed as it comes, or the tables are better read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Order {
    Stream,
    Metadata,
}

#[derive(Clone, Debug)]
pub struct Sniffed {
    /// Outermost first.
    pub codecs: Vec<codecs::Kind>,
    pub format: FormatKind,
    /// Bytes that the guest sees, where the head tells.
    pub virtual_size: Option<u64>,
    pub order: Order,
    /// For people: "version 3", "cluster size 65536".
    pub features: Vec<String>,
    /// What will not be carried over, for people.
    pub left_out: Vec<String>,
    /// Memory of the decoders in bytes: the largest window, and all together.
    pub window: u64,
    pub decoder_memory: u64,
    pub header: Option<Header>,
    /// Why it cannot be imported.
    pub refusal: Option<Error>,
}

/// Collects a bounded beginning of what a codec puts out.
struct Head {
    bytes: Vec<u8>,
    filled: usize,
}

impl Sink for Head {
    fn space(&mut self) -> Result<&mut [u8]> {
        if self.filled == self.bytes.len() { Err(Error::aborted()) } else { Ok(&mut self.bytes[self.filled..]) }
    }

    fn commit(&mut self, n: usize) -> Result<()> {
        self.filled += n;
        Ok(())
    }

    fn restart_due(&self) -> bool {
        false
    }

    fn restart(&mut self, _at: Restart) -> Result<()> {
        Ok(())
    }
}

/// Reads the head: up to 1 MiB from the beginning of the source, or all of a smaller one.
pub fn sniff(head: &[u8], source_length: Option<u64>, limits: &Limits) -> Sniffed {
    let mut s = Sniffed {
        codecs: Vec::new(),
        format: FormatKind::Raw,
        virtual_size: None,
        order: Order::Stream,
        features: Vec::new(),
        left_out: Vec::new(),
        window: 0,
        decoder_memory: 0,
        header: None,
        refusal: None,
    };
    if let Err(refusal) = look(&mut s, head, source_length, limits) {
        s.refusal = Some(refusal);
    }
    s
}

fn look(s: &mut Sniffed, head: &[u8], source_length: Option<u64>, limits: &Limits) -> Result<()> {
    if head.is_empty() {
        return Err(refuse(Code::Truncated, "the source is empty"));
    }
    let mut inner = head.to_vec();
    while let Some(kind) = codecs::Kind::detect(&inner) {
        if s.codecs.len() == LAYERS {
            return Err(refuse(Code::Unsupported, format!("the source is compressed more than {LAYERS} times")));
        }
        s.codecs.push(kind);
        let memory = kind.memory(&inner, limits)?;
        s.window = s.window.max(memory.window);
        s.decoder_memory += memory.total;
        let mut sink = Head { bytes: vec![0; DECODED], filled: 0 };
        let mut codec = kind.open(limits, None)?;
        if let Err(error) = codec.push(&inner, &mut sink)
            && sink.filled == 0
        {
            return Err(error);
        }
        if sink.filled < DECODED {
            // Some decoders give out the last bytes only when told that the input has ended; truncation is expected.
            let _ = codec.finish(&mut sink);
        }
        sink.bytes.truncate(sink.filled);
        inner = sink.bytes;
        if inner.is_empty() {
            let error = if source_length.is_some_and(|n| n <= head.len() as u64) {
                refuse(Code::Truncated, format!("nothing comes out of the {} stream", kind.name()))
            } else {
                refuse(
                    Code::Unsupported,
                    format!("nothing comes out of the first {} bytes of {}", head.len(), kind.name()),
                )
            };
            return Err(error);
        }
    }
    if let Some(refusal) = known_but_unsupported(&inner) {
        return Err(refusal);
    }
    let file_length = if s.codecs.is_empty() { source_length } else { None };
    if inner.starts_with(&header::MAGIC) {
        s.format = FormatKind::Qcow2;
        return qcow2(s, &inner, file_length, limits);
    }
    s.virtual_size = file_length;
    s.features = raw_features(&inner);
    match file_length {
        Some(length) if length > limits.virtual_size => Err(refuse(
            Code::TooLarge,
            format!("the disk has {length} bytes; at most {} are accepted", limits.virtual_size),
        )),
        _ => Ok(()),
    }
}

fn refuse(code: Code, message: impl Into<String>) -> Error {
    Error::new(code, Stage::Plan, message)
}

fn raw_features(head: &[u8]) -> Vec<String> {
    let mut features = Vec::new();
    // UEFI 5.3.2: "EFI PART" in block 1, of 512 or of 4096 bytes.
    if [512, 4096].iter().any(|&at| found(head, at, b"EFI PART")) {
        features.push("GPT partition table".to_owned());
    } else if found(head, 510, &[0x55, 0xaa]) && (0..4).any(|i| head[446 + 16 * i + 4] != 0) {
        features.push("MBR partition table".to_owned());
    }
    // ECMA-119 8.1: the volume descriptors begin in sector 16.
    if found(head, 0x8001, b"CD001") {
        features.push("ISO 9660".to_owned());
    }
    features
}

fn found(head: &[u8], at: usize, magic: &[u8]) -> bool {
    head.get(at..at + magic.len()) == Some(magic)
}

/// Formats that must not pass as raw disks.
fn known_but_unsupported(head: &[u8]) -> Option<Error> {
    if found(head, 0, b"LUKS\xba\xbe") {
        let message = "the image is encrypted with LUKS; open it with `cryptsetup open` and import what is inside";
        return Some(refuse(Code::Encrypted, message));
    }
    // Each is the signature that its format's specification gives, at its offset.
    let images: &[(usize, &[u8], &str)] = &[
        (0, b"KDMV", "VMDK"),
        (0, b"COWD", "VMDK (ESX 2)"),
        (0, b"# Disk DescriptorFile", "VMDK (descriptor)"),
        (0, b"vhdxfile", "VHDX"),
        (0, b"conectix", "VHD"),
        (0x40, &[0x7f, 0x10, 0xda, 0xbe], "VDI"),
        (0x40, &[0xbe, 0xda, 0x10, 0x7f], "VDI"),
        (0, b"QED\0", "QED"),
        (0, b"WithoutFreeSpace", "Parallels"),
        (0, b"WithouFreSpacExt", "Parallels"),
    ];
    if let Some((_, _, name)) = images.iter().find(|(at, magic, _)| found(head, *at, magic)) {
        return Some(refuse(
            Code::Unsupported,
            format!("{name} images are not read yet; convert it first: `qemu-img convert -O qcow2 IMAGE NEW`"),
        ));
    }
    let packed: &[(usize, &[u8], &str)] = &[
        // Written by `lz4 -l`, for kernels only: blocks without any check ("Legacy frame").
        (0, &[0x02, 0x21, 0x4c, 0x18], "legacy lz4 compression"),
        (0, b"7z\xbc\xaf\x27\x1c", "7z archives"),
        (0, b"PK\x03\x04", "zip archives"),
        (0, b"Rar!\x1a\x07", "rar archives"),
        (257, b"ustar", "tar archives"),
    ];
    if let Some((_, _, name)) = packed.iter().find(|(at, magic, _)| found(head, *at, magic)) {
        return Some(refuse(
            Code::Unsupported,
            format!("{name} are not read yet; unpack it first and import the image inside")
                .replace("compression are", "compression is"),
        ));
    }
    let text = head.trim_ascii_start();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii_start();
    let page = |tag: &[u8]| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    if page(b"<!doctype html") || page(b"<html") {
        let message = "this is a web page, not an image: the address may need a login, or lead to a download page";
        return Some(refuse(Code::Unsupported, message));
    }
    None
}

fn qcow2(s: &mut Sniffed, head: &[u8], file_length: Option<u64>, limits: &Limits) -> Result<()> {
    let h = Header::parse(head, file_length, limits).map_err(|e| Error { stage: Stage::Plan, ..e })?;
    s.virtual_size = Some(h.size);
    s.features = vec![format!("version {}", h.version), format!("cluster size {}", h.cluster_size())];
    if h.packing == Packing::Zstd {
        s.features.push("zstd clusters".to_owned());
    }
    for (present, name) in
        [(h.extended_l2, "extended L2"), (h.lazy_refcounts, "lazy refcounts"), (h.dirty, "not closed properly")]
    {
        if present {
            s.features.push(name.to_owned());
        }
    }
    if h.refcount_order != 4 {
        s.features.push(format!("refcount width {}", 1u32 << h.refcount_order));
    }
    s.left_out = left_out(&h, head);
    let late = h.l1_needed > 0 && h.l1_offset >= EARLY.max(4 * h.cluster_size());
    s.order = if late || h.snapshots > 0 { Order::Metadata } else { Order::Stream };
    s.header = Some(h);
    Ok(())
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
            names.push(header::printable(head.get(start..start.checked_add(name)?)?));
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
            names.push(header::printable(head.get(start..start.checked_add(name)?)?));
            Some((start + name).next_multiple_of(8))
        })();
        let Some(next) = next else { break };
        at = next;
    }
    let all = names.len() as u32 == h.bitmaps;
    (names, all)
}

//! What the head of a source says: codecs, format, virtual size, what would refuse it.

use std::sync::Arc;

use crate::codecs::{self, Restart, Sink};
use crate::error::{Code, Error, Result, Stage};
use crate::formats::{DRIVERS, Open, Order};
use crate::limits::Limits;

/// Layers of compression that are undone.
const LAYERS: usize = 3;
/// Decoded bytes looked at behind a codec.
const DECODED: usize = 128 << 10;

#[derive(Clone, Debug)]
pub struct Sniffed {
    /// Outermost first.
    pub codecs: Vec<codecs::Kind>,
    /// The name of a driver, or "raw".
    pub format: &'static str,
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
    /// Opens the image; none for raw disks.
    pub image: Option<Arc<dyn Open>>,
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
        format: "raw",
        virtual_size: None,
        order: Order::Stream,
        features: Vec::new(),
        left_out: Vec::new(),
        window: 0,
        decoder_memory: 0,
        image: None,
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
    if let Some(driver) = DRIVERS.iter().find(|driver| (driver.detect)(&inner)) {
        s.format = driver.name;
        let described = (driver.describe)(&inner, file_length, limits);
        let image = described.map_err(|e| Error { stage: Stage::Plan, ..e })?;
        s.virtual_size = Some(image.virtual_size);
        (s.order, s.features, s.left_out) = (image.order, image.features, image.left_out);
        s.image = Some(image.opener);
        return Ok(());
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
    let images: &[(usize, &[u8], &str)] = &[(0, b"vhdxfile", "VHDX")];
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

//! What the head of a source says: codecs, format, virtual size, what would refuse it.

use std::sync::Arc;

use crate::archives::{self, Archive, Member, Pick, shown};
use crate::codecs::layers::{Between, open_layers};
use crate::codecs::{Codec, Kind, Restart, Sink};
use crate::error::{Code, Error, Result, Stage};
use crate::formats::bridged::{self, Bridge};
use crate::formats::{DRIVERS, Driver, Image, Named, Open, Order, qcow2, vhd, vmdk};
use crate::limits::Limits;

/// Layers of compression, archives among them, that are undone.
const LAYERS: usize = 4;
/// Decoded bytes looked at behind a codec, at first: in front of the disk in an archive stand descriptions of it.
const DECODED: usize = 1 << 20;

/// What a person says of the source; it is found out where it is not said.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The disk in an archive.
    pub pick: Pick,
    /// The format of the image: nothing else is accepted then.
    pub format: Option<Named>,
    /// What is around the image, outermost first: what comes out of the last is the image, whatever it begins with.
    pub codecs: Option<Vec<Kind>>,
}

impl Told {
    /// The layer inside of `found`: the one that is told, or the one that `inner` begins with.
    fn layer(&self, found: &[Kind], inner: &[u8]) -> Option<Kind> {
        match &self.codecs {
            Some(codecs) => codecs.get(found.len()).copied(),
            None => Kind::detect(inner),
        }
    }

    /// Nothing of what lies inside of `found` has to be seen.
    fn is_all(&self, found: &[Kind]) -> bool {
        self.codecs.as_deref() == Some(found) && matches!(self.format, Some(Named::Raw))
    }
}

#[derive(Clone, Debug)]
pub struct Sniffed {
    /// Outermost first.
    pub codecs: Vec<Kind>,
    pub told: Told,
    /// The member of an archive, where its header is in the head.
    pub member: Option<Member>,
    /// The disk lies in an archive behind what was looked at: [`Probe`] finds it.
    pub unseen: bool,
    /// Bytes of the head that are needed to say what it is, where more than were given: then it is refused.
    pub wanted: u64,
    /// The archive, which was seen whole, takes what was picked away from the layers below it.
    pub hides: bool,
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
    /// What of QEMU can import it all the same.
    pub bridge: Option<Bridge>,
}

impl Sniffed {
    fn nothing(told: &Told) -> Self {
        Sniffed {
            codecs: Vec::new(),
            told: told.clone(),
            member: None,
            unseen: false,
            wanted: 0,
            hides: false,
            format: "raw",
            virtual_size: None,
            order: Order::Stream,
            features: Vec::new(),
            left_out: Vec::new(),
            window: 0,
            decoder_memory: 0,
            image: None,
            refusal: None,
            bridge: None,
        }
    }
}

/// Finds the disk in an archive where it lies behind the head of the source: given the source from its beginning, it
/// keeps the first [`DECODED`] bytes of the member that is picked, and nothing else.
pub struct Probe {
    sniffed: Sniffed,
    limits: Limits,
    /// What is around the archive.
    outer: Option<Box<dyn Codec>>,
    archive: Box<dyn Archive>,
    head: Head,
}

impl Probe {
    /// `sniffed` says [`Sniffed::unseen`].
    pub fn new(sniffed: Sniffed, limits: &Limits) -> Result<Self> {
        let Some((&kind, around)) = sniffed.codecs.split_last() else {
            return Err(refuse(Code::BadSpec, "there is no archive to look into"));
        };
        let outer = if around.is_empty() { None } else { Some(open_layers(around, &sniffed.told.pick, limits, None)?) };
        let archive = archives::open(kind, &sniffed.told.pick)?;
        let head = Head { bytes: vec![0; DECODED], filled: 0 };
        Ok(Self { sniffed, limits: limits.clone(), outer, archive, head })
    }

    /// Takes the next bytes of the source; true when no more are wanted.
    pub fn push(&mut self, bytes: &[u8]) -> Result<bool> {
        let pushed = match &mut self.outer {
            Some(outer) => outer.push(bytes, &mut Between::new(&mut *self.archive, &mut self.head)),
            None => self.archive.push(bytes, &mut self.head),
        };
        let enough = self.head.filled == DECODED;
        match pushed {
            // The head is full: its sink takes no more.
            Err(_) if enough => Ok(true),
            Err(error) => Err(error),
            Ok(()) => {
                Ok(enough || self.archive.member().is_some_and(|member| member.size == Some(self.head.filled as u64)))
            }
        }
    }

    /// Whether the archive hides what is wanted in the layers below it.
    pub fn hides(&self) -> bool {
        self.archive.hides()
    }

    /// What is inside. `ended`: all of the source was given. Fails with NOT_FOUND when the archive has no such member,
    /// and with what the end of the source shows.
    pub fn finish(mut self, ended: bool) -> Result<Sniffed> {
        if ended {
            if let Some(outer) = &mut self.outer {
                outer.finish(&mut Between::new(&mut *self.archive, &mut self.head))?;
            }
            self.archive.finish(&mut self.head)?;
        }
        let mut s = self.sniffed;
        s.unseen = false;
        s.member = self.archive.member().cloned();
        self.head.bytes.truncate(self.head.filled);
        let looked = if self.head.bytes.is_empty() {
            Err(empty(&s))
        } else {
            descend(&mut s, self.head.bytes, None, false, DECODED, &self.limits)
        };
        if let Err(refusal) = looked {
            s.refusal = Some(refusal);
        }
        Ok(s)
    }
}

fn empty(s: &Sniffed) -> Error {
    let name = s.member.as_ref().map_or("the disk", |member| member.name.as_str());
    refuse(Code::Truncated, format!("{name} in the archive is empty"))
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

/// Reads the head: 1 MiB from the beginning of the source, or all of a smaller one; more where [`Sniffed::wanted`] said so.
pub fn sniff(head: &[u8], source_length: Option<u64>, limits: &Limits) -> Sniffed {
    sniff_told(&Told::default(), head, source_length, limits)
}

/// The same, with what is known of it.
pub fn sniff_told(told: &Told, head: &[u8], source_length: Option<u64>, limits: &Limits) -> Sniffed {
    let mut s = Sniffed::nothing(told);
    if let Err(refusal) = look(&mut s, head, source_length, limits) {
        s.refusal = Some(refusal);
    }
    s
}

fn look(s: &mut Sniffed, head: &[u8], source_length: Option<u64>, limits: &Limits) -> Result<()> {
    if head.is_empty() {
        return Err(refuse(Code::Truncated, "the source is empty"));
    }
    let whole = source_length.is_some_and(|n| n <= head.len() as u64);
    let reach = DECODED.max(head.len());
    let looked = descend(s, head.to_vec(), source_length, whole, reach, limits);
    // Drivers bound what they want.
    let wanted = s.wanted as usize;
    if s.codecs.is_empty() || wanted <= reach {
        return looked;
    }
    // More of what the codecs put out may be had from the same head.
    *s = Sniffed::nothing(&s.told);
    descend(s, head.to_vec(), source_length, whole, wanted, limits)
}

/// Looks at what lies inside, layer by layer. `whole`: the bytes are all of the source. `reach`: bytes that are decoded
/// of each layer.
fn descend(
    s: &mut Sniffed,
    mut inner: Vec<u8>,
    source_length: Option<u64>,
    whole: bool,
    reach: usize,
    limits: &Limits,
) -> Result<()> {
    while let Some(kind) = s.told.layer(&s.codecs, &inner) {
        if s.codecs.len() == LAYERS {
            return Err(refuse(Code::Unsupported, format!("the source is compressed more than {LAYERS} times")));
        }
        s.codecs.push(kind);
        let memory = kind.memory(&inner, limits)?;
        s.window = s.window.max(memory.window);
        s.decoder_memory += memory.total;
        let outermost = s.codecs.len() == 1;
        inner = if kind.is_archive() {
            unpack(s, kind, &inner, whole && outermost, reach)?
        } else {
            decompress(kind, &inner, whole && outermost, reach, limits)?
        };
        if s.unseen {
            if !s.told.is_all(&s.codecs) {
                return Ok(());
            }
            s.unseen = false;
        }
    }
    if let (Pick::Disk(wanted), false) = (&s.told.pick, s.codecs.iter().any(|kind| kind.is_archive())) {
        let message =
            format!("--disk {} chooses a disk of an archive, and the source is none: leave it out", shown(wanted));
        return Err(refuse(Code::BadSpec, message));
    }
    let file_length = match s.codecs.last() {
        None => source_length,
        Some(kind) if kind.is_archive() => s.member.as_ref().and_then(|member| member.size),
        Some(_) => None,
    };
    refuse_bridged(s, &inner)?;
    let driver = driver_of(s.told.format, &inner)?;
    let needed = driver.map_or(0, |driver| (driver.needs)(&inner));
    let all = whole && s.codecs.is_empty();
    if needed > inner.len() as u64 && !all {
        // In front of the disk in an archive stand descriptions of it.
        s.wanted = needed + if s.codecs.is_empty() { 0 } else { DECODED as u64 };
        let message =
            format!("what the image is stands in its first {needed} bytes, of which {} were seen", inner.len());
        return Err(refuse(Code::Unsupported, message));
    }
    let image = image_of(driver, s.told.format, &inner, file_length, limits).inspect_err(|refusal| {
        s.bridge = match refusal.code {
            Code::Encrypted => qcow2::header::bridge(&inner),
            Code::Unsafe => vmdk::header::bridge(&inner),
            _ => None,
        };
    })?;
    if let Some((name, image)) = image {
        s.format = name;
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

/// Fails where only QEMU reads the image, or not even that.
fn refuse_bridged(s: &mut Sniffed, head: &[u8]) -> Result<()> {
    let found = match s.told.format {
        None => bridged::detect(head),
        Some(Named::Bridged(bridge)) => Some((Some(bridge), bridged::dmg())),
        Some(_) => None,
    };
    let Some((bridge, refusal)) = found else { return Ok(()) };
    s.bridge = bridge;
    Err(refusal)
}

/// The driver of the format that is told, or that a header says it is. None for raw disks, and for fixed VHDs.
fn driver_of(told: Option<Named>, head: &[u8]) -> Result<Option<&'static Driver>> {
    let found = DRIVERS.iter().find(|driver| (driver.detect)(head));
    match told {
        Some(Named::Raw | Named::Bridged(_)) => Ok(None),
        // Nothing at its beginning could be known.
        Some(Named::Driver(name)) if name == vhd::DRIVER.name && found.is_none() => Ok(None),
        Some(Named::Driver(name)) => match found {
            Some(driver) if driver.name == name => Ok(Some(driver)),
            _ => {
                let is = found.map_or("a raw disk, or something else", |driver| driver.name);
                Err(refuse(Code::BadSpec, format!("the image is to be {name} and looks like {is}")))
            }
        },
        None => match known_but_unsupported(head) {
            Some(refusal) => Err(refusal),
            None => Ok(found),
        },
    }
}

/// None for raw disks.
fn image_of(
    driver: Option<&'static Driver>,
    told: Option<Named>,
    head: &[u8],
    file_length: Option<u64>,
    limits: &Limits,
) -> Result<Option<(&'static str, Image)>> {
    let image = match (driver, told) {
        (Some(driver), _) => (driver.describe)(head, file_length, limits).map(|image| (driver.name, image)),
        (None, Some(Named::Driver(name))) => vhd::describe_fixed(file_length, limits).map(|image| (name, image)),
        (None, _) => return Ok(None),
    };
    image.map(Some).map_err(|e| Error { stage: Stage::Plan, ..e })
}

/// The beginning of what a codec puts out. `whole`: its input is all there is.
fn decompress(kind: Kind, input: &[u8], whole: bool, reach: usize, limits: &Limits) -> Result<Vec<u8>> {
    let mut sink = Head { bytes: vec![0; reach], filled: 0 };
    let mut codec = kind.open(limits, None)?;
    if let Err(error) = codec.push(input, &mut sink)
        && sink.filled == 0
    {
        return Err(error);
    }
    if sink.filled < reach {
        // Some decoders give out the last bytes only when told that the input has ended; truncation is expected.
        let _ = codec.finish(&mut sink);
    }
    sink.bytes.truncate(sink.filled);
    if !sink.bytes.is_empty() {
        return Ok(sink.bytes);
    }
    Err(if whole {
        refuse(Code::Truncated, format!("nothing comes out of the {} stream", kind.name()))
    } else {
        refuse(Code::Unsupported, format!("nothing comes out of the first {} bytes of {}", input.len(), kind.name()))
    })
}

/// The beginning of the member that was picked.
fn unpack(s: &mut Sniffed, kind: Kind, input: &[u8], whole: bool, reach: usize) -> Result<Vec<u8>> {
    let mut sink = Head { bytes: vec![0; reach], filled: 0 };
    let mut archive = archives::open(kind, &s.told.pick)?;
    if let Err(error) = archive.push(input, &mut sink)
        && sink.filled == 0
    {
        return Err(Error { stage: Stage::Plan, ..error });
    }
    s.member = archive.member().cloned();
    sink.bytes.truncate(sink.filled);
    if sink.filled > 0 {
        return Ok(sink.bytes);
    }
    match &s.member {
        Some(member) if member.size == Some(0) => Err(empty(s)),
        _ if whole => {
            s.hides = archive.hides();
            archive.finish(&mut sink)?;
            Err(refuse(Code::Truncated, "the archive ends before its disk begins"))
        }
        _ => {
            s.unseen = true;
            Ok(Vec::new())
        }
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
    // Each is the signature that its format's specification gives, at its offset.
    let packed: &[(usize, &[u8], &str)] = &[
        // Written by `lz4 -l`, for kernels only: blocks without any check ("Legacy frame").
        (0, &[0x02, 0x21, 0x4c, 0x18], "legacy lz4 compression"),
        (0, b"7z\xbc\xaf\x27\x1c", "7z archives"),
        (0, b"Rar!\x1a\x07", "rar archives"),
    ];
    if let Some((_, _, name)) = packed.iter().find(|(at, magic, _)| found(head, *at, magic)) {
        return Some(refuse(
            Code::Unsupported,
            format!("{name} are not read yet; unpack it first and import the image inside")
                .replace("compression are", "compression is"),
        ));
    }
    if found(head, 257, b"ustar") {
        let message = "this is a tar archive whose first header is damaged: fetch it again";
        return Some(refuse(Code::Corrupt, message));
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

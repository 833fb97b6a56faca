//! A zip archive as a codec: read in one pass by its local headers, one member comes out. The directory at its end must say
//! the same of every file, so that this and a program that begins with the directory see one archive.

use crc32fast::Hasher;
use libz_rs_sys as z;

use super::choice::{Choice, MOST_PAPER, Verdict, long};
use super::manifest::Hashing;
use super::pick::{Pick, clean, shown};
use super::{Archive, Member};
use crate::codecs::gzip::Inflate;
use crate::codecs::{Codec, Memory, Sink};
use crate::error::{Code, Error, Result, Stage};

mod records;

use records::{Directory, File, Local, corrupt};

/// Bytes of a file that is looked at.
const LOOKED: usize = 512;
/// Bytes that are inflated at once.
const ROOM: usize = 64 << 10;

/// By the first record: a local header, or the end of an archive without files.
pub fn detect(head: &[u8]) -> bool {
    head.starts_with(&records::LOCAL.to_le_bytes()) || head.starts_with(&records::END.to_le_bytes())
}

/// inflate's window and tables, a record, what is inflated, a descriptor and a manifest with what is read from them.
pub fn memory() -> Memory {
    Memory { window: 32 << 10, total: 4 * MOST_PAPER + (1 << 20) }
}

/// How the content of a file is read.
enum How {
    Stored,
    Inflated(Box<Inflate>),
    /// Not at all.
    Skipped,
}

/// What happens to it.
enum Fate {
    Passed,
    /// Its beginning, which may be a disk's.
    Perhaps(Vec<u8>),
    Picked(Option<Box<Hashing>>),
    /// A descriptor or manifest.
    Paper(Vec<u8>),
}

/// The file under way.
struct Content {
    local: Local,
    path: String,
    how: How,
    fate: Fate,
    /// Bytes taken of the archive, and given out.
    taken: u64,
    gave: u64,
    crc: Hasher,
}

enum State {
    /// A record, of which `Zip::buffer` has the beginning.
    Record,
    Content(Box<Content>),
    /// The data descriptor of this file, the same way.
    Descriptor(File, Local),
    /// Behind the end.
    Over,
}

pub struct Zip {
    choice: Choice,
    state: State,
    buffer: Vec<u8>,
    /// Bytes taken of the archive.
    at: u64,
    /// The kind of the last record.
    last: u32,
    /// Files by the local headers and by the directory: as many, and the same sum of hashes in whatever order.
    local: Tally,
    central: Tally,
    /// Where the directory begins.
    directory: Option<u64>,
    wide: Option<Directory>,
    /// Where the picked file's header is.
    picked: Option<u64>,
    room: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    files: u64,
    sum: u128,
}

impl Tally {
    fn add(&mut self, file: &File) {
        let mut hash = blake3::Hasher::new();
        for number in [file.at, u64::from(file.method), u64::from(file.crc), file.packed, file.size] {
            hash.update(&number.to_le_bytes());
        }
        hash.update(&file.name);
        let mut half = [0; 16];
        hash.finalize_xof().fill(&mut half);
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(half));
        self.files += 1;
    }
}

impl Zip {
    pub fn new(pick: &Pick) -> Self {
        Self {
            choice: Choice::new(pick),
            state: State::Record,
            buffer: Vec::new(),
            at: 0,
            last: records::LOCAL,
            local: Tally::default(),
            central: Tally::default(),
            directory: None,
            wide: None,
            picked: None,
            room: vec![0; ROOM],
        }
    }

    /// At most so many bytes of the input.
    fn cut<'a>(&mut self, input: &mut &'a [u8], n: u64) -> &'a [u8] {
        let (part, rest) = input.split_at(usize::try_from(n).unwrap_or(usize::MAX).min(input.len()));
        *input = rest;
        self.at += part.len() as u64;
        part
    }

    /// The record that is next, when all of it has come.
    fn record(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>> {
        loop {
            let missing = records::length(&self.buffer, self.at)?.saturating_sub(self.buffer.len());
            if missing == 0 {
                return Ok(Some(std::mem::take(&mut self.buffer)));
            }
            if input.is_empty() {
                return Ok(None);
            }
            let part = self.cut(input, missing as u64);
            self.buffer.extend_from_slice(part);
        }
    }

    fn recorded(&mut self, record: &[u8]) -> Result<State> {
        let at = self.at - record.len() as u64;
        let kind = records::le32(record, 0);
        // Each kind and what may stand before it (4.3.6).
        let before: &[u32] = match kind {
            records::LOCAL => &[records::LOCAL],
            records::CENTRAL | records::END_WIDE | records::END => &[records::LOCAL, records::CENTRAL],
            _ => &[records::END_WIDE],
        };
        let ends = kind == records::END && self.last == records::LOCATOR;
        if !before.contains(&self.last) && !ends {
            return Err(corrupt(at, "its records are out of order"));
        }
        self.last = kind;
        match kind {
            records::LOCAL => return self.begin(Local::parse(record, at)?),
            records::LOCATOR => {}
            _ => {
                let directory = *self.directory.get_or_insert(at);
                match kind {
                    records::CENTRAL => self.listed(record, at)?,
                    records::END_WIDE => {
                        self.wide = Some(Directory::wide(record)?);
                        self.agree(self.wide, directory, at - directory, at)?;
                    }
                    _ => {
                        let end = Directory::of_end(record, self.wide, at)?;
                        let bytes = self.wide.map_or(at - directory, |wide| wide.bytes);
                        self.agree(Some(end), directory, bytes, at)?;
                        return Ok(State::Over);
                    }
                }
            }
        }
        Ok(State::Record)
    }

    fn agree(&self, said: Option<Directory>, directory: u64, bytes: u64, at: u64) -> Result<()> {
        if said != Some(Directory { files: self.central.files, bytes, at: directory }) {
            return Err(corrupt(at, "its end says something else of its directory than is there"));
        }
        if self.central != self.local {
            let what = "its directory lists other files than it has: unpack it, and import the image inside";
            return Err(corrupt(directory, what));
        }
        Ok(())
    }

    fn listed(&mut self, record: &[u8], at: u64) -> Result<()> {
        let (file, link) = records::central(record, at)?;
        if link && self.picked == Some(file.at) {
            let message = format!(
                "{} is a link in the archive: give --path of the file that it leads to",
                shown(&String::from_utf8_lossy(&file.name))
            );
            return Err(Error::new(Code::Unsupported, Stage::Decode, message));
        }
        self.central.add(&file);
        Ok(())
    }

    /// A file whose content comes next.
    fn begin(&mut self, local: Local) -> Result<State> {
        let name = String::from_utf8_lossy(&local.file.name).into_owned();
        let path = clean(&name);
        let file = &local.file;
        // A described file says its size behind itself; where the size of a stored one is said before, it counts.
        let known = !local.described;
        let size = known.then_some(file.size);
        let verdict = if name.ends_with('/') { Verdict::Passed } else { self.choice.file(&path, size)? };
        let readable = matches!(file.method, records::STORED | records::DEFLATE);
        if !readable && (!known || matches!(verdict, Verdict::Picked | Verdict::Paper)) {
            let message = format!(
                "{} in the zip archive is packed by {}, which is not read: unpack it, and import the image inside",
                shown(&path),
                records::method(file.method)
            );
            return Err(Error::new(Code::Unsupported, Stage::Decode, message));
        }
        if file.method == records::STORED && file.packed != file.size {
            return Err(corrupt(file.at, "a file that is stored has two sizes"));
        }
        let fate = match verdict {
            Verdict::Passed => Fate::Passed,
            Verdict::Perhaps if readable => Fate::Perhaps(Vec::with_capacity(LOOKED)),
            Verdict::Perhaps => {
                self.choice.looked(&path, size, &[])?;
                Fate::Passed
            }
            Verdict::Paper => Fate::Paper(Vec::new()),
            Verdict::Picked => {
                self.picked = Some(file.at);
                Fate::Picked(self.choice.hashing()?.map(Box::new))
            }
        };
        let how = match (&fate, file.method) {
            (Fate::Passed, _) if known => How::Skipped,
            (_, records::DEFLATE) => How::Inflated(Box::new(Inflate::new()?)),
            _ => How::Stored,
        };
        let mut content = Box::new(Content { local, path, how, fate, taken: 0, gave: 0, crc: Hasher::new() });
        if content.is_over() { self.end(&mut content) } else { Ok(State::Content(content)) }
    }

    /// Takes a part of a file's content; true when it has ended.
    fn content(&mut self, content: &mut Content, input: &mut &[u8], out: &mut dyn Sink) -> Result<bool> {
        if !matches!(content.how, How::Inflated(_)) {
            let part = self.cut(input, content.left());
            content.taken += part.len() as u64;
            if !matches!(content.how, How::Skipped) {
                self.give(content, part, out)?;
            }
            return Ok(content.is_over());
        }
        let mut room = std::mem::take(&mut self.room);
        let ended = self.inflate(content, input, &mut room, out);
        self.room = room;
        ended
    }

    fn inflate(
        &mut self,
        content: &mut Content,
        input: &mut &[u8],
        room: &mut [u8],
        out: &mut dyn Sink,
    ) -> Result<bool> {
        loop {
            let How::Inflated(inflate) = &mut content.how else { return self.content(content, input, out) };
            let left = if content.local.described { u64::MAX } else { content.local.file.packed - content.taken };
            let given = &input[..usize::try_from(left).unwrap_or(usize::MAX).min(input.len())];
            let step = inflate.step(given, room, false);
            let message =
                (!matches!(step.result, z::Z_OK | z::Z_BUF_ERROR | z::Z_STREAM_END)).then(|| inflate.message());
            self.cut(input, step.read as u64);
            content.taken += step.read as u64;
            self.give(content, &room[..step.wrote], out)?;
            if matches!(content.how, How::Skipped) {
                continue;
            }
            if let Some(message) = message {
                return Err(corrupt(self.at, message));
            }
            let over = content.taken == content.local.file.packed;
            if step.result == z::Z_STREAM_END {
                let whole = content.local.described || over;
                return if whole { Ok(true) } else { Err(corrupt(self.at, "deflate ends before its file does")) };
            }
            if step.wrote < room.len() {
                if !content.local.described && over {
                    return Err(corrupt(self.at, "a file ends inside of its deflate data"));
                }
                if input.is_empty() {
                    return Ok(false);
                }
                if step.read == 0 && step.wrote == 0 {
                    return Err(corrupt(self.at, "inflate is stuck"));
                }
            }
        }
    }

    /// Bytes of a file as it is outside of the archive.
    fn give(&mut self, content: &mut Content, mut bytes: &[u8], out: &mut dyn Sink) -> Result<()> {
        if let Fate::Perhaps(head) = &mut content.fate {
            let (more, rest) = bytes.split_at(bytes.len().min(LOOKED - head.len()));
            head.extend_from_slice(more);
            let head = (head.len() == LOOKED).then(|| std::mem::take(head));
            self.count(content, more)?;
            if let Some(head) = head {
                self.look(content, &head, out)?;
            }
            if matches!(content.how, How::Skipped) {
                return Ok(());
            }
            bytes = rest;
        }
        self.count(content, bytes)?;
        match &mut content.fate {
            Fate::Passed | Fate::Perhaps(_) => {}
            Fate::Paper(text) if (text.len() + bytes.len()) as u64 > MOST_PAPER => return Err(long(&content.path)),
            Fate::Paper(text) => text.extend_from_slice(bytes),
            Fate::Picked(hashing) => {
                if let Some(hashing) = hashing {
                    hashing.update(bytes);
                }
                out.write(bytes)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, content: &mut Content, bytes: &[u8]) -> Result<()> {
        content.crc.update(bytes);
        content.gave += bytes.len() as u64;
        if !content.local.described && content.gave > content.local.file.size {
            return Err(corrupt(self.at, format_args!("a file has more than its {} bytes", content.local.file.size)));
        }
        Ok(())
    }

    /// What a file is whose beginning has come.
    fn look(&mut self, content: &mut Content, head: &[u8], out: &mut dyn Sink) -> Result<()> {
        let known = !content.local.described;
        if !self.choice.looked(&content.path, known.then_some(content.local.file.size), head)? {
            content.fate = Fate::Passed;
            // Wherever its input was cut: what comes of a file that is not wanted is the same.
            if known && head.len() == LOOKED && !matches!(content.how, How::Stored) {
                content.how = How::Skipped;
            }
            return Ok(());
        }
        self.picked = Some(content.local.file.at);
        let mut hashing = self.choice.hashing()?.map(Box::new);
        if let Some(hashing) = &mut hashing {
            hashing.update(head);
        }
        content.fate = Fate::Picked(hashing);
        out.write(head)
    }

    /// All of a file has come.
    fn end(&mut self, content: &mut Content) -> Result<State> {
        match std::mem::replace(&mut content.fate, Fate::Passed) {
            Fate::Picked(Some(hashing)) => self.choice.hashed(*hashing)?,
            Fate::Paper(text) => self.choice.paper(&content.path, &text)?,
            // An empty file.
            Fate::Perhaps(head) => _ = self.choice.looked(&content.path, Some(0), &head)?,
            Fate::Passed | Fate::Picked(None) => {}
        }
        let Content { local, taken, gave, .. } = content;
        let crc = std::mem::take(&mut content.crc).finalize();
        let found = File { crc, packed: *taken, size: *gave, ..local.file.clone() };
        if local.described {
            return Ok(State::Descriptor(found, local.clone()));
        }
        if !matches!(content.how, How::Skipped) && found != local.file {
            let what = format_args!(
                "{} has {gave} bytes with the CRC {crc:08x}, its header says {} with {:08x}",
                shown(&content.path),
                local.file.size,
                local.file.crc
            );
            return Err(corrupt(self.at, what));
        }
        self.local.add(&local.file);
        Ok(State::Record)
    }

    /// The data descriptor: CRC and sizes, with or without a signature before them (4.3.9).
    fn descriptor(&mut self, input: &mut &[u8], file: &File, local: &Local) -> Result<bool> {
        let mut said = file.crc.to_le_bytes().to_vec();
        // As wide as the header says, or as is needed: programs that learn sizes late do the one or the other.
        let wide = local.wide || file.packed.max(file.size) > u64::from(u32::MAX);
        for size in [file.packed, file.size] {
            said.extend_from_slice(&size.to_le_bytes()[..if wide { 8 } else { 4 }]);
        }
        let signed = self.buffer.len() >= 4 && records::le32(&self.buffer, 0) == records::DESCRIPTOR;
        let length = if self.buffer.len() < 4 { 4 } else { said.len() + if signed { 4 } else { 0 } };
        let part = self.cut(input, (length - self.buffer.len()) as u64);
        self.buffer.extend_from_slice(part);
        if self.buffer.len() < 12 {
            return Ok(false);
        }
        let signed = records::le32(&self.buffer, 0) == records::DESCRIPTOR;
        if self.buffer.len() < said.len() + if signed { 4 } else { 0 } {
            return Ok(false);
        }
        if self.buffer[if signed { 4 } else { 0 }..] != said {
            let name = shown(&String::from_utf8_lossy(&file.name));
            if file.method == records::STORED {
                let message = format!(
                    "{name} stands in the zip archive unpacked and without its size, so that only the directory at the \
                     end tells where it ends: unpack it, and import the image inside"
                );
                return Err(Error::new(Code::Unsupported, Stage::Decode, message));
            }
            return Err(corrupt(self.at, format_args!("{name} is not what its data descriptor says")));
        }
        self.buffer.clear();
        self.local.add(file);
        Ok(true)
    }
}

impl Content {
    /// Bytes of the archive that still belong to a file whose size is known: of one that is not described, or not packed.
    fn left(&self) -> u64 {
        self.local.file.packed - self.taken
    }

    fn is_over(&self) -> bool {
        !matches!(self.how, How::Inflated(_)) && self.left() == 0
    }
}

impl Codec for Zip {
    fn push(&mut self, mut input: &[u8], out: &mut dyn Sink) -> Result<()> {
        let input = &mut input;
        while !input.is_empty() {
            match std::mem::replace(&mut self.state, State::Record) {
                State::Record => {
                    if let Some(record) = self.record(input)? {
                        self.state = self.recorded(&record)?;
                    }
                }
                State::Content(mut content) => {
                    let ended = self.content(&mut content, input, out)?;
                    if ended && let Fate::Perhaps(head) = &mut content.fate {
                        let head = std::mem::take(head);
                        self.look(&mut content, &head, out)?;
                    }
                    self.state = if ended { self.end(&mut content)? } else { State::Content(content) };
                }
                State::Descriptor(file, local) => {
                    if !self.descriptor(input, &file, &local)? {
                        self.state = State::Descriptor(file, local);
                    }
                }
                State::Over => return Err(corrupt(self.at, "something follows its end")),
            }
        }
        Ok(())
    }

    fn finish(&mut self, _out: &mut dyn Sink) -> Result<()> {
        if !matches!(self.state, State::Over) {
            let message =
                format!("the zip archive ends at byte {} before its end: the source is not complete", self.at);
            return Err(Error::new(Code::Truncated, Stage::Decode, message));
        }
        self.choice.finish()
    }
}

impl Archive for Zip {
    fn member(&self) -> Option<&Member> {
        self.choice.member()
    }

    fn hides(&self) -> bool {
        false
    }
}

//! tar: ustar, pax and GNU's, with all three forms of sparse files.

use std::fmt::Display;

use crate::codecs::{Codec, Kind, Memory, Restart, Sink};
use crate::error::{Code, Error, Result, Stage};

use super::Member;
use super::entry::{self, BLOCK, Header, Records, Type};
use super::pick::{self, Named, Pick, clean, shown};
use super::sparse::{MapReader, Run, Sparse};

/// Names and records for an entry: a path has 4 KiB at most, maps in records (forms 0.0 and 0.1) some hundred.
const MOST_RECORDS: u64 = 1 << 20;
/// A restart is offered where this many bytes of the archive have passed.
const GRAIN: u64 = 64 << 10;
/// Names of other files that are told when nothing was found.
const TOLD: usize = 5;

/// Recognised by the magic, and by a checksum that is right: a boot sector may hold any letters.
pub fn detect(head: &[u8]) -> bool {
    let Some(block) = head.first_chunk::<BLOCK>() else { return false };
    &block[257..262] == b"ustar" && entry::parse(block, 0).is_ok()
}

pub fn memory() -> Memory {
    Memory { window: 0, total: 4 * MOST_RECORDS }
}

pub(super) fn corrupt(at: u64, what: impl Display) -> Error {
    Error::new(Code::Corrupt, Stage::Decode, format!("the tar archive is damaged near byte {at}: {what}"))
}

/// An entry whose content follows.
#[derive(Debug)]
struct Entry {
    name: String,
    /// Bytes of it in the archive that are still to come.
    left: u64,
    /// What fills its last block up.
    padding: u64,
    sparse: Option<Sparse>,
}

/// The picked member under way.
#[derive(Debug)]
struct Data {
    /// Bytes given out, holes counted; of `size`.
    position: u64,
    size: u64,
    /// Parts that are in the archive, from `next` on.
    runs: Vec<Run>,
    next: usize,
    padding: u64,
}

#[derive(Debug)]
enum State {
    Header,
    Records {
        kind: Type,
        left: u64,
        padding: u64,
        content: Vec<u8>,
    },
    /// Blocks of GNU's map.
    Extended(Entry),
    /// The map of form 1.0; `blocks` of it came.
    Map {
        entry: Entry,
        reader: MapReader,
        size: u64,
    },
    /// The beginning of a file that may be a disk.
    Perhaps {
        entry: Entry,
        head: Vec<u8>,
    },
    Data(Data),
    Skip(u64),
    /// Behind the mark of the end.
    End,
}

/// What is kept of a restart inside the picked member, which has no holes.
#[derive(serde::Serialize, serde::Deserialize)]
struct Kept {
    name: String,
    size: u64,
    padding: u64,
    files: u64,
}

pub struct Tar {
    pick: Pick,
    /// Bytes taken.
    at: u64,
    /// A block that came in part.
    block: Vec<u8>,
    state: State,
    /// For the next entry.
    records: Records,
    long_name: Option<String>,
    member: Option<Member>,
    /// Files seen, and the names of the first that were not picked.
    files: u64,
    passed: Vec<String>,
    hidden: bool,
}

impl Tar {
    /// Fails with CORRUPT when the state of `from` is none.
    pub fn new(pick: &Pick, from: Option<&Restart>) -> Result<Self> {
        let mut tar = Self {
            pick: pick.clone(),
            at: 0,
            block: Vec::with_capacity(BLOCK),
            state: State::Header,
            records: Records::default(),
            long_name: None,
            member: None,
            files: 0,
            passed: Vec::new(),
            hidden: false,
        };
        if let Some(from) = from {
            let kept: Kept = from.decode(Kind::Tar)?;
            if from.decoded_offset > kept.size || kept.padding >= BLOCK as u64 {
                return Err(corrupt(from.source_offset, "the checkpoint does not lie in the member"));
            }
            tar.at = from.source_offset;
            tar.files = kept.files;
            let runs = vec![Run { offset: 0, length: kept.size }];
            let data = Data { position: from.decoded_offset, size: kept.size, runs, next: 0, padding: kept.padding };
            tar.state = State::Data(data);
            tar.member = Some(Member { name: kept.name, size: kept.size });
        }
        Ok(tar)
    }

    /// What was picked, once its header has passed.
    pub fn member(&self) -> Option<&Member> {
        self.member.as_ref()
    }

    /// Whether the layer takes what was wanted away from the layers below it ("Whiteouts", OCI image-spec layer.md).
    pub fn hides(&self) -> bool {
        self.hidden
    }

    /// A block, when all of it has come.
    fn fill(&mut self, input: &mut &[u8]) -> Option<[u8; BLOCK]> {
        let part = self.cut(input, (BLOCK - self.block.len()) as u64);
        self.block.extend_from_slice(part);
        let block = *self.block.first_chunk::<BLOCK>()?;
        self.block.clear();
        Some(block)
    }

    /// At most `n` bytes of the input.
    fn cut<'a>(&mut self, input: &mut &'a [u8], n: u64) -> &'a [u8] {
        let (part, rest) = input.split_at(usize::try_from(n).unwrap_or(usize::MAX).min(input.len()));
        *input = rest;
        self.at += part.len() as u64;
        part
    }

    /// Takes something of the input, which is not empty.
    fn step(&mut self, input: &mut &[u8], out: &mut dyn Sink) -> Result<State> {
        Ok(match std::mem::replace(&mut self.state, State::Header) {
            State::Header => {
                let at = self.at - self.block.len() as u64;
                match self.fill(input) {
                    None => State::Header,
                    Some(block) if block == [0; BLOCK] => State::End,
                    Some(block) => self.header(entry::parse(&block, at)?, out)?,
                }
            }
            State::Records { kind, left, padding, mut content } => {
                let part = self.cut(input, left);
                content.extend_from_slice(part);
                match left - part.len() as u64 {
                    0 => {
                        self.apply(kind, &content)?;
                        skip(padding)
                    }
                    left => State::Records { kind, left, padding, content },
                }
            }
            State::Extended(mut entry) => {
                let (Some(block), Some(map)) = (self.fill(input), &mut entry.sparse) else {
                    return Ok(State::Extended(entry));
                };
                if entry::extend(map, &block, self.at)? { State::Extended(entry) } else { self.begin(entry, out)? }
            }
            State::Map { mut entry, mut reader, size } => match self.fill(input) {
                None => State::Map { entry, reader, size },
                Some(block) => {
                    let beyond = || corrupt(self.at, "the map of a sparse file is longer than its entry");
                    entry.left = entry.left.checked_sub(BLOCK as u64).ok_or_else(beyond)?;
                    match reader.take(&block, self.at)? {
                        None => State::Map { entry, reader, size },
                        Some(numbers) => {
                            entry.sparse = Some(Sparse::from_numbers(size, &numbers, self.at)?);
                            self.begin(entry, out)?
                        }
                    }
                }
            },
            State::Perhaps { mut entry, mut head } => {
                let wanted = entry.left.min((BLOCK - head.len()) as u64);
                let part = self.cut(input, wanted);
                head.extend_from_slice(part);
                entry.left -= part.len() as u64;
                if head.len() < BLOCK && entry.left > 0 {
                    State::Perhaps { entry, head }
                } else if pick::looks_like_a_disk(&head) {
                    self.picked(entry, &head, out)?
                } else {
                    self.pass(entry)
                }
            }
            State::Data(mut data) => {
                let part = self.cut(input, data.in_run().min(GRAIN - self.at % GRAIN));
                data.take(part, out)?;
                self.offer_restart(&data, out)?;
                data.state()
            }
            State::Skip(left) => skip(left - self.cut(input, left).len() as u64),
            State::End => {
                if self.cut(input, u64::MAX).iter().any(|&b| b != 0) {
                    return Err(corrupt(self.at, "something follows its end"));
                }
                State::End
            }
        })
    }

    fn header(&mut self, header: Header, out: &mut dyn Sink) -> Result<State> {
        let padding = header.size.next_multiple_of(BLOCK as u64) - header.size;
        if matches!(header.kind, Type::LongName | Type::LongLink | Type::Records | Type::GlobalRecords) {
            if header.size > MOST_RECORDS {
                let message = format!(
                    "an entry of the archive has {} bytes of records, at most {MOST_RECORDS} are read",
                    header.size
                );
                return Err(Error::new(Code::TooLarge, Stage::Decode, message));
            }
            let (kind, left) = (header.kind, header.size);
            return Ok(if left == 0 {
                State::Header
            } else {
                State::Records { kind, left, padding, content: Vec::new() }
            });
        }
        let records = std::mem::take(&mut self.records);
        let long_name = self.long_name.take();
        let name = records.sparse.name.or(records.path).or(long_name).unwrap_or(header.name);
        let name = clean(&name);
        self.hidden |= self.pick.hidden_by(&name);
        let left = if header.kind.has_content() { records.size.unwrap_or(header.size) } else { 0 };
        let padding = left.next_multiple_of(BLOCK as u64) - left;
        let mut entry = Entry { name, left, padding, sparse: header.sparse };
        if header.kind == Type::Link
            && matches!(self.pick, Pick::Path(_))
            && self.pick.named(&entry.name) == Named::Picked
        {
            let message =
                format!("{} is a link in the archive: give --path of the file that it leads to", shown(&entry.name));
            return Err(Error::new(Code::Unsupported, Stage::Decode, message));
        }
        if !matches!(header.kind, Type::File | Type::GnuSparse) {
            return Ok(skip(entry.left + entry.padding));
        }
        if header.extended {
            return Ok(State::Extended(entry));
        }
        if let Some(size) = records.sparse.size {
            if records.sparse.major.is_some_and(|major| major > 0) {
                return Ok(State::Map { entry, reader: MapReader::default(), size });
            }
            entry.sparse = Some(Sparse::from_numbers(size, &records.sparse.map, self.at)?);
        }
        self.begin(entry, out)
    }

    fn apply(&mut self, kind: Type, content: &[u8]) -> Result<()> {
        match kind {
            Type::LongName => self.long_name = Some(entry::long_name(content)),
            Type::Records => self.records.add(content, self.at)?,
            // Those for all entries hold comments; where a link leads is not followed.
            _ => {}
        }
        Ok(())
    }

    /// A file whose content comes next.
    fn begin(&mut self, entry: Entry, out: &mut dyn Sink) -> Result<State> {
        if entry.sparse.as_ref().is_some_and(|map| map.stored() != entry.left) {
            return Err(corrupt(self.at, "the map of a sparse file does not fit its size"));
        }
        self.files += 1;
        match self.pick.named(&entry.name) {
            Named::Picked => self.picked(entry, &[], out),
            Named::Perhaps if entry.left > 0 && entry.sparse.as_ref().is_none_or(Sparse::begins_with_data) => {
                Ok(State::Perhaps { entry, head: Vec::with_capacity(BLOCK) })
            }
            _ => Ok(self.pass(entry)),
        }
    }

    fn pass(&mut self, entry: Entry) -> State {
        if self.passed.len() < TOLD {
            self.passed.push(shown(&entry.name));
        }
        skip(entry.left + entry.padding)
    }

    /// `head`: what of the content has come.
    fn picked(&mut self, entry: Entry, head: &[u8], out: &mut dyn Sink) -> Result<State> {
        let name = shown(&entry.name);
        if let Some(first) = &self.member {
            let message =
                format!("the archive has more than one disk, {} and {name}: name one with --path", first.name);
            return Err(Error::new(Code::Unsupported, Stage::Decode, message));
        }
        let stored = entry.left + head.len() as u64;
        let (size, runs) = match entry.sparse {
            Some(map) => (map.size, map.into_runs()),
            None if stored == 0 => (0, Vec::new()),
            None => (stored, vec![Run { offset: 0, length: stored }]),
        };
        self.member = Some(Member { name, size });
        let mut data = Data { position: 0, size, runs, next: 0, padding: entry.padding };
        data.holes(out)?;
        data.take(head, out)?;
        Ok(data.state())
    }

    fn offer_restart(&self, data: &Data, out: &mut dyn Sink) -> Result<()> {
        let Some(member) = &self.member else { return Ok(()) };
        let somewhere = self.at.is_multiple_of(GRAIN) && data.in_run() > 0;
        if !somewhere || data.runs.len() != 1 || data.runs[0].length != data.size || !out.restart_due() {
            return Ok(());
        }
        let kept = Kept { name: member.name.clone(), size: data.size, padding: data.padding, files: self.files };
        out.restart(Restart::encode(self.at, data.position, &kept)?)
    }
}

fn skip(left: u64) -> State {
    if left == 0 { State::Header } else { State::Skip(left) }
}

impl Data {
    /// Bytes of the archive that belong to the run at hand.
    fn in_run(&self) -> u64 {
        self.runs.get(self.next).map_or(0, |run| run.offset + run.length - self.position)
    }

    /// Zeros up to the next run, or to the end.
    fn holes(&mut self, out: &mut dyn Sink) -> Result<()> {
        let end = self.runs.get(self.next).map_or(self.size, |run| run.offset);
        while self.position < end {
            let space = out.space()?;
            let n = (space.len() as u64).min(end - self.position) as usize;
            space[..n].fill(0);
            out.commit(n)?;
            self.position += n as u64;
        }
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8], out: &mut dyn Sink) -> Result<()> {
        while !bytes.is_empty() {
            let n = self.in_run().min(bytes.len() as u64) as usize;
            out.write(&bytes[..n])?;
            self.position += n as u64;
            bytes = &bytes[n..];
            if self.in_run() == 0 {
                self.next += 1;
                self.holes(out)?;
            }
        }
        Ok(())
    }

    fn state(self) -> State {
        if self.next == self.runs.len() { skip(self.padding) } else { State::Data(self) }
    }
}

impl Codec for Tar {
    fn push(&mut self, mut input: &[u8], out: &mut dyn Sink) -> Result<()> {
        while !input.is_empty() {
            self.state = self.step(&mut input, out)?;
        }
        Ok(())
    }

    /// Two blocks of zeros mark the end, which some programs leave out and all take for granted.
    fn finish(&mut self, _out: &mut dyn Sink) -> Result<()> {
        let ended = matches!(self.state, State::Header if self.block.is_empty()) || matches!(self.state, State::End);
        if !ended {
            let message =
                format!("the tar archive ends at byte {} inside an entry: the source is not complete", self.at);
            return Err(Error::new(Code::Truncated, Stage::Decode, message));
        }
        if self.member.is_some() {
            return Ok(());
        }
        let others = match self.passed.as_slice() {
            [] => "it has no files at all".to_owned(),
            names if self.files > names.len() as u64 => {
                format!("it has {} and {} more", names.join(", "), self.files - names.len() as u64)
            }
            names => format!("it has {}", names.join(", ")),
        };
        let message = format!("there is {} in the archive: {others}; name the disk with --path", self.pick.wanted());
        Err(Error::new(Code::NotFound, Stage::Decode, message))
    }
}

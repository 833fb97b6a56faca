//! The framing of a tar archive: ustar, pax and GNU's, with all three forms of sparse files. Takes the archive in pieces of
//! any size and tells entries and their content.

use crate::error::{Code, Error, Result, Stage};

use super::entry::{self, BLOCK, Header, Records, Type};
use super::sparse::{MapReader, Sparse};
use super::tar::corrupt;

/// Names and records for an entry: a path has 4 KiB at most, maps in records (forms 0.0 and 0.1) some hundred.
pub const MOST_RECORDS: u64 = 1 << 20;
/// Content is told up to multiples of this in the archive: places where a reader can begin again.
pub const GRAIN: u64 = 64 << 10;

/// An entry whose content follows.
#[derive(Debug)]
pub struct Entry {
    pub kind: Type,
    /// As it stands there.
    pub name: Vec<u8>,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Seconds and nanoseconds of the last change, since 1970.
    pub mtime: (i64, u32),
    /// Bytes of it in the archive that are still to come.
    pub left: u64,
    pub sparse: Option<Sparse>,
}

pub enum Event<'a> {
    Entry(Entry),
    /// Of the last entry, as the archive has it: without its holes.
    Content(&'a [u8]),
    Nothing,
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
    /// The map of form 1.0.
    Map {
        entry: Entry,
        reader: MapReader,
        size: u64,
    },
    Content {
        left: u64,
        padding: u64,
    },
    Padding(u64),
    /// Behind the mark of the end.
    End,
}

pub struct Framing {
    /// Bytes taken.
    at: u64,
    /// A block that came in part.
    block: Vec<u8>,
    state: State,
    /// For the next entry.
    records: Records,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Default for Framing {
    fn default() -> Self {
        Self::within(0, 0, 0)
    }
}

impl Framing {
    /// At offset `at` of the archive, where `left` bytes of an entry's content follow and `padding` behind them.
    pub fn within(at: u64, left: u64, padding: u64) -> Self {
        Self {
            at,
            block: Vec::with_capacity(BLOCK),
            state: content(left, padding),
            records: Records::default(),
            long_name: None,
            long_link: None,
        }
    }

    /// Bytes of the archive that were taken.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes of the last entry's content that are still to come, and what fills its last block up.
    pub fn left(&self) -> (u64, u64) {
        match self.state {
            State::Content { left, padding } => (left, padding),
            State::Padding(padding) => (0, padding),
            _ => (0, 0),
        }
    }

    /// TRUNCATED when the archive may not end here. Two blocks of zeros mark the end, which some programs leave out and all
    /// take for granted.
    pub fn finish(&self) -> Result<()> {
        match self.state {
            State::Header if self.block.is_empty() => Ok(()),
            State::End => Ok(()),
            _ => {
                let message =
                    format!("the tar archive ends at byte {} inside an entry: the source is not complete", self.at);
                Err(Error::new(Code::Truncated, Stage::Decode, message))
            }
        }
    }

    /// Takes something of `input`, which is not empty. Fails with CORRUPT, TOO_LARGE.
    pub fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Event<'a>> {
        match std::mem::replace(&mut self.state, State::Header) {
            State::Header => {
                let at = self.at - self.block.len() as u64;
                match self.fill(input) {
                    None => {}
                    Some(block) if block == [0; BLOCK] => self.state = State::End,
                    Some(block) => return self.header(entry::parse(&block, at)?),
                }
            }
            State::Records { kind, left, padding, mut content } => {
                let part = self.cut(input, left);
                content.extend_from_slice(part);
                self.state = match left - part.len() as u64 {
                    0 => {
                        self.apply(kind, &content)?;
                        pad(padding)
                    }
                    left => State::Records { kind, left, padding, content },
                }
            }
            State::Extended(mut entry) => match (self.fill(input), &mut entry.sparse) {
                (Some(block), Some(map)) => {
                    if !entry::extend(map, &block, self.at)? {
                        return self.begin(entry);
                    }
                    self.state = State::Extended(entry);
                }
                _ => self.state = State::Extended(entry),
            },
            State::Map { mut entry, mut reader, size } => match self.fill(input) {
                None => self.state = State::Map { entry, reader, size },
                Some(block) => {
                    let beyond = || corrupt(self.at, "the map of a sparse file is longer than its entry");
                    entry.left = entry.left.checked_sub(BLOCK as u64).ok_or_else(beyond)?;
                    match reader.take(&block, self.at)? {
                        None => self.state = State::Map { entry, reader, size },
                        Some(numbers) => {
                            entry.sparse = Some(Sparse::from_numbers(size, &numbers, self.at)?);
                            return self.begin(entry);
                        }
                    }
                }
            },
            State::Content { left, padding } => {
                let part = self.cut(input, left.min(GRAIN - self.at % GRAIN));
                self.state = content(left - part.len() as u64, padding);
                return Ok(Event::Content(part));
            }
            State::Padding(left) => self.state = pad(left - self.cut(input, left).len() as u64),
            State::End => {
                if self.cut(input, u64::MAX).iter().any(|&b| b != 0) {
                    return Err(corrupt(self.at, "something follows its end"));
                }
                self.state = State::End;
            }
        }
        Ok(Event::Nothing)
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

    fn header<'a>(&mut self, header: Header) -> Result<Event<'a>> {
        if matches!(header.kind, Type::LongName | Type::LongLink | Type::Records | Type::GlobalRecords) {
            if header.size > MOST_RECORDS {
                let message = format!(
                    "an entry of the archive has {} bytes of records, at most {MOST_RECORDS} are read",
                    header.size
                );
                return Err(Error::new(Code::TooLarge, Stage::Decode, message));
            }
            let (kind, left, padding) = (header.kind, header.size, padding(header.size));
            if left > 0 {
                self.state = State::Records { kind, left, padding, content: Vec::new() };
            }
            return Ok(Event::Nothing);
        }
        let records = std::mem::take(&mut self.records);
        let (long_name, long_link) = (self.long_name.take(), self.long_link.take());
        let mut entry = Entry {
            kind: header.kind,
            name: records.sparse.name.or(records.path).or(long_name).unwrap_or(header.name),
            link: records.link.or(long_link).unwrap_or(header.link),
            mode: header.mode,
            mtime: records.mtime.unwrap_or((header.mtime, 0)),
            left: if header.kind.has_content() { records.size.unwrap_or(header.size) } else { 0 },
            sparse: header.sparse,
        };
        if matches!(header.kind, Type::File | Type::GnuSparse) {
            if header.extended {
                self.state = State::Extended(entry);
                return Ok(Event::Nothing);
            }
            if let Some(size) = records.sparse.size {
                if records.sparse.major.is_some_and(|major| major > 0) {
                    self.state = State::Map { entry, reader: MapReader::default(), size };
                    return Ok(Event::Nothing);
                }
                entry.sparse = Some(Sparse::from_numbers(size, &records.sparse.map, self.at)?);
            }
        }
        self.begin(entry)
    }

    fn apply(&mut self, kind: Type, content: &[u8]) -> Result<()> {
        match kind {
            Type::LongName => self.long_name = Some(entry::long_name(content)),
            Type::LongLink => self.long_link = Some(entry::long_name(content)),
            Type::Records => self.records.add(content, self.at)?,
            // Those for all entries hold comments.
            _ => {}
        }
        Ok(())
    }

    /// An entry whose content comes next.
    fn begin<'a>(&mut self, entry: Entry) -> Result<Event<'a>> {
        if entry.sparse.as_ref().is_some_and(|map| map.stored() != entry.left) {
            return Err(corrupt(self.at, "the map of a sparse file does not fit its size"));
        }
        // The map of form 1.0 is whole blocks, so what is left ends where the entry does.
        self.state = content(entry.left, padding(entry.left));
        Ok(Event::Entry(entry))
    }
}

/// Bytes behind so many of content, up to the next block.
fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

fn content(left: u64, padding: u64) -> State {
    if left == 0 { pad(padding) } else { State::Content { left, padding } }
}

fn pad(left: u64) -> State {
    if left == 0 { State::Header } else { State::Padding(left) }
}

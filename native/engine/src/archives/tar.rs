//! A tar archive as a codec: one member comes out.

use std::fmt::Display;

use crate::codecs::{Codec, Kind, Memory, Restart, Sink};
use crate::error::{Code, Error, Result, Stage};

use super::choice::{Choice, MOST_PAPER, Verdict};
use super::entry::{self, BLOCK, Type};
use super::framing::{Entry, Event, Framing, GRAIN, MOST_RECORDS};
use super::manifest::Hashing;
use super::pick::{Pick, clean};
use super::sparse::{Run, Sparse};
use super::{Archive, Member};

/// Recognised by the magic, and by a checksum that is right: a boot sector may hold any letters.
pub fn detect(head: &[u8]) -> bool {
    let Some(block) = head.first_chunk::<BLOCK>() else { return false };
    &block[257..262] == b"ustar" && entry::parse(block, 0).is_ok()
}

pub fn memory() -> Memory {
    Memory { window: 0, total: 4 * MOST_RECORDS + 4 * MOST_PAPER }
}

pub(super) fn corrupt(at: u64, what: impl Display) -> Error {
    Error::new(Code::Corrupt, Stage::Decode, format!("the tar archive is damaged near byte {at}: {what}"))
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
    /// For a manifest.
    hashing: Option<Box<Hashing>>,
}

/// What happens to the content of the entry at hand.
#[derive(Debug)]
enum Fate {
    Passed,
    /// The beginning of a file that may be a disk.
    Perhaps {
        entry: Entry,
        head: Vec<u8>,
    },
    Picked(Data),
    /// A descriptor or manifest.
    Paper {
        path: String,
        content: Vec<u8>,
    },
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
    framing: Framing,
    fate: Fate,
    choice: Choice,
}

impl Tar {
    /// Fails with CORRUPT when the state of `from` is none.
    pub fn new(pick: &Pick, from: Option<&Restart>) -> Result<Self> {
        let Some(from) = from else {
            return Ok(Self { framing: Framing::default(), fate: Fate::Passed, choice: Choice::new(pick) });
        };
        let kept: Kept = from.decode(Kind::Tar)?;
        if from.decoded_offset > kept.size || kept.padding >= BLOCK as u64 {
            return Err(corrupt(from.source_offset, "the checkpoint does not lie in the member"));
        }
        let runs = vec![Run { offset: 0, length: kept.size }];
        Ok(Self {
            framing: Framing::within(from.source_offset, kept.size - from.decoded_offset, kept.padding),
            fate: Fate::Picked(Data { position: from.decoded_offset, size: kept.size, runs, next: 0, hashing: None }),
            choice: Choice::within(pick, kept.files, Member { name: kept.name, size: Some(kept.size) }),
        })
    }

    fn entry(&mut self, entry: Entry, out: &mut dyn Sink) -> Result<Fate> {
        let path = path_of(&entry);
        self.choice.name(&path);
        if matches!(entry.kind, Type::SymbolicLink | Type::HardLink) {
            self.choice.link(&path)?;
        }
        if !matches!(entry.kind, Type::File | Type::GnuSparse) {
            return Ok(Fate::Passed);
        }
        Ok(match self.choice.file(&path, Some(size_of(&entry)))? {
            Verdict::Passed => Fate::Passed,
            Verdict::Picked => self.picked(entry, &[], out)?,
            Verdict::Perhaps if entry.left > 0 && entry.sparse.as_ref().is_none_or(Sparse::begins_with_data) => {
                Fate::Perhaps { entry, head: Vec::with_capacity(BLOCK) }
            }
            // A hole is no disk's beginning.
            Verdict::Perhaps => {
                self.choice.looked(&path, Some(size_of(&entry)), &[])?;
                Fate::Passed
            }
            Verdict::Paper if entry.sparse.is_some() => Fate::Passed,
            Verdict::Paper if entry.left == 0 => {
                self.choice.paper(&path, &[])?;
                Fate::Passed
            }
            Verdict::Paper => Fate::Paper { path, content: Vec::new() },
        })
    }

    fn content(&mut self, mut part: &[u8], out: &mut dyn Sink) -> Result<Fate> {
        let over = self.framing.left().0 == 0;
        Ok(match std::mem::replace(&mut self.fate, Fate::Passed) {
            Fate::Passed => Fate::Passed,
            Fate::Perhaps { entry, mut head } => {
                let (more, rest) = part.split_at(part.len().min(BLOCK - head.len()));
                head.extend_from_slice(more);
                part = rest;
                if head.len() < BLOCK && !over {
                    Fate::Perhaps { entry, head }
                } else if self.choice.looked(&path_of(&entry), Some(size_of(&entry)), &head)? {
                    let mut fate = self.picked(entry, &head, out)?;
                    if let Fate::Picked(data) = &mut fate {
                        data.take(part, out)?;
                    }
                    self.ended(fate, over)?
                } else {
                    Fate::Passed
                }
            }
            Fate::Paper { path, mut content } => {
                content.extend_from_slice(part);
                if over {
                    self.choice.paper(&path, &content)?;
                    Fate::Passed
                } else {
                    Fate::Paper { path, content }
                }
            }
            Fate::Picked(mut data) => {
                data.take(part, out)?;
                self.offer_restart(&data, out)?;
                self.ended(Fate::Picked(data), over)?
            }
        })
    }

    /// `head`: what of the content has come.
    fn picked(&mut self, entry: Entry, head: &[u8], out: &mut dyn Sink) -> Result<Fate> {
        let (size, stored) = (size_of(&entry), entry.left);
        let runs = match entry.sparse {
            Some(map) => map.into_runs(),
            None if stored == 0 => Vec::new(),
            None => vec![Run { offset: 0, length: stored }],
        };
        let mut data = Data { position: 0, size, runs, next: 0, hashing: self.choice.hashing()?.map(Box::new) };
        data.holes(out)?;
        data.take(head, out)?;
        self.ended(Fate::Picked(data), stored == head.len() as u64)
    }

    /// Compares a member that is `over`.
    fn ended(&mut self, mut fate: Fate, over: bool) -> Result<Fate> {
        if let (true, Fate::Picked(data)) = (over, &mut fate)
            && let Some(hashing) = data.hashing.take()
        {
            self.choice.hashed(*hashing)?;
        }
        Ok(fate)
    }

    fn offer_restart(&self, data: &Data, out: &mut dyn Sink) -> Result<()> {
        let Some(member) = self.choice.member() else { return Ok(()) };
        // What was hashed, and what was said of the disk, is not kept: such a transfer begins again at the beginning.
        if data.hashing.is_some() || !self.choice.forgets() {
            return Ok(());
        }
        let somewhere = self.framing.at().is_multiple_of(GRAIN) && data.in_run() > 0;
        if !somewhere || data.runs.len() != 1 || data.runs[0].length != data.size || !out.restart_due() {
            return Ok(());
        }
        let padding = self.framing.left().1;
        let kept = Kept { name: member.name.clone(), size: data.size, padding, files: self.choice.files };
        out.restart(Restart::encode(self.framing.at(), data.position, &kept)?)
    }
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
            if let Some(hashing) = &mut self.hashing {
                hashing.update(&space[..n]);
            }
            out.commit(n)?;
            self.position += n as u64;
        }
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8], out: &mut dyn Sink) -> Result<()> {
        while !bytes.is_empty() {
            let n = self.in_run().min(bytes.len() as u64) as usize;
            if let Some(hashing) = &mut self.hashing {
                hashing.update(&bytes[..n]);
            }
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
}

impl Codec for Tar {
    fn push(&mut self, mut input: &[u8], out: &mut dyn Sink) -> Result<()> {
        while !input.is_empty() {
            match self.framing.step(&mut input)? {
                Event::Nothing => {}
                Event::Entry(entry) => self.fate = self.entry(entry, out)?,
                Event::Content(part) => self.fate = self.content(part, out)?,
            }
        }
        Ok(())
    }

    fn finish(&mut self, _out: &mut dyn Sink) -> Result<()> {
        self.framing.finish()?;
        self.choice.finish()
    }
}

impl Archive for Tar {
    fn member(&self) -> Option<&Member> {
        self.choice.member()
    }

    fn hides(&self) -> bool {
        self.choice.hides()
    }
}

fn path_of(entry: &Entry) -> String {
    clean(&String::from_utf8_lossy(&entry.name))
}

/// Bytes of the file, holes counted.
fn size_of(entry: &Entry) -> u64 {
    entry.sparse.as_ref().map_or(entry.left, |map| map.size)
}

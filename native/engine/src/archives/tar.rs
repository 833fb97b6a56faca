//! A tar archive as a codec: one member comes out.

use std::fmt::Display;

use crate::codecs::{Codec, Kind, Memory, Restart, Sink};
use crate::error::{Code, Error, Result, Stage};

use super::Member;
use super::entry::{self, BLOCK, Type};
use super::framing::{Entry, Event, Framing, GRAIN, MOST_RECORDS};
use super::pick::{self, Named, Pick, clean, shown};
use super::sparse::{Run, Sparse};

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

/// The picked member under way.
#[derive(Debug)]
struct Data {
    /// Bytes given out, holes counted; of `size`.
    position: u64,
    size: u64,
    /// Parts that are in the archive, from `next` on.
    runs: Vec<Run>,
    next: usize,
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
    framing: Framing,
    fate: Fate,
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
            framing: Framing::default(),
            fate: Fate::Passed,
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
            tar.files = kept.files;
            tar.framing = Framing::within(from.source_offset, kept.size - from.decoded_offset, kept.padding);
            let runs = vec![Run { offset: 0, length: kept.size }];
            tar.fate = Fate::Picked(Data { position: from.decoded_offset, size: kept.size, runs, next: 0 });
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

    fn entry(&mut self, entry: Entry, out: &mut dyn Sink) -> Result<Fate> {
        let name = clean(&String::from_utf8_lossy(&entry.name));
        self.hidden |= self.pick.hidden_by(&name);
        let link = matches!(entry.kind, Type::SymbolicLink | Type::HardLink);
        if link && matches!(self.pick, Pick::Path(_)) && self.pick.named(&name) == Named::Picked {
            let message =
                format!("{} is a link in the archive: give --path of the file that it leads to", shown(&name));
            return Err(Error::new(Code::Unsupported, Stage::Decode, message));
        }
        if !matches!(entry.kind, Type::File | Type::GnuSparse) {
            return Ok(Fate::Passed);
        }
        self.files += 1;
        match self.pick.named(&name) {
            Named::Picked => self.picked(entry, &[], out),
            Named::Perhaps if entry.left > 0 && entry.sparse.as_ref().is_none_or(Sparse::begins_with_data) => {
                Ok(Fate::Perhaps { entry, head: Vec::with_capacity(BLOCK) })
            }
            _ => Ok(self.pass(&entry)),
        }
    }

    fn content(&mut self, mut part: &[u8], out: &mut dyn Sink) -> Result<Fate> {
        Ok(match std::mem::replace(&mut self.fate, Fate::Passed) {
            Fate::Passed => Fate::Passed,
            Fate::Perhaps { entry, mut head } => {
                let (more, rest) = part.split_at(part.len().min(BLOCK - head.len()));
                head.extend_from_slice(more);
                part = rest;
                if head.len() < BLOCK && self.framing.left().0 > 0 {
                    Fate::Perhaps { entry, head }
                } else if pick::looks_like_a_disk(&head) {
                    let mut fate = self.picked(entry, &head, out)?;
                    if let Fate::Picked(data) = &mut fate {
                        data.take(part, out)?;
                    }
                    fate
                } else {
                    self.pass(&entry)
                }
            }
            Fate::Picked(mut data) => {
                data.take(part, out)?;
                self.offer_restart(&data, out)?;
                Fate::Picked(data)
            }
        })
    }

    fn pass(&mut self, entry: &Entry) -> Fate {
        if self.passed.len() < TOLD {
            self.passed.push(shown(&clean(&String::from_utf8_lossy(&entry.name))));
        }
        Fate::Passed
    }

    /// `head`: what of the content has come.
    fn picked(&mut self, entry: Entry, head: &[u8], out: &mut dyn Sink) -> Result<Fate> {
        let name = shown(&clean(&String::from_utf8_lossy(&entry.name)));
        if let Some(first) = &self.member {
            let message =
                format!("the archive has more than one disk, {} and {name}: name one with --path", first.name);
            return Err(Error::new(Code::Unsupported, Stage::Decode, message));
        }
        let stored = entry.left;
        let (size, runs) = match entry.sparse {
            Some(map) => (map.size, map.into_runs()),
            None if stored == 0 => (0, Vec::new()),
            None => (stored, vec![Run { offset: 0, length: stored }]),
        };
        self.member = Some(Member { name, size });
        let mut data = Data { position: 0, size, runs, next: 0 };
        data.holes(out)?;
        data.take(head, out)?;
        Ok(Fate::Picked(data))
    }

    fn offer_restart(&self, data: &Data, out: &mut dyn Sink) -> Result<()> {
        let Some(member) = &self.member else { return Ok(()) };
        let somewhere = self.framing.at().is_multiple_of(GRAIN) && data.in_run() > 0;
        if !somewhere || data.runs.len() != 1 || data.runs[0].length != data.size || !out.restart_due() {
            return Ok(());
        }
        let padding = self.framing.left().1;
        let kept = Kept { name: member.name.clone(), size: data.size, padding, files: self.files };
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

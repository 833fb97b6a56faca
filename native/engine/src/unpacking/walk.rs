//! Entries of an archive, one after another, into a tree.

use crate::archives::entry::Type;
use crate::archives::framing::{Entry, Event, Framing};
use crate::archives::sparse::Run;
use crate::error::{Code, Error, Result, Stage};

use super::tree::{File, Tree, named};

/// More entries than any file system of a virtual machine's data has in use: a bomb.
const MOST_ENTRIES: u64 = 10_000_000;

/// The file at hand.
struct Writing {
    file: File,
    /// Parts of it that are in the archive, from `next` on; `done` of that one.
    runs: Vec<Run>,
    next: usize,
    done: u64,
}

pub struct Walk {
    framing: Framing,
    tree: Tree,
    writing: Option<Writing>,
    /// Bytes that the volume had room for.
    room: u64,
    pub entries: u64,
    /// Bytes of files that were in the archive.
    pub bytes: u64,
    /// Entries of kinds that are not known.
    pub passed: u64,
}

impl Walk {
    pub fn new(tree: Tree, room: u64) -> Self {
        let framing = Framing::default();
        Self { framing, tree, writing: None, room, entries: 0, bytes: 0, passed: 0 }
    }

    pub fn push(&mut self, mut input: &[u8]) -> Result<()> {
        while !input.is_empty() {
            match self.framing.step(&mut input)? {
                Event::Nothing => {}
                Event::Entry(entry) => self.entry(entry)?,
                Event::Content(part) => self.content(part)?,
            }
        }
        Ok(())
    }

    /// The archive is complete: checks where links lead, and sets what is set last.
    pub fn finish(&mut self) -> Result<()> {
        self.framing.finish()?;
        self.tree.finish()
    }

    fn entry(&mut self, entry: Entry) -> Result<()> {
        self.entries += 1;
        if self.entries > MOST_ENTRIES {
            let what = format!("the archive has more than {MOST_ENTRIES} entries");
            return Err(Error::new(Code::TooLarge, Stage::Decode, what));
        }
        match entry.kind {
            Type::File | Type::GnuSparse => return self.begin(entry),
            Type::Directory => self.tree.directory(&entry.name, entry.mode, entry.mtime)?,
            Type::SymbolicLink => self.tree.symbolic_link(&entry.name, &entry.link, entry.mtime)?,
            Type::HardLink => self.tree.hard_link(&entry.name, &entry.link)?,
            Type::Device => {
                let what = format!("{} is a device or a pipe: such an archive is not unpacked", named(&entry.name));
                return Err(Error::new(Code::Unsafe, Stage::Decode, what));
            }
            _ => self.passed += 1,
        }
        Ok(())
    }

    fn begin(&mut self, entry: Entry) -> Result<()> {
        self.bytes += entry.left;
        if self.bytes > self.room {
            let what = format!(
                "the archive has more than {} bytes of files, the volume has room for {}",
                self.bytes, self.room
            );
            return Err(Error::new(Code::NoSpace, Stage::Target, what));
        }
        let (size, runs) = match entry.sparse {
            Some(map) => (map.size, map.into_runs()),
            None => (entry.left, vec![Run { offset: 0, length: entry.left }]),
        };
        let file = self.tree.file(&entry.name, size, entry.mode, entry.mtime)?;
        let writing = Writing { file, runs, next: 0, done: 0 };
        if entry.left == 0 {
            return writing.file.close();
        }
        self.writing = Some(writing);
        Ok(())
    }

    fn content(&mut self, mut part: &[u8]) -> Result<()> {
        // What an entry of an unknown kind holds is passed over.
        let Some(writing) = &mut self.writing else { return Ok(()) };
        while !part.is_empty()
            && let Some(run) = writing.runs.get(writing.next)
        {
            let n = (run.length - writing.done).min(part.len() as u64) as usize;
            writing.file.write(run.offset + writing.done, &part[..n])?;
            writing.done += n as u64;
            part = &part[n..];
            if writing.done == run.length {
                (writing.next, writing.done) = (writing.next + 1, 0);
            }
        }
        match self.framing.left().0 {
            0 => self.writing.take().map_or(Ok(()), |writing| writing.file.close()),
            _ => Ok(()),
        }
    }
}

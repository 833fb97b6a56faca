//! A directory that is filled from names which somebody else chose: nothing leaves it. Every part of a path is opened by
//! itself and is no link (openat(2), O_NOFOLLOW), so what the archive has put there before leads nowhere.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::archives::shown;
use crate::error::{Code, Error, Result, Stage};
use crate::targets::Access;
use crate::targets::descriptors::Descriptors;

/// Links that are followed to see where one leads, as the kernel does (path_resolution(7)).
const MOST_LINKS: usize = 40;
/// Directories and links that are remembered until the end, in bytes of their names.
const MOST_REMEMBERED: usize = 16 << 20;
/// What an archive may set: no set-user-ID and no set-group-ID, which it would give to another user than it meant.
const MODES: u32 = 0o1777;
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

type Time = (i64, u32);
/// Parts of a path below the root.
type Parts = Vec<Vec<u8>>;

/// A name of the archive as people may be shown it.
pub fn named(name: &[u8]) -> String {
    shown(&String::from_utf8_lossy(name))
}

fn refuse(name: &[u8], what: &str) -> Error {
    Error::new(Code::Unsafe, Stage::Decode, format!("{} {what}: such an archive is not unpacked", named(name)))
}

fn failed(doing: &str, name: &[u8], cause: Errno) -> Error {
    Error::target(format!("{doing} {}", named(name)), &cause.into())
}

pub struct Tree {
    root: OwnedFd,
    path: PathBuf,
    /// The directory of the last entry, which is mostly that of the next one too.
    last: Option<(Parts, OwnedFd)>,
    /// Modes and times that are set when nothing is put in there any more.
    directories: Vec<(Parts, u32, Time)>,
    links: Vec<(Parts, Vec<u8>)>,
    remembered: usize,
}

/// A file being written.
pub struct File {
    to: Descriptors,
    name: Vec<u8>,
    mode: u32,
    mtime: Time,
}

impl Tree {
    /// `path`: an empty directory that nobody else writes to.
    pub fn new(path: &Path) -> Result<Self> {
        let root = rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())
            .map_err(|cause| failed("cannot open", path.as_os_str().as_bytes(), cause))?;
        let (directories, links) = (Vec::new(), Vec::new());
        Ok(Self { root, path: path.to_owned(), last: None, directories, links, remembered: 0 })
    }

    /// A descriptor of the directory that all is in.
    pub fn root(&self) -> Result<OwnedFd> {
        self.root.try_clone().map_err(|cause| Error::target("opening the directory once more", &cause))
    }

    pub fn file(&mut self, name: &[u8], size: u64, mode: u32, mtime: Time) -> Result<File> {
        let (parent, last) = self.place(name)?;
        self.clear(&parent, &last, name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, OsStr::from_bytes(&last), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|cause| failed("cannot create", name, cause))?;
        rustix::fs::ftruncate(&file, size).map_err(|cause| failed("making room for", name, cause))?;
        let shown = self.path.join(OsStr::from_bytes(name));
        let to = Descriptors::new(&shown, file.into(), Access { write: true, direct: false }, 512);
        Ok(File { to, name: name.to_vec(), mode, mtime })
    }

    pub fn directory(&mut self, name: &[u8], mode: u32, mtime: Time) -> Result<()> {
        let parts = parts_of(name)?;
        self.descend(&parts, name)?;
        self.remember(parts.iter().map(Vec::len).sum())?;
        self.directories.push((parts, mode, mtime));
        Ok(())
    }

    /// Where it leads is checked when all is there: what is on the way may change until then.
    pub fn symbolic_link(&mut self, name: &[u8], target: &[u8], mtime: Time) -> Result<()> {
        if target.starts_with(b"/") {
            return Err(refuse(name, "is a link that leads out of the archive"));
        }
        let (parent, last) = self.place(name)?;
        self.clear(&parent, &last, name)?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, OsStr::from_bytes(&last))
            .map_err(|cause| failed("cannot create", name, cause))?;
        rustix::fs::utimensat(&parent, OsStr::from_bytes(&last), &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|cause| failed("setting the time of", name, cause))?;
        self.remember(name.len() + target.len())?;
        self.links.push((parts_of(name)?, target.to_vec()));
        Ok(())
    }

    pub fn hard_link(&mut self, name: &[u8], target: &[u8]) -> Result<()> {
        let (from, first) = self.place(target)?;
        let looked = rustix::fs::statat(&from, OsStr::from_bytes(&first), AtFlags::SYMLINK_NOFOLLOW);
        if !looked.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile) {
            let what =
                format!("{} is a link to {}, which is no file of the archive before it", named(name), named(target));
            return Err(Error::new(Code::Unsafe, Stage::Decode, what));
        }
        let (to, last) = self.place(name)?;
        if parts_of(name)? == parts_of(target)? {
            return Ok(());
        }
        self.clear(&to, &last, name)?;
        rustix::fs::linkat(&from, OsStr::from_bytes(&first), &to, OsStr::from_bytes(&last), AtFlags::empty())
            .map_err(|cause| failed("cannot link", name, cause))
    }

    pub fn finish(&mut self) -> Result<()> {
        self.last = None;
        for (parts, target) in &self.links {
            if !stays_inside(&self.root, parts, target)? {
                return Err(refuse(&parts.join(&b'/'), "is a link that leads out of the archive"));
            }
        }
        // The innermost first: setting one changes the time of none that is set before it.
        let mut directories = std::mem::take(&mut self.directories);
        directories.sort_by_key(|(parts, ..)| std::cmp::Reverse(parts.len()));
        for (parts, mode, mtime) in directories {
            let name = parts.join(&b'/');
            let found = self.descend(&parts, &name)?;
            rustix::fs::fchmod(&found, Mode::from_raw_mode(mode & MODES))
                .and_then(|()| rustix::fs::futimens(&found, &times(mtime)))
                .map_err(|cause| failed("setting the mode of", &name, cause))?;
            self.last = None;
        }
        rustix::fs::syncfs(&self.root).map_err(|cause| failed("flushing", self.path.as_os_str().as_bytes(), cause))
    }

    /// The directory that an entry is in, and its last part.
    fn place(&mut self, name: &[u8]) -> Result<(OwnedFd, Vec<u8>)> {
        let mut parts = parts_of(name)?;
        let last = parts.pop().ok_or_else(|| refuse(name, "is the archive's own directory, but no directory"))?;
        Ok((self.descend(&parts, name)?, last))
    }

    /// Opens a directory, which is made where there is none.
    fn descend(&mut self, parts: &[Vec<u8>], name: &[u8]) -> Result<OwnedFd> {
        let copy =
            |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|cause| Error::target("opening a directory", &cause));
        if let Some((_, directory)) = self.last.as_ref().filter(|(last, _)| last == parts) {
            return copy(directory.as_fd());
        }
        let mut at = copy(self.root.as_fd())?;
        for part in parts {
            let part = OsStr::from_bytes(part);
            let opened = rustix::fs::openat(&at, part, DIRECTORY, Mode::empty());
            at = match opened {
                Err(Errno::NOENT) => rustix::fs::mkdirat(&at, part, Mode::RWXU)
                    .and_then(|()| rustix::fs::openat(&at, part, DIRECTORY, Mode::empty())),
                opened => opened,
            }
            .map_err(|cause| match cause {
                Errno::LOOP | Errno::NOTDIR => refuse(name, "lies behind a link or a file"),
                cause => failed("cannot create the directory of", name, cause),
            })?;
        }
        self.last = Some((parts.to_vec(), copy(at.as_fd())?));
        Ok(at)
    }

    /// The last entry of a name counts, as tar has it; a directory is not taken away.
    fn clear(&self, parent: &OwnedFd, last: &[u8], name: &[u8]) -> Result<()> {
        match rustix::fs::unlinkat(parent, OsStr::from_bytes(last), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => Err(refuse(name, "is a directory and something else")),
            Err(cause) => Err(failed("cannot replace", name, cause)),
        }
    }

    fn remember(&mut self, bytes: usize) -> Result<()> {
        // With what a vector costs beside its bytes.
        self.remembered += bytes + 64;
        if self.remembered > MOST_REMEMBERED {
            let what =
                format!("the directories and links of the archive have names of more than {MOST_REMEMBERED} bytes");
            return Err(Error::new(Code::TooLarge, Stage::Decode, what));
        }
        Ok(())
    }
}

impl File {
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.to.write(at, bytes)
    }

    pub fn close(self) -> Result<()> {
        rustix::fs::fchmod(self.to.fd(), Mode::from_raw_mode(self.mode & MODES))
            .and_then(|()| rustix::fs::futimens(self.to.fd(), &times(self.mtime)))
            .map_err(|cause| failed("setting the mode of", &self.name, cause))
    }
}

fn times((seconds, nanos): Time) -> Timestamps {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ };
    Timestamps { last_access: omit, last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() } }
}

fn parts_of(name: &[u8]) -> Result<Parts> {
    if name.starts_with(b"/") {
        return Err(refuse(name, "is an absolute path"));
    }
    if name.contains(&0) {
        return Err(refuse(name, "has a NUL in its name"));
    }
    let parts = name.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".");
    let parts: Parts = parts.map(<[u8]>::to_vec).collect();
    if parts.iter().any(|part| part == b"..") {
        return Err(refuse(name, "leads out of the archive"));
    }
    Ok(parts)
}

/// Whether a link at `parts`, whose directories are no links, leads to somewhere below `root`, through other links too. Where
/// something on the way does not exist, the names decide.
fn stays_inside(root: &OwnedFd, parts: &[Vec<u8>], target: &[u8]) -> Result<bool> {
    let split = |path: &[u8]| path.split(|&b| b == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let mut at: Parts = parts[..parts.len() - 1].to_vec();
    let mut ahead: VecDeque<Vec<u8>> = split(target).into();
    let mut followed = 0;
    while let Some(part) = ahead.pop_front() {
        match &part[..] {
            b"" | b"." => continue,
            b".." => {
                if at.pop().is_none() {
                    return Ok(false);
                }
                continue;
            }
            _ => at.push(part),
        }
        let Ok(link) = rustix::fs::readlinkat(root, OsStr::from_bytes(&at.join(&b'/')), Vec::new()) else { continue };
        at.pop();
        followed += 1;
        if followed > MOST_LINKS || link.as_bytes().starts_with(b"/") {
            return Ok(false);
        }
        split(link.as_bytes()).into_iter().rev().for_each(|part| ahead.push_front(part));
    }
    Ok(true)
}

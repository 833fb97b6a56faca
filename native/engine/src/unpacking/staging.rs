//! Where an archive is unpacked until all of it is known to be right: a directory beside the one that is wanted, or, where
//! that exists, inside it. So it is the same file system, and what is there stays until the end.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::error::{Code, Error, Result, Stage};
use crate::targets::directory_of;

/// What is unpacked, inside a directory that exists.
const INSIDE: &str = ".diskferry";
/// ext4 keeps it in the root of each file system, for fsck (mke2fs(8)).
const LOST_AND_FOUND: &str = "lost+found";

pub struct Staging {
    target: PathBuf,
    path: PathBuf,
    inside: bool,
    /// Holds the lock.
    _opened: File,
    taken: bool,
}

fn failed(doing: &str, path: &Path, cause: &io::Error) -> Error {
    Error::target(format!("{doing} {}", path.display()), cause)
}

impl Staging {
    /// Makes the directory; what a killed run has left in its place goes. DENIED where the target has something in it,
    /// without `replace`; BAD_SPEC where it is no directory; BUSY when another run unpacks into it.
    pub fn begin(target: &Path, replace: bool) -> Result<Self> {
        let inside = match std::fs::metadata(target) {
            Ok(found) if found.is_dir() => true,
            Ok(_) => {
                let what = format!("{} is no directory: an archive is unpacked into one", target.display());
                return Err(Error::new(Code::BadSpec, Stage::Target, what));
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => false,
            Err(cause) => return Err(failed("cannot look at", target, &cause)),
        };
        if inside && !replace && !contents(target)?.is_empty() {
            let what = format!("{} is not empty: give --force to replace all that is in it", target.display());
            return Err(Error::new(Code::Denied, Stage::Target, what));
        }
        let path = match (inside, target.file_name()) {
            (true, _) => target.join(INSIDE),
            (false, Some(name)) => {
                let mut hidden = OsString::from(".");
                hidden.push(name);
                hidden.push(INSIDE);
                directory_of(target).join(hidden)
            }
            (false, None) => {
                let what = format!("{} is not a name in a directory", target.display());
                return Err(Error::new(Code::BadSpec, Stage::Target, what));
            }
        };
        if let Ok(left) = File::open(&path) {
            lock(&left, &path)?;
            std::fs::remove_dir_all(&path)
                .map_err(|cause| failed("cannot remove what an earlier run left in", &path, &cause))?;
        }
        std::fs::create_dir(&path).map_err(|cause| failed("cannot create", &path, &cause))?;
        let opened = File::open(&path).map_err(|cause| failed("cannot open", &path, &cause))?;
        lock(&opened, &path)?;
        Ok(Self { target: target.to_owned(), path, inside, _opened: opened, taken: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that this user can still write there.
    pub fn room(&self) -> Result<u64> {
        let fs =
            rustix::fs::statvfs(&self.path).map_err(|cause| failed("cannot look at", &self.path, &cause.into()))?;
        // A tmpfs without a limit says that it has no blocks at all (tmpfs(5), size=0).
        Ok(if fs.f_blocks == 0 { u64::MAX } else { fs.f_bavail.saturating_mul(fs.f_frsize) })
    }

    /// Puts what was unpacked in its place: in one step where the target did not exist, else entry by entry.
    pub fn take_place(mut self) -> Result<()> {
        if self.inside {
            for name in contents(&self.target)? {
                let path = self.target.join(name);
                let link_or_file = std::fs::symlink_metadata(&path).is_ok_and(|found| !found.is_dir());
                let gone = if link_or_file { std::fs::remove_file(&path) } else { std::fs::remove_dir_all(&path) };
                gone.map_err(|cause| failed("cannot remove", &path, &cause))?;
            }
            for name in contents(&self.path)? {
                let (from, to) = (self.path.join(&name), self.target.join(&name));
                std::fs::rename(&from, &to).map_err(|cause| failed("cannot put in its place", &to, &cause))?;
            }
            // A lost+found of the archive's own is not wanted, and nothing else is left.
            let _ = std::fs::remove_dir_all(&self.path);
        } else {
            std::fs::rename(&self.path, &self.target)
                .map_err(|cause| failed("cannot put in its place", &self.target, &cause))?;
        }
        self.taken = true;
        let directory = if self.inside { &*self.target } else { directory_of(&self.target) };
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|cause| failed("flushing", directory, &cause))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.taken {
            // What cannot be removed now is removed by the next run.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Names in a directory, but for what is the file system's and ours.
fn contents(directory: &Path) -> Result<Vec<OsString>> {
    let names = std::fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>());
    let mut names = names.map_err(|cause| failed("cannot read", directory, &cause))?;
    names.retain(|name| ![OsStr::new(LOST_AND_FOUND), OsStr::new(INSIDE)].contains(&&**name));
    Ok(names)
}

/// Of the directory, until it is closed.
fn lock(directory: &File, path: &Path) -> Result<()> {
    match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::AGAIN) => {
            let what = format!("another run unpacks into {}", path.display());
            Err(Error::new(Code::Busy, Stage::Target, what))
        }
        Err(cause) => Err(failed("cannot lock", path, &cause.into())),
    }
}

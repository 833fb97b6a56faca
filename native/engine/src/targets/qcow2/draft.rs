//! The file that is being written beside the one it will replace, and goes away unless it does.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Code, Error, Result, Stage};
use crate::targets::Access;
use crate::targets::descriptors::{Descriptors, options};
use crate::targets::directory_of;
use crate::targets::file::lock;

pub struct Draft {
    /// What it will be called: no symbolic link.
    name: PathBuf,
    path: PathBuf,
    file: Descriptors,
    named: AtomicBool,
}

const ACCESS: Access = Access { write: true, direct: true };

impl Draft {
    /// Begins a draft of the file at `path`: `.NAME.diskferry` in its directory. One that a killed run has left is taken
    /// over and emptied. BUSY when another run is writing it, DENIED when it is somebody else's.
    pub fn begin(path: &Path) -> Result<Self> {
        // A link keeps pointing to what it points to.
        let name = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut draft = OsString::from(".");
        draft.push(name.file_name().unwrap_or_default());
        draft.push(".diskferry");
        let path = directory_of(&name).join(draft);
        let cannot =
            |doing: &str, cause: &std::io::Error| Error::target(format!("cannot {doing} {}", path.display()), cause);
        let file = options(ACCESS)
            .create(true)
            .mode(0o660)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .map_err(|cause| cannot("create", &cause))?;
        lock(&file, &path)?;
        let there = file.metadata().map_err(|cause| cannot("look at", &cause))?;
        let mine = there.is_file() && there.nlink() == 1 && there.uid() == rustix::process::geteuid().as_raw();
        let same = std::fs::symlink_metadata(&path)
            .is_ok_and(|named| (named.dev(), named.ino()) == (there.dev(), there.ino()));
        if !mine || !same {
            let (code, what) = match mine {
                false => (Code::Denied, "is not a file of this user: remove it"),
                true => (Code::Busy, "was replaced by another run: try again"),
            };
            return Err(Error::new(code, Stage::Target, format!("{} {what}", path.display())));
        }
        let file = Descriptors::new(&path, file, ACCESS, 512);
        let draft = Self { name, path, file, named: AtomicBool::new(false) };
        draft.cut(0)?;
        if let Ok(old) = std::fs::metadata(&draft.name) {
            // As a file that is written in place keeps them.
            let kept = std::fs::Permissions::from_mode(old.mode() & 0o7777);
            draft
                .file
                .file()
                .set_permissions(kept)
                .map_err(|cause| Error::target("setting the mode of the file", &cause))?;
        }
        Ok(draft)
    }

    pub fn file(&self) -> &Descriptors {
        &self.file
    }

    fn cut(&self, length: u64) -> Result<()> {
        let doing = || format!("making {} {length} bytes long", self.path.display());
        rustix::fs::ftruncate(self.file.fd(), length).map_err(|cause| Error::target(doing(), &cause.into()))
    }

    /// Lengthens the file to `end`, where it is shorter.
    pub fn reach(&self, end: u64) -> Result<()> {
        let length = rustix::fs::fstat(self.file.fd().as_fd()).map_or(0, |stat| stat.st_size as u64);
        if length < end { self.cut(end) } else { Ok(()) }
    }

    /// Makes it durable and gives it its name, in one step.
    pub fn take_name(&self) -> Result<()> {
        self.file.flush(true)?;
        let name = self.name.display();
        std::fs::rename(&self.path, &self.name)
            .map_err(|cause| Error::target(format!("giving {} its name", name), &cause))?;
        self.named.store(true, Ordering::Release);
        let directory = directory_of(&self.name);
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|cause| Error::target(format!("flushing {}", directory.display()), &cause))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.named.load(Ordering::Acquire) {
            // Where that fails the next run takes it over.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

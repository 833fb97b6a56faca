//! Where a disk is written to: the contract, and what a path turns out to be.

use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result, Stage};
use crate::zeros::GRAIN;

pub(crate) mod block;
pub(crate) mod descriptors;
mod file;
mod null;
pub mod qcow2;

pub(crate) use file::directory_of;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Block,
    Null,
    /// A disk within an image file, which is new and has no place for a journal.
    Image,
}

impl Kind {
    /// Whether an unfinished transfer can leave its journal there.
    pub fn keeps_journal(self) -> bool {
        matches!(self, Kind::File | Kind::Block)
    }
}

/// What a target was when it was opened.
#[derive(Clone, Debug)]
pub struct Facts {
    pub kind: Kind,
    pub exists: bool,
    /// Length of the file or size of the device, in bytes.
    pub length: u64,
    /// Most bytes that it can hold: the size of the device; for a file, what its file system has free for this
    /// user and what the file has allocated already.
    pub capacity: u64,
    /// Bytes of the smallest unit that the device can write.
    pub logical_block: u32,
    /// Whether writes can go past the page cache.
    pub direct: bool,
    /// Whether every byte is known to read as zero: a file that is new, empty or nothing but a hole. Never a device.
    pub zeroed: bool,
    /// What is on it already, as a noun phrase ("an XFS file system"); see [`crate::foreign`].
    pub foreign: Option<String>,
}

/// A file or device that a disk is written to. All calls may be made by any number of threads; no two writes at
/// a time may touch the same byte. Offsets and lengths are in bytes, of any alignment.
///
/// Errors: NO_SPACE with the numbers when it is full, TOO_LARGE beyond the end of a device, IO. After a write
/// behind or a flush has failed every later write and flush fails too, because the kernel reports such a loss
/// only once.
pub trait Target: Send + Sync {
    fn facts(&self) -> &Facts;
    /// Creates a file that did not exist, with mode 0660 less the umask, and locks it. Whatever changes the
    /// target does this by itself. BUSY when something else was created there in the meantime.
    fn create(&self) -> Result<()>;
    /// Writes all of `bytes`. What is aligned to [`crate::bytes::ALIGN`] in memory and in the file goes past the
    /// page cache, the rest through it.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()>;
    /// As `write`, through the page cache and without waiting for the device: for a buffer that is needed again at
    /// once. A thread that inflates then does not stand still while the device works (docs/benchmarks.md).
    fn write_behind(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.write(at, bytes)
    }
    /// The range reads as zeros afterwards, by the cheapest call that guarantees it. At most 1 GiB a call, so
    /// that a caller can stop in between.
    fn zero(&self, at: u64, len: u64) -> Result<()>;
    /// Fills `into`; sees every earlier write of this process. TRUNCATED when the target ends before that.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()>;
    /// All earlier writes are durable when it returns.
    fn flush(&self) -> Result<()>;
    /// Makes a file exactly this long. TOO_LARGE when a device is smaller; else nothing happens to it.
    fn set_length(&self, len: u64) -> Result<()>;
    /// Reserves the first `len` bytes of a file, which becomes at least that long; later zeroing keeps them
    /// reserved. UNSUPPORTED when the file system cannot. Nothing happens to a device.
    fn preallocate(&self, len: u64) -> Result<()>;
    /// The parts of `[from, to)` that may hold something else than zeros, ascending; a device is one such part.
    fn data_ranges(&self, from: u64, to: u64) -> Result<Vec<Range<u64>>>;
    /// Runs of zeros of so many bytes, at multiples of it, are left out where that is possible.
    fn grain(&self) -> usize {
        GRAIN
    }
    /// The disk is whole and verified, and is `set_length` long: an image file gets its tables and its name.
    fn commit(&self) -> Result<()> {
        Ok(())
    }
    /// Asks the kernel to forget cached pages of the range that are written already.
    fn drop_cache(&self, at: u64, len: u64);
}

/// How a target is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Whether it will be written, and is therefore locked. Without, every change fails with DENIED.
    pub write: bool,
    /// Whether to go past the page cache where that is possible.
    pub direct: bool,
}

/// Opens a target for writing and locks it until it is dropped or the process ends, however that happens.
///
/// Nothing is created or changed yet: see [`Target::create`]. BUSY within a second when somebody else has it
/// locked, mounted or otherwise in use; DENIED when it is read-only; NOT_FOUND; BAD_SPEC when it is no file or block
/// device. Symbolic links are followed.
pub fn open(path: &Path) -> Result<Arc<dyn Target>> {
    open_with(path, Access { write: true, direct: true })
}

/// As [`open`], with a choice of access. Reading takes no lock, and a target that is in use may be read.
pub fn open_with(path: &Path, access: Access) -> Result<Arc<dyn Target>> {
    let at = path.display();
    let bad = |what: &str| {
        let message = format!("{at} is {what}; a target is a file or a block device");
        Err(Error::new(Code::BadSpec, Stage::Target, message))
    };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Arc::new(file::FileTarget::absent(path, access)?));
        }
        Err(cause) => return Err(Error::target(format!("cannot look at {at}"), &cause)),
    };
    let kind = metadata.file_type();
    if kind.is_file() {
        Ok(Arc::new(file::FileTarget::open(path, &metadata, access)?))
    } else if kind.is_block_device() {
        Ok(Arc::new(block::BlockTarget::open(path, &metadata, access)?))
    } else if kind.is_char_device() && is_null(&metadata) {
        Ok(Arc::new(null::NullTarget::new()))
    } else if kind.is_dir() {
        bad("a directory")
    } else if kind.is_char_device() {
        bad("a character device")
    } else if kind.is_fifo() {
        bad("a pipe")
    } else {
        bad("a socket")
    }
}

/// `/dev/null` is character device 1:3 (Linux, Documentation/admin-guide/devices.txt).
fn is_null(metadata: &Metadata) -> bool {
    (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev())) == (1, 3)
}

/// Longest wait for a claim that is held for a moment only.
const PATIENCE: Duration = Duration::from_millis(500);

/// Tries again for a moment while somebody else holds a claim on the target. One that is meant lasts; these do not:
/// a program that is just being started has copies of all our descriptors from its fork to its exec, also of those
/// that are closed here since; the kernel claims a disk while it reads its partition table; udev locks one while it
/// looks at it (systemd, "Locking Block Device Access").
fn patiently<T, E>(
    attempt: impl Fn() -> std::result::Result<T, E>,
    held: impl Fn(&E) -> bool,
) -> std::result::Result<T, E> {
    let until = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(cause) if held(&cause) && Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}

/// What was opened must be what was looked at: a path may be replaced in between.
fn same_object(path: &Path, looked: &Metadata, opened: &Metadata) -> Result<()> {
    if (looked.dev(), looked.ino(), looked.rdev()) == (opened.dev(), opened.ino(), opened.rdev()) {
        return Ok(());
    }
    let message = format!("{} was replaced while it was being opened; try again", path.display());
    Err(Error::new(Code::Busy, Stage::Target, message))
}

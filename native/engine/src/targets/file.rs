//! A regular file.

use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate};
use rustix::io::Errno;

use super::descriptors::{Descriptors, options};
use super::{Access, Facts, Kind, Target, patiently, same_object};
use crate::error::{Code, Error, Result, Stage};
use crate::foreign;

pub(super) struct FileTarget {
    path: PathBuf,
    facts: Facts,
    access: Access,
    /// Set once the file exists and is locked.
    descriptors: OnceLock<Descriptors>,
    /// Held while the file is created, so that two threads do not both try.
    creating: Mutex<()>,
    /// The directory entry is new and not durable yet.
    new_entry: AtomicBool,
    /// The length was changed since the last flush.
    new_length: AtomicBool,
    /// Blocks were reserved and are to stay so.
    reserved: AtomicBool,
    /// The file system has refused to zero a range by a call.
    no_zero_call: AtomicBool,
}

impl FileTarget {
    pub(super) fn open(path: &Path, looked: &Metadata, access: Access) -> Result<Self> {
        let file = options(access).open(path).map_err(|cause| {
            let mut error = Error::target(format!("cannot open {}", path.display()), &cause);
            if error.code == Code::Denied {
                error.message += "; make it writable for this user, or choose another file";
            }
            error
        })?;
        let metadata =
            file.metadata().map_err(|cause| Error::target(format!("cannot look at {}", path.display()), &cause))?;
        same_object(path, looked, &metadata)?;
        if access.write {
            lock(&file, path)?;
        }
        // Looked at again, because until it was locked another run may have been writing.
        let metadata =
            file.metadata().map_err(|cause| Error::target(format!("cannot look at {}", path.display()), &cause))?;
        let facts = Facts {
            kind: Kind::File,
            exists: true,
            length: metadata.len(),
            // stat(2): st_blocks counts units of 512 bytes whatever the file system's block is.
            capacity: free_bytes(path)?.saturating_add(metadata.blocks() * 512),
            logical_block: 512,
            direct: false,
            zeroed: metadata.len() == 0,
            foreign: None,
        };
        let mut target = Self::new(path, facts, access);
        let descriptors = Descriptors::new(path, file, access, 512);
        target.facts.direct = descriptors.is_direct();
        let _ = target.descriptors.set(descriptors);
        target.facts.zeroed |= target.data_ranges(0, metadata.len())?.is_empty();
        target.facts.foreign = foreign::what_is_on(&target)?;
        Ok(target)
    }

    /// A path where nothing is; the file is created by the first call that changes it.
    pub(super) fn absent(path: &Path, access: Access) -> Result<Self> {
        let at = path.display();
        let not_found = |message: String| Err(Error::new(Code::NotFound, Stage::Target, message));
        if !access.write {
            return not_found(format!("{at} does not exist"));
        }
        if let Ok(link) = std::fs::read_link(path) {
            return not_found(format!("{at} is a symbolic link to {}, which does not exist", link.display()));
        }
        let directory = directory_of(path);
        let real = match directory.canonicalize() {
            Ok(real) if real.is_dir() && path.file_name().is_some() => real,
            Ok(_) => return not_found(format!("{at} is not a name in a directory")),
            Err(cause) => return not_found(format!("cannot create {at}: {}: {cause}", directory.display())),
        };
        // A misspelt device would become a file in memory, of the size of a disk.
        if real.starts_with("/dev") && !real.starts_with("/dev/shm") {
            return not_found(format!("there is no device {at}"));
        }
        let facts = Facts {
            kind: Kind::File,
            exists: false,
            length: 0,
            capacity: free_bytes(&real)?,
            logical_block: 512,
            direct: access.direct,
            zeroed: true,
            foreign: None,
        };
        Ok(Self::new(path, facts, access))
    }

    fn new(path: &Path, facts: Facts, access: Access) -> Self {
        Self {
            path: path.to_owned(),
            facts,
            access,
            descriptors: OnceLock::new(),
            creating: Mutex::new(()),
            new_entry: AtomicBool::new(false),
            new_length: AtomicBool::new(false),
            reserved: AtomicBool::new(false),
            no_zero_call: AtomicBool::new(false),
        }
    }

    /// The descriptors of the file, which is created if it does not exist.
    fn file(&self) -> Result<&Descriptors> {
        if let Some(descriptors) = self.descriptors.get() {
            return Ok(descriptors);
        }
        let _creating = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(descriptors) = self.descriptors.get() {
            return Ok(descriptors);
        }
        let made = options(self.access).create_new(true).mode(0o660).open(&self.path);
        let file = made.map_err(|cause| match cause.raw_os_error() {
            Some(libc::EEXIST) => {
                let message =
                    format!("{} was created by somebody else in the meantime; try again", self.path.display());
                Error::new(Code::Busy, Stage::Target, message)
            }
            _ => Error::target(format!("cannot create {}", self.path.display()), &cause),
        })?;
        lock(&file, &self.path)?;
        self.new_entry.store(true, Ordering::Relaxed);
        self.new_length.store(true, Ordering::Relaxed);
        Ok(self.descriptors.get_or_init(|| Descriptors::new(&self.path, file, self.access, 512)))
    }

    fn length_now(&self, file: &Descriptors) -> Result<u64> {
        // Not by the standard library, whose statx(2) is among the calls that a thread which reads images has given up.
        let found = rustix::fs::fstat(file.fd());
        found
            .map(|found| found.st_size as u64)
            .map_err(|cause| Error::target(format!("cannot look at {}", self.path.display()), &cause.into()))
    }

    /// Zeros whole blocks by a call; false when the file system has none for it.
    fn zero_call(&self, file: &Descriptors, at: u64, len: u64) -> Result<bool> {
        // fallocate(2): both guarantee that the range reads as zeros; the second keeps the blocks allocated.
        let mode = match self.reserved.load(Ordering::Relaxed) {
            false => FallocateFlags::PUNCH_HOLE,
            true => FallocateFlags::ZERO_RANGE,
        };
        while !self.no_zero_call.load(Ordering::Relaxed) {
            match fallocate(file.fd(), mode | FallocateFlags::KEEP_SIZE, at, len) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.no_zero_call.store(true, Ordering::Relaxed),
                Err(cause) => return Err(file.failed("zeroing", at, len, cause)),
            }
        }
        Ok(false)
    }
}

impl Target for FileTarget {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn create(&self) -> Result<()> {
        self.file().map(|_| ())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file()?.write(at, bytes)
    }

    fn write_behind(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file()?.write_behind(at, bytes)
    }

    fn zero(&self, at: u64, len: u64) -> Result<()> {
        let file = self.file()?;
        file.usable()?;
        let end = file.within_offsets(at, len)?;
        if len == 0 {
            return Ok(());
        }
        // Blocks that are zeroed in part cost the file system a read and a write; we know better what is in them.
        let first = at.next_multiple_of(crate::bytes::ALIGN as u64).min(end);
        let last = (end / crate::bytes::ALIGN as u64 * crate::bytes::ALIGN as u64).max(first);
        if first == last || !self.zero_call(file, first, last - first)? {
            return file.write_zeros(at, len);
        }
        file.write_zeros(at, first - at)?;
        file.write_zeros(last, end - last)?;
        // The calls do not lengthen the file. Writing the last byte does, and unlike truncate it cannot cut off
        // what another thread has just written beyond.
        if self.length_now(file)? < end { file.write(end - 1, &[0]) } else { Ok(()) }
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        match self.descriptors.get() {
            Some(file) => file.read(at, into),
            None if into.is_empty() => Ok(()),
            None => {
                let message = format!("{} does not exist yet: there is nothing to read at {at}", self.path.display());
                Err(Error::new(Code::Truncated, Stage::Target, message))
            }
        }
    }

    fn flush(&self) -> Result<()> {
        let Some(file) = self.descriptors.get() else { return Ok(()) };
        file.flush(self.new_length.swap(false, Ordering::Relaxed))?;
        if self.new_entry.swap(false, Ordering::Relaxed) {
            // fsync(2): the entry in the directory needs a flush of its own.
            let directory = directory_of(&self.path);
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|cause| Error::target(format!("flushing {}", directory.display()), &cause))?;
        }
        Ok(())
    }

    fn set_length(&self, len: u64) -> Result<()> {
        let file = self.file()?;
        file.usable()?;
        file.within_offsets(0, len)?;
        self.new_length.store(true, Ordering::Relaxed);
        // ftruncate(2): EFBIG where the file system has a lesser limit, which becomes NO_SPACE.
        rustix::fs::ftruncate(file.fd(), len)
            .map_err(|cause| Error::target(format!("making {} {len} bytes long", self.path.display()), &cause.into()))
    }

    fn preallocate(&self, len: u64) -> Result<()> {
        let file = self.file()?;
        file.usable()?;
        file.within_offsets(0, len)?;
        self.new_length.store(true, Ordering::Relaxed);
        loop {
            match fallocate(file.fd(), FallocateFlags::empty(), 0, len) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                // fallocate(2): a length of 0 is EINVAL, and there is nothing to reserve.
                Err(Errno::INVAL) if len == 0 => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    let path = self.path.display();
                    let message =
                        format!("the file system of {path} cannot reserve {len} bytes ahead; leave out --preallocate");
                    return Err(Error::new(Code::Unsupported, Stage::Target, message));
                }
                Err(cause) => return Err(file.failed("reserving", 0, len, cause)),
            }
        }
        self.reserved.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn data_ranges(&self, from: u64, to: u64) -> Result<Vec<Range<u64>>> {
        let Some(file) = self.descriptors.get() else { return Ok(Vec::new()) };
        let to = to.min(i64::MAX as u64);
        let mut ranges = Vec::new();
        let mut at = from;
        while at < to {
            let fail = |cause| file.failed("looking for holes in", from, to - from, cause);
            // lseek(2): ENXIO says that no data follows. Without support, all up to the end is data.
            let start = match rustix::fs::seek(file.fd(), SeekFrom::Data(at)) {
                Ok(start) if start < to => start,
                Ok(_) | Err(Errno::NXIO) => break,
                Err(Errno::INVAL) => at,
                Err(cause) => return Err(fail(cause)),
            };
            let end = match rustix::fs::seek(file.fd(), SeekFrom::Hole(start)) {
                Ok(end) if end > start => end.min(to),
                Ok(_) | Err(Errno::INVAL) => to,
                Err(Errno::NXIO) => break,
                Err(cause) => return Err(fail(cause)),
            };
            ranges.push(start..end);
            at = end;
        }
        Ok(ranges)
    }

    fn drop_cache(&self, at: u64, len: u64) {
        if let Some(file) = self.descriptors.get() {
            file.drop_cache(at, len);
        }
    }
}

/// An open-file-description lock for writing on the whole file (fcntl(2), F_OFD_SETLK). Preferred over flock
/// because qemu locks its images the same way, so an image that a machine runs from is BUSY; because the NFS,
/// SMB and cluster file systems carry it to the server as a plain byte-range lock; and, unlike the older POSIX
/// lock, it is not lost when another descriptor of the file is closed. The kernel drops it with the last copy of
/// the descriptor, so also when the process is killed.
pub(super) fn lock(file: &File, path: &Path) -> Result<()> {
    // SAFETY: all-zero is a valid flock: from 0 to the end, relative to the beginning, pid 0 as OFD locks ask for.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::F_WRLCK as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    let taken = || {
        // SAFETY: the descriptor is open and `range` outlives the call.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &range) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let held = |cause: &std::io::Error| matches!(cause.raw_os_error(), Some(libc::EAGAIN | libc::EACCES));
    let Err(cause) = patiently(taken, held) else { return Ok(()) };
    if held(&cause) {
        let message = format!("{} is in use by another process (a transfer, or a virtual machine)", path.display());
        return Err(Error::new(Code::Busy, Stage::Target, message));
    }
    let mut error = Error::target(format!("cannot lock {}", path.display()), &cause);
    error.message += "; the file system must support file locks (an NFS mount may need -o nolock)";
    Err(error)
}

pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What this user can still write to the file system that `path` is on, in bytes.
fn free_bytes(path: &Path) -> Result<u64> {
    let fs = rustix::fs::statvfs(path)
        .map_err(|cause| Error::target(format!("cannot look at {}", path.display()), &cause.into()))?;
    // A tmpfs without a limit says that it has no blocks at all (tmpfs(5), size=0).
    Ok(if fs.f_blocks == 0 { u64::MAX } else { fs.f_bavail.saturating_mul(fs.f_frsize) })
}

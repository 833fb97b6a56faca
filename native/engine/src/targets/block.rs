//! A block device: a disk, a partition, a logical volume, a loop device.

use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

use super::descriptors::{Descriptors, options};
use super::{Access, Facts, Kind, Target, patiently, same_object};
use crate::error::{Code, Error, Result, Stage};
use crate::foreign;

// Linux, include/uapi/linux/fs.h. The size argument of BLKGETSIZE64 is declared as size_t there.
pub(crate) const BLKROGET: libc::Ioctl = libc::_IO(0x12, 94);
pub(crate) const BLKSSZGET: libc::Ioctl = libc::_IO(0x12, 104);
pub(crate) const BLKGETSIZE64: libc::Ioctl = libc::_IOR::<libc::size_t>(0x12, 114);
pub(crate) const BLKZEROOUT: libc::Ioctl = libc::_IO(0x12, 127);

/// Bytes zeroed by one system call. It cannot be interrupted, and a slow disk writes this in about a second.
const ZERO_CHUNK: u64 = 128 << 20;

/// Ways to zero a range, best first. Discarding is not among them: it promises nothing about what is read later.
const BY_FALLOCATE: u8 = 0;
const BY_IOCTL: u8 = 1;
const BY_WRITING: u8 = 2;

pub(super) struct BlockTarget {
    path: PathBuf,
    facts: Facts,
    descriptors: Descriptors,
    /// The best way to zero that has not been refused.
    zero_by: AtomicU8,
}

impl BlockTarget {
    pub(super) fn open(path: &Path, looked: &Metadata, access: Access) -> Result<Self> {
        let at = path.display();
        if access.write
            && let Some(how) = foreign::in_use(looked.rdev())
        {
            return Err(Error::new(Code::Busy, Stage::Target, format!("{at} is in use: {how}")));
        }
        // open(2): O_EXCL on a device is refused while it is mounted, swapped to, part of another device, or
        // open like this elsewhere; and the kernel refuses all that for as long as we have it open.
        let mut options = options(access);
        if access.write {
            options.custom_flags(libc::O_EXCL);
        }
        let opened = patiently(|| options.open(path), |cause| cause.raw_os_error() == Some(libc::EBUSY));
        let file = opened.map_err(|cause| refused(path, &cause))?;
        let metadata = file.metadata().map_err(|cause| refused(path, &cause))?;
        same_object(path, looked, &metadata)?;
        if access.write {
            lock(&file, path)?;
            if int_of(&file, BLKROGET).map_err(|cause| refused(path, &cause))? != 0 {
                return Err(refused(path, &std::io::Error::from_raw_os_error(libc::EROFS)));
            }
        }
        let length = size_of(&file).map_err(|cause| refused(path, &cause))?;
        let logical_block = int_of(&file, BLKSSZGET).map_err(|cause| refused(path, &cause))?;
        let logical_block = u32::try_from(logical_block).ok().filter(|size| size.is_power_of_two()).unwrap_or(512);
        if length == 0 {
            let message = format!("{at} has no room: 0 bytes (is there a medium in it?)");
            return Err(Error::new(Code::NotFound, Stage::Target, message));
        }
        let descriptors = Descriptors::new(path, file, access, logical_block);
        let facts = Facts {
            kind: Kind::Block,
            exists: true,
            length,
            capacity: length,
            logical_block,
            direct: descriptors.is_direct(),
            zeroed: false,
            foreign: None,
        };
        let mut target = Self { path: path.to_owned(), facts, descriptors, zero_by: AtomicU8::new(BY_FALLOCATE) };
        target.facts.foreign = foreign::what_is_on(&target)?;
        Ok(target)
    }

    /// The end of a range, which must lie on the device.
    fn within(&self, at: u64, len: u64) -> Result<u64> {
        let size = self.facts.length;
        at.checked_add(len).filter(|end| *end <= size).ok_or_else(|| {
            let path = self.path.display();
            let message = format!("{len} bytes at offset {at} do not fit on {path}, which has {size} bytes");
            Error::new(Code::TooLarge, Stage::Target, message)
        })
    }

    /// Zeros a range of whole logical blocks.
    fn zero_blocks(&self, at: u64, len: u64) -> Result<()> {
        loop {
            let way = self.zero_by.load(Ordering::Relaxed);
            let done = match way {
                // On a device this is zeroing without unmapping, by the device's own command or by writes of
                // the kernel (block/fops.c, blkdev_fallocate; Linux 4.9). It drops cached pages of the range.
                BY_FALLOCATE => {
                    fallocate(self.descriptors.fd(), FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, at, len)
                }
                BY_IOCTL => zero_out(self.descriptors.file(), at, len),
                BY_WRITING.. => return self.descriptors.write_zeros(at, len),
            };
            match done {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::NOTTY | Errno::INVAL) => {
                    self.zero_by.fetch_max(way + 1, Ordering::Relaxed);
                }
                Err(cause) => return Err(self.descriptors.failed("zeroing", at, len, cause)),
            }
        }
    }
}

impl Target for BlockTarget {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn create(&self) -> Result<()> {
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.within(at, bytes.len() as u64)?;
        self.descriptors.write(at, bytes)
    }

    fn write_behind(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.within(at, bytes.len() as u64)?;
        self.descriptors.write_behind(at, bytes)
    }

    fn zero(&self, at: u64, len: u64) -> Result<()> {
        self.descriptors.usable()?;
        let end = self.within(at, len)?;
        let block = u64::from(self.facts.logical_block).max(crate::bytes::ALIGN as u64);
        let first = at.next_multiple_of(block).min(end);
        let last = (end / block * block).max(first);
        self.descriptors.write_zeros(at, first - at)?;
        let mut from = first;
        while from < last {
            let upto = last.min(from + ZERO_CHUNK);
            self.zero_blocks(from, upto - from)?;
            from = upto;
        }
        self.descriptors.write_zeros(last, end - last)
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.descriptors.read(at, into)
    }

    fn flush(&self) -> Result<()> {
        self.descriptors.flush(false)
    }

    fn set_length(&self, len: u64) -> Result<()> {
        self.within(0, len).map(|_| ())
    }

    fn preallocate(&self, len: u64) -> Result<()> {
        self.within(0, len).map(|_| ())
    }

    fn data_ranges(&self, from: u64, to: u64) -> Result<Vec<Range<u64>>> {
        let to = to.min(self.facts.length);
        Ok(std::iter::once(from..to).filter(|range| !range.is_empty()).collect())
    }

    fn drop_cache(&self, at: u64, len: u64) {
        self.descriptors.drop_cache(at, len);
    }
}

/// On top of O_EXCL, which other programs than ours need not use: keeps udev from probing while we write, and
/// excludes whoever follows the same convention.
fn lock(file: &File, path: &Path) -> Result<()> {
    let taken = || flock(file, FlockOperation::NonBlockingLockExclusive);
    match patiently(taken, |cause| matches!(*cause, Errno::WOULDBLOCK | Errno::INTR)) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            let message = format!("{} is locked by another process", path.display());
            Err(Error::new(Code::Busy, Stage::Target, message))
        }
        Err(cause) => Err(Error::target(format!("cannot lock {}", path.display()), &cause.into())),
    }
}

fn refused(path: &Path, cause: &std::io::Error) -> Error {
    let mut error = Error::target(format!("cannot use {}", path.display()), cause);
    match cause.raw_os_error() {
        Some(libc::EBUSY) => error.message += "; it is mounted, part of another device, or another run writes to it",
        Some(libc::EROFS) => {
            error.message += "; the device is read-only: make it writable (blockdev --setrw, or attach it so)";
        }
        Some(libc::EACCES | libc::EPERM) => {
            error.message += "; run as a user who may write to it (root, or the group of the device)";
        }
        _ => {}
    }
    error
}

/// BLKROGET and BLKSSZGET write an int.
fn int_of(file: &File, request: libc::Ioctl) -> std::io::Result<i32> {
    let mut value: libc::c_int = 0;
    // SAFETY: the request writes one int, and `value` outlives the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut value) } {
        0 => Ok(value),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn size_of(file: &File) -> std::io::Result<u64> {
    let mut value: u64 = 0;
    // SAFETY: the request writes a u64 whatever size its number names, and `value` outlives the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut value) } {
        0 => Ok(value),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// BLKZEROOUT takes the offset and the length of whole logical blocks, in bytes.
fn zero_out(file: &File, at: u64, len: u64) -> rustix::io::Result<()> {
    let range = [at, len];
    // SAFETY: the request reads two u64, and `range` outlives the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), BLKZEROOUT, range.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ways that a usual device never needs, on a loop device (losetup and root are needed).
    #[test]
    fn every_way_to_zero_does() {
        let directory = tempfile::tempdir().unwrap();
        let backing = directory.path().join("backing");
        std::fs::write(&backing, vec![0xaa; 4 << 20]).unwrap();
        let made = std::process::Command::new("losetup").args(["--show", "--find"]).arg(&backing).output();
        let made = made.expect("this test needs losetup");
        assert!(made.status.success(), "this test needs root and loop devices: {made:?}");
        let device = PathBuf::from(String::from_utf8(made.stdout).unwrap().trim());
        let result = std::panic::catch_unwind(|| {
            let looked = device.metadata().unwrap();
            let target = BlockTarget::open(&device, &looked, Access { write: true, direct: true }).unwrap();
            for (index, way) in [BY_FALLOCATE, BY_IOCTL, BY_WRITING].into_iter().enumerate() {
                target.zero_by.store(way, Ordering::Relaxed);
                let at = (index as u64) << 20;
                target.zero(at + 100, 500_000).unwrap();
                assert_eq!(target.zero_by.load(Ordering::Relaxed), way, "was not refused");
                let mut back = vec![1; 1 << 20];
                target.read(at, &mut back).unwrap();
                assert!(back.iter().enumerate().all(|(at, byte)| (*byte == 0) == (100..500_100).contains(&at)));
            }
        });
        let _ = std::process::Command::new("losetup").arg("-d").arg(&device).status();
        result.unwrap();
    }
}

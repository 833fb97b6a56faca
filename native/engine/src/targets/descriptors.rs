//! Two descriptors of one target: one past the page cache for what is aligned, one through it for edges.
//! Keeps the page cache small also where everything has to go through it.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::io::Errno;

use super::Access;
use crate::bytes::ALIGN;
use crate::error::{Code, Error, Result, Stage};

/// Bytes that may be dirty in the page cache before write-back is started; twice this is there at most.
const BEHIND: u64 = 8 << 20;
/// Pieces noted for write-back before it is started: small edges come one by one.
const PIECES: usize = 1024;

/// What went through the page cache.
#[derive(Default)]
struct Behind {
    /// Written, write-back not started.
    fresh: Vec<Range<u64>>,
    fresh_bytes: u64,
    /// Write-back started.
    started: Vec<Range<u64>>,
}

pub(crate) struct Descriptors {
    path: PathBuf,
    /// Goes through the page cache and holds the lock.
    buffered: File,
    direct: Option<File>,
    /// Turns false when a direct write is refused although opening was not.
    direct_works: AtomicBool,
    write: bool,
    /// Alignment for direct writes: a direct write may not share a page with a buffered one.
    align: usize,
    /// Guards the list of what lies in the page cache, not the file.
    behind: Mutex<Behind>,
    /// The first loss that the kernel reported. It reports one only once (fsync(2), ERRORS), so it is kept.
    lost: OnceLock<Error>,
}

/// Opens for reading, and for writing if that is what `access` says.
pub(crate) fn options(access: Access) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(access.write);
    options
}

impl Descriptors {
    /// `buffered` is the descriptor that was opened and locked, `logical_block` the least unit of the device in bytes.
    pub(crate) fn new(path: &Path, buffered: File, access: Access, logical_block: u32) -> Self {
        // By way of /proc, so that it is the same object even if the path was replaced. A file system that has
        // no direct access refuses here (open(2), EINVAL), or at the first write.
        let direct = access.direct.then(|| {
            let same = format!("/proc/self/fd/{}", buffered.as_raw_fd());
            options(access).custom_flags(libc::O_DIRECT).open(same).ok()
        });
        let direct = direct.flatten();
        Self {
            path: path.to_owned(),
            direct_works: AtomicBool::new(direct.is_some()),
            direct,
            buffered,
            write: access.write,
            align: page_size().max(ALIGN).max(logical_block as usize),
            behind: Mutex::default(),
            lost: OnceLock::new(),
        }
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.direct_works.load(Ordering::Relaxed)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.buffered.as_fd()
    }

    pub(crate) fn file(&self) -> &File {
        &self.buffered
    }

    /// An error of the operating system, with what there was room for where that is the reason.
    pub(crate) fn failed(&self, doing: &str, at: u64, len: u64, cause: Errno) -> Error {
        let path = self.path.display();
        let mut error = Error::target(format!("{doing} {len} bytes at offset {at} of {path}"), &io::Error::from(cause));
        if error.code == Code::NoSpace {
            let free = rustix::fs::fstatvfs(self.fd()).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
            error.message += &match cause {
                Errno::DQUOT => "; the disk quota is used up: raise it, or write elsewhere".to_owned(),
                Errno::FBIG => "; the file system takes no file of this length".to_owned(),
                _ => format!("; {free} bytes are free: make room and run the same command again"),
            };
        }
        error
    }

    /// Fails when nothing may be written, or something that was written has been lost.
    pub(crate) fn usable(&self) -> Result<()> {
        if !self.write {
            let message = format!("{} was opened for reading only", self.path.display());
            return Err(Error::new(Code::Denied, Stage::Target, message));
        }
        self.lost.get().map_or(Ok(()), |lost| Err(lost.clone()))
    }

    fn lose(&self, doing: &str, range: Range<u64>, cause: Errno) -> Error {
        let error = self.failed(doing, range.start, range.end - range.start, cause);
        self.lost.get_or_init(|| error).clone()
    }

    /// Where the part of `[at, at + len)` begins and ends that can go past the page cache, as indices.
    fn direct_part(&self, at: u64, address: usize, len: usize) -> Option<Range<usize>> {
        let direct = self.direct.as_ref().filter(|_| self.is_direct());
        direct?;
        let align = self.align;
        let start = at.next_multiple_of(align as u64) - at;
        let start =
            usize::try_from(start).ok().filter(|start| *start < len && (address + start).is_multiple_of(ALIGN))?;
        let end = start + (len - start) / align * align;
        (end > start).then_some(start..end)
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.usable()?;
        self.within_offsets(at, bytes.len() as u64)?;
        let Some(middle) = self.direct_part(at, bytes.as_ptr() as usize, bytes.len()) else {
            return self.write_buffered(at, bytes);
        };
        self.write_buffered(at, &bytes[..middle.start])?;
        self.write_direct(at + middle.start as u64, &bytes[middle.clone()])?;
        self.write_buffered(at + middle.end as u64, &bytes[middle.end..])
    }

    pub(crate) fn write_behind(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.usable()?;
        self.within_offsets(at, bytes.len() as u64)?;
        self.write_buffered(at, bytes)
    }

    fn write_direct(&self, mut at: u64, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some(direct) = self.direct.as_ref().filter(|_| bytes.len().is_multiple_of(self.align)) else {
                return self.write_buffered(at, bytes);
            };
            match rustix::io::pwrite(direct, bytes, at) {
                Ok(0) => return Err(self.failed("writing", at, bytes.len() as u64, Errno::IO)),
                Ok(n) => {
                    at += n as u64;
                    bytes = &bytes[n..];
                }
                Err(Errno::INTR) => {}
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    self.direct_works.store(false, Ordering::Relaxed);
                    return self.write_buffered(at, bytes);
                }
                Err(cause) => return Err(self.failed("writing", at, bytes.len() as u64, cause)),
            }
        }
        Ok(())
    }

    fn write_buffered(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            // Not more at once than may be dirty.
            let piece = &bytes[done..bytes.len().min(done + BEHIND as usize)];
            match rustix::io::pwrite(&self.buffered, piece, at + done as u64) {
                Ok(0) => return Err(self.failed("writing", at, bytes.len() as u64, Errno::IO)),
                Ok(n) => {
                    let from = at + done as u64;
                    done += n;
                    self.note(from..from + n as u64)?;
                }
                Err(Errno::INTR) => {}
                Err(cause) => return Err(self.failed("writing", at + done as u64, piece.len() as u64, cause)),
            }
        }
        Ok(())
    }

    /// Notes what went into the page cache; when it is enough, starts its write-back, then waits for what was
    /// started before and drops it.
    fn note(&self, range: Range<u64>) -> Result<()> {
        let (start, wait) = {
            let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
            behind.fresh_bytes += range.end - range.start;
            match behind.fresh.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => behind.fresh.push(range),
            }
            if behind.fresh_bytes < BEHIND && behind.fresh.len() < PIECES {
                return Ok(());
            }
            behind.fresh_bytes = 0;
            let fresh = std::mem::take(&mut behind.fresh);
            (fresh.clone(), std::mem::replace(&mut behind.started, fresh))
        };
        const START: u32 = libc::SYNC_FILE_RANGE_WRITE;
        const WAIT: u32 = libc::SYNC_FILE_RANGE_WAIT_BEFORE | START | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        start.iter().try_for_each(|range| self.write_back(range, START))?;
        for range in &wait {
            self.write_back(range, WAIT)?;
            self.forget_pages(range);
        }
        Ok(())
    }

    fn write_back(&self, range: &Range<u64>, flags: u32) -> Result<()> {
        // SAFETY: a call without pointers, on a descriptor that is open.
        let done = unsafe {
            libc::sync_file_range(
                self.buffered.as_raw_fd(),
                range.start as i64,
                (range.end - range.start) as i64,
                flags,
            )
        };
        match io::Error::last_os_error().raw_os_error() {
            // A loss, which fdatasync would not report again. Anything else means that it is not to be had
            // here (sync_file_range(2): ESPIPE, EINVAL), and flushing will do.
            Some(cause @ (libc::EIO | libc::ENOSPC | libc::EDQUOT)) if done != 0 => {
                Err(self.lose("writing back", range.clone(), Errno::from_raw_os_error(cause)))
            }
            _ => Ok(()),
        }
    }

    fn forget_pages(&self, range: &Range<u64>) {
        // Only whole pages are dropped (posix_fadvise(2)), so edges are rounded outwards.
        let page = self.align as u64;
        let (start, end) = (range.start / page * page, range.end.next_multiple_of(page));
        let len = std::num::NonZeroU64::new(end - start);
        let _ = rustix::fs::fadvise(&self.buffered, start, len, rustix::fs::Advice::DontNeed);
    }

    pub(crate) fn drop_cache(&self, at: u64, len: u64) {
        if len > 0 {
            self.forget_pages(&(at..at.saturating_add(len).min(i64::MAX as u64)));
        }
    }

    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.within_offsets(at, into.len() as u64)?;
        let middle = self.direct_part(at, into.as_ptr() as usize, into.len()).unwrap_or(0..0);
        let mut done = 0;
        while done < into.len() {
            // The kernel writes dirty pages back before a direct read of them, so both descriptors see the same.
            let past = middle.contains(&done) && (done - middle.start).is_multiple_of(self.align);
            let (file, end) = match &self.direct {
                Some(direct) if past && self.is_direct() => (direct, middle.end),
                _ if done < middle.start => (&self.buffered, middle.start),
                _ => (&self.buffered, into.len()),
            };
            match rustix::io::pread(file, &mut into[done..end], at + done as u64) {
                Ok(0) => {
                    let message = format!(
                        "{} ends at offset {}, where {} more bytes were expected",
                        self.path.display(),
                        at + done as u64,
                        into.len() - done
                    );
                    return Err(Error::new(Code::Truncated, Stage::Target, message));
                }
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(Errno::INVAL | Errno::OPNOTSUPP) if past && self.is_direct() => {
                    self.direct_works.store(false, Ordering::Relaxed);
                }
                Err(cause) => return Err(self.failed("reading", at + done as u64, (end - done) as u64, cause)),
            }
        }
        Ok(())
    }

    /// Makes everything durable; `whole` when also what fdatasync leaves out matters, such as a new length.
    pub(crate) fn flush(&self, whole: bool) -> Result<()> {
        self.usable()?;
        let behind = std::mem::take(&mut *self.behind.lock().unwrap_or_else(PoisonError::into_inner));
        loop {
            let done = if whole { rustix::fs::fsync(&self.buffered) } else { rustix::fs::fdatasync(&self.buffered) };
            match done {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(cause) => {
                    let error = Error::target(format!("flushing {}", self.path.display()), &cause.into());
                    return Err(self.lost.get_or_init(|| error).clone());
                }
            }
        }
        behind.started.iter().chain(&behind.fresh).for_each(|range| self.forget_pages(range));
        Ok(())
    }

    /// Zeros by writing them: for edges, and where no call does it.
    pub(crate) fn write_zeros(&self, at: u64, len: u64) -> Result<()> {
        static ZEROS: OnceLock<crate::bytes::Aligned> = OnceLock::new();
        let zeros = ZEROS.get_or_init(|| crate::bytes::Aligned::zeroed(crate::bytes::SLAB));
        let end = self.within_offsets(at, len)?;
        let mut from = at;
        while from < end {
            // To the next multiple of the alignment first: all that follows can then go past the page cache.
            let edge = from.next_multiple_of(self.align as u64);
            let upto = if edge > from { edge } else { from + zeros.len() as u64 }.min(end);
            self.write(from, &zeros[..(upto - from) as usize])?;
            from = upto;
        }
        Ok(())
    }

    /// The end of the range, which must be an offset that the kernel can express (off_t).
    pub(crate) fn within_offsets(&self, at: u64, len: u64) -> Result<u64> {
        at.checked_add(len).filter(|end| *end <= i64::MAX as u64 - self.align as u64).ok_or_else(|| {
            let message = format!("{len} bytes at offset {at} lie beyond what {} can hold", self.path.display());
            Error::new(Code::TooLarge, Stage::Target, message)
        })
    }
}

fn page_size() -> usize {
    // SAFETY: a call without pointers.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(ALIGN)
}

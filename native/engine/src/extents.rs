//! Where a file has data, as its file system knows it.

use std::ops::Range;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::error::{Code, Error, Result, Stage};

/// Data of `file` in `[from, to)`, ascending, at most `most` extents: further ones are asked for from the end of the last.
/// A file system that does not know holes has one extent (lseek(2), SEEK_DATA). Moves the file's own offset.
pub fn data(file: impl AsFd, from: u64, to: u64, most: usize) -> Result<Vec<Range<u64>>> {
    let failed = |e: Errno| Error::new(Code::Io, Stage::Source, format!("the holes of the file cannot be found: {e}"));
    let mut extents = Vec::new();
    let mut at = from;
    while at < to && extents.len() < most {
        let start = match seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break, // only a hole is left
            Err(Errno::INVAL) => at,   // no file system that knows
            Err(e) => return Err(failed(e)),
        };
        if start >= to {
            break;
        }
        let end = match seek(&file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(to),
            Err(Errno::NXIO | Errno::INVAL) => to,
            Err(e) => return Err(failed(e)),
        };
        // A file that is written to meanwhile could answer anything: always go on.
        let end = if end > start { end } else { to };
        extents.push(start..end);
        at = end;
    }
    Ok(extents)
}

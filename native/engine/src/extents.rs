//! Where a file has data: as its file system knows it, and as its bytes show.

use std::ops::Range;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::error::{Code, Error, Result, Stage};
use crate::zeros::data_runs;

/// Bytes of one read: the buffer stays in the processor's cache between the kernel's copy and the look at it.
const PIECE: usize = 512 << 10;

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

/// Grains of `grain` bytes (counted from `from` on, at most [`PIECE`]; the last may be short) in `[from, to)` of `file` that
/// are not all zero, ascending, adjacent ones as one. Reads all of it, one piece at a time. TRUNCATED when the file ends
/// before `to`, BAD_SPEC.
pub fn nonzero(file: impl AsFd, from: u64, to: u64, grain: usize) -> Result<Vec<Range<u64>>> {
    if grain == 0 || grain > PIECE {
        return Err(Error::new(
            Code::BadSpec,
            Stage::Source,
            format!("zeros are not looked for in {grain} bytes at once"),
        ));
    }
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut piece = vec![0; PIECE - PIECE % grain];
    let mut at = from;
    while at < to {
        let wanted = usize::try_from(to - at).map_or(piece.len(), |left| left.min(piece.len()));
        let piece = &mut piece[..wanted];
        fill(&file, at, piece)?;
        for run in data_runs(piece, grain) {
            let run = at + run.start as u64..at + run.end as u64;
            match runs.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => runs.push(run),
            }
        }
        at += wanted as u64;
    }
    Ok(runs)
}

fn fill(file: impl AsFd, from: u64, into: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < into.len() {
        let at = from + done as u64;
        match rustix::io::pread(&file, &mut into[done..], at) {
            Ok(0) => {
                return Err(Error::new(Code::Truncated, Stage::Source, format!("the file ended at byte {at}")));
            }
            Ok(read) => done += read,
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::new(Code::Io, Stage::Source, format!("byte {at} cannot be read: {e}"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn written_zeros_are_no_data_and_runs_join_over_reads() {
        const GRAIN: u64 = 64 << 10;
        let piece = PIECE as u64;
        let file = std::fs::File::from(
            rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::empty()).expect("a file in memory"),
        );
        let length = 3 * piece + 100;
        file.write_all_at(&vec![0; length as usize], 0).unwrap();
        // A byte on each side of the border of two reads, one in the middle of a grain, one at the very end.
        for at in [piece - 1, piece, piece + 3 * GRAIN + 5, length - 1] {
            file.write_all_at(&[1], at).unwrap();
        }
        let found = nonzero(&file, 0, length, GRAIN as usize).unwrap();
        let wanted = [piece - GRAIN..piece + GRAIN, piece + 3 * GRAIN..piece + 4 * GRAIN, 3 * piece..length];
        assert_eq!(found, wanted);
        assert_eq!(nonzero(&file, 2 * GRAIN, 4 * GRAIN, GRAIN as usize).unwrap(), []);
        assert_eq!(nonzero(&file, 0, length + 1, GRAIN as usize).unwrap_err().code, Code::Truncated);
        assert_eq!(nonzero(&file, 0, length, 0).unwrap_err().code, Code::BadSpec);
    }
}

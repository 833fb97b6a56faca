//! What a source that cannot be read again must be remembered of, in a file beside the target: its head, tables, and what
//! lies in the held ends of the disk. With it a transfer goes on from a checkpoint when only the rest is sent.
//!
//! Layout: [`MAGIC`]; length of the head, u32; the head; then records: offset in the image, u64; length, u32; the bytes.
//! Numbers are little-endian. The file is believed: it lies where only its owner writes.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::bytes::{Bytes, SLAB};
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"DFKEPT01";
/// Bytes in front of a record's own.
const HEAD: usize = 12;

/// The file, open for appending. Only the decoder writes to it; the checkpointer flushes.
#[derive(Clone)]
pub struct Kept {
    file: Arc<File>,
}

fn failed(what: &str, cause: &std::io::Error) -> Error {
    Error::target(format!("{what} what is kept of the source"), cause)
}

impl Kept {
    /// A new file, in place of an older one.
    pub fn begin(path: &Path, head: &[u8]) -> Result<Self> {
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let mut file = made.map_err(|cause| failed("making a file for", &cause))?;
        let length = (head.len() as u32).to_le_bytes();
        let written = file.write_all(&[MAGIC, &length[..], head].concat()).and_then(|()| file.sync_all());
        written.map_err(|cause| failed("writing", &cause))?;
        Ok(Self { file: Arc::new(file) })
    }

    /// The file of an earlier run, and what it has of the image below `below`; what lies above will come again.
    pub fn resume(path: &Path, below: u64) -> Result<(Self, Records)> {
        let open = || OpenOptions::new().read(true).write(true).open(path);
        let mut file = open().map_err(|cause| failed("opening", &cause))?;
        let start = records_at(&mut file).map_err(|cause| failed("reading", &cause))?;
        let mut records = Records { file: BufReader::new(open().map_err(|cause| failed("opening", &cause))?), below };
        records.file.seek(SeekFrom::Start(start)).map_err(|cause| failed("reading", &cause))?;
        // Records of a checkpoint that never was may be torn.
        let mut end = start;
        while let Some((_, length)) = records.header()? {
            records.file.seek_relative(length as i64).map_err(|cause| failed("reading", &cause))?;
            end += HEAD as u64 + length as u64;
        }
        records.file.seek(SeekFrom::Start(start)).map_err(|cause| failed("reading", &cause))?;
        file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(|cause| failed("cutting", &cause))?;
        Ok((Self { file: Arc::new(file) }, records))
    }

    /// Remembers `ranges` of a piece of the image that begins at `offset`.
    pub fn add(&self, offset: u64, bytes: &Bytes, ranges: &[Range<u64>]) -> Result<()> {
        let mut out = Vec::new();
        for range in ranges {
            let (from, to) = ((range.start - offset) as usize, (range.end - offset) as usize);
            out.extend_from_slice(&range.start.to_le_bytes());
            out.extend_from_slice(&((to - from) as u32).to_le_bytes());
            out.extend_from_slice(&bytes[from..to]);
        }
        (&*self.file).write_all(&out).map_err(|cause| failed("writing", &cause))
    }

    pub fn flush(&self) -> Result<()> {
        self.file.sync_data().map_err(|cause| failed("flushing", &cause))
    }
}

/// Where the records begin.
fn records_at(file: &mut File) -> std::io::Result<u64> {
    let mut start = [0; MAGIC.len() + 4];
    file.read_exact(&mut start)?;
    let (magic, length) = start.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(std::io::Error::other("it is another file"));
    }
    Ok(start.len() as u64 + u64::from(u32::from_le_bytes(length.try_into().unwrap_or_default())))
}

/// What an earlier run kept, in the order in which it came.
pub struct Records {
    file: BufReader<File>,
    below: u64,
}

impl Records {
    /// Offset and length of the next record; None at the end, or where a record is torn or lies above what counts.
    fn header(&mut self) -> Result<Option<(u64, usize)>> {
        let mut head = [0; HEAD];
        let whole = self.file.read_exact(&mut head);
        if whole.is_err() {
            return Ok(None);
        }
        let (offset, length) = head.split_at(8);
        let offset = u64::from_le_bytes(offset.try_into().unwrap_or_default());
        let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
        let counts = offset < self.below && length > 0 && length <= SLAB;
        if !counts {
            return Ok(None);
        }
        let at = self.file.stream_position().map_err(|cause| failed("reading", &cause))?;
        let end = self.file.get_ref().metadata_len().map_err(|cause| failed("reading", &cause))?;
        Ok((at + length as u64 <= end).then_some((offset, length)))
    }

    /// The next piece of the image.
    pub fn next(&mut self) -> Result<Option<(u64, Bytes)>> {
        let Some((offset, length)) = self.header()? else { return Ok(None) };
        let mut bytes = vec![0; length];
        self.file.read_exact(&mut bytes).map_err(|cause| failed("reading", &cause))?;
        bytes.truncate((self.below - offset).min(length as u64) as usize);
        Ok(Some((offset, Bytes::copy_of(&bytes))))
    }
}

/// The length of a file by a call that threads may make which have given up statx(2).
trait Length {
    fn metadata_len(&self) -> std::io::Result<u64>;
}

impl Length for File {
    fn metadata_len(&self) -> std::io::Result<u64> {
        Ok(rustix::fs::fstat(self)?.st_size as u64)
    }
}

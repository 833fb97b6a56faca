//! The mark of a finished file: an extended attribute that says what it holds, valid while length and mtime are as
//! they were. A device keeps no trace.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, removexattr, setxattr};
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::targets::Target;

/// xattr(7): the user namespace needs no privilege.
const NAME: &str = "user.diskferry";
/// Longer marks are not ours.
const MOST: usize = 32 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// JSON of the caller.
    pub identity: String,
    pub disk_digest: [u8; 32],
    /// Bytes of the file.
    pub length: u64,
    /// Bytes of the disk: of the file too, unless it is an image.
    pub virtual_size: u64,
    /// None in the mark that is made before the last sector is written: it holds only if the disk has its digest.
    mtime: Option<(i64, i64)>,
}

/// Marks a finished file. File systems without extended attributes keep no mark: that is no error to a caller.
pub fn write(path: &Path, identity: &str, disk_digest: [u8; 32], virtual_size: u64) -> std::io::Result<()> {
    let meta = std::fs::metadata(path)?;
    let (length, mtime) = (meta.len(), Some((meta.mtime(), meta.mtime_nsec())));
    set(path, Mark { identity: identity.to_owned(), disk_digest, length, virtual_size, mtime })
}

/// Marks a file whose last sector is about to be written: a cut right behind that would leave a whole disk that
/// nobody knows.
pub fn announce(path: &Path, identity: &str, disk_digest: [u8; 32], length: u64) -> std::io::Result<()> {
    set(path, Mark { identity: identity.to_owned(), disk_digest, length, virtual_size: length, mtime: None })
}

fn set(path: &Path, mark: Mark) -> std::io::Result<()> {
    let bytes = postcard::to_allocvec(&mark).map_err(std::io::Error::other)?;
    setxattr(path, NAME, &bytes, XattrFlags::empty())?;
    Ok(())
}

/// The mark, if the file is still what was marked. Reads the whole file where the mark was only announced.
pub fn read(path: &Path, target: &dyn Target) -> Option<Mark> {
    let mut bytes = vec![0; MOST];
    let n = getxattr(path, NAME, &mut bytes[..]).ok()?;
    let mark: Mark = postcard::from_bytes(&bytes[..n]).ok()?;
    let meta = std::fs::metadata(path).ok()?;
    if meta.len() != mark.length {
        return None;
    }
    let holds = match mark.mtime {
        Some(mtime) => (meta.mtime(), meta.mtime_nsec()) == mtime,
        None => digest::of_target(target, mark.length, &|| false, &mut |_| ()).is_ok_and(|d| d == mark.disk_digest),
    };
    if holds && mark.mtime.is_none() {
        // Known for certain now; without attributes it is asked again next time.
        let _ = write(path, &mark.identity, mark.disk_digest, mark.virtual_size);
    }
    holds.then_some(mark)
}

/// Takes the mark away before the file is written again.
pub fn clear(path: &Path) {
    // There is none, or the file system knows none.
    let _ = removexattr(path, NAME);
}

//! The mark of a finished file: an extended attribute that says what it holds, valid while length and mtime are as
//! they were. A device keeps no trace.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, removexattr, setxattr};
use serde::{Deserialize, Serialize};

/// xattr(7): the user namespace needs no privilege.
const NAME: &str = "user.diskferry";
/// Longer marks are not ours.
const MOST: usize = 32 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// JSON of the caller.
    pub identity: String,
    pub disk_digest: [u8; 32],
    pub length: u64,
    mtime: (i64, i64),
}

/// Marks a finished file. File systems without extended attributes keep no mark: that is no error.
pub fn write(path: &Path, identity: &str, disk_digest: [u8; 32]) -> std::io::Result<()> {
    let meta = std::fs::metadata(path)?;
    let mark = Mark {
        identity: identity.to_owned(),
        disk_digest,
        length: meta.len(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
    };
    let bytes = postcard::to_allocvec(&mark).map_err(std::io::Error::other)?;
    setxattr(path, NAME, &bytes, XattrFlags::empty())?;
    Ok(())
}

/// The mark, if the file is still what was marked.
pub fn read(path: &Path) -> Option<Mark> {
    let mut bytes = vec![0; MOST];
    let n = getxattr(path, NAME, &mut bytes[..]).ok()?;
    let mark: Mark = postcard::from_bytes(&bytes[..n]).ok()?;
    let meta = std::fs::metadata(path).ok()?;
    (meta.len() == mark.length && (meta.mtime(), meta.mtime_nsec()) == mark.mtime).then_some(mark)
}

/// Takes the mark away before the file is written again.
pub fn clear(path: &Path) {
    // There is none, or the file system knows none.
    let _ = removexattr(path, NAME);
}

//! The one file of an image that is its disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub struct Disk {
    pub file: File,
    /// Of the file, for logs: what is no UTF-8 in it is replaced.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// A strong validator (RFC 9110, section 8.8.3), with its quotes.
    pub tag: String,
}

/// What an image for bootc or ostree has, which is a whole operating system and no disk (CDI's rule).
const SYSTEMS: [&str; 2] = ["sysroot", "ostree"];
/// Of what is in a directory that has too much, so many are named.
const NAMED: usize = 5;

impl Disk {
    /// `directory` is `/disk` of the image. The error is a sentence for whoever made the image.
    pub fn find(directory: &Path) -> Result<Self, String> {
        let shown = directory.display();
        for system in SYSTEMS {
            let there = directory.with_file_name(system);
            if there.is_dir() {
                return Err(format!(
                    "the image holds {}, as those of bootc and ostree do: it is an operating system, not a disk; build a disk of it \
                     and put that into {shown} of an image",
                    there.display()
                ));
            }
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!("the image holds no directory {shown}: a disk is to be the one file in it (a containerDisk)")
            }
            _ => format!("{shown} of the image cannot be read: {error}; {}", remedy(directory)),
        })? {
            names.push(entry.map_err(|error| format!("{shown} of the image cannot be read: {error}"))?.file_name());
        }
        names.sort();
        let [name] = names.as_slice() else {
            let first: Vec<_> = names.iter().take(NAMED).map(|name| format!("{name:?}")).collect();
            let more = if names.len() > NAMED { ", …" } else { "" };
            let which = if names.is_empty() { String::new() } else { format!(" ({}{more})", first.join(", ")) };
            return Err(format!(
                "{shown} of the image holds {} files{which}: it is to hold one, the disk",
                names.len()
            ));
        };
        let path = directory.join(name);
        let failed = |error: io::Error| format!("{path:?} of the image cannot be read: {error}; {}", remedy(&path));
        if !fs::symlink_metadata(&path).map_err(failed)?.is_file() {
            return Err(format!("{path:?} of the image is no regular file: it is to be the disk"));
        }
        let file = File::open(&path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        // The time of the last change of the inode says what those that an image is built with do not: builds that can be
        // repeated give every file the same time, disks often have the same size, and inodes are used again.
        let (modified, changed) = ((about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec()));
        let tag = format!(
            "\"{:x}-{:x}.{:x}-{:x}.{:x}-{:x}\"",
            about.size(),
            modified.0,
            modified.1,
            changed.0,
            changed.1,
            about.ino()
        );
        Ok(Self { file, name: name.to_string_lossy().into_owned(), size: about.size(), tag })
    }
}

fn remedy(path: &Path) -> String {
    // SAFETY: takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    format!("user {user} is to be able to read it (ADD --chown=107:107 … {})", path.display())
}

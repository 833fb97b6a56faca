//! Which member of an archive is the disk.

use crate::formats::DRIVERS;

/// How the member is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pick {
    /// The only one that is a disk image.
    #[default]
    Only,
    /// The one at this path.
    Path(String),
    /// The only file directly in this directory (a containerDisk's `disk`).
    Directory(String),
    /// The one of this name, or, of digits, the one of this number from 1: of those that an OVF descriptor lists, or else
    /// that are disk images.
    Disk(String),
}

/// What an entry's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    Picked,
    /// A disk image.
    Image,
    /// Its first bytes decide.
    Perhaps,
    Other,
}

/// Names of images, and what they are packed with: lower case.
const IMAGES: &[&str] =
    &["img", "raw", "dd", "iso", "qcow2", "qcow", "vmdk", "vdi", "vhd", "vhdx", "hdd", "hds", "qed"];
const PACKED: &[&str] = &["gz", "xz", "zst", "bz2", "lz4", "sz"];

impl Pick {
    /// `path` as [`clean`] gives it.
    pub fn named(&self, path: &str) -> Named {
        let picked = match self {
            Pick::Path(wanted) => clean(wanted) == path,
            Pick::Directory(wanted) => {
                path.strip_prefix(&clean(wanted)).and_then(|rest| rest.strip_prefix('/')).is_some_and(|name| {
                    // Marks of OCI layers ("Whiteouts", image-spec layer.md) are no files.
                    !name.contains('/') && !name.starts_with(".wh.")
                })
            }
            Pick::Disk(wanted) if self.number().is_none() => {
                clean(wanted) == path || path.rsplit('/').next() == Some(wanted.as_str())
            }
            Pick::Only | Pick::Disk(_) => {
                let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
                let mut parts = name.rsplit('.');
                let mut last = parts.next().unwrap_or_default();
                if PACKED.contains(&last) {
                    last = parts.next().unwrap_or_default();
                }
                // Files of macOS beside the real ones.
                if name.starts_with("._") {
                    return Named::Other;
                }
                return if IMAGES.contains(&last) { Named::Image } else { Named::Perhaps };
            }
        };
        if picked { Named::Picked } else { Named::Other }
    }

    /// The number of a disk, from 1.
    pub fn number(&self) -> Option<u64> {
        match self {
            Pick::Disk(wanted) if wanted.bytes().all(|b| b.is_ascii_digit()) => wanted.parse().ok(),
            _ => None,
        }
    }

    /// Whether an entry of this name takes what is wanted away from lower layers: `.wh.NAME`, or `.wh..wh..opq` for all
    /// of a directory ("Whiteouts", OCI image-spec layer.md).
    pub fn hidden_by(&self, path: &str) -> bool {
        let wanted = match self {
            Pick::Only | Pick::Disk(_) => return false,
            Pick::Path(wanted) | Pick::Directory(wanted) => clean(wanted),
        };
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(hidden) = name.strip_prefix(".wh.") else { return false };
        let below =
            |parent: &str| parent.is_empty() || wanted.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/'));
        if hidden == ".wh..opq" {
            return below(directory) || *self == Pick::Directory(directory.to_owned());
        }
        let gone = if directory.is_empty() { hidden.to_owned() } else { format!("{directory}/{hidden}") };
        wanted == gone || below(&gone)
    }

    /// What is missing when nothing was picked, for people.
    pub fn wanted(&self) -> String {
        match self {
            Pick::Only => "no disk image".to_owned(),
            Pick::Path(path) => format!("no file {}", shown(&clean(path))),
            Pick::Directory(path) => format!("no file in {}/", shown(&clean(path))),
            Pick::Disk(wanted) => format!("no disk {}", shown(wanted)),
        }
    }
}

/// Whether the first bytes of a file that is not named like one are those of a disk.
pub fn looks_like_a_disk(head: &[u8]) -> bool {
    // An MBR, also the one that protects a GPT (UEFI 5.2.3).
    head.get(510..512) == Some(&[0x55, 0xaa]) || DRIVERS.iter().any(|driver| (driver.detect)(head))
}

/// A path without what says nothing: a leading `/` or `./`, empty parts, a `/` at the end.
pub fn clean(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

/// The path of `name`, a file that another one at `path` names as one beside it.
pub fn beside(path: &str, name: &str) -> String {
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    clean(&format!("{directory}/{name}"))
}

/// A name as people may be shown it.
pub fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if name.chars().nth(200).is_some() {
        text.push('…');
    }
    text
}

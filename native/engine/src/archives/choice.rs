//! The choice of the disk while the entries of an archive pass by, once each: by its name, its first bytes, or by what an
//! OVF descriptor says; and the comparison with a manifest.

use super::Member;
use super::manifest::{Digests, Hashing, Manifest};
use super::ovf::{self, Disk};
use super::pick::{Named, Pick, clean, looks_like_a_disk, shown};
use crate::error::{Code, Error, Result, Stage};

/// Names of other files that are told when nothing was found.
const TOLD: usize = 5;
/// Bytes of a descriptor or manifest. Those of large appliances have some ten thousand.
pub const MOST_PAPER: u64 = 1 << 20;

/// What is to be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// Its first 512 bytes decide: [`Choice::looked`].
    Perhaps,
    Picked,
    /// All of it is wanted by [`Choice::paper`]: a descriptor or manifest, of at most [`MOST_PAPER`] bytes.
    Paper,
}

#[derive(Debug, Default)]
pub struct Choice {
    pick: Pick,
    /// The descriptor's path and its disks, where it has any.
    descriptor: Option<(String, Vec<Disk>)>,
    /// The file that it says is the disk.
    target: Option<String>,
    manifest: Option<Manifest>,
    /// Of the files that have passed, in full.
    digests: Vec<(String, Digests)>,
    member: Option<Member>,
    /// Path of the member.
    path: String,
    /// Files seen, those of them that are disks, and the names of the first that were not picked.
    pub files: u64,
    disks: u64,
    passed: Vec<String>,
    hidden: bool,
}

impl Choice {
    pub fn new(pick: &Pick) -> Self {
        Self { pick: pick.clone(), ..Self::default() }
    }

    /// In the middle of a member that was picked in an archive without descriptor and manifest.
    pub fn within(pick: &Pick, files: u64, member: Member) -> Self {
        Self { files, path: member.name.clone(), member: Some(member), ..Self::new(pick) }
    }

    pub fn member(&self) -> Option<&Member> {
        self.member.as_ref()
    }

    pub fn hides(&self) -> bool {
        self.hidden
    }

    /// Whether nothing that stands before the member is needed behind it.
    pub fn forgets(&self) -> bool {
        self.descriptor.is_none() && self.manifest.is_none()
    }

    /// An entry that may be no file.
    pub fn name(&mut self, path: &str) {
        self.hidden |= self.pick.hidden_by(path);
    }

    /// Fails with UNSUPPORTED when a link is what was named.
    pub fn link(&self, path: &str) -> Result<()> {
        if !matches!(self.pick, Pick::Path(_)) || self.pick.named(path) != Named::Picked {
            return Ok(());
        }
        let message = format!("{} is a link in the archive: give --path of the file that it leads to", shown(path));
        Err(Error::new(Code::Unsupported, Stage::Decode, message))
    }

    /// A file, its path as [`clean`] gives it; `size` in bytes, where it is known. Fails with UNSUPPORTED, TOO_LARGE.
    pub fn file(&mut self, path: &str, size: Option<u64>) -> Result<Verdict> {
        self.files += 1;
        let named = self.pick.named(path);
        let picked = match &self.target {
            Some(target) => same(target, path),
            None => named == Named::Picked || named == Named::Image && self.is_wanted(),
        };
        if picked {
            return self.picked(path, size).map(|()| Verdict::Picked);
        }
        let paper = self.is_paper(path);
        if self.target.is_none() && named == Named::Perhaps && size != Some(0) && !paper {
            return Ok(Verdict::Perhaps);
        }
        self.pass(path);
        match size {
            Some(size) if paper && size > MOST_PAPER => Err(long(path)),
            _ => Ok(if paper { Verdict::Paper } else { Verdict::Passed }),
        }
    }

    /// The first bytes of a file that may be a disk; true where it is picked.
    pub fn looked(&mut self, path: &str, size: Option<u64>, head: &[u8]) -> Result<bool> {
        // A descriptor cannot have come since its verdict: entries pass one by one.
        let picked = looks_like_a_disk(head) && self.is_wanted();
        if picked {
            self.picked(path, size)?;
        } else {
            self.pass(path);
        }
        Ok(picked)
    }

    /// Counts a disk that no descriptor names; whether it is the one that is wanted.
    fn is_wanted(&mut self) -> bool {
        self.disks += 1;
        match &self.pick {
            Pick::Only => true,
            Pick::Disk(_) => self.pick.number() == Some(self.disks),
            Pick::Path(_) | Pick::Directory(_) => false,
        }
    }

    fn is_paper(&self, path: &str) -> bool {
        // Files of containers are nobody's appliance.
        let end = extension(path);
        !matches!(self.pick, Pick::Directory(_))
            && !path.contains("/._")
            && !path.starts_with("._")
            && (end == "ovf" || end == "mf")
    }

    fn pass(&mut self, path: &str) {
        if self.passed.len() < TOLD {
            self.passed.push(shown(path));
        }
    }

    fn picked(&mut self, path: &str, size: Option<u64>) -> Result<()> {
        let name = shown(path);
        if let Some(first) = &self.member {
            let message = format!(
                "the archive has more than one disk, {} and {name}: name one with --path or --disk",
                first.name
            );
            return Err(Error::new(Code::Unsupported, Stage::Decode, message));
        }
        self.path = path.to_owned();
        self.member = Some(Member { name, size });
        Ok(())
    }

    /// What is to be hashed of the member.
    pub fn hashing(&self) -> Result<Option<Hashing>> {
        match &self.manifest {
            Some(manifest) => manifest.hashing(&self.path),
            // Then a manifest is likely to follow: without a descriptor this may be any archive, and hashing costs.
            None if self.descriptor.is_some() || extension(&self.path) == "vmdk" => Ok(Some(Hashing::all())),
            None => Ok(None),
        }
    }

    /// The member has ended. Fails with DIGEST_MISMATCH.
    pub fn hashed(&mut self, hashing: Hashing) -> Result<()> {
        let path = self.path.clone();
        self.digested(path, hashing.finish())
    }

    fn digested(&mut self, path: String, digests: Digests) -> Result<()> {
        match &self.manifest {
            Some(manifest) => manifest.compare(&path, &digests),
            None => {
                self.digests.push((path, digests));
                Ok(())
            }
        }
    }

    /// A descriptor or manifest, whole. Fails with UNSUPPORTED or NOT_FOUND where its disk is not one, with
    /// DIGEST_MISMATCH, CORRUPT, TOO_LARGE.
    pub fn paper(&mut self, path: &str, text: &[u8]) -> Result<()> {
        let mut hashing = Hashing::all();
        hashing.update(text);
        if extension(path) == "ovf" {
            self.digested(path.to_owned(), hashing.finish())?;
            // Where the path is told, it may say what it wants.
            return if matches!(self.pick, Pick::Path(_)) { Ok(()) } else { self.described(path, text) };
        }
        let Some(manifest) = Manifest::parse(path, text)? else { return Ok(()) };
        for (file, digests) in self.digests.drain(..) {
            manifest.compare(&file, &digests)?;
        }
        if let Some(before) = self.manifest.replace(manifest) {
            return Err(two("manifests", before.path(), path));
        }
        Ok(())
    }

    fn described(&mut self, path: &str, text: &[u8]) -> Result<()> {
        let disks = ovf::disks(path, text)?;
        if disks.is_empty() {
            return Ok(());
        }
        if let Some((before, _)) = &self.descriptor {
            return Err(two("OVF descriptors", before, path));
        }
        let disk = choose(&self.pick, &disks)?;
        if let Some(why) = disk.elsewhere {
            let message = format!(
                "the file of the disk {} {why}, which is not read: make one OVA of it first, with `ovftool SOURCE NEW.ova`",
                shown(&disk.file)
            );
            return Err(Error::new(Code::Unsupported, Stage::Decode, message));
        }
        if self.member.is_some() && !same(&disk.file, &self.path) {
            let message = format!(
                "the archive's descriptor {} stands behind the disk {} and says that it is {}: name one with --path",
                shown(path),
                shown(&self.path),
                shown(&disk.file)
            );
            return Err(Error::new(Code::Unsupported, Stage::Decode, message));
        }
        self.target = Some(disk.file.clone());
        self.descriptor = Some((path.to_owned(), disks));
        Ok(())
    }

    /// The archive has ended. Fails with NOT_FOUND where nothing was picked.
    pub fn finish(&self) -> Result<()> {
        if self.member.is_some() {
            return Ok(());
        }
        let others = match self.passed.as_slice() {
            [] => "it has no files at all".to_owned(),
            names if self.files > names.len() as u64 => {
                format!("it has {} and {} more", names.join(", "), self.files - names.len() as u64)
            }
            names => format!("it has {}", names.join(", ")),
        };
        let wanted = match &self.target {
            Some(target) => format!("no file {}, which its OVF descriptor names,", shown(target)),
            None => self.pick.wanted(),
        };
        let message = format!(
            "there is {wanted} in the archive: {others}; name the disk with --path, or unpack all of it with --archive"
        );
        Err(Error::new(Code::NotFound, Stage::Decode, message))
    }
}

pub fn long(path: &str) -> Error {
    let message = format!("{} in the archive has more than {MOST_PAPER} bytes, which is no descriptor", shown(path));
    Error::new(Code::TooLarge, Stage::Decode, message)
}

fn two(what: &str, first: &str, second: &str) -> Error {
    let message = format!(
        "the archive has two {what}, {} and {}: name the disk with --path, or unpack one of the two",
        shown(first),
        shown(second)
    );
    Error::new(Code::Unsupported, Stage::Decode, message)
}

/// The disk that is picked among those of a descriptor.
fn choose<'a>(pick: &Pick, disks: &'a [Disk]) -> Result<&'a Disk> {
    let list = || disks.iter().enumerate().map(|(n, disk)| line(n + 1, disk)).collect::<Vec<_>>().join(", ");
    let named = |wanted: &str| {
        let last = |disk: &Disk| disk.file.rsplit('/').next() == Some(wanted);
        disks.iter().find(|disk| same(&disk.file, &clean(wanted)) || last(disk) || disk.id == wanted)
    };
    let (found, wanted) = match (pick, disks) {
        (Pick::Disk(wanted), _) => match pick.number() {
            Some(n) => (n.checked_sub(1).and_then(|n| disks.get(usize::try_from(n).ok()?)), wanted),
            None => (named(wanted), wanted),
        },
        (_, [only]) => return Ok(only),
        _ => {
            let message = format!("the archive has {} disks: {}; name one with --disk", disks.len(), list());
            return Err(Error::new(Code::Unsupported, Stage::Decode, message));
        }
    };
    found.ok_or_else(|| {
        let message = format!("there is no disk {} in the archive: it has {}", shown(wanted), list());
        Error::new(Code::NotFound, Stage::Decode, message)
    })
}

fn line(n: usize, disk: &Disk) -> String {
    /// Binary units, the largest first.
    const UNITS: [(&str, u64); 3] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)];
    let size = disk.capacity.map_or("size not said".to_owned(), |bytes| {
        let unit = UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
        unit.map_or_else(|| format!("{bytes} bytes"), |(name, unit)| format!("{} {name}", bytes / unit))
    });
    format!("{n} {} ({size})", shown(&disk.file))
}

/// The name of a file in a descriptor is a URI reference ("ovf:href"), which some programs encode and some do not.
fn same(named: &str, path: &str) -> bool {
    named == path || decoded(named).is_some_and(|named| named == path.as_bytes())
}

/// `%20` and its like (RFC 3986, 2.1).
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(bytes)
}

fn extension(path: &str) -> String {
    path.rsplit('/')
        .next()
        .and_then(|name| name.rsplit_once('.'))
        .map_or(String::new(), |(_, end)| end.to_ascii_lowercase())
}

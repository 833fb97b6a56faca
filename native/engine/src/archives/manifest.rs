//! The manifest of an OVA: digests of its files, a line each, such as `SHA256(disk.vmdk)= 4e1f…` ("Distribution as a set of
//! files", DMTF DSP0243 2.1.1, section 6.2; SHA1 is from version 1 of the format).

use std::collections::BTreeMap;

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::pick::{beside, shown};
use crate::error::{Code, Error, Result, Stage};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    algorithm: String,
    hex: String,
}

/// What a manifest says of files, by their paths in the archive.
#[derive(Clone, Debug)]
pub struct Manifest {
    path: String,
    lines: BTreeMap<String, Line>,
}

impl Manifest {
    /// None where no line is a digest: then it is some other file of that name. Fails with CORRUPT.
    pub fn parse(path: &str, text: &[u8]) -> Result<Option<Self>> {
        let text = String::from_utf8_lossy(text);
        let (mut lines, mut odd) = (BTreeMap::new(), None);
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let Some((name, line)) = parse_line(line) else {
                odd = odd.or(Some(n + 1));
                continue;
            };
            let file = beside(path, name);
            if lines.get(&file).is_some_and(|before| *before != line) {
                return Err(bad(path, &format!("it has two digests of {}", shown(&file))));
            }
            lines.insert(file, line);
        }
        match odd {
            _ if lines.is_empty() => Ok(None),
            Some(n) => Err(bad(path, &format!("line {n} is no digest"))),
            None => Ok(Some(Self { path: path.to_owned(), lines })),
        }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// What computes the digest that this has of a file, if it has one. Fails with UNSUPPORTED.
    pub fn hashing(&self, file: &str) -> Result<Option<Hashing>> {
        let Some(line) = self.lines.get(file) else { return Ok(None) };
        let hashing = match line.algorithm.as_str() {
            "SHA1" => Hashing { sha1: Some(Sha1::new()), ..Hashing::default() },
            "SHA256" => Hashing { sha256: Some(Sha256::new()), ..Hashing::default() },
            "SHA512" => Hashing { sha512: Some(Sha512::new()), ..Hashing::default() },
            other => {
                let message = format!(
                    "the manifest {} has a digest of {} by {}; SHA1, SHA256 and SHA512 are known: remove the manifest, \
                     and give --digest of the archive",
                    shown(&self.path),
                    shown(file),
                    shown(other)
                );
                return Err(Error::new(Code::Unsupported, Stage::Decode, message));
            }
        };
        Ok(Some(hashing))
    }

    /// Fails with DIGEST_MISMATCH; with UNSUPPORTED where `digests` lacks what is to be compared.
    pub fn compare(&self, file: &str, digests: &Digests) -> Result<()> {
        let Some(line) = self.lines.get(file) else { return Ok(()) };
        let Some((_, found)) = digests.0.iter().find(|(algorithm, _)| *algorithm == line.algorithm) else {
            return self.hashing(file).and_then(|_| Err(self.too_late(file)));
        };
        if *found == line.hex {
            return Ok(());
        }
        let message = format!(
            "the {} of {} is {found}, the manifest {} says {}: the archive is damaged or was changed, fetch it again",
            line.algorithm,
            shown(file),
            shown(&self.path),
            line.hex
        );
        Err(Error::new(Code::DigestMismatch, Stage::Verify, message))
    }

    /// It came when the file had passed without being hashed.
    fn too_late(&self, file: &str) -> Error {
        let message = format!(
            "the manifest {} stands behind {}, and no OVF descriptor before it said that one would come: put the \
             descriptor at the beginning of the archive, and the manifest next",
            shown(&self.path),
            shown(file)
        );
        Error::new(Code::Unsupported, Stage::Verify, message)
    }
}

/// `SHA256(name)= hex`, with or without spaces; the name and the rest.
fn parse_line(line: &str) -> Option<(&str, Line)> {
    let (before, hex) = line.trim().rsplit_once('=')?;
    let (algorithm, name) = before.trim_end().strip_suffix(')')?.split_once('(')?;
    let (algorithm, hex) = (algorithm.trim().replace('-', "").to_ascii_uppercase(), hex.trim());
    let named = algorithm.len() >= 3 && algorithm.bytes().all(|b| b.is_ascii_alphanumeric());
    let digits = hex.len() >= 32 && hex.len() <= 128 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    (named && digits).then(|| (name, Line { algorithm, hex: hex.to_ascii_lowercase() }))
}

fn bad(path: &str, what: &str) -> Error {
    Error::new(Code::Corrupt, Stage::Decode, format!("the manifest {} is damaged: {what}", shown(path)))
}

/// Digests of a file under way.
#[derive(Clone, Debug, Default)]
pub struct Hashing {
    sha1: Option<Sha1>,
    sha256: Option<Sha256>,
    sha512: Option<Sha512>,
}

impl Hashing {
    /// All that a manifest may ask for: where it is still to come.
    pub fn all() -> Self {
        Self { sha1: Some(Sha1::new()), sha256: Some(Sha256::new()), sha512: Some(Sha512::new()) }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(hash) = &mut self.sha1 {
            hash.update(bytes);
        }
        if let Some(hash) = &mut self.sha256 {
            hash.update(bytes);
        }
        if let Some(hash) = &mut self.sha512 {
            hash.update(bytes);
        }
    }

    pub fn finish(self) -> Digests {
        let sha1 = self.sha1.map(|hash| ("SHA1", hex(&hash.finalize())));
        let sha256 = self.sha256.map(|hash| ("SHA256", hex(&hash.finalize())));
        let sha512 = self.sha512.map(|hash| ("SHA512", hex(&hash.finalize())));
        Digests([sha1, sha256, sha512].into_iter().flatten().collect())
    }
}

/// Digests by the names of their algorithms, in lower-case hexadecimal digits.
#[derive(Clone, Debug)]
pub struct Digests(Vec<(&'static str, String)>);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! Archives around an image. To the codecs around it and inside it an archive is a codec: it gives out one member.

use crate::codecs::{Codec, Kind};
use crate::error::{Code, Error, Result, Stage};

mod choice;
pub mod entry;
pub mod framing;
pub mod manifest;
pub mod ovf;
mod pick;
pub mod sparse;
pub mod tar;
pub mod zip;

pub use pick::{Pick, shown};

/// The member that was picked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its path in the archive, for people: no control characters.
    pub name: String,
    /// Bytes of it, holes counted; where they are known before its end.
    pub size: Option<u64>,
}

/// A codec that gives out one member.
pub trait Archive: Codec {
    /// What was picked, once its header has passed.
    fn member(&self) -> Option<&Member>;
    /// Whether the archive takes what was wanted away from the layers below it ("Whiteouts", OCI image-spec layer.md).
    fn hides(&self) -> bool;
}

/// An archive from its beginning. Fails with BAD_SPEC where `kind` is a compression.
pub fn open(kind: Kind, pick: &Pick) -> Result<Box<dyn Archive>> {
    match kind {
        Kind::Tar => Ok(Box::new(tar::Tar::new(pick, None)?)),
        Kind::Zip => Ok(Box::new(zip::Zip::new(pick))),
        _ => Err(Error::new(Code::BadSpec, Stage::Decode, format!("{} is no archive", kind.name()))),
    }
}

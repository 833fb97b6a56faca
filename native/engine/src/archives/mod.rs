//! Archives around an image. To the codecs around it and inside it an archive is a codec: it gives out one member.

pub mod entry;
pub mod framing;
mod pick;
pub mod sparse;
pub mod tar;

pub use pick::{Pick, shown};

/// The member that was picked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its path in the archive, for people: no control characters.
    pub name: String,
    /// Bytes of it, holes counted.
    pub size: u64,
}

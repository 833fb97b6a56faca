//! What a slot holds: where a transfer goes on.

use serde::{Deserialize, Serialize};

use crate::codecs::Restart;
use crate::error::{Code, Error, Result, Stage};

use super::layout::SLOT;
use super::{IDENTITY, slot};

/// Longest `way` and `source_hash`, in bytes.
const FIELD: usize = 4096;

/// Why, and up to where, the target is known to read as zeros.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ZeroKnown {
    /// A file that this transfer created: all that it has not written.
    NewFile,
    /// Below this offset, all that the transfer has not written.
    ZeroedTo(u64),
    No,
}

/// Where a transfer goes on. Offsets and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// JSON of the caller, at most 16 KiB: which source this is.
    pub identity: String,
    pub way: String,
    pub virtual_size: Option<u64>,
    pub file_length: Option<u64>,
    /// Lowest source offset whose data is not durable on the target.
    pub watermark: u64,
    /// Where the codec begins again, not above the watermark. `None`: at the source's first byte.
    pub restart: Option<Restart>,
    /// For streams of unknown length: decoded offset below which all is written.
    pub written_to: Option<u64>,
    /// State of the source's SHA-256 after `hash_offset` bytes.
    #[serde(with = "serde_bytes")]
    pub source_hash: Option<Vec<u8>>,
    pub hash_offset: u64,
    /// Leaves of the disk digest that are known; what is missing is computed again from the target.
    #[serde(with = "serde_bytes")]
    pub groups: Vec<u8>,
    /// BLAKE3 of the held head as far as it is known.
    pub head_hash: Option<[u8; 32]>,
    pub zero_known: ZeroKnown,
    pub resumes: u32,
    pub written: u64,
    pub zeroed: u64,
    pub skipped: u64,
}

impl Checkpoint {
    /// The payload of a slot. What does not fit is left out, never an error: first the digest's leaves, which are
    /// computed again, then the restart, which moves back to the source's beginning.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let source_hash = self.source_hash.as_ref().map_or(0, Vec::len);
        if self.identity.len() > IDENTITY || self.way.len() > FIELD || source_hash > FIELD {
            return Err(Error::new(
                Code::BadSpec,
                Stage::Target,
                format!(
                    "a checkpoint's identity has {} bytes (at most {IDENTITY}), its way {} and its hash {source_hash} (at most {FIELD})",
                    self.identity.len(),
                    self.way.len()
                ),
            ));
        }
        let room = SLOT - slot::OVERHEAD;
        // The rest of a checkpoint is well under 1 KiB; a large vector is not copied only to be dropped.
        let bulk = self.groups.len() + self.restart.as_ref().map_or(0, |restart| restart.state.len());
        if bulk <= room {
            let payload = postcard(self)?;
            if payload.len() <= room {
                return Ok(payload);
            }
        }
        let mut less = Checkpoint { groups: Vec::new(), restart: None, ..self.clone_without_bulk() };
        if let Some(restart) = self.restart.as_ref().filter(|restart| restart.state.len() <= room) {
            less.restart = Some(restart.clone());
            let payload = postcard(&less)?;
            if payload.len() <= room {
                return Ok(payload);
            }
            less.restart = None;
        }
        postcard(&less)
    }

    fn clone_without_bulk(&self) -> Self {
        Self {
            identity: self.identity.clone(),
            way: self.way.clone(),
            source_hash: self.source_hash.clone(),
            zero_known: self.zero_known.clone(),
            groups: Vec::new(),
            restart: None,
            ..*self
        }
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let (checkpoint, rest) = postcard::take_from_bytes::<Self>(payload).ok()?;
        let sound = checkpoint.identity.len() <= IDENTITY
            && checkpoint.restart.as_ref().is_none_or(|restart| restart.source_offset <= checkpoint.watermark);
        (rest.is_empty() && sound).then_some(checkpoint)
    }
}

fn postcard(checkpoint: &Checkpoint) -> Result<Vec<u8>> {
    postcard::to_allocvec(checkpoint)
        .map_err(|cause| Error::new(Code::Io, Stage::Target, format!("a checkpoint cannot be encoded: {cause}")))
}

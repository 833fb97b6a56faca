//! The digest of the source, on a thread of its own behind the decoder.

use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::Digest;
use sha2::digest::common::hazmat::SerializableState;

use crate::error::{Code, Error, Result, Stage};

use super::checkpoint::{HashState, Note};
use super::input::Piece;

pub enum Feed {
    Piece(Piece),
    /// Tell the checkpointer the state here.
    Barrier(u64),
}

/// Where hashing begins: at 0, or at the state that a checkpoint holds.
pub struct Hasher {
    sha: sha2::Sha256,
    /// Source offset up to which everything has been hashed.
    position: u64,
    /// A state that must be met when the same source is read again from its beginning.
    expected: Option<(u64, Vec<u8>)>,
}

impl Hasher {
    pub fn new() -> Self {
        Self { sha: sha2::Sha256::new(), position: 0, expected: None }
    }

    /// Goes on from `state` at `offset`.
    pub fn resume(offset: u64, state: &[u8]) -> Result<Self> {
        let sha = state.try_into().ok().and_then(|state| sha2::Sha256::deserialize(state).ok()).ok_or_else(|| {
            Error::new(Code::Corrupt, Stage::Target, "the checkpoint holds no valid digest state; run again with --fresh")
        })?;
        Ok(Self { sha, position: offset, expected: None })
    }

    /// Hashes from the beginning and demands that the state at `offset` is the one that was seen then.
    pub fn replay(offset: u64, state: Vec<u8>) -> Self {
        Self { expected: Some((offset, state)), ..Self::new() }
    }

    fn update(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        // A gap means that not the whole source is read: then there is no digest of it.
        if offset > self.position {
            return Ok(());
        }
        let known = (self.position - offset).min(bytes.len() as u64) as usize;
        let mut bytes = &bytes[known..];
        if let Some((at, state)) = &self.expected
            && *at <= self.position + bytes.len() as u64
        {
            let n = (*at - self.position) as usize;
            self.sha.update(&bytes[..n]);
            self.position = *at;
            bytes = &bytes[n..];
            if self.sha.serialize()[..] != state[..] {
                let what = format!("the first {at} bytes are not the ones that this transfer began with; run again with --fresh to start over");
                return Err(Error::new(Code::Changed, Stage::Source, what));
            }
            self.expected = None;
        }
        self.sha.update(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn run(&mut self, feed: &Receiver<Feed>, notes: &Sender<Note>) -> Result<()> {
        while let Ok(feed) = feed.recv() {
            match feed {
                Feed::Piece(piece) => self.update(piece.offset, &piece.bytes)?,
                Feed::Barrier(number) => {
                    let state = HashState { number, offset: self.position, state: Some(self.sha.serialize().to_vec()) };
                    // A closed channel means that the conversion is over.
                    let _ = notes.send(Note::Hash(state));
                }
            }
        }
        Ok(())
    }

    /// Runs until the feed closes and leaves itself in `result`.
    pub fn run_to(mut self, feed: &Receiver<Feed>, notes: &Sender<Note>, result: &Arc<Mutex<Option<Hasher>>>) -> Result<()> {
        self.run(feed, notes)?;
        *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(self);
        Ok(())
    }

    /// The digest, if all `length` bytes were seen.
    pub fn finish(self, length: Option<u64>) -> Result<Option<[u8; 32]>> {
        if let Some((at, _)) = self.expected {
            let what = format!("the source ends at {} bytes, the transfer that is being continued had read {at}", self.position);
            return Err(Error::new(Code::Changed, Stage::Source, what));
        }
        Ok(if length == Some(self.position) { Some(self.sha.finalize().into()) } else { None })
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

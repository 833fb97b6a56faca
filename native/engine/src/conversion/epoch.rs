//! Barriers: which writes a checkpoint must wait for.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::checkpoint::Note;

/// Held by every job that was queued before the barrier; the last drop tells the checkpointer.
pub struct Epoch {
    number: u64,
    done: Sender<Note>,
}

pub type Token = Arc<Epoch>;

impl Epoch {
    pub fn token(number: u64, done: Sender<Note>) -> Token {
        Arc::new(Self { number, done })
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        // A worker that panics has not done its job: the barrier stays closed.
        if std::thread::panicking() {
            return;
        }
        // The checkpointer is gone only when the conversion has failed: nobody waits then.
        let _ = self.done.send(Note::Written(self.number));
    }
}

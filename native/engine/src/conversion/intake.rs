//! What comes in: the engine's side of what the transport sees of a transfer.

use std::sync::Arc;

use crate::error::Result;

use super::input::{Input, Pushed};
use super::requests::{Next, Requests};
use super::shared::Shared;

/// Asks for ranges of the source and takes their bytes.
#[derive(Clone)]
pub struct Intake {
    pub(crate) shared: Arc<Shared>,
    pub(crate) input: Arc<Input>,
    pub(crate) requests: Arc<Requests>,
}

impl Intake {
    pub(crate) fn new(slabs: usize) -> Self {
        let shared = Arc::new(Shared::default());
        Self { input: Arc::new(Input::new(slabs, Arc::clone(&shared))), requests: Arc::default(), shared }
    }

    /// Copies a chunk of at most 1 MiB.
    pub fn push(&self, offset: u64, chunk: &[u8]) -> Result<Pushed> {
        self.input.push(offset, chunk)
    }

    pub fn has_room(&self) -> bool {
        self.shared.stopped() || self.input.has_room()
    }

    /// `call` runs each time a slab comes back; it must not block.
    pub fn on_room(&self, call: Box<dyn Fn() + Send>) {
        self.input.on_room(call);
    }

    /// The source ends here.
    pub fn end(&self, length: u64) {
        self.input.end(length);
    }

    pub fn next(&self, most: usize) -> Result<Next> {
        self.shared.check()?;
        let (next, round_over) = self.requests.next(most);
        if matches!(next, Next::Fetch(_)) {
            self.input.accept();
        }
        if round_over {
            self.input.round_over();
        }
        Ok(next)
    }

    /// Whether `next` has something else to say than to wait.
    pub fn moved(&self) -> bool {
        self.shared.stopped() || self.requests.ready()
    }

    /// `call` runs once when `next` may have a new answer, or when the transfer has failed.
    pub fn when_woken(&self, call: Box<dyn FnOnce() + Send>) {
        self.shared.when_woken(call);
    }
}

//! What the engine wants to be fetched, between the decoder (which knows) and the transport (which asks).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// `to` = None: to the end of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub from: u64,
    pub to: Option<u64>,
}

struct State {
    pending: VecDeque<Request>,
    /// All requests of the round have been handed out.
    handed_out: bool,
    finished: bool,
}

pub struct Requests {
    /// Guards the round's list.
    state: Mutex<State>,
}

impl Default for Requests {
    fn default() -> Self {
        // Nothing to hand out until the decoder has set the first round.
        Self { state: Mutex::new(State { pending: VecDeque::new(), handed_out: true, finished: false }) }
    }
}

/// What the transport is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Fetch(Vec<Request>),
    /// The round was handed out before and is being decoded.
    Wait,
    Finished,
}

impl Requests {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn rest(&self, from: u64) {
        self.set([Request { from, to: None }]);
    }

    pub fn ranges(&self, ranges: &[Range<u64>]) {
        self.set(ranges.iter().map(|r| Request { from: r.start, to: Some(r.end) }));
    }

    fn set(&self, requests: impl IntoIterator<Item = Request>) {
        let mut state = self.lock();
        state.pending = requests.into_iter().collect();
        state.handed_out = false;
    }

    pub fn clear(&self) {
        self.lock().pending.clear();
    }

    pub fn finish(&self) {
        self.lock().finished = true;
    }

    pub fn ready(&self) -> bool {
        let state = self.lock();
        state.finished || !state.pending.is_empty()
    }

    /// Hands out up to `most` requests. `round_over` is true with the first call after the last of a round.
    pub fn next(&self, most: usize) -> (Next, bool) {
        let mut state = self.lock();
        if state.finished {
            return (Next::Finished, false);
        }
        if state.pending.is_empty() {
            let first = !std::mem::replace(&mut state.handed_out, true);
            return (Next::Wait, first);
        }
        let n = most.clamp(1, state.pending.len());
        (Next::Fetch(state.pending.drain(..n).collect()), false)
    }
}

//! The queue between the decoder and the workers.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::bytes::Bytes;
use crate::error::Result;
use crate::formats::Packing;

use super::epoch::Token;
use super::shared::{Counters, Shared};

/// One compressed cluster.
pub struct Packed {
    pub at: u64,
    pub len: usize,
    pub how: Packing,
    pub bytes: Bytes,
}

pub enum Work {
    Data {
        at: u64,
        bytes: Bytes,
    },
    /// Clusters that follow each other on the disk, at most 2 MiB unpacked.
    Packed(Vec<Packed>),
    Zero {
        at: u64,
        len: u64,
    },
}

pub struct Job {
    pub work: Work,
    /// Only what belongs to the held ends is wanted: the rest is on the target already.
    pub ends_only: bool,
    /// Keeps the checkpoint waiting until this job is done.
    pub token: Token,
}

/// Data jobs are bounded by the slabs they hold; this bounds the rest.
const MOST: usize = 512;

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    closed: bool,
}

pub struct Jobs {
    /// Guards the queue.
    state: Mutex<State>,
    added: Condvar,
    removed: Condvar,
    shared: Arc<Shared>,
}

impl Jobs {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { state: Mutex::default(), added: Condvar::new(), removed: Condvar::new(), shared }
    }

    /// Waits while the queue is full.
    pub fn add(&self, job: Job) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.queue.len() >= MOST {
            self.shared.check()?;
            let began = Instant::now();
            state =
                self.removed.wait_timeout(state, Duration::from_millis(50)).unwrap_or_else(PoisonError::into_inner).0;
            Counters::since(&self.shared.counters.decode_blocked_ns, began);
        }
        state.queue.push_back(job);
        self.added.notify_one();
        Ok(())
    }

    /// No more jobs will come.
    pub fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.added.notify_all();
    }

    /// The next job; None when there will be no more.
    pub fn take(&self) -> Result<Option<Job>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            self.shared.check()?;
            if let Some(job) = state.queue.pop_front() {
                self.removed.notify_one();
                return Ok(Some(job));
            }
            if state.closed {
                return Ok(None);
            }
            let began = Instant::now();
            state = self.added.wait_timeout(state, Duration::from_millis(50)).unwrap_or_else(PoisonError::into_inner).0;
            Counters::since(&self.shared.counters.work_idle_ns, began);
        }
    }
}

//! What all threads of one conversion share: the first failure, the stop flag and the counters.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::error::{Error, Result, Stage};
use crate::sandbox;

/// Cheap counters, written by one stage each and read by anybody. Bytes, or nanoseconds where named so.
#[derive(Default)]
pub struct Counters {
    /// Source bytes that the decoder has taken.
    pub source: AtomicU64,
    pub written: AtomicU64,
    pub zeroed: AtomicU64,
    pub skipped: AtomicU64,
    /// Lowest source offset whose data is not durable, as the last checkpoint has it.
    pub watermark: AtomicU64,
    pub checkpoints: AtomicU64,
    pub decode_starved_ns: AtomicU64,
    pub decode_blocked_ns: AtomicU64,
    pub work_busy_ns: AtomicU64,
    pub write_busy_ns: AtomicU64,
    pub work_idle_ns: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub fn since(counter: &AtomicU64, start: Instant) {
        counter.fetch_add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

type Wake = Box<dyn FnOnce() + Send>;

pub struct Shared {
    stop: AtomicBool,
    /// The first failure; later ones are its consequences.
    failed: Mutex<Option<Error>>,
    /// Called once when the conversion fails or is stopped: whoever waits outside the engine.
    wakes: Mutex<Vec<Wake>>,
    pub counters: Counters,
    pub started: Instant,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            stop: AtomicBool::new(false),
            failed: Mutex::new(None),
            wakes: Mutex::new(Vec::new()),
            counters: Counters::default(),
            started: Instant::now(),
        }
    }
}

impl Shared {
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub fn fail(&self, error: Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    pub fn failure(&self) -> Option<Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The failure if there is one, ABORTED if it was merely stopped.
    pub fn check(&self) -> Result<()> {
        if self.stopped() { Err(self.failure().unwrap_or_else(Error::aborted)) } else { Ok(()) }
    }

    /// `call` runs at the next [`Shared::wake`], at once when the conversion has stopped already.
    pub fn when_woken(&self, call: Wake) {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stopped() {
            drop(wakes);
            call();
        } else {
            wakes.push(call);
        }
    }

    pub fn wake(&self) {
        let calls = std::mem::take(&mut *self.wakes.lock().unwrap_or_else(PoisonError::into_inner));
        for call in calls {
            call();
        }
    }

    /// Runs a stage on its own thread, confined by [`sandbox::enter`]: what it needs is open already, but for what is below
    /// the directory `kept`. Its error or panic becomes the conversion's failure.
    pub fn spawn(
        self: &std::sync::Arc<Self>,
        name: &str,
        stage: Stage,
        kept: Option<OwnedFd>,
        run: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<JoinHandle<()>> {
        let shared = std::sync::Arc::clone(self);
        std::thread::Builder::new()
            .name(format!("ferry-{name}"))
            .stack_size(512 << 10)
            .spawn(move || {
                let confined = || sandbox::enter(kept.as_ref().map(AsFd::as_fd)).and_then(|()| run());
                match catch_unwind(AssertUnwindSafe(confined)) {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => shared.fail(error),
                    Err(payload) => shared.fail(Error::panicked(stage, &*payload)),
                }
            })
            .map_err(|e| Error::target(format_args!("starting the {name} thread"), &e))
    }
}

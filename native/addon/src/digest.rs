//! The disk digest of what is on a file or device.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diskferry_engine::error::{Code, Error, Stage};
use diskferry_engine::{digest, targets};
use napi::bindgen_prelude::{Env, FnArgs, Function, Object};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;

use crate::offset::whole;
use crate::promise::settle;

#[napi(object)]
pub struct Verified {
    pub disk_digest: String,
    pub bytes: f64,
}

/// Asks a reading, or a program, that was begun with it to end.
#[napi]
#[derive(Default)]
pub struct Stop {
    pub(crate) stopped: Arc<AtomicBool>,
}

#[napi]
impl Stop {
    #[napi(constructor, catch_unwind)]
    pub fn new() -> Self {
        Self::default()
    }

    /// May be called twice, and before or after the reading.
    #[napi(catch_unwind)]
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

type OnProgress = ThreadsafeFunction<FnArgs<(f64, f64)>, (), FnArgs<(f64, f64)>, napi::Status, false>;

/// Disk digest of the first `length` bytes of a file or device. `on_progress` gets the bytes that are done, and all. Fails
/// with ABORTED soon after `stop` was told.
#[napi(catch_unwind)]
pub fn disk_digest(
    env: &Env,
    path: String,
    length: Option<f64>,
    on_progress: Function<'_, FnArgs<(f64, f64)>, ()>,
    stop: &Stop,
) -> napi::Result<Object<'static>> {
    let length = length.map(whole).transpose()?;
    let call: OnProgress = on_progress.build_threadsafe_function().build()?;
    let stopped = Arc::clone(&stop.stopped);
    settle(env, "verify", move || {
        let access = targets::Access { write: false, direct: true };
        let target = targets::open_with(std::path::Path::new(&path), access)?;
        let total = length.unwrap_or(target.facts().length);
        if total > target.facts().length {
            let what = format!("{path} has {} bytes, {total} were to be verified", target.facts().length);
            return Err(Error::new(Code::Truncated, Stage::Verify, what));
        }
        let mut last = std::time::Instant::now();
        let mut done = 0;
        let hash = digest::of_target(&*target, total, &|| stopped.load(Ordering::Relaxed), &mut |bytes| {
            done += bytes;
            if last.elapsed().as_millis() >= 100 {
                last = std::time::Instant::now();
                call.call((done as f64, total as f64).into(), ThreadsafeFunctionCallMode::NonBlocking);
            }
        })?;
        Ok(Verified { disk_digest: digest::to_text(&hash), bytes: total as f64 })
    })
}

//! What the kernel refuses of the confinement of the engine's threads.

use diskferry_engine::sandbox;
use napi_derive::napi;

/// A sentence where it refuses something; only the first call in a process has it.
#[napi(catch_unwind)]
pub fn sandbox_notice() -> Option<String> {
    sandbox::untold()
}

//! The confinement of the engine's threads, and of other programs.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use diskferry_engine::error::Error;
use diskferry_engine::sandbox::{self, program::Program};
use napi::bindgen_prelude::{Env, Object};
use napi_derive::napi;

use crate::digest::Stop;
use crate::errors::thrown;
use crate::promise::settle;

/// A sentence where the kernel refuses something; only the first call in a process has it.
#[napi(catch_unwind)]
pub fn sandbox_notice() -> Option<String> {
    sandbox::untold()
}

#[napi(object)]
pub struct ProgramInit {
    pub command: Vec<String>,
    /// Path of the Unix socket that is opened for it.
    pub socket: String,
    pub readable: Vec<String>,
}

#[napi(object)]
pub struct Ended {
    pub code: Option<i32>,
    pub said: String,
}

/// The promise is settled when the program has ended, by itself or by `stop`. The socket is there when this returns.
#[napi(catch_unwind)]
pub fn run_program(env: &Env, init: ProgramInit, stop: &Stop) -> napi::Result<Object<'static>> {
    let listener = UnixListener::bind(&init.socket)
        .map_err(|cause| thrown(&Error::target(format_args!("opening the socket {}", init.socket), &cause)))?;
    let stopped = Arc::clone(&stop.stopped);
    settle(env, "program", move || {
        let readable = init.readable.into_iter().map(Into::into).collect();
        let ended = Program { command: init.command, listener, readable }.run(&|| stopped.load(Ordering::Relaxed))?;
        Ok(Ended { code: ended.code, said: ended.said })
    })
}

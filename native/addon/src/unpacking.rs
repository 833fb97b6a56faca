//! A whole archive into a directory.

use std::path::PathBuf;
use std::sync::Arc;

use diskferry_engine::conversion::SourceDigest;
use diskferry_engine::unpacking::{self, Options};
use napi::bindgen_prelude::{Env, Object, Uint8ArraySlice};
use napi_derive::napi;

use crate::conversion::Progress;
use crate::errors::thrown;
use crate::intake::Intake;
use crate::limits::{LimitsInit, limits};
use crate::offset::whole;
use crate::promise::settle;
use crate::sniff::kinds;

#[napi(object)]
pub struct UnpackingInit {
    pub target: String,
    pub replace: bool,
    pub source_length: Option<f64>,
    pub digest: Option<String>,
    /// Outermost first; none = they are found out.
    pub codecs: Option<Vec<String>>,
    pub limits: LimitsInit,
}

#[napi(object)]
pub struct Unpacked {
    pub codecs: Vec<String>,
    pub entries: f64,
    pub bytes: f64,
    pub passed: f64,
    pub source_bytes: f64,
    pub source_digest: String,
}

#[napi]
pub struct Unpacking {
    inner: Arc<unpacking::Unpacking>,
    intake: Intake,
}

#[napi(catch_unwind)]
pub fn start_unpacking(env: &Env, init: UnpackingInit) -> napi::Result<Object<'static>> {
    let options = Options {
        target: PathBuf::from(init.target),
        replace: init.replace,
        source_length: init.source_length.map(whole).transpose()?,
        digest: init.digest.map(|text| SourceDigest::parse(&text)).transpose().map_err(|e| thrown(&e))?,
        codecs: init.codecs.map(kinds).transpose()?,
        limits: limits(&init.limits)?,
    };
    settle(env, "start", move || {
        let inner = Arc::new(unpacking::Unpacking::start(options)?);
        Ok(Unpacking { intake: Intake::new(inner.intake()), inner })
    })
}

#[napi]
impl Unpacking {
    #[napi(catch_unwind)]
    pub fn next(&self, env: &Env, max_ranges: u32) -> napi::Result<Object<'static>> {
        self.intake.next(env, max_ranges)
    }

    #[napi(catch_unwind)]
    pub fn push(&self, offset: f64, chunk: Uint8ArraySlice<'_>) -> napi::Result<i32> {
        self.intake.push(offset, &chunk)
    }

    #[napi(catch_unwind)]
    pub fn drained(&self, env: &Env) -> napi::Result<Object<'static>> {
        self.intake.drained(env)
    }

    #[napi(catch_unwind)]
    pub fn end(&self, length: f64) -> napi::Result<()> {
        self.intake.end(length)
    }

    #[napi(catch_unwind)]
    pub fn progress(&self) -> Progress {
        self.inner.progress().into()
    }

    #[napi(catch_unwind)]
    pub fn finish(&self, env: &Env) -> napi::Result<Object<'static>> {
        let inner = Arc::clone(&self.inner);
        settle(env, "finish", move || {
            let u = inner.finish()?;
            Ok(Unpacked {
                codecs: u.codecs.iter().map(|&name| name.to_owned()).collect(),
                entries: u.entries as f64,
                bytes: u.bytes as f64,
                passed: u.passed as f64,
                source_bytes: u.source_bytes as f64,
                source_digest: u.source_digest.to_string(),
            })
        })
    }

    #[napi(catch_unwind)]
    pub fn abort(&self, env: &Env) -> napi::Result<Object<'static>> {
        let inner = Arc::clone(&self.inner);
        settle(env, "abort", move || {
            inner.abort();
            Ok(())
        })
    }
}

//! A disk that is put together in any order.

use std::sync::{Arc, Mutex, PoisonError};

use diskferry_engine::conversion::patch::{self, LONGEST};
use diskferry_engine::digest;
use diskferry_engine::targets::Kind;
use napi::bindgen_prelude::{Env, Float64Array, Object, Uint8ArraySlice};
use napi_derive::napi;

use crate::errors::bad;
use crate::offset::whole;
use crate::promise::settle;
use crate::target::NativeTarget;

#[napi(object)]
pub struct PatchInit {
    pub identity: String,
    pub size: f64,
    pub preallocate: bool,
}

#[napi]
pub struct Patch {
    /// None once it was aborted: the lock of the target goes with the last reference.
    inner: Mutex<Option<Arc<patch::Patch>>>,
}

impl Patch {
    fn taken(&self) -> napi::Result<Arc<patch::Patch>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(|| bad("the disk is given up"))
    }
}

#[napi(catch_unwind)]
pub fn begin_patch(env: &Env, target: &NativeTarget, init: PatchInit) -> napi::Result<Object<'static>> {
    let opened = target.opened()?;
    let options = patch::Options {
        key: target.key,
        identity: init.identity,
        marked: (target.facts.kind == Kind::File).then(|| target.path.clone()),
        size: whole(init.size)?,
        preallocate: init.preallocate,
    };
    settle(env, "patch", move || Ok(Patch { inner: Mutex::new(Some(Arc::new(patch::Patch::begin(opened, options)?))) }))
}

#[napi]
impl Patch {
    /// Copies the bytes, and writes them on a thread of its own.
    #[napi(catch_unwind)]
    pub fn write(&self, env: &Env, offset: f64, bytes: Uint8ArraySlice<'_>) -> napi::Result<Object<'static>> {
        if bytes.len() > LONGEST {
            return Err(bad(format!("at most {LONGEST} bytes are written at once")));
        }
        let (inner, at, bytes) = (self.taken()?, whole(offset)?, bytes.to_vec());
        settle(env, "write", move || inner.write(at, &bytes))
    }

    #[napi(catch_unwind)]
    pub fn zero(&self, env: &Env, offset: f64, length: f64) -> napi::Result<Object<'static>> {
        let (inner, at, len) = (self.taken()?, whole(offset)?, whole(length)?);
        settle(env, "zero", move || inner.zero(at, len))
    }

    #[napi(catch_unwind)]
    pub fn flush(&self, env: &Env) -> napi::Result<Object<'static>> {
        let inner = self.taken()?;
        settle(env, "flush", move || inner.flush())
    }

    /// Pairs of offsets.
    #[napi(catch_unwind)]
    pub fn extents(&self, env: &Env) -> napi::Result<Object<'static>> {
        let inner = self.taken()?;
        settle(env, "extents", move || {
            let pairs = inner.extents()?.into_iter().flat_map(|range| [range.start as f64, range.end as f64]);
            Ok(Float64Array::new(pairs.collect()))
        })
    }

    /// The digest of the disk.
    #[napi(catch_unwind)]
    pub fn finish(&self, env: &Env) -> napi::Result<Object<'static>> {
        let inner = self.taken()?;
        settle(env, "finish", move || Ok(digest::to_text(&inner.finish()?)))
    }

    /// May be called twice, and when it is finished.
    #[napi(catch_unwind)]
    pub fn abort(&self) {
        if let Some(inner) = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take() {
            inner.abort();
        }
    }
}

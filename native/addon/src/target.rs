//! Files and devices: opened, locked, and what an earlier run left on them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use diskferry_engine::journal::{self, Recovered};
use diskferry_engine::targets::{self, Kind, Target};
use diskferry_engine::{conversion, digest, mark};
use napi::bindgen_prelude::{Env, Object, Uint8Array};
use napi_derive::napi;

use crate::errors::bad;
use crate::promise::settle;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[napi(object)]
pub struct TargetSpec {
    pub path: String,
    pub key: Uint8Array,
}

#[napi(object)]
pub struct TargetFacts {
    pub kind: String,
    pub exists: bool,
    pub length: f64,
    pub capacity: f64,
    pub logical_block: u32,
    pub foreign: Option<String>,
}

#[napi(object)]
#[derive(Default)]
pub struct RecoveredState {
    pub kind: String,
    pub identity: Option<String>,
    pub virtual_size: Option<f64>,
    pub watermark: Option<f64>,
    pub way: Option<String>,
    pub resumes: Option<u32>,
    pub disk_digest: Option<String>,
}

fn recovered_state(found: Recovered, marked: Option<mark::Mark>) -> RecoveredState {
    let kind = |kind: &str| RecoveredState { kind: kind.to_owned(), ..Default::default() };
    if let Some(mark) = marked {
        return RecoveredState {
            identity: Some(mark.identity),
            virtual_size: Some(mark.virtual_size as f64),
            disk_digest: Some(digest::to_text(&mark.disk_digest)),
            ..kind("finished")
        };
    }
    match found {
        Recovered::Nothing => kind("nothing"),
        Recovered::Foreign => kind("foreign"),
        Recovered::Started { identity, .. } => RecoveredState {
            identity,
            watermark: Some(0.0),
            resumes: Some(0),
            way: Some(String::new()),
            ..kind("checkpoint")
        },
        Recovered::Checkpoint(c) => RecoveredState {
            identity: Some(c.identity),
            virtual_size: c.virtual_size.map(|n| n as f64),
            watermark: Some(c.watermark as f64),
            way: Some(c.way),
            resumes: Some(c.resumes),
            ..kind("checkpoint")
        },
        Recovered::Finishing { finishing, identity } => RecoveredState {
            identity: Some(identity.unwrap_or_else(|| format!("blake3:{}", hex(&finishing.identity_hash)))),
            virtual_size: Some(finishing.virtual_size as f64),
            watermark: Some(0.0),
            resumes: Some(finishing.resumes),
            way: Some(String::new()),
            ..kind("finishing")
        },
    }
}

/// An opened and locked target. Fields that other files here use are `pub(crate)`: napi makes properties of public ones.
#[napi]
pub struct NativeTarget {
    pub(crate) path: PathBuf,
    pub(crate) key: [u8; 32],
    /// None once it was closed; the lock goes with the last reference.
    target: Mutex<Option<Arc<dyn Target>>>,
    pub(crate) facts: targets::Facts,
    foreign: Option<String>,
    recovered: Recovered,
    marked: Option<mark::Mark>,
}

impl NativeTarget {
    pub fn opened(&self) -> napi::Result<Arc<dyn Target>> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(|| bad("the target is closed"))
    }
}

#[napi]
impl NativeTarget {
    #[napi(getter, catch_unwind)]
    pub fn facts(&self) -> TargetFacts {
        let f = &self.facts;
        TargetFacts {
            kind: match f.kind {
                Kind::File => "file",
                Kind::Block => "block",
                Kind::Null => "null",
                Kind::Image => "image",
            }
            .to_owned(),
            exists: f.exists,
            length: f.length as f64,
            capacity: f.capacity.min(1 << 53) as f64,
            logical_block: f.logical_block,
            foreign: self.foreign.clone(),
        }
    }

    #[napi(getter, catch_unwind)]
    pub fn recovered(&self) -> RecoveredState {
        recovered_state(self.recovered.clone(), self.marked.clone())
    }

    #[napi(catch_unwind)]
    pub fn forget(&self, env: &Env) -> napi::Result<Object<'static>> {
        let target = self.opened()?;
        settle(env, "forget", move || journal::forget(&*conversion::journal_store(&target, target.facts().length)))
    }

    #[napi(catch_unwind)]
    pub fn close(&self, env: &Env) -> napi::Result<Object<'static>> {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).take();
        settle(env, "close", move || {
            drop(target);
            Ok(())
        })
    }
}

#[napi(catch_unwind)]
pub fn open_target(env: &Env, spec: TargetSpec) -> napi::Result<Object<'static>> {
    let key: [u8; 32] = spec.key.as_ref().try_into().map_err(|_| bad("the journal's key has 32 bytes"))?;
    let path = PathBuf::from(spec.path);
    settle(env, "open", move || {
        let target = targets::open(&path)?;
        let facts = target.facts().clone();
        let recovered = if facts.exists && facts.kind != Kind::Null {
            journal::recover(&*conversion::journal_store(&target, facts.length), &journal::Key::new(key))?
        } else {
            Recovered::Nothing
        };
        let begun = facts.exists && journal::was_beginning(&*conversion::journal_store(&target, facts.length))?;
        let foreign = facts.foreign.clone().filter(|_| !begun);
        let free = matches!(recovered, Recovered::Nothing);
        let marked = if facts.kind == Kind::File && free { mark::read(&path, &*target) } else { None };
        Ok(NativeTarget { path, key, target: Mutex::new(Some(target)), facts, foreign, recovered, marked })
    })
}

//! The thin N-API crate: types cross, policy does not. Every export catches panics; long work runs on threads of
//! its own, never on libuv's four. Errors cross as JSON in the message: src/dataplane/native.ts takes it apart.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use diskferry_engine::conversion::{self, Next, Pushed, SourceDigest, Way};
use diskferry_engine::error::{Code, Error, Stage};
use diskferry_engine::journal::{self, Recovered};
use diskferry_engine::limits::Limits;
use diskferry_engine::targets::{self, Kind, Target};
use diskferry_engine::{digest, mark, sniff};
use napi::bindgen_prelude::{Env, FnArgs, Function, Object, Uint8Array, Uint8ArraySlice};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;

type Deferred<T> = napi::JsDeferred<T, Box<dyn FnOnce(Env) -> napi::Result<T>>>;

/// Once, when the addon is loaded. Large blocks go back to the system as soon as they are freed: glibc would raise its
/// threshold with each one (mallopt(3), M_MMAP_THRESHOLD) and keep them.
#[napi_derive::module_init]
fn bound_memory() {
    // SAFETY: mallopt has no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 10);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

fn thrown(error: &Error) -> napi::Error {
    napi::Error::from_reason(format!(
        r#"{{"code":"{}","stage":"{}","message":"{}","retryable":{}}}"#,
        error.code.name(),
        error.stage.name(),
        escape(&error.message),
        error.retryable
    ))
}

fn bad(message: impl Into<String>) -> napi::Error {
    thrown(&Error::new(Code::BadSpec, Stage::Plan, message))
}

/// Runs `work` on a thread of its own and settles the promise with what it came to.
fn settle<T>(
    env: &Env,
    name: &str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> napi::Result<Object<'static>>
where
    T: napi::bindgen_prelude::ToNapiValue + Send + 'static,
{
    let (deferred, promise): (Deferred<T>, Object) = env.create_deferred()?;
    // The promise is handed to JavaScript at once; its lifetime is that of the call.
    let promise: Object<'static> = unsafe { std::mem::transmute(promise) };
    std::thread::Builder::new()
        .name(format!("ferry-{name}"))
        .spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                .unwrap_or_else(|payload| Err(Error::panicked(Stage::Plan, &*payload)));
            match result {
                Ok(value) => deferred.resolve(Box::new(move |_| Ok(value))),
                Err(error) => deferred.reject(thrown(&error)),
            }
        })
        .map_err(|e| napi::Error::from_reason(e.to_string()))?;
    Ok(promise)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An offset or length: JavaScript's safe integers suffice for 9 PB.
fn whole(n: f64) -> napi::Result<u64> {
    if n.is_finite() && (0.0..=9_007_199_254_740_991.0).contains(&n) && n.fract() == 0.0 {
        Ok(n as u64)
    } else {
        Err(bad("an offset is not a whole number"))
    }
}

#[napi(object)]
#[derive(Clone, Default)]
pub struct LimitsInit {
    pub virtual_size: Option<f64>,
    pub decoder_window: Option<f64>,
    pub decoder_memory: Option<f64>,
    pub hold_back: Option<f64>,
    pub workers: Option<u32>,
}

fn limits(init: &LimitsInit) -> napi::Result<Limits> {
    let mut limits = Limits::default();
    let set = |to: &mut u64, from: Option<f64>| -> napi::Result<()> {
        if let Some(n) = from {
            *to = whole(n)?;
        }
        Ok(())
    };
    set(&mut limits.virtual_size, init.virtual_size)?;
    set(&mut limits.decoder_window, init.decoder_window)?;
    set(&mut limits.decoder_memory, init.decoder_memory)?;
    set(&mut limits.hold_back, init.hold_back)?;
    if let Some(workers) = init.workers {
        limits.workers = (workers as usize).clamp(1, 64);
    }
    Ok(limits)
}

#[napi(object)]
pub struct Refusal {
    pub code: String,
    pub stage: String,
    pub message: String,
}

#[napi(object)]
pub struct Sniffed {
    pub codecs: Vec<String>,
    pub format: String,
    pub virtual_size: Option<f64>,
    pub order: String,
    pub features: Vec<String>,
    pub left_out: Vec<String>,
    pub window: f64,
    pub decoder_memory: f64,
    pub refusal: Option<Refusal>,
}

/// What the head of an image (at most 1 MiB) says.
#[napi(catch_unwind, js_name = "sniff")]
pub fn sniff_head(head: Uint8ArraySlice<'_>, source_length: Option<f64>, init: LimitsInit) -> napi::Result<Sniffed> {
    let length = source_length.map(whole).transpose()?;
    let s = sniff::sniff(&head, length, &limits(&init)?);
    Ok(Sniffed {
        codecs: s.codecs.iter().map(|c| c.name().to_owned()).collect(),
        format: s.format.name().to_owned(),
        virtual_size: s.virtual_size.map(|n| n as f64),
        order: if matches!(s.order, sniff::Order::Stream) { "stream" } else { "metadata" }.to_owned(),
        features: s.features,
        left_out: s.left_out,
        window: s.window as f64,
        decoder_memory: s.decoder_memory as f64,
        refusal: s.refusal.map(|e| Refusal {
            code: e.code.name().to_owned(),
            stage: e.stage.name().to_owned(),
            message: e.message,
        }),
    })
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
            virtual_size: Some(mark.length as f64),
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

/// An opened and locked target.
#[napi]
pub struct NativeTarget {
    path: PathBuf,
    key: [u8; 32],
    /// None once it was closed; the lock goes with the last reference.
    target: Mutex<Option<Arc<dyn Target>>>,
    facts: targets::Facts,
    foreign: Option<String>,
    recovered: Recovered,
    marked: Option<mark::Mark>,
}

impl NativeTarget {
    fn opened(&self) -> napi::Result<Arc<dyn Target>> {
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

#[napi(object)]
pub struct ConversionInit {
    /// The image's head, sniffed again: one parser, one answer.
    pub head: Uint8Array,
    pub identity: String,
    pub way: String,
    pub source_length: Option<f64>,
    pub seekable: bool,
    pub whole_source: bool,
    pub resume: bool,
    pub size: Option<f64>,
    pub preallocate: bool,
    pub digest: Option<String>,
    pub disk_digest: Option<String>,
    pub spill_directory: Option<String>,
    pub failpoint: Option<String>,
    pub limits: LimitsInit,
}

#[napi(object)]
pub struct Range {
    pub from: f64,
    pub to: Option<f64>,
}

#[napi(object)]
pub struct Progress {
    pub source_bytes: f64,
    pub disk_bytes: f64,
    pub written: f64,
    pub zeroed: f64,
    pub skipped: f64,
    pub watermark: f64,
    pub decode_starved: f64,
    pub decode_blocked: f64,
    pub decode_busy: f64,
    pub work_busy: f64,
    pub write_busy: f64,
    pub work_idle: f64,
    pub workers: u32,
    pub resumed_at: f64,
}

#[napi(object)]
pub struct Report {
    pub virtual_size: f64,
    pub source_bytes: f64,
    pub written: f64,
    pub zeroed: f64,
    pub skipped: f64,
    pub source_digest: Option<String>,
    pub disk_digest: String,
    pub reread: f64,
    pub resumes: u32,
    pub checkpoints: f64,
}

#[napi]
pub struct Conversion {
    inner: Arc<conversion::Conversion>,
    /// Calls waiting for room; guards the list.
    waiting: Arc<Mutex<Vec<Deferred<()>>>>,
}

#[napi(catch_unwind)]
pub fn start_conversion(env: &Env, target: &NativeTarget, init: ConversionInit) -> napi::Result<Object<'static>> {
    let opened = target.opened()?;
    let way = Way::from_name(&init.way).ok_or_else(|| bad("the way is not one of stream, seek, spill"))?;
    let limits = limits(&init.limits)?;
    let source_length = init.source_length.map(whole).transpose()?;
    let sniffed = sniff::sniff(&init.head, source_length, &limits);
    let options = conversion::Options {
        sniffed,
        key: target.key,
        identity: init.identity,
        marked: (target.facts.kind == Kind::File).then(|| target.path.clone()),
        way,
        source_length,
        seekable: init.seekable,
        whole_source: init.whole_source,
        resume: init.resume,
        size: init.size.map(whole).transpose()?,
        preallocate: init.preallocate,
        digest: init.digest.map(|text| SourceDigest::parse(&text)).transpose().map_err(|e| thrown(&e))?,
        disk_digest: init.disk_digest.map(|text| digest::from_text(&text)).transpose().map_err(|e| thrown(&e))?,
        spill: init.spill_directory.map(PathBuf::from),
        limits,
        failpoint: init.failpoint,
    };
    settle(env, "start", move || {
        let inner = Arc::new(conversion::Conversion::start(opened, options)?);
        let waiting: Arc<Mutex<Vec<Deferred<()>>>> = Arc::default();
        let wake = Arc::clone(&waiting);
        inner.on_room(Box::new(move || {
            for deferred in std::mem::take(&mut *wake.lock().unwrap_or_else(PoisonError::into_inner)) {
                deferred.resolve(Box::new(|_| Ok(())));
            }
        }));
        Ok(Conversion { inner, waiting })
    })
}

#[napi]
impl Conversion {
    #[napi(catch_unwind)]
    pub fn next(&self, env: &Env, max_ranges: u32) -> napi::Result<Object<'static>> {
        let (deferred, promise): (Deferred<Vec<Range>>, Object) = env.create_deferred()?;
        // As in `settle`.
        let promise: Object<'static> = unsafe { std::mem::transmute(promise) };
        ask(Arc::clone(&self.inner), max_ranges as usize, deferred);
        Ok(promise)
    }

    /// 1 = taken; 0 = full, push the same chunk after drained(); -1 = the pass is over, ask next().
    #[napi(catch_unwind)]
    pub fn push(&self, offset: f64, chunk: Uint8ArraySlice<'_>) -> napi::Result<i32> {
        match self.inner.push(offset as u64, &chunk) {
            Ok(Pushed::Taken) => Ok(1),
            Ok(Pushed::Full) => Ok(0),
            Ok(Pushed::PassOver) => Ok(-1),
            Err(error) => Err(thrown(&error)),
        }
    }

    #[napi(catch_unwind)]
    pub fn drained(&self, env: &Env) -> napi::Result<Object<'static>> {
        let (deferred, promise): (Deferred<()>, Object) = env.create_deferred()?;
        let promise: Object<'static> = unsafe { std::mem::transmute(promise) };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(deferred);
        let release = |waiting: &Mutex<Vec<Deferred<()>>>| {
            for deferred in std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner)) {
                deferred.resolve(Box::new(|_| Ok(())));
            }
        };
        if self.inner.has_room() {
            release(&self.waiting);
        } else {
            let waiting = Arc::clone(&self.waiting);
            self.inner.when_woken(Box::new(move || release(&waiting)));
        }
        Ok(promise)
    }

    #[napi(catch_unwind)]
    pub fn end(&self, length: f64) -> napi::Result<()> {
        self.inner.end(whole(length)?);
        Ok(())
    }

    #[napi(catch_unwind)]
    pub fn progress(&self) -> Progress {
        let p = self.inner.progress();
        Progress {
            source_bytes: p.source_bytes as f64,
            disk_bytes: (p.written + p.zeroed + p.skipped) as f64,
            written: p.written as f64,
            zeroed: p.zeroed as f64,
            skipped: p.skipped as f64,
            watermark: p.watermark as f64,
            decode_starved: p.decode_starved as f64,
            decode_blocked: p.decode_blocked as f64,
            decode_busy: p.decode_busy as f64,
            work_busy: p.work_busy as f64,
            write_busy: p.write_busy as f64,
            work_idle: p.work_idle as f64,
            workers: p.workers as u32,
            resumed_at: p.resumed_at as f64,
        }
    }

    #[napi(catch_unwind)]
    pub fn finish(&self, env: &Env) -> napi::Result<Object<'static>> {
        let inner = Arc::clone(&self.inner);
        settle(env, "finish", move || {
            let r = inner.finish()?;
            Ok(Report {
                virtual_size: r.virtual_size as f64,
                source_bytes: r.source_bytes as f64,
                written: r.written as f64,
                zeroed: r.zeroed as f64,
                skipped: r.skipped as f64,
                source_digest: r.source_digest.map(|d| d.to_string()),
                disk_digest: digest::to_text(&r.disk_digest),
                reread: r.reread as f64,
                resumes: r.resumes,
                checkpoints: r.checkpoints as f64,
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

/// Answers `next` now, or again when the engine has moved.
fn ask(inner: Arc<conversion::Conversion>, most: usize, deferred: Deferred<Vec<Range>>) {
    let answer = match inner.next(most) {
        Ok(Next::Wait) => return ask_later(&inner, most, deferred),
        Ok(Next::Finished) => Ok(Vec::new()),
        Ok(Next::Fetch(requests)) => {
            Ok(requests.iter().map(|r| Range { from: r.from as f64, to: r.to.map(|n| n as f64) }).collect())
        }
        Err(error) => Err(thrown(&error)),
    };
    match answer {
        Ok(ranges) => deferred.resolve(Box::new(move |_| Ok(ranges))),
        Err(error) => deferred.reject(error),
    }
}

fn ask_later(inner: &Arc<conversion::Conversion>, most: usize, deferred: Deferred<Vec<Range>>) {
    let waiting = Arc::new(Mutex::new(Some(deferred)));
    let (later, again) = (Arc::clone(&waiting), Arc::downgrade(inner));
    let retry = move || {
        let taken = later.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(deferred), Some(inner)) = (taken, again.upgrade()) {
            ask(inner, most, deferred);
        }
    };
    inner.when_woken(Box::new(retry));
    // The engine may have moved between the question and the registration.
    if inner.moved() {
        let taken = waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(deferred) = taken {
            ask(Arc::clone(inner), most, deferred);
        }
    }
}

#[napi(object)]
pub struct Verified {
    pub disk_digest: String,
    pub bytes: f64,
}

type OnProgress = ThreadsafeFunction<FnArgs<(f64, f64)>, (), FnArgs<(f64, f64)>, napi::Status, false>;

/// Disk digest of the first `length` bytes of a file or device.
#[napi(catch_unwind)]
pub fn disk_digest(
    env: &Env,
    path: String,
    length: Option<f64>,
    on_progress: Function<'_, FnArgs<(f64, f64)>, ()>,
) -> napi::Result<Object<'static>> {
    let length = length.map(whole).transpose()?;
    let call: OnProgress = on_progress.build_threadsafe_function().build()?;
    settle(env, "verify", move || {
        let access = targets::Access { write: false, direct: true };
        let target = targets::open_with(std::path::Path::new(&path), access)?;
        let total = length.unwrap_or(target.facts().length);
        if total > target.facts().length {
            let what = format!("{path} has {} bytes, {total} were to be verified", target.facts().length);
            return Err(Error::new(Code::Truncated, Stage::Verify, what));
        }
        let mut last = std::time::Instant::now();
        let hash = digest::of_target(&*target, total, &|| false, &mut |done| {
            if last.elapsed().as_millis() >= 100 {
                last = std::time::Instant::now();
                call.call((done as f64, total as f64).into(), ThreadsafeFunctionCallMode::NonBlocking);
            }
        })?;
        Ok(Verified { disk_digest: digest::to_text(&hash), bytes: total as f64 })
    })
}

//! What the head of an image says.

use std::sync::{Mutex, PoisonError};

use diskferry_engine::archives::Pick;
use diskferry_engine::codecs::Kind;
use diskferry_engine::formats::Named;
use diskferry_engine::sniff::{self, Told};
use napi::bindgen_prelude::Uint8ArraySlice;
use napi_derive::napi;

use crate::errors::{bad, thrown};
use crate::limits::{LimitsInit, limits};
use crate::offset::whole;

/// Which member of an archive is the disk: at a path, the only file of a directory, or the disk of a name or number;
/// none = the only disk. And the format of the image and the codecs around it, outermost first, where they are known.
#[napi(object)]
#[derive(Clone, Default)]
pub struct ToldInit {
    pub path: Option<String>,
    pub directory: Option<String>,
    pub disk: Option<String>,
    pub format: Option<String>,
    pub codecs: Option<Vec<String>>,
}

/// BAD_SPEC when there is no such codec.
pub fn kinds(names: Vec<String>) -> napi::Result<Vec<Kind>> {
    let kind = |name: String| Kind::from_name(&name).ok_or_else(|| bad(format!("there is no codec {name}")));
    names.into_iter().map(kind).collect()
}

/// BAD_SPEC when there is no such format or codec.
pub fn told(init: Option<ToldInit>) -> napi::Result<Told> {
    let ToldInit { path, directory, disk, format, codecs } = init.unwrap_or_default();
    let pick = match (path, directory, disk) {
        (Some(path), ..) => Pick::Path(path),
        (None, Some(directory), _) => Pick::Directory(directory),
        (None, None, Some(disk)) => Pick::Disk(disk),
        (None, None, None) => Pick::Only,
    };
    let named = |name: String| Named::parse(&name).ok_or_else(|| bad(format!("there is no format {name}")));
    Ok(Told { pick, format: format.map(named).transpose()?, codecs: codecs.map(kinds).transpose()? })
}

#[napi(object)]
pub struct Member {
    pub name: String,
    pub size: Option<f64>,
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
    pub member: Option<Member>,
    pub unseen: bool,
    pub wanted: f64,
    pub hides: bool,
    pub refusal: Option<Refusal>,
    pub bridge: Option<String>,
}

/// What the head of an image (at most 1 MiB) says.
#[napi(catch_unwind, js_name = "sniff")]
pub fn sniff_head(
    head: Uint8ArraySlice<'_>,
    source_length: Option<f64>,
    init: LimitsInit,
    known: Option<ToldInit>,
) -> napi::Result<Sniffed> {
    let length = source_length.map(whole).transpose()?;
    Ok(shown(sniff::sniff_told(&told(known)?, &head, length, &limits(&init)?)))
}

fn shown(s: sniff::Sniffed) -> Sniffed {
    Sniffed {
        codecs: s.codecs.iter().map(|c| c.name().to_owned()).collect(),
        format: s.format.to_owned(),
        virtual_size: s.virtual_size.map(|n| n as f64),
        order: if matches!(s.order, diskferry_engine::formats::Order::Stream) { "stream" } else { "metadata" }
            .to_owned(),
        features: s.features,
        left_out: s.left_out,
        window: s.window as f64,
        decoder_memory: s.decoder_memory as f64,
        member: s.member.map(|member| Member { name: member.name, size: member.size.map(|n| n as f64) }),
        unseen: s.unseen,
        wanted: s.wanted as f64,
        hides: s.hides,
        refusal: s.refusal.map(|e| Refusal {
            code: e.code.name().to_owned(),
            stage: e.stage.name().to_owned(),
            message: e.message,
        }),
        bridge: s.bridge.map(str::to_owned),
    }
}

/// Looks for the disk in an archive behind the head of its source.
#[napi]
pub struct Probe {
    looking: Mutex<Option<sniff::Probe>>,
    found: Mutex<Option<sniff::Sniffed>>,
}

#[napi]
impl Probe {
    #[napi(constructor, catch_unwind)]
    pub fn new(head: Uint8ArraySlice<'_>, init: LimitsInit, known: Option<ToldInit>) -> napi::Result<Self> {
        let limits = limits(&init)?;
        let sniffed = sniff::sniff_told(&told(known)?, &head, None, &limits);
        let probe = sniff::Probe::new(sniffed, &limits).map_err(|e| thrown(&e))?;
        Ok(Self { looking: Mutex::new(Some(probe)), found: Mutex::new(None) })
    }

    /// The next bytes of the source, from its beginning; true = enough.
    #[napi(catch_unwind)]
    pub fn push(&self, bytes: Uint8ArraySlice<'_>) -> napi::Result<bool> {
        let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        looking.as_mut().ok_or_else(|| bad("the probe has ended"))?.push(&bytes).map_err(|e| thrown(&e))
    }

    /// Whether the archive hides what is wanted in the layers below it.
    #[napi(getter)]
    pub fn hides(&self) -> bool {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(sniff::Probe::hides)
    }

    /// What is inside. `ended`: all of the source was given.
    #[napi(catch_unwind)]
    pub fn finish(&self, ended: bool) -> napi::Result<Sniffed> {
        let probe = self.looking.lock().unwrap_or_else(PoisonError::into_inner).take();
        let found = probe.ok_or_else(|| bad("the probe has ended"))?.finish(ended).map_err(|e| thrown(&e))?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
        Ok(shown(found))
    }

    pub fn found(&self) -> Option<sniff::Sniffed> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

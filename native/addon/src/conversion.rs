//! A transfer under way: what to fetch, what was fetched, how far it came.

use std::path::PathBuf;
use std::sync::Arc;

use diskferry_engine::conversion::{self, SourceDigest, Way};
use diskferry_engine::targets::qcow2::{self, Compression, Qcow2Target};
use diskferry_engine::targets::{Kind, Target};
use diskferry_engine::{digest, sniff};
use napi::bindgen_prelude::{Env, Float64Array, Object, Uint8Array, Uint8ArraySlice};
use napi_derive::napi;

use crate::errors::{bad, thrown};
use crate::extents::extents;
use crate::intake::Intake;
use crate::limits::{LimitsInit, limits};
use crate::offset::whole;
use crate::promise::settle;
use crate::sniff::{Probe, ToldInit, told};
use crate::target::NativeTarget;

#[napi(object)]
pub struct ConversionInit {
    /// The image's head, sniffed again: one parser, one answer.
    pub head: Uint8Array,
    pub told: Option<ToldInit>,
    pub identity: String,
    pub way: String,
    pub source_length: Option<f64>,
    pub seekable: bool,
    /// Pairs of offsets: where a raw source can have data.
    pub extents: Option<Float64Array>,
    /// What the extents leave out stays as it is on the target.
    pub onto: bool,
    pub whole_source: bool,
    pub resume: bool,
    pub size: Option<f64>,
    pub preallocate: bool,
    /// Write a qcow2 file in place of a disk.
    pub qcow2: Option<Qcow2Init>,
    pub digest: Option<String>,
    pub disk_digest: Option<String>,
    pub spill_directory: Option<String>,
    /// A file for what must be remembered of a source that cannot be read again.
    pub kept: Option<String>,
    pub failpoint: Option<String>,
    pub limits: LimitsInit,
}

#[napi(object)]
pub struct Qcow2Init {
    pub cluster: f64,
    /// 'zlib' or 'zstd'.
    pub compression: Option<String>,
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

impl From<conversion::Progress> for Progress {
    fn from(p: conversion::Progress) -> Self {
        Self {
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
}

#[napi]
pub struct Conversion {
    inner: Arc<conversion::Conversion>,
    intake: Intake,
}

#[napi(catch_unwind)]
pub fn start_conversion(
    env: &Env,
    target: &NativeTarget,
    init: ConversionInit,
    probe: Option<&Probe>,
) -> napi::Result<Object<'static>> {
    let opened = target.opened()?;
    let way = Way::from_name(&init.way).ok_or_else(|| bad("the way is not one of stream, seek, spill"))?;
    let limits = limits(&init.limits)?;
    let source_length = init.source_length.map(whole).transpose()?;
    let told = told(init.told)?;
    let sniffed =
        probe.and_then(Probe::found).unwrap_or_else(|| sniff::sniff_told(&told, &init.head, source_length, &limits));
    let size = init.size.map(whole).transpose()?;
    let image = init.qcow2.map(qcow2_spec).transpose()?;
    let (path, disk) = (target.path.clone(), size.or(sniffed.virtual_size).map(qcow2::whole_sectors));
    let options = conversion::Options {
        sniffed,
        key: target.key,
        identity: init.identity,
        marked: (target.facts.kind == Kind::File).then(|| target.path.clone()),
        way,
        source_length,
        seekable: init.seekable,
        extents: init.extents.map(|pairs| extents(&pairs)).transpose()?,
        onto: init.onto,
        whole_source: init.whole_source,
        kept: init.kept.map(|path| conversion::Keeping { path: PathBuf::from(path), head: init.head.to_vec() }),
        resume: init.resume,
        size,
        preallocate: init.preallocate,
        digest: init.digest.map(|text| SourceDigest::parse(&text)).transpose().map_err(|e| thrown(&e))?,
        disk_digest: init.disk_digest.map(|text| digest::from_text(&text)).transpose().map_err(|e| thrown(&e))?,
        spill: init.spill_directory.map(PathBuf::from),
        limits,
        failpoint: init.failpoint,
    };
    settle(env, "start", move || {
        let opened: Arc<dyn Target> = match image {
            Some(spec) => Arc::new(Qcow2Target::begin(&path, opened, spec, disk)?),
            None => opened,
        };
        let inner = Arc::new(conversion::Conversion::start(opened, options)?);
        Ok(Conversion { intake: Intake::new(inner.intake()), inner })
    })
}

fn qcow2_spec(init: Qcow2Init) -> napi::Result<qcow2::Spec> {
    let named =
        |name: String| Compression::from_name(&name).ok_or_else(|| bad("a qcow2 is compressed by zlib or zstd"));
    Ok(qcow2::Spec { cluster: whole(init.cluster)?, compression: init.compression.map(named).transpose()? })
}

#[napi]
impl Conversion {
    #[napi(catch_unwind)]
    pub fn next(&self, env: &Env, max_ranges: u32) -> napi::Result<Object<'static>> {
        self.intake.next(env, max_ranges)
    }

    /// 1 = taken; 0 = full, push the same chunk after drained(); -1 = the pass is over, ask next().
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

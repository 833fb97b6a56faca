//! What to fetch, and what was fetched: the same for every kind of transfer.

use std::sync::{Arc, Mutex, PoisonError};

use diskferry_engine::conversion::{self, Next, Pushed};
use napi::bindgen_prelude::{Env, Object};
use napi_derive::napi;

use crate::errors::thrown;
use crate::offset::whole;
use crate::promise::{Deferred, promise};

#[napi(object)]
pub struct Range {
    pub from: f64,
    pub to: Option<f64>,
}

/// Calls waiting for room; guards the list.
type Waiting = Arc<Mutex<Vec<Deferred<()>>>>;

pub struct Intake {
    inner: conversion::Intake,
    waiting: Waiting,
}

fn release(waiting: &Waiting) {
    for deferred in std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner)) {
        deferred.resolve(Box::new(|_| Ok(())));
    }
}

impl Intake {
    pub fn new(inner: &conversion::Intake) -> Self {
        let waiting = Waiting::default();
        let wake = Arc::clone(&waiting);
        inner.on_room(Box::new(move || release(&wake)));
        Self { inner: inner.clone(), waiting }
    }

    pub fn next(&self, env: &Env, max_ranges: u32) -> napi::Result<Object<'static>> {
        let (deferred, promise) = promise(env)?;
        ask(&self.inner, max_ranges as usize, deferred);
        Ok(promise)
    }

    pub fn push(&self, offset: f64, chunk: &[u8]) -> napi::Result<i32> {
        match self.inner.push(offset as u64, chunk) {
            Ok(Pushed::Taken) => Ok(1),
            Ok(Pushed::Full) => Ok(0),
            Ok(Pushed::PassOver) => Ok(-1),
            Err(error) => Err(thrown(&error)),
        }
    }

    pub fn drained(&self, env: &Env) -> napi::Result<Object<'static>> {
        let (deferred, promise) = promise(env)?;
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(deferred);
        if self.inner.has_room() {
            release(&self.waiting);
        } else {
            let waiting = Arc::clone(&self.waiting);
            self.inner.when_woken(Box::new(move || release(&waiting)));
        }
        Ok(promise)
    }

    pub fn end(&self, length: f64) -> napi::Result<()> {
        self.inner.end(whole(length)?);
        Ok(())
    }
}

/// Answers `next` now, or again when the engine has moved.
fn ask(inner: &conversion::Intake, most: usize, deferred: Deferred<Vec<Range>>) {
    let answer = match inner.next(most) {
        Ok(Next::Wait) => return ask_later(inner, most, deferred),
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

fn ask_later(inner: &conversion::Intake, most: usize, deferred: Deferred<Vec<Range>>) {
    let waiting = Arc::new(Mutex::new(Some(deferred)));
    let (later, again) = (Arc::clone(&waiting), inner.clone());
    let retry = move || {
        let taken = later.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(deferred) = taken {
            ask(&again, most, deferred);
        }
    };
    inner.when_woken(Box::new(retry));
    // The engine may have moved between the question and the registration.
    if inner.moved() {
        let taken = waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(deferred) = taken {
            ask(inner, most, deferred);
        }
    }
}

//! Where sources have data.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use diskferry_engine::extents;
use napi::bindgen_prelude::{Env, Float64Array, Object};
use napi_derive::napi;

use crate::errors::bad;
use crate::offset::whole;
use crate::promise::settle;

/// Most extents of one answer: 1 MiB.
const MOST: usize = 1 << 16;

/// Ranges from pairs of offsets. BAD_SPEC when they are no pairs of safe integers.
pub fn extents(pairs: &[f64]) -> napi::Result<Vec<Range<u64>>> {
    if !pairs.len().is_multiple_of(2) {
        return Err(bad("extents are pairs of offsets"));
    }
    pairs.chunks_exact(2).map(|pair| Ok(whole(pair[0])?..whole(pair[1])?)).collect()
}

/// Pairs of offsets: data of the open file `fd` within `[from, to)`, ascending, `most` extents at most. `fd` must stay open
/// until the answer.
#[napi(catch_unwind)]
pub fn file_extents(env: &Env, fd: i32, from: f64, to: f64, most: u32) -> napi::Result<Object<'static>> {
    let (from, to) = (whole(from)?, whole(to)?);
    if fd < 0 {
        return Err(bad("no open file"));
    }
    // SAFETY: the caller keeps the file open until the promise is settled.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    settle(env, "extents", move || Ok(pairs(&extents::data(file, from, to, (most as usize).min(MOST))?)))
}

/// Pairs of offsets: grains of `grain` bytes of the open file `fd` in `[from, to)` that are not all zero, ascending; all of it
/// is read. `fd` must stay open until the answer.
#[napi(catch_unwind)]
pub fn file_nonzero(env: &Env, fd: i32, from: f64, to: f64, grain: u32) -> napi::Result<Object<'static>> {
    let (from, to) = (whole(from)?, whole(to)?);
    if fd < 0 {
        return Err(bad("no open file"));
    }
    // SAFETY: the caller keeps the file open until the promise is settled.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    settle(env, "zeros", move || Ok(pairs(&extents::nonzero(file, from, to, grain as usize)?)))
}

fn pairs(extents: &[Range<u64>]) -> Float64Array {
    Float64Array::new(extents.iter().flat_map(|x| [x.start as f64, x.end as f64]).collect())
}

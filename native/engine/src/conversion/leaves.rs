//! Pieces smaller than a leaf of the disk digest (images with clusters below 64 KiB) are gathered here until the
//! leaf is whole, so that writes stay large and aligned and each leaf is hashed once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use crate::bytes::Aligned;
use crate::digest::LEAF;

/// Grain in which coverage is counted: the smallest cluster (qcow2: cluster_bits >= 9).
const SECTOR: u64 = 512;
/// Leaves with data that are gathered at once: 4 MiB.
const MOST_BUFFERS: usize = 64;
/// Leaves of which only zero parts are known yet.
const MOST_ENTRIES: usize = 8192;

struct Partial {
    /// One bit a sector: known.
    known: u128,
    /// One bit a sector: known and not zero by the image's own word.
    data: u128,
    buffer: Option<Aligned>,
    touched: u64,
}

/// A leaf that leaves the gathering.
pub struct Gathered {
    pub leaf: u64,
    pub buffer: Option<Aligned>,
    /// Sectors that hold data; with `whole`, all others are zeros, else they belong to nobody yet.
    pub data: u128,
    pub zero: u128,
    pub whole: bool,
}

#[derive(Default)]
struct State {
    partial: HashMap<u64, Partial>,
    buffers: usize,
    clock: u64,
}

#[derive(Default)]
pub struct Leaves {
    /// Guards the leaves being gathered; held while at most one leaf is copied.
    state: Mutex<State>,
    /// Read-held by a worker from `add` until the leaf that left is written; write-held by `drain`, so that a
    /// checkpoint sees no leaf that is neither here nor on the target.
    leaving: RwLock<()>,
}

fn mask(from: u64, to: u64) -> u128 {
    let (first, last) = (from / SECTOR, to.div_ceil(SECTOR));
    let ones = if last - first >= 128 { u128::MAX } else { (1u128 << (last - first)) - 1 };
    ones << first
}

fn gathered(leaf: u64, p: Partial, whole: bool) -> Gathered {
    Gathered { leaf, buffer: p.buffer, data: p.data, zero: p.known & !p.data, whole }
}

impl Leaves {
    /// Adds a part of one leaf (`from` within the leaf; `data` None for zeros). `leaf_len` is 64 KiB, or less for the
    /// disk's last leaf. Answers a leaf to be written: this one when it is whole, or an old one that makes room.
    pub fn add(&self, leaf: u64, leaf_len: u64, from: u64, len: u64, data: Option<&[u8]>) -> Option<Gathered> {
        // A part is written in whole sectors: one that began within a sector would put zeros over what is in front of it.
        assert!(from.is_multiple_of(SECTOR), "a part of leaf {leaf} begins at {from}, within a sector");
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let clock = state.clock;
        let mut new_buffer = false;
        let partial =
            state.partial.entry(leaf).or_insert_with(|| Partial { known: 0, data: 0, buffer: None, touched: clock });
        partial.touched = clock;
        let bits = mask(from, from + len);
        partial.known |= bits;
        if let Some(data) = data {
            partial.data |= bits;
            let buffer = partial.buffer.get_or_insert_with(|| {
                new_buffer = true;
                Aligned::zeroed(LEAF as usize)
            });
            buffer[from as usize..(from + len) as usize].copy_from_slice(data);
        }
        let whole = partial.known & mask(0, leaf_len) == mask(0, leaf_len);
        state.buffers += usize::from(new_buffer);
        let leaving = if whole {
            Some(leaf)
        } else if state.buffers > MOST_BUFFERS {
            state
                .partial
                .iter()
                .filter(|(_, p)| p.buffer.is_some())
                .min_by_key(|(_, p)| p.touched)
                .map(|(leaf, _)| *leaf)
        } else if state.partial.len() > MOST_ENTRIES {
            state.partial.iter().min_by_key(|(_, p)| p.touched).map(|(leaf, _)| *leaf)
        } else {
            None
        }?;
        let partial = state.partial.remove(&leaving)?;
        state.buffers -= usize::from(partial.buffer.is_some());
        Some(gathered(leaving, partial, whole))
    }

    /// To be held around `add` and the writing of what it answers.
    pub fn leaving(&self) -> RwLockReadGuard<'_, ()> {
        self.leaving.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that is being gathered, before a checkpoint and at the end.
    pub fn drain(&self) -> Vec<Gathered> {
        let _none_leaves = self.leaving.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.buffers = 0;
        std::mem::take(&mut state.partial).into_iter().map(|(leaf, p)| gathered(leaf, p, false)).collect()
    }
}

//! The disk digest: a Merkle tree over the raw content of a disk, the same whatever image format it came from,
//! in which zeros cost nothing. The definition for others to follow is docs/disk-digest.md.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::error::{Code, Error, Result, Stage};
use crate::zeros::is_zero;

mod reading;

pub use reading::{of_target, recompute};

/// Bytes of a leaf; the last leaf of a disk may be shorter.
pub const LEAF: u64 = 65536;
/// Leaves of a group, the unit that is kept as one hash once it is complete: 64 MiB of disk.
pub const GROUP_LEAVES: usize = 1024;
const GROUP: u64 = GROUP_LEAVES as u64;
/// Levels of the tree inside a whole group.
const GROUP_DEPTH: u32 = GROUP_LEAVES.ilog2();
/// What stands for a leaf that is all zero, and for a node above nothing but zeros.
pub const ZERO: Hash = [0; 32];

pub type Hash = [u8; 32];

// Setting up a derive-key hasher costs as much as a node, so each is set up once and cloned.
static LEAF_HASHER: LazyLock<blake3::Hasher> =
    LazyLock::new(|| blake3::Hasher::new_derive_key("diskferry 2026 disk digest leaf v1"));
static NODE_HASHER: LazyLock<blake3::Hasher> =
    LazyLock::new(|| blake3::Hasher::new_derive_key("diskferry 2026 disk digest node v1"));
static ROOT_HASHER: LazyLock<blake3::Hasher> =
    LazyLock::new(|| blake3::Hasher::new_derive_key("diskferry 2026 disk digest root v1"));

/// The value of a leaf of at most [`LEAF`] bytes: [`ZERO`] if all of it is zero.
pub fn leaf_hash(bytes: &[u8]) -> Hash {
    if is_zero(bytes) { ZERO } else { *LEAF_HASHER.clone().update(bytes).finalize().as_bytes() }
}

fn node(left: &Hash, right: &Hash) -> Hash {
    if *left == ZERO && *right == ZERO {
        return ZERO;
    }
    *NODE_HASHER.clone().update(left).update(right).finalize().as_bytes()
}

/// The value over `leaves`, padded with zeros to 2^`depth` of them.
fn tree(leaves: &[Hash], depth: u32) -> Hash {
    let mut level = leaves.to_vec();
    level.resize(1 << depth, ZERO);
    while level.len() > 1 {
        level = level.as_chunks::<2>().0.iter().map(|[left, right]| node(left, right)).collect();
    }
    level[0]
}

/// `dd1:` and 64 hexadecimal digits.
pub fn to_text(digest: &Hash) -> String {
    format!("dd1:{}", blake3::Hash::from_bytes(*digest).to_hex())
}

/// Reads what [`to_text`] writes; the case of the digits does not matter.
pub fn from_text(text: &str) -> Result<Hash> {
    let digits = text.strip_prefix("dd1:").and_then(|hex| blake3::Hash::from_hex(hex).ok());
    digits.map(|hash| *hash.as_bytes()).ok_or_else(|| {
        let message = "a disk digest is written dd1: and 64 hexadecimal digits";
        Error::new(Code::BadSpec, Stage::Plan, message)
    })
}

fn leaves_of(length: u64) -> u64 {
    length.div_ceil(LEAF)
}

/// Levels of the smallest binary tree that has `count` places.
fn depth_of(count: u64) -> u32 {
    count.max(1).next_power_of_two().ilog2()
}

/// A group of which some leaves are not known yet.
struct Open {
    hashes: Box<[Hash]>,
    known: [u64; GROUP_LEAVES / 64],
    count: usize,
    /// The tick of the last change, for choosing the one to give up.
    touched: u64,
}

impl Open {
    fn new() -> Self {
        Self { hashes: vec![ZERO; GROUP_LEAVES].into(), known: [0; GROUP_LEAVES / 64], count: 0, touched: 0 }
    }

    fn knows(&self, leaf: usize) -> bool {
        self.known[leaf / 64] >> (leaf % 64) & 1 == 1
    }

    fn set(&mut self, leaf: usize, hash: Hash) {
        self.count += usize::from(!self.knows(leaf));
        self.known[leaf / 64] |= 1 << (leaf % 64);
        self.hashes[leaf] = hash;
    }

    fn forget(&mut self, leaf: usize) {
        self.count -= usize::from(self.knows(leaf));
        self.known[leaf / 64] &= !(1 << (leaf % 64));
    }
}

/// Complete groups: the hash of each, or how far a run of zero groups reaches.
#[derive(Clone, Copy)]
struct Run {
    end: u64,
    hash: Hash,
}

struct State {
    /// First group → run. Runs do not overlap; only runs of zero groups are longer than one group.
    complete: BTreeMap<u64, Run>,
    open: BTreeMap<u64, Open>,
    /// One past the highest leaf that was not zero.
    data_end: u64,
    tick: u64,
}

/// The tree of a disk while its leaves become known, in any order, by any number of threads.
///
/// A complete group takes 32 bytes and a run of zero groups nothing, so a sparse disk of 64 TiB is tiny and a
/// full disk costs about 0.7 MiB a TiB. An open group takes 32 KiB.
pub struct DiskDigest {
    length: Option<u64>,
    max_open_groups: usize,
    /// Guards the groups; held for as long as it takes to note the leaves of one call and to fold a group.
    state: Mutex<State>,
}

impl DiskDigest {
    /// `length` of the disk in bytes if it is known already. Every leaf begins as unknown. Of the groups that
    /// are not complete at most `max_open_groups` are kept; the one that was touched longest ago is given up
    /// first, to be computed again from the target.
    pub fn new(length: Option<u64>, max_open_groups: usize) -> Self {
        let state = State { complete: BTreeMap::new(), open: BTreeMap::new(), data_end: 0, tick: 0 };
        Self { length, max_open_groups: max_open_groups.max(1), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many leaves a disk has at most, as far as is known.
    fn leaves(&self) -> u64 {
        leaves_of(self.length.unwrap_or(u64::MAX))
    }

    /// The values of the leaves from `first_leaf` on. Ignored where the group is complete already, and beyond
    /// the end of the disk.
    pub fn set(&self, first_leaf: u64, hashes: &[Hash]) {
        let room = usize::try_from(self.leaves().saturating_sub(first_leaf)).unwrap_or(usize::MAX);
        let mut hashes = &hashes[..hashes.len().min(room)];
        let mut leaf = first_leaf;
        let mut state = self.lock();
        while !hashes.is_empty() {
            let within = (leaf % GROUP) as usize;
            let (now, rest) = hashes.split_at(hashes.len().min(GROUP_LEAVES - within));
            if let Some(data) = now.iter().rposition(|hash| *hash != ZERO) {
                state.data_end = state.data_end.max(leaf + data as u64 + 1);
            }
            self.fill(&mut state, leaf / GROUP, within, now.iter().copied());
            leaf += now.len() as u64;
            hashes = rest;
        }
    }

    /// `count` leaves from `first_leaf` on are zero. Whole groups are noted as one run, however many there are.
    pub fn set_zero(&self, first_leaf: u64, count: u64) {
        let end = first_leaf.saturating_add(count).min(self.leaves());
        let mut leaf = first_leaf;
        let mut state = self.lock();
        while leaf < end {
            let group = leaf / GROUP;
            // The last group is whole although it is short, when the end of the disk is known.
            let whole = if end == self.leaves() { end.div_ceil(GROUP) } else { end / GROUP };
            if leaf.is_multiple_of(GROUP) && whole > group {
                state.open.retain(|index, _| !(group..whole).contains(index));
                state.complete_zero(group..whole);
                leaf = whole * GROUP;
            } else {
                let upto = ((group + 1) * GROUP).min(end);
                self.fill(&mut state, group, (leaf % GROUP) as usize, (leaf..upto).map(|_| ZERO));
                leaf = upto;
            }
        }
    }

    fn fill(&self, state: &mut State, group: u64, from: usize, hashes: impl Iterator<Item = Hash>) {
        if state.run_of(group).is_some() {
            return;
        }
        state.tick += 1;
        let open = state.open.entry(group).or_insert_with(Open::new);
        open.touched = state.tick;
        for (leaf, hash) in (from..GROUP_LEAVES).zip(hashes) {
            open.set(leaf, hash);
        }
        // The tree of a disk of less than a group is not as deep as a group, so its leaves are kept to the end.
        let needed = if self.leaves() < GROUP { GROUP } else { self.leaves().saturating_sub(group * GROUP).min(GROUP) };
        if open.count as u64 == needed {
            let hash = tree(&open.hashes[..needed as usize], GROUP_DEPTH);
            state.open.remove(&group);
            state.complete_group(group, hash);
        } else {
            state.give_up_beyond(self.max_open_groups);
        }
    }

    /// The leaf must be computed again from the target, because it was written again. Of a complete group that
    /// is not all zero, every leaf has to be.
    pub fn forget(&self, leaf: u64) {
        let group = leaf / GROUP;
        let mut state = self.lock();
        match state.take_group(group) {
            Some(hash) if hash == ZERO => {
                let here = self.leaves().saturating_sub(group * GROUP).min(GROUP) as usize;
                let but_one = |skip: usize| (0..here).filter(move |index| *index != skip);
                let mut open = Open::new();
                but_one((leaf % GROUP) as usize).for_each(|index| open.set(index, ZERO));
                state.tick += 1;
                open.touched = state.tick;
                state.open.insert(group, open);
                state.give_up_beyond(self.max_open_groups);
            }
            Some(_) => {}
            None => {
                if let Some(open) = state.open.get_mut(&group) {
                    open.forget((leaf % GROUP) as usize);
                }
            }
        }
    }

    /// Ranges of leaves of a disk of `length` bytes that are not known, ascending.
    pub fn missing(&self, length: u64) -> Vec<Range<u64>> {
        self.lock().missing(leaves_of(length))
    }

    /// The digest of the disk, which is `length` bytes long. CORRUPT if a leaf is unknown or lies beyond the end.
    pub fn finish(&self, length: u64) -> Result<Hash> {
        let fail = |message: String| Err(Error::new(Code::Corrupt, Stage::Verify, message));
        let leaves = leaves_of(length);
        let state = self.lock();
        if let Some(other) = self.length.filter(|other| *other != length) {
            return fail(format!("the disk was announced with {other} bytes and has {length}"));
        }
        let unknown: u64 = state.missing(leaves).iter().map(|range| range.end - range.start).sum();
        if unknown > 0 {
            return fail(format!("{unknown} of {leaves} blocks of the disk were never hashed"));
        }
        let folded = leaves < GROUP && state.run_of(0).is_some_and(|(_, run)| run.hash != ZERO);
        if state.data_end > leaves || folded {
            return fail(format!("the disk has {leaves} blocks of 64 KiB, but more were hashed"));
        }
        let groups = leaves.div_ceil(GROUP);
        let depth = if groups <= 1 { depth_of(leaves) } else { GROUP_DEPTH };
        // Only the last group can be open still: it is short, and its length may not have been known before.
        let short = groups.checked_sub(1).and_then(|last| Some((last * GROUP, state.open.get(&last)?)));
        let last = short.map(|(first, open)| tree(&open.hashes[..(leaves - first) as usize], depth));
        let top = if groups == 0 { ZERO } else { state.subtree(0, depth_of(groups), groups, last) };
        Ok(*ROOT_HASHER.clone().update(&length.to_le_bytes()).update(&top).finalize().as_bytes())
    }

    /// The complete groups, for a checkpoint, in at most `max_bytes`; what has no room is left out, from the end
    /// of the disk, and will have to be computed again. Layout: 1 (version); data_end; then for each run: groups
    /// skipped since the last run, groups in it times two plus one if a hash of 32 bytes follows (else they are
    /// zero). Numbers are LEB128.
    pub fn complete_groups(&self, max_bytes: usize) -> Vec<u8> {
        let state = self.lock();
        let mut out = vec![1];
        put_number(&mut out, state.data_end);
        let mut reached = 0;
        for (first, run) in &state.complete {
            let before = out.len();
            put_number(&mut out, first - reached);
            put_number(&mut out, (run.end - first) << 1 | u64::from(run.hash != ZERO));
            if run.hash != ZERO {
                out.extend_from_slice(&run.hash);
            }
            if out.len() > max_bytes {
                out.truncate(before);
                break;
            }
            reached = run.end;
        }
        if out.len() > max_bytes { Vec::new() } else { out }
    }

    /// Takes up what [`Self::complete_groups`] gave, in place of all that is known. Nothing is changed when it
    /// fails: CORRUPT. No bytes at all stand for no groups.
    pub fn restore(&self, bytes: &[u8]) -> Result<()> {
        let damaged = || Error::new(Code::Corrupt, Stage::Verify, "the digest in the checkpoint is damaged");
        let limit = leaves_of(self.length.unwrap_or(u64::MAX)).div_ceil(GROUP);
        let mut restored = State { complete: BTreeMap::new(), open: BTreeMap::new(), data_end: 0, tick: 0 };
        if let Some((version, mut rest)) = bytes.split_first() {
            if *version != 1 {
                return Err(damaged());
            }
            restored.data_end = take_number(&mut rest).ok_or_else(damaged)?;
            let mut reached: u64 = 0;
            while !rest.is_empty() {
                let skipped = take_number(&mut rest).ok_or_else(damaged)?;
                let run = take_number(&mut rest).ok_or_else(damaged)?;
                let first = reached.checked_add(skipped).ok_or_else(damaged)?;
                let end =
                    first.checked_add(run >> 1).filter(|end| *end <= limit && *end > first).ok_or_else(damaged)?;
                if run & 1 == 0 {
                    restored.complete_zero(first..end);
                } else {
                    let (hash, after) = rest.split_first_chunk::<32>().ok_or_else(damaged)?;
                    if run >> 1 != 1 || *hash == ZERO {
                        return Err(damaged());
                    }
                    restored.complete_group(first, *hash);
                    rest = after;
                }
                reached = end;
            }
        }
        *self.lock() = restored;
        Ok(())
    }
}

impl State {
    /// The run of complete groups that `group` is in.
    fn run_of(&self, group: u64) -> Option<(u64, Run)> {
        let (first, run) = self.complete.range(..=group).next_back()?;
        (group < run.end).then_some((*first, *run))
    }

    /// Gives up the open group that was touched longest ago if there are more than `most`.
    fn give_up_beyond(&mut self, most: usize) {
        let oldest = self.open.iter().min_by_key(|(_, open)| open.touched).map(|(index, _)| *index);
        if let Some(index) = oldest.filter(|_| self.open.len() > most) {
            self.open.remove(&index);
        }
    }

    fn complete_group(&mut self, group: u64, hash: Hash) {
        if hash == ZERO {
            self.complete_zero(group..group + 1);
        } else {
            self.complete.insert(group, Run { end: group + 1, hash });
        }
    }

    /// Notes zero groups where nothing is complete yet, joined with the zero runs around them.
    fn complete_zero(&mut self, groups: Range<u64>) {
        let mut at = groups.start;
        while at < groups.end {
            if let Some((_, run)) = self.run_of(at) {
                at = run.end;
                continue;
            }
            let next = self.complete.range(at..).next().map(|(first, run)| (*first, *run));
            let mut end = next.map_or(groups.end, |(first, _)| first.min(groups.end));
            let reached = end;
            if let Some((first, run)) = next.filter(|(first, run)| *first == end && run.hash == ZERO) {
                self.complete.remove(&first);
                end = run.end;
            }
            let before = at.checked_sub(1).and_then(|before| self.run_of(before)).filter(|(_, run)| run.hash == ZERO);
            let first = before.map_or(at, |(first, _)| first);
            self.complete.insert(first, Run { end, hash: ZERO });
            at = reached;
        }
    }

    /// Makes a complete group unknown and gives its hash.
    fn take_group(&mut self, group: u64) -> Option<Hash> {
        let (first, run) = self.run_of(group)?;
        self.complete.remove(&first);
        if first < group {
            self.complete.insert(first, Run { end: group, ..run });
        }
        if group + 1 < run.end {
            self.complete.insert(group + 1, run);
        }
        Some(run.hash)
    }

    fn missing(&self, leaves: u64) -> Vec<Range<u64>> {
        let mut missing: Vec<Range<u64>> = Vec::new();
        let mut add = |from: u64, to: u64| {
            let to = to.min(leaves);
            match missing.last_mut() {
                _ if from >= to => {}
                Some(last) if last.end == from => last.end = to,
                _ => missing.push(from..to),
            }
        };
        let groups = leaves.div_ceil(GROUP);
        let end = std::iter::once((&groups, groups));
        let mut at = 0;
        for (first, next) in self.complete.range(..groups).map(|(first, run)| (first, run.end)).chain(end) {
            for (index, open) in self.open.range(at..*first.max(&at)) {
                add(at * GROUP, index * GROUP);
                for leaf in (0..GROUP_LEAVES).filter(|leaf| !open.knows(*leaf)) {
                    add(index * GROUP + leaf as u64, index * GROUP + leaf as u64 + 1);
                }
                at = index + 1;
            }
            add(at * GROUP, *first * GROUP);
            at = next;
        }
        missing
    }

    /// The node over the groups `[first, first + 2^level)` of `groups`, all of which are known; `last` is the
    /// value of the last one if it is not among the complete ones.
    fn subtree(&self, first: u64, level: u32, groups: u64, last: Option<Hash>) -> Hash {
        let end = groups.min(first + (1 << level));
        if first >= end {
            return ZERO;
        }
        match self.run_of(first) {
            Some((_, run)) if run.hash == ZERO && run.end >= end => ZERO,
            Some((_, run)) if level == 0 => run.hash,
            None if level == 0 => last.unwrap_or(ZERO),
            _ => {
                let left = self.subtree(first, level - 1, groups, last);
                node(&left, &self.subtree(first + (1 << (level - 1)), level - 1, groups, last))
            }
        }
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_number(from: &mut &[u8]) -> Option<u64> {
    let mut number: u64 = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

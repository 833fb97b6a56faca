//! Where pushed bytes wait for the decoder: copied into aligned slabs so that slab boundaries are multiples of
//! 1 MiB of the source's offset, and a plain cluster can be written straight from the slab.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::bytes::{Bytes, Pool, SLAB, SlabMut};
use crate::digest::LEAF;
use crate::error::{Code, Error, Result, Stage};

use super::shared::{Counters, Shared};

pub struct Piece {
    pub offset: u64,
    pub bytes: Bytes,
}

pub enum Taken {
    Piece(Piece),
    /// The round of requests is complete and everything pushed for it was taken.
    RoundOver,
    /// The source has ended, `length` bytes in all.
    Ended(u64),
}

/// What `push` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Taken,
    /// Not taken: push the same chunk again when there is room.
    Full,
    /// Not taken and not wanted: the pass is over, ask what is wanted next.
    PassOver,
}

struct Filling {
    slab: SlabMut,
    /// Source offset of the slab's byte 0.
    base: u64,
    start: usize,
    end: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Piece>,
    filling: Option<Filling>,
    ended: Option<u64>,
    round_over: bool,
    /// The decoder wants no more of this pass.
    pass_over: bool,
}

pub struct Input {
    /// Guards the queue and the slab being filled; the pushing side holds it while it copies at most one chunk.
    state: Mutex<State>,
    arrived: Condvar,
    pool: Pool,
    shared: Arc<Shared>,
}

/// How long a slab that is not full waits for more before the decoder takes what is there.
const PATIENCE: Duration = Duration::from_millis(200);

impl Input {
    pub fn new(slabs: usize, shared: Arc<Shared>) -> Self {
        Self { state: Mutex::default(), arrived: Condvar::new(), pool: Pool::new(slabs), shared }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees what waits here: nothing is wanted any more, and whoever pushes is told so.
    pub fn close(&self) {
        let mut state = self.lock();
        state.pass_over = true;
        let rest = (std::mem::take(&mut state.queue), state.filling.take());
        drop(state);
        drop(rest);
        self.pool.close();
    }

    /// Registers what is called when a slab comes back.
    pub fn on_room(&self, call: Box<dyn Fn() + Send>) {
        self.pool.on_return(call);
    }

    /// Whether a slab is free now.
    pub fn has_room(&self) -> bool {
        self.lock().pass_over || self.pool.try_take().is_some()
    }

    /// Copies `chunk` (at most 1 MiB). Nothing is taken when the answer is not `Taken`.
    pub fn push(&self, offset: u64, chunk: &[u8]) -> Result<Pushed> {
        self.shared.check()?;
        if chunk.len() > SLAB {
            return Err(Error::new(Code::BadSpec, Stage::Source, "a chunk is larger than 1 MiB"));
        }
        let mut state = self.lock();
        if state.pass_over {
            return Ok(Pushed::PassOver);
        }
        let follows = state.filling.as_ref().is_some_and(|f| f.base + f.end as u64 == offset);
        let room = if follows { SLAB - state.filling.as_ref().map_or(0, |f| f.end) } else { 0 };
        let mut fresh = None;
        if room < chunk.len() {
            match self.pool.try_take() {
                Some(slab) => fresh = Some(slab),
                None => return Ok(Pushed::Full),
            }
        }
        let mut spare = None;
        let beyond = chunk.len() - room.min(chunk.len());
        let position = ((offset + room.min(chunk.len()) as u64) % SLAB as u64) as usize;
        if beyond > SLAB - position {
            match self.pool.try_take() {
                Some(slab) => spare = Some(slab),
                None => return Ok(Pushed::Full),
            }
        }
        if !follows {
            Self::seal(&mut state);
        }
        let (mut offset, mut rest) = (offset, chunk);
        while !rest.is_empty() {
            if state.filling.is_none() {
                let slab = fresh.take().or_else(|| spare.take()).expect("counted above");
                let at = (offset % SLAB as u64) as usize;
                state.filling = Some(Filling { slab, base: offset - at as u64, start: at, end: at });
            }
            let filling = state.filling.as_mut().expect("made above");
            let n = rest.len().min(SLAB - filling.end);
            filling.slab[filling.end..filling.end + n].copy_from_slice(&rest[..n]);
            filling.end += n;
            let full = filling.end == SLAB;
            offset += n as u64;
            rest = &rest[n..];
            if full {
                Self::seal(&mut state);
                self.arrived.notify_one();
            }
        }
        Ok(Pushed::Taken)
    }

    fn seal(state: &mut State) {
        if let Some(Filling { slab, base, start, end }) = state.filling.take()
            && end > start
        {
            state.queue.push_back(Piece { offset: base + start as u64, bytes: slab.freeze(start, end) });
        }
    }

    /// All that was asked for in this round has been pushed.
    pub fn round_over(&self) {
        let mut state = self.lock();
        Self::seal(&mut state);
        state.round_over = true;
        self.arrived.notify_one();
    }

    pub fn end(&self, length: u64) {
        let mut state = self.lock();
        if state.pass_over {
            return;
        }
        Self::seal(&mut state);
        state.ended = Some(length);
        self.arrived.notify_one();
    }

    /// The decoder wants nothing more of this pass: what waits is dropped, later pushes are told.
    pub fn leave_pass(&self) {
        let mut state = self.lock();
        state.queue.clear();
        state.filling = None;
        state.pass_over = true;
    }

    /// The pushing side has been given requests of a new round: what it pushes from now on belongs to that.
    pub fn accept(&self) {
        self.lock().pass_over = false;
    }

    /// A new round begins. A pass that was left stays closed until the pushing side has asked what is wanted now.
    pub fn begin_round(&self) {
        let mut state = self.lock();
        state.round_over = false;
        state.ended = None;
    }

    /// What is in the slab being filled, up to a leaf boundary so that no leaf is split; the rest moves on.
    fn take_partial(&self, state: &mut State) -> Option<Piece> {
        let filling = state.filling.as_mut()?;
        let cut = filling.end - filling.end % LEAF as usize;
        if cut <= filling.start {
            return None;
        }
        let mut next = self.pool.try_take()?;
        next[cut..filling.end].copy_from_slice(&filling.slab[cut..filling.end]);
        let moved = Filling { slab: next, base: filling.base, start: cut, end: filling.end };
        let Filling { slab, base, start, .. } = std::mem::replace(filling, moved);
        Some(Piece { offset: base + start as u64, bytes: slab.freeze(start, cut) })
    }

    /// The next piece, waiting for it.
    pub fn take(&self) -> Result<Taken> {
        let mut state = self.lock();
        let began = Instant::now();
        let taken = loop {
            self.shared.check()?;
            if let Some(piece) = state.queue.pop_front() {
                break Taken::Piece(piece);
            }
            if let Some(length) = state.ended {
                break Taken::Ended(length);
            }
            if state.round_over {
                break Taken::RoundOver;
            }
            if began.elapsed() >= PATIENCE
                && let Some(piece) = self.take_partial(&mut state)
            {
                break Taken::Piece(piece);
            }
            state =
                self.arrived.wait_timeout(state, Duration::from_millis(50)).unwrap_or_else(PoisonError::into_inner).0;
        };
        Counters::since(&self.shared.counters.decode_starved_ns, began);
        Ok(taken)
    }
}

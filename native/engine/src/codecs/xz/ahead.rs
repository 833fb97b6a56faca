//! Blocks decoded side by side: their input is queued to threads, their output is taken in order.
//!
//! What is queued is bounded in bytes. The first block may always put out a little and is always claimed first, so
//! whoever waits for room waits for something that moves.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::block::{Block, Decoder};
use super::{Done, Plan};
use crate::codecs::{Kind, Sink, corrupt, truncated};
use crate::error::{Code, Error, Result, Stage};

/// Input and output move in pieces of this size (or smaller ones in smaller blocks).
pub const PIECE: usize = 128 << 10;
/// Pieces that the first block may have put out whatever the bound says.
pub const FIRST_PIECES: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    Whole,
    /// The source ended inside the block.
    Cut,
}

struct Job {
    /// Taken by the thread that claims the job.
    block: Option<Block>,
    uncompressed: u64,
    /// Source offsets of the block's data and of what follows the block.
    start: u64,
    end: u64,
    input: VecDeque<Vec<u8>>,
    state: Input,
    output: VecDeque<Vec<u8>>,
    outcome: Option<Result<(u64, u64)>>,
}

struct State {
    jobs: VecDeque<Job>,
    /// Number of `jobs[0]`; numbers count up from 0.
    first: u64,
    /// Bytes allocated for input, and for output that is not taken yet.
    queued: usize,
    ahead: usize,
    /// Pieces to be used again, all of [`PIECE`] bytes: without it the allocator keeps some of each size.
    spare: Vec<Vec<u8>>,
    stop: bool,
}

struct Shared {
    /// Guards the queues; held only to move a piece in or out.
    state: Mutex<State>,
    /// Wakes the threads: a job, input, room for output, the end.
    work: Condvar,
    /// Wakes the caller: output, an outcome, room for input.
    moved: Condvar,
    bound: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A piece with room for `size` bytes; its content is arbitrary.
    fn piece(&mut self, size: usize) -> Vec<u8> {
        let spare = if size == PIECE { self.spare.pop() } else { None };
        spare.unwrap_or_else(|| Vec::with_capacity(size))
    }

    fn give_back(&mut self, piece: Vec<u8>) {
        if piece.capacity() == PIECE {
            self.spare.push(piece);
        }
    }

    fn job(&mut self, number: u64) -> Option<&mut Job> {
        self.jobs.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

/// The threads; they end when it is dropped.
pub struct Ahead {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    pub plan: Plan,
}

impl Ahead {
    pub fn new(plan: Plan) -> Result<Self> {
        let state = State { jobs: VecDeque::new(), first: 0, queued: 0, ahead: 0, spare: Vec::new(), stop: false };
        let shared = Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            moved: Condvar::new(),
            bound: plan.ahead as usize,
        };
        let mut this = Self { shared: Arc::new(shared), threads: Vec::new(), plan };
        for number in 0..plan.workers {
            let shared = Arc::clone(&this.shared);
            let thread = std::thread::Builder::new().name(format!("xz-{number}")).spawn(move || run(&shared));
            let failed = |e| Error::new(Code::Io, Stage::Decode, format!("a thread for xz cannot be started: {e}"));
            this.threads.push(thread.map_err(failed)?);
        }
        Ok(this)
    }

    /// Queues a block whose `remaining()` is known. `start`: source offset behind its header.
    pub fn begin(&mut self, block: Block, start: u64, end: u64, done: &mut Done, out: &mut dyn Sink) -> Result<()> {
        let most = self.plan.workers * 2 + 2;
        let mut state = self.until(done, out, |state| state.jobs.len() < most)?;
        state.jobs.push_back(Job {
            uncompressed: block.uncompressed().unwrap_or(u64::MAX),
            block: Some(block),
            start,
            end,
            input: VecDeque::new(),
            state: Input::Open,
            output: VecDeque::new(),
            outcome: None,
        });
        self.shared.work.notify_all();
        Ok(())
    }

    /// Input of the block that was begun last, of which `left` bytes are still to come, these among them.
    pub fn feed(&mut self, mut input: &[u8], mut left: u64, done: &mut Done, out: &mut dyn Sink) -> Result<()> {
        let bound = self.shared.bound / 2;
        while !input.is_empty() {
            let mut state = self.until(done, out, |state| state.queued + PIECE <= bound.max(PIECE))?;
            let full = |job: &Job| job.input.back().is_none_or(|last| last.len() == last.capacity());
            let fresh = if state.jobs.back().is_some_and(full) {
                let mut fresh = state.piece(PIECE.min(usize::try_from(left).unwrap_or(PIECE)));
                fresh.clear();
                state.queued += fresh.capacity();
                Some(fresh)
            } else {
                None
            };
            let mut taken = 0;
            if let Some(job) = state.jobs.back_mut() {
                job.input.extend(fresh);
                if let Some(last) = job.input.back_mut() {
                    taken = (last.capacity() - last.len()).min(input.len());
                    last.extend_from_slice(&input[..taken]);
                }
            }
            left -= taken as u64;
            input = &input[taken..];
            if left == 0 {
                self.shared.close(&mut state, Input::Whole);
            }
            self.shared.work.notify_all();
        }
        Ok(())
    }

    /// The source has ended inside the block that was begun last.
    pub fn cut(&mut self) {
        self.shared.close(&mut self.shared.lock(), Input::Cut);
        self.shared.work.notify_all();
    }

    /// Waits until every block is decoded and put out.
    pub fn settle(&mut self, done: &mut Done, out: &mut dyn Sink) -> Result<()> {
        self.until(done, out, |state| state.jobs.is_empty()).map(drop)
    }

    /// Puts out what is there in order, and goes on with that until `ready`.
    fn until(
        &self,
        done: &mut Done,
        out: &mut dyn Sink,
        ready: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'_, State>> {
        let mut state = self.shared.lock();
        loop {
            if let Some(first) = state.jobs.front_mut() {
                if let Some(piece) = first.output.pop_front() {
                    state.ahead -= piece.capacity();
                    drop(state);
                    self.shared.work.notify_all();
                    done.put(&piece, out)?;
                    state = self.shared.lock();
                    state.give_back(piece);
                    continue;
                }
                if let Some(outcome) = &first.outcome {
                    let (end, (unpadded, uncompressed)) = (first.end, outcome.clone()?);
                    state.jobs.pop_front();
                    state.first += 1;
                    drop(state);
                    self.shared.work.notify_all();
                    done.block(unpadded, uncompressed, end, out)?;
                    state = self.shared.lock();
                    continue;
                }
            }
            if ready(&state) {
                return Ok(state);
            }
            state = self.shared.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A panic was turned into an outcome; there is nobody to tell more here.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn close(&self, state: &mut State, how: Input) {
        if let Some(job) = state.jobs.back_mut() {
            job.state = how;
        }
    }

    /// The next job that no thread has, in order.
    fn claim(&self) -> Option<(u64, Block, u64, u64)> {
        let mut state = self.lock();
        loop {
            if state.stop {
                return None;
            }
            let first = state.first;
            for (number, job) in (first..).zip(state.jobs.iter_mut()) {
                if let Some(block) = job.block.take() {
                    return Some((number, block, job.start, job.uncompressed));
                }
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Input for a job: None when there is no more, with how it ended. Fails when the threads are to stop.
    fn input(&self, number: u64) -> std::result::Result<Option<Vec<u8>>, Input> {
        let mut state = self.lock();
        loop {
            if state.stop {
                return Err(Input::Open);
            }
            match state.job(number) {
                None => return Err(Input::Open),
                Some(job) => {
                    // The last piece is left to the caller until it is full.
                    let whole = job.input.front().is_some_and(|piece| piece.len() == piece.capacity());
                    match (job.state, job.input.len()) {
                        (Input::Open, _) if !whole => {}
                        (Input::Whole, 0) => return Ok(None),
                        (Input::Cut, 0) => return Err(Input::Cut),
                        _ => return Ok(job.input.pop_front()),
                    }
                }
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for room; false when the threads are to stop.
    fn output(&self, number: u64, piece: Vec<u8>) -> bool {
        let mut state = self.lock();
        loop {
            if state.stop {
                return false;
            }
            let within = state.queued + state.ahead + piece.capacity() <= self.bound;
            let is_first = state.first == number;
            let Some(job) = state.job(number) else { return false };
            if within || (is_first && job.output.len() < FIRST_PIECES) {
                state.ahead += piece.capacity();
                if let Some(job) = state.job(number) {
                    job.output.push_back(piece);
                }
                self.moved.notify_one();
                return true;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A piece for output, `size` bytes long.
    fn room(&self, size: usize) -> Vec<u8> {
        let mut piece = self.lock().piece(size);
        piece.resize(size, 0);
        piece
    }

    /// A piece of input has been used.
    fn release(&self, piece: Vec<u8>) {
        let mut state = self.lock();
        state.queued -= piece.capacity();
        state.give_back(piece);
        drop(state);
        self.moved.notify_one();
        self.work.notify_all();
    }
}

fn run(shared: &Shared) {
    let mut decoder = Decoder::new();
    while let Some((number, block, start, uncompressed)) = shared.claim() {
        let work = || decode(shared, &mut decoder, number, block, start, uncompressed);
        let outcome = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|payload| Some(Err(Error::panicked(Stage::Decode, &*payload))));
        let Some(outcome) = outcome else { return };
        if let Some(job) = shared.lock().job(number) {
            job.outcome = Some(outcome);
        }
        shared.moved.notify_one();
    }
}

/// None when the threads are to stop.
fn decode(
    shared: &Shared,
    decoder: &mut Decoder,
    number: u64,
    block: Block,
    start: u64,
    uncompressed: u64,
) -> Option<Result<(u64, u64)>> {
    if let Err(error) = decoder.begin(block) {
        return Some(Err(error));
    }
    // Never more than the header promises; liblzma holds the block to that.
    let size = |put_out: u64| PIECE.min(usize::try_from(uncompressed.saturating_sub(put_out)).unwrap_or(PIECE)).max(1);
    let mut put_out = 0u64;
    let mut at = start;
    let mut room = shared.room(size(0));
    let mut filled = 0;
    let mut ended = None;
    loop {
        let piece = match shared.input(number) {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(Input::Cut) => return Some(Err(truncated(Kind::Xz, at, "a block"))),
            Err(_) => return None,
        };
        let mut input = &piece[..];
        let mut stuck = false;
        while ended.is_none() && !stuck {
            let step = match decoder.step(input, &mut room[filled..], at) {
                Ok(step) => step,
                Err(error) => {
                    shared.release(piece);
                    return Some(Err(error));
                }
            };
            input = &input[step.read..];
            at += step.read as u64;
            filled += step.wrote;
            ended = step.ended;
            stuck = input.is_empty() && filled < room.len() || step.read == 0 && step.wrote == 0;
            if filled == room.len() {
                put_out += filled as u64;
                let next = if ended.is_some() { Vec::new() } else { shared.room(size(put_out)) };
                if !shared.output(number, std::mem::replace(&mut room, next)) {
                    return None;
                }
                filled = 0;
            }
        }
        let over = !input.is_empty();
        shared.release(piece);
        if over {
            return Some(Err(corrupt(Kind::Xz, at, "a block is shorter than its header says")));
        }
    }
    room.truncate(filled);
    if filled > 0 && !shared.output(number, room) {
        return None;
    }
    Some(ended.ok_or_else(|| corrupt(Kind::Xz, at, "a block is longer than its header says")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_end_with_it() {
        let ahead = Ahead::new(Plan { workers: 3, each: 0, ahead: 1 << 20 }).unwrap();
        let shared = Arc::downgrade(&ahead.shared);
        assert!(shared.strong_count() >= 1);
        drop(ahead);
        assert_eq!(shared.strong_count(), 0);
    }

    #[test]
    fn pieces_are_used_again_and_only_those_of_one_size() {
        let ahead = Ahead::new(Plan { workers: 1, each: 0, ahead: 1 << 20 }).unwrap();
        let mut state = ahead.shared.lock();
        let (large, small) = (state.piece(PIECE), state.piece(10));
        let pointer = large.as_ptr();
        state.give_back(large);
        state.give_back(small);
        assert_eq!(state.spare.len(), 1);
        let again = state.piece(PIECE);
        assert_eq!(again.as_ptr(), pointer);
    }
}

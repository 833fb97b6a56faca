//! Aligned buffers from a bounded pool: the only currency in which image bytes move between threads.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Bytes in one slab. One slab is one write at most.
pub const SLAB: usize = 1 << 20;
/// Alignment of memory, offset and length that O_DIRECT asks for on every device in use (open(2), NOTES).
pub const ALIGN: usize = 4096;

/// An owned allocation aligned to [`ALIGN`].
pub struct Aligned {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the allocation is owned and has no interior sharing.
unsafe impl Send for Aligned {}
// SAFETY: shared access is read-only.
unsafe impl Sync for Aligned {}

impl Aligned {
    pub fn zeroed(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout has a size that is not zero.
        let ptr = unsafe { alloc_zeroed(layout) };
        Self { ptr: NonNull::new(ptr).unwrap_or_else(|| handle_alloc_error(layout)), len }
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len.max(1).next_multiple_of(ALIGN), ALIGN).expect("buffer sizes are bounded")
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with the same layout.
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.len)) }
    }
}

impl Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes are owned.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

struct PoolState {
    free: Vec<Aligned>,
    /// Slabs that were handed out or lie in `free`.
    made: usize,
    /// What comes back is freed.
    closed: bool,
}

struct PoolShared {
    /// Guards the free list; held only to pop or push.
    state: Mutex<PoolState>,
    returned: Condvar,
    slabs: usize,
    on_return: Mutex<Option<Box<dyn Fn() + Send>>>,
}

/// At most `slabs` slabs of [`SLAB`] bytes; they come back when the last [`Bytes`] on them is dropped.
#[derive(Clone)]
pub struct Pool(Arc<PoolShared>);

impl Pool {
    pub fn new(slabs: usize) -> Self {
        Self(Arc::new(PoolShared {
            state: Mutex::new(PoolState { free: Vec::new(), made: 0, closed: false }),
            returned: Condvar::new(),
            slabs,
            on_return: Mutex::new(None),
        }))
    }

    /// Called, on whichever thread it happens, each time a slab comes back. It must not block.
    pub fn on_return(&self, call: Box<dyn Fn() + Send>) {
        *self.0.on_return.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
    }

    /// Frees what lies here, and whatever comes back later: whoever still holds the pool may do so for long.
    pub fn close(&self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        state.free = Vec::new();
        drop(state);
        if let Some(call) = &*self.0.on_return.lock().unwrap_or_else(PoisonError::into_inner) {
            call();
        }
    }

    fn pop(&self, state: &mut PoolState) -> Option<SlabMut> {
        if state.closed {
            return None;
        }
        let buffer = match state.free.pop() {
            Some(buffer) => buffer,
            None if state.made < self.0.slabs => {
                state.made += 1;
                Aligned::zeroed(SLAB)
            }
            None => return None,
        };
        Some(SlabMut { buffer: Some(buffer), pool: self.clone() })
    }

    pub fn try_take(&self) -> Option<SlabMut> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.pop(&mut state)
    }

    /// Waits for a slab until `stop` says true (asked every 50 ms).
    pub fn take(&self, stop: impl Fn() -> bool) -> Option<SlabMut> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(slab) = self.pop(&mut state) {
                return Some(slab);
            }
            if stop() {
                return None;
            }
            state = self
                .0
                .returned
                .wait_timeout(state, Duration::from_millis(50))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// A slab with one owner, to be filled.
pub struct SlabMut {
    buffer: Option<Aligned>,
    pool: Pool,
}

impl SlabMut {
    /// Shares bytes `[start, end)` of the slab.
    pub fn freeze(self, start: usize, end: usize) -> Bytes {
        assert!(start <= end && end <= SLAB);
        Bytes { owner: Arc::new(Owner::Pooled(self)), start: start as u32, len: (end - start) as u32 }
    }
}

impl Deref for SlabMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.buffer.as_ref().expect("present until dropped")
    }
}

impl DerefMut for SlabMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buffer.as_mut().expect("present until dropped")
    }
}

impl Drop for SlabMut {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            let shared = &self.pool.0;
            let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.closed {
                state.free.push(buffer);
            }
            drop(state);
            shared.returned.notify_one();
            if let Some(call) = &*shared.on_return.lock().unwrap_or_else(PoisonError::into_inner) {
                call();
            }
        }
    }
}

enum Owner {
    Pooled(SlabMut),
    Own(Aligned),
}

/// A shared, read-only piece of a slab. Cloning is cheap; while one lives, its slab is not reused.
/// A format that holds bytes back copies them ([`Bytes::copy_of`]), so that the pool cannot run dry.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<Owner>,
    start: u32,
    len: u32,
}

impl Bytes {
    /// A copy outside any pool, aligned to [`ALIGN`]; at most 4 GiB.
    pub fn copy_of(from: &[u8]) -> Self {
        let mut own = Aligned::zeroed(from.len());
        own.copy_from_slice(from);
        Self { owner: Arc::new(Owner::Own(own)), start: 0, len: u32::try_from(from.len()).expect("pieces are bounded") }
    }

    /// Bytes `[start, end)` of this piece, without copying. Panics when out of range.
    pub fn slice(&self, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= self.len as usize);
        Self { owner: Arc::clone(&self.owner), start: self.start + start as u32, len: (end - start) as u32 }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &*self.owner {
            Owner::Pooled(slab) => slab,
            Owner::Own(own) => own,
        };
        &all[self.start as usize..(self.start + self.len) as usize]
    }
}

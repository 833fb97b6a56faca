//! The thin N-API crate: types cross, policy does not. Every export catches panics; long work runs on threads of
//! its own, never on libuv's four.

pub mod conversion;
pub mod digest;
pub mod errors;
pub mod extents;
mod intake;
pub mod limits;
pub mod offset;
pub mod patch;
pub mod promise;
pub mod sandbox;
pub mod sniff;
pub mod target;
pub mod unpacking;

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

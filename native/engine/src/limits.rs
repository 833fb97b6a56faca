//! Bounds that hold whatever an image says of itself.

/// Every figure is in bytes unless its name says otherwise.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest virtual size that is accepted. Default 64 TiB.
    pub virtual_size: u64,
    /// Window or dictionary that a decoder may allocate. Default 8 MiB; `--memory` raises it.
    pub decoder_window: u64,
    /// All that decoders may hold together: windows, blocks decoded ahead. Default 32 MiB.
    pub decoder_memory: u64,
    /// Clusters kept in memory that have no place yet. Default 64 MiB; a transfer gives less where `--memory` is less.
    pub hold_back: u64,
    /// What may wait in the spill file beside them, where one is allowed. Default 256 MiB.
    pub spill: u64,
    /// Map entries of an image format kept in memory at once. Default 24 MiB.
    pub map: u64,
    /// Threads that inflate, hash and write.
    pub workers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            virtual_size: 64 << 40,
            decoder_window: 8 << 20,
            decoder_memory: 32 << 20,
            hold_back: 64 << 20,
            spill: 256 << 20,
            map: 24 << 20,
            workers: std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)),
        }
    }
}

//! One block and its filter chain: liblzma behind a safe face.

use std::ptr;

use liblzma_sys as l;

use crate::codecs::{Kind, corrupt, unsupported};
use crate::error::{Code, Error, Result, Stage};

/// Four filters and the end mark (liblzma's block.h).
const FILTERS: usize = l::LZMA_FILTERS_MAX as usize + 1;
/// The least dictionary that liblzma allocates (LZMA_DICT_SIZE_MIN).
const LEAST_DICTIONARY: u64 = 4096;

/// Real size of a block's header from its first byte, which is not zero (File Format 3.1.1).
pub fn header_size(first: u8) -> usize {
    (usize::from(first) + 1) * 4
}

/// A block whose header has been read.
pub struct Block {
    raw: Box<l::lzma_block>,
    filters: Box<[l::lzma_filter; FILTERS]>,
    dictionary: u64,
    memory: u64,
}

// SAFETY: both structures and the options are owned by the block alone.
unsafe impl Send for Block {}

impl Block {
    /// `header` is complete and as long as its first byte says. Nothing larger than the header is allocated.
    pub fn parse(header: &[u8], check: u8, at: u64, stage: Stage) -> Result<Self> {
        let end = l::lzma_filter { id: l::LZMA_VLI_UNKNOWN, options: ptr::null_mut() };
        let mut filters = Box::new([end; FILTERS]);
        // SAFETY: a structure of integers and pointers, for which zero is valid.
        let mut raw: Box<l::lzma_block> = Box::new(unsafe { std::mem::zeroed() });
        raw.version = 1;
        raw.check = check.into();
        raw.header_size = header.len() as u32;
        raw.filters = filters.as_mut_ptr();
        let complete = header.first().is_some_and(|first| *first != 0 && header_size(*first) == header.len());
        if !complete {
            return Err(corrupt(Kind::Xz, at, "a block's header has the wrong length"));
        }
        // SAFETY: `header` has the length that its first byte says; `filters` has room for every chain.
        let code = unsafe { l::lzma_block_header_decode(&mut *raw, ptr::null(), header.as_ptr()) };
        match code {
            l::LZMA_OK => {}
            l::LZMA_OPTIONS_ERROR => {
                return Err(unsupported(Kind::Xz, stage, "uses filters that are not known"));
            }
            l::LZMA_MEM_ERROR => return Err(no_memory()),
            _ => return Err(corrupt(Kind::Xz, at, "a block's header is not valid or does not match its CRC32")),
        }
        let mut block = Self { raw, filters, dictionary: 0, memory: 0 };
        block.measure(stage)?;
        Ok(block)
    }

    fn measure(&mut self, stage: Stage) -> Result<()> {
        let uncompressed = self.uncompressed();
        for filter in self.filters.iter().take_while(|filter| filter.id != l::LZMA_VLI_UNKNOWN) {
            if filter.id == l::LZMA_FILTER_LZMA2 && !filter.options.is_null() {
                // SAFETY: liblzma allocated these options for this filter.
                let options = unsafe { &mut *filter.options.cast::<l::lzma_options_lzma>() };
                // A distance cannot reach back beyond the block's beginning, so that no more is ever used.
                let needed = u64::from(options.dict_size).min(uncompressed.unwrap_or(u64::MAX)).max(LEAST_DICTIONARY);
                options.dict_size = needed as u32;
                self.dictionary = needed;
            }
        }
        // SAFETY: the chain ends with LZMA_VLI_UNKNOWN.
        self.memory = unsafe { l::lzma_raw_decoder_memusage(self.filters.as_ptr()) };
        if self.memory == u64::MAX || self.dictionary == 0 {
            return Err(unsupported(Kind::Xz, stage, "uses a chain of filters that is not known"));
        }
        Ok(())
    }

    /// Bytes of the dictionary.
    pub fn dictionary(&self) -> u64 {
        self.dictionary
    }

    /// Bytes that a decoder for it allocates, the dictionary among them.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// As the header says.
    pub fn uncompressed(&self) -> Option<u64> {
        (self.raw.uncompressed_size != l::LZMA_VLI_UNKNOWN).then_some(self.raw.uncompressed_size)
    }

    /// Bytes between the header and the next block, as the header says: data, padding and check.
    pub fn remaining(&self) -> Option<u64> {
        if self.raw.compressed_size == l::LZMA_VLI_UNKNOWN {
            return None;
        }
        // SAFETY: filled by lzma_block_header_decode. Zero stands for sizes that are not valid.
        let total = unsafe { l::lzma_block_total_size(&*self.raw) };
        total.checked_sub(self.raw.header_size.into())
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the options were allocated by liblzma with the default allocator; the chain has its end mark.
        unsafe { l::lzma_filters_free(self.filters.as_mut_ptr(), ptr::null()) };
    }
}

fn no_memory() -> Error {
    Error::new(Code::Io, Stage::Decode, "no memory for the xz decoder")
}

/// How far a call came.
pub struct Step {
    pub read: usize,
    pub wrote: usize,
    /// Unpadded and uncompressed size, when the block has ended and its check is right.
    pub ended: Option<(u64, u64)>,
}

/// Decodes blocks one after the other; the dictionary is kept between them.
pub struct Decoder {
    stream: l::lzma_stream,
    /// liblzma writes into it until the block has ended, so it lives until the next one.
    block: Option<Block>,
}

// SAFETY: the stream's state has no tie to a thread.
unsafe impl Send for Decoder {}

impl Decoder {
    pub fn new() -> Self {
        // SAFETY: LZMA_STREAM_INIT is all zeros.
        Self { stream: unsafe { std::mem::zeroed() }, block: None }
    }

    pub fn begin(&mut self, block: Block) -> Result<()> {
        let block = self.block.insert(block);
        // SAFETY: the block stays where it is (boxed) until the stream is begun anew or ended.
        match unsafe { l::lzma_block_decoder(&mut self.stream, &mut *block.raw) } {
            l::LZMA_OK => Ok(()),
            l::LZMA_MEM_ERROR => Err(no_memory()),
            l::LZMA_OPTIONS_ERROR => Err(unsupported(Kind::Xz, Stage::Decode, "uses filters that are not known")),
            code => Err(corrupt(Kind::Xz, 0, format!("a block cannot be decoded (liblzma says {code})"))),
        }
    }

    /// `at`: offset of `input`. A step that moves nothing wants more input, or more room when `space` was full.
    pub fn step(&mut self, input: &[u8], space: &mut [u8], at: u64) -> Result<Step> {
        let Some(block) = &self.block else {
            return Err(corrupt(Kind::Xz, at, "data where no block is"));
        };
        let stream = &mut self.stream;
        (stream.next_in, stream.avail_in) = (input.as_ptr(), input.len());
        (stream.next_out, stream.avail_out) = (space.as_mut_ptr(), space.len());
        // SAFETY: begun in `begin`; both buffers outlive the call and the pointers are not used after it.
        let code = unsafe { l::lzma_code(stream, l::LZMA_RUN) };
        let (read, wrote) = (input.len() - stream.avail_in, space.len() - stream.avail_out);
        let ended = match code {
            l::LZMA_OK | l::LZMA_BUF_ERROR => None,
            // SAFETY: liblzma has filled in the sizes.
            l::LZMA_STREAM_END => {
                Some((unsafe { l::lzma_block_unpadded_size(&*block.raw) }, block.raw.uncompressed_size))
            }
            l::LZMA_MEM_ERROR => return Err(no_memory()),
            l::LZMA_OPTIONS_ERROR => {
                return Err(unsupported(Kind::Xz, Stage::Decode, "has LZMA2 properties that are not known"));
            }
            _ => {
                let what = "a block's data, sizes or check are wrong";
                return Err(corrupt(Kind::Xz, at + read as u64, what));
            }
        };
        Ok(Step { read, wrote, ended })
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: all zeros or begun; the block is still alive.
        unsafe { l::lzma_end(&mut self.stream) };
    }
}

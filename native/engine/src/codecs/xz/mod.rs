//! xz (the .xz File Format, 1.2.1). The container is read here, so that blocks whose sizes stand in their headers
//! (`xz -T`) are decoded side by side, and decoding can begin again at every block.

mod ahead;
mod block;
mod container;

use serde::{Deserialize, Serialize};

use self::ahead::{Ahead, FIRST_PIECES, PIECE};
use self::block::{Block, Decoder, header_size};
use self::container::{CHECKS, HEADER, INDEX, Index, MAGIC, Records, stream_footer, stream_header};
use super::{Codec, Kind, Memory, Restart, Sink, bad_state, corrupt, too_large, truncated};
use crate::error::{Result, Stage};
use crate::limits::Limits;

/// Queues smaller than this do not keep a second thread busy.
const LEAST_AHEAD: u64 = 8 << 20;

pub fn detect(head: &[u8]) -> bool {
    head.starts_with(&MAGIC)
}

/// From the first block's header. Later blocks may ask for more; they are bounded as they come.
pub fn memory(head: &[u8], limits: &Limits) -> Result<Memory> {
    let nothing = Memory { window: 0, total: 0 };
    let Some(start) = head.first_chunk::<HEADER>() else { return Ok(nothing) };
    let check = stream_header(start, 0, Stage::Plan)?;
    let rest = &head[HEADER..];
    let Some(header) = rest.first().filter(|first| **first != INDEX).and_then(|first| rest.get(..header_size(*first)))
    else {
        return Ok(nothing);
    };
    let block = Block::parse(header, check, HEADER as u64, Stage::Plan)?;
    bounded(&block, limits, Stage::Plan)?;
    Ok(Memory { window: block.dictionary(), total: Plan::new(&block, limits).total() })
}

fn bounded(block: &Block, limits: &Limits, stage: Stage) -> Result<()> {
    if block.dictionary() > limits.decoder_window {
        return Err(too_large(Kind::Xz, stage, block.dictionary(), limits));
    }
    Ok(())
}

/// How a block's decoding is spread within the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// One: in place, without threads.
    workers: usize,
    /// What one decoder allocates.
    each: u64,
    /// Compressed and decoded bytes that may be queued.
    ahead: u64,
}

impl Plan {
    fn new(block: &Block, limits: &Limits) -> Self {
        let each = block.memory();
        let alone = Self { workers: 1, each, ahead: 0 };
        let Some(compressed) = block.remaining() else { return alone };
        // What a block more in work holds: its input, and about half its output until it is first.
        let queue = compressed.saturating_add(block.uncompressed().unwrap_or(compressed) / 2);
        let fixed = |workers: u64| each.saturating_add(2 * PIECE as u64).saturating_mul(workers);
        let least = (FIRST_PIECES * PIECE) as u64;
        let fits = |workers: u64, ahead: u64| {
            fixed(workers).saturating_add(ahead).saturating_add(least) <= limits.decoder_memory
        };
        let mut workers = limits.workers as u64;
        while workers > 2 && !fits(workers, queue.saturating_mul(workers - 1).max(LEAST_AHEAD)) {
            workers -= 1;
        }
        if workers < 2 || !fits(workers, LEAST_AHEAD) {
            return alone;
        }
        Self { workers: workers as usize, each, ahead: limits.decoder_memory - fixed(workers) - least }
    }

    fn total(&self) -> u64 {
        let pieces = if self.workers > 1 { (2 * self.workers + FIRST_PIECES) * PIECE } else { 0 };
        (self.each * self.workers as u64).saturating_add(self.ahead).saturating_add(pieces as u64)
    }
}

/// The state in a [`Restart`].
#[derive(Serialize, Deserialize)]
enum State {
    /// Between streams.
    Boundary,
    /// Before a block or the index.
    Block { check: u8, records: Records },
}

/// What has been put out: the in-order end of the codec.
struct Done {
    decoded: u64,
    check: u8,
    records: Records,
}

impl Done {
    fn put(&mut self, bytes: &[u8], out: &mut dyn Sink) -> Result<()> {
        self.decoded += bytes.len() as u64;
        out.write(bytes)
    }

    /// A block has been put out whole; `end` is the source offset behind it.
    fn block(&mut self, unpadded: u64, uncompressed: u64, end: u64, out: &mut dyn Sink) -> Result<()> {
        self.records.add(unpadded, uncompressed);
        self.offer(end, out)
    }

    fn offer(&self, at: u64, out: &mut dyn Sink) -> Result<()> {
        if !out.restart_due() {
            return Ok(());
        }
        let state = State::Block { check: self.check, records: self.records.clone() };
        out.restart(Restart::encode(at, self.decoded, &state)?)
    }
}

enum At {
    /// Between streams, after so many bytes of padding.
    Boundary(u64),
    StreamHeader,
    /// Before a block's header or the index.
    Block,
    BlockHeader,
    /// A block that is decoded in place.
    Inline,
    /// A block that is queued to the threads: bytes that are still to come.
    Queued(u64),
    Index(Box<Index>),
    Footer {
        index: u64,
    },
}

pub struct Xz {
    limits: Limits,
    at: At,
    /// A header or footer that is not complete yet: at most 1024 bytes.
    held: Vec<u8>,
    need: usize,
    done: Done,
    inline: Option<Decoder>,
    ahead: Option<Ahead>,
    source: u64,
    streams: u64,
}

impl Xz {
    pub fn new(limits: &Limits, from: Option<&Restart>) -> Result<Self> {
        let mut this = Self {
            limits: limits.clone(),
            at: At::Boundary(0),
            held: Vec::new(),
            need: 0,
            done: Done { decoded: 0, check: 0, records: Records::default() },
            inline: None,
            ahead: None,
            source: 0,
            streams: 0,
        };
        if let Some(from) = from {
            this.source = from.source_offset;
            this.done.decoded = from.decoded_offset;
            this.streams = u64::from(from.source_offset > 0);
            if let State::Block { check, records } = from.decode(Kind::Xz)? {
                if !CHECKS.contains(&check) {
                    return Err(bad_state(Kind::Xz));
                }
                this.done.check = check;
                this.done.records = records;
                this.at = At::Block;
            }
        }
        Ok(this)
    }

    /// Collects `self.need` bytes in `self.held`; true when they are complete.
    fn gather(&mut self, input: &mut &[u8]) -> bool {
        let n = (self.need - self.held.len()).min(input.len());
        self.held.extend_from_slice(&input[..n]);
        *input = &input[n..];
        self.source += n as u64;
        self.held.len() == self.need
    }

    fn gathered<const N: usize>(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        self.need = N;
        if !self.gather(input) {
            return None;
        }
        let bytes = self.held.first_chunk().copied();
        self.held.clear();
        bytes
    }

    fn boundary(&mut self, input: &mut &[u8], padding: u64) -> Result<()> {
        // Stream Padding is a multiple of four zero bytes (2.2).
        match input[0] {
            0 if self.streams > 0 => {
                *input = &input[1..];
                self.source += 1;
                self.at = At::Boundary(padding + 1);
            }
            byte if byte == MAGIC[0] && padding.is_multiple_of(4) => self.at = At::StreamHeader,
            _ if self.streams == 0 => {
                return Err(corrupt(Kind::Xz, self.source, "it does not begin with an xz header"));
            }
            byte if byte == MAGIC[0] => {
                return Err(corrupt(Kind::Xz, self.source, format!("{padding} bytes of padding are no multiple of 4")));
            }
            byte => {
                let what = format!("bytes follow the last stream that are no xz (0x{byte:02x})");
                return Err(corrupt(Kind::Xz, self.source, what));
            }
        }
        Ok(())
    }

    fn stream_header(&mut self, input: &mut &[u8], out: &mut dyn Sink) -> Result<()> {
        let Some(bytes) = self.gathered(input) else { return Ok(()) };
        self.done.check = stream_header(&bytes, self.source, Stage::Decode)?;
        self.done.records = Records::default();
        self.at = At::Block;
        self.done.offer(self.source, out)
    }

    fn block_or_index(&mut self, first: u8, out: &mut dyn Sink) -> Result<()> {
        if first == INDEX {
            self.settle(out)?;
            self.at = At::Index(Box::new(Index::new(self.done.records.clone())));
        } else {
            self.need = header_size(first);
            self.at = At::BlockHeader;
        }
        Ok(())
    }

    fn block_header(&mut self, input: &mut &[u8], out: &mut dyn Sink) -> Result<()> {
        if !self.gather(input) {
            return Ok(());
        }
        let block = Block::parse(&self.held, self.done.check, self.source, Stage::Decode)?;
        self.held.clear();
        bounded(&block, &self.limits, Stage::Decode)?;
        let plan = Plan::new(&block, &self.limits);
        let threads = plan.workers > 1;
        let fits = |ahead: &Ahead| threads && plan.each <= ahead.plan.each;
        if !self.ahead.as_ref().is_some_and(fits) {
            // Before anything larger is allocated, what there is must be gone.
            self.settle(out)?;
            self.ahead = None;
            self.inline = None;
        }
        match block.remaining() {
            Some(left) if threads => {
                let ahead = match &mut self.ahead {
                    Some(ahead) => ahead,
                    none => none.insert(Ahead::new(plan)?),
                };
                let end = self.source.saturating_add(left);
                ahead.begin(block, self.source, end, &mut self.done, out)?;
                self.at = At::Queued(left);
            }
            _ => {
                self.inline.get_or_insert_with(Decoder::new).begin(block)?;
                self.at = At::Inline;
            }
        }
        Ok(())
    }

    fn inline(&mut self, input: &mut &[u8], out: &mut dyn Sink) -> Result<()> {
        let Some(decoder) = &mut self.inline else { return Err(bad_state(Kind::Xz)) };
        loop {
            let space = out.space()?;
            let step = decoder.step(input, space, self.source)?;
            let full = step.wrote == space.len();
            *input = &input[step.read..];
            self.source += step.read as u64;
            if step.wrote > 0 {
                self.done.decoded += step.wrote as u64;
                out.commit(step.wrote)?;
            }
            if let Some((unpadded, uncompressed)) = step.ended {
                self.at = At::Block;
                return self.done.block(unpadded, uncompressed, self.source, out);
            }
            if input.is_empty() && !full {
                return Ok(());
            }
            if step.read == 0 && step.wrote == 0 {
                return Err(corrupt(Kind::Xz, self.source, "the decoder is stuck"));
            }
        }
    }

    fn queued(&mut self, input: &mut &[u8], left: u64, out: &mut dyn Sink) -> Result<()> {
        let Some(ahead) = &mut self.ahead else { return Err(bad_state(Kind::Xz)) };
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        ahead.feed(&input[..n], left, &mut self.done, out)?;
        *input = &input[n..];
        self.source += n as u64;
        self.at = match left - n as u64 {
            0 => At::Block,
            left => At::Queued(left),
        };
        Ok(())
    }

    fn footer(&mut self, input: &mut &[u8], index: u64, out: &mut dyn Sink) -> Result<()> {
        let Some(bytes) = self.gathered(input) else { return Ok(()) };
        stream_footer(&bytes, self.done.check, index, self.source)?;
        self.streams += 1;
        self.at = At::Boundary(0);
        if out.restart_due() {
            out.restart(Restart::encode(self.source, self.done.decoded, &State::Boundary)?)?;
        }
        Ok(())
    }

    fn settle(&mut self, out: &mut dyn Sink) -> Result<()> {
        match &mut self.ahead {
            Some(ahead) => ahead.settle(&mut self.done, out),
            None => Ok(()),
        }
    }
}

impl Codec for Xz {
    fn push(&mut self, mut input: &[u8], out: &mut dyn Sink) -> Result<()> {
        let input = &mut input;
        while !input.is_empty() {
            match &mut self.at {
                At::Boundary(padding) => {
                    let padding = *padding;
                    self.boundary(input, padding)?;
                }
                At::StreamHeader => self.stream_header(input, out)?,
                At::Block => self.block_or_index(input[0], out)?,
                At::BlockHeader => self.block_header(input, out)?,
                At::Inline => self.inline(input, out)?,
                At::Queued(left) => {
                    let left = *left;
                    self.queued(input, left, out)?;
                }
                At::Index(index) => {
                    let before = input.len();
                    let complete = index.take(input, self.source)?;
                    self.source += (before - input.len()) as u64;
                    if complete {
                        self.at = At::Footer { index: index.size };
                    }
                }
                At::Footer { index } => {
                    let index = *index;
                    self.footer(input, index, out)?;
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Sink) -> Result<()> {
        let inside = match self.at {
            At::Boundary(padding) if self.streams > 0 && padding.is_multiple_of(4) => return Ok(()),
            At::Boundary(_) if self.streams > 0 => "its padding",
            At::Boundary(_) | At::StreamHeader => "the header of a stream",
            At::Block | At::BlockHeader => "the header of a block",
            At::Inline | At::Queued(_) => "a block",
            At::Index(_) => "the index",
            At::Footer { .. } => "the footer of a stream",
        };
        if let (At::Queued(_), Some(ahead)) = (&self.at, &mut self.ahead) {
            ahead.cut();
        }
        // What is whole is still put out, so that a checkpoint can be taken behind it.
        self.settle(out)?;
        Err(truncated(Kind::Xz, self.source, inside))
    }
}

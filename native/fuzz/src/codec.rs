//! The codecs: whatever the pieces and wherever decoding begins again, the same bytes come out, or the same error.

use diskferry_engine::codecs::{Kind, Restart, Sink};
use diskferry_engine::error::{Code, Error, Result};
use diskferry_engine::limits::Limits;

use crate::random::Random;
use crate::repair;
use crate::{LIMITS, memory};

/// Decoded bytes after which a sink ends the transfer: usually little, sometimes as much as the largest window.
const LITTLE: usize = 256 << 10;
const MUCH: usize = 8 << 20;
/// Largest piece of input, and largest room that a sink gives.
const PIECE: usize = 64 << 10;
/// Restarts that are kept, and of these tried.
const KEPT: usize = 32;
const TRIED: usize = 4;
/// The contract of `Restart::state`.
const STATE: usize = 64 << 10;
/// What a decoder may hold in Rust's memory beside `Limits::decoder_memory`.
const BESIDE: usize = 2 << 20;

struct Bounded {
    out: Vec<u8>,
    room: Vec<u8>,
    limit: usize,
    random: Random,
    /// A restart is due once in so many questions; 0: never.
    due: u64,
    asked: std::cell::Cell<u64>,
    restarts: Vec<Restart>,
}

impl Bounded {
    fn new(limit: usize, due: u64, random: Random) -> Self {
        let asked = std::cell::Cell::new(0);
        Self { out: Vec::new(), room: vec![0; PIECE], limit, random, due, asked, restarts: Vec::new() }
    }
}

impl Sink for Bounded {
    fn space(&mut self) -> Result<&mut [u8]> {
        let left = self.limit - self.out.len();
        if left == 0 {
            return Err(Error::aborted());
        }
        let room = self.random.length(PIECE).min(left);
        Ok(&mut self.room[..room])
    }

    fn commit(&mut self, n: usize) -> Result<()> {
        assert!(self.out.len() + n <= self.limit, "more was committed than there was room for");
        self.out.extend_from_slice(&self.room[..n]);
        Ok(())
    }

    fn restart_due(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.due > 0 && self.asked.get().is_multiple_of(self.due)
    }

    fn restart(&mut self, at: Restart) -> Result<()> {
        assert_eq!(at.decoded_offset, self.out.len() as u64, "a restart is not where the output is");
        assert!(at.state.len() <= STATE, "the state of a restart has {} bytes", at.state.len());
        if self.restarts.len() < KEPT {
            self.restarts.push(at);
        }
        Ok(())
    }
}

struct Decoded {
    out: Vec<u8>,
    result: Result<()>,
    restarts: Vec<Restart>,
}

fn decode(kind: Kind, limits: &Limits, pieces: &[&[u8]], from: Option<&Restart>, mut sink: Bounded) -> Decoded {
    let run = |sink: &mut Bounded| {
        let mut codec = kind.open(limits, from)?;
        for piece in pieces {
            codec.push(piece, sink)?;
        }
        codec.finish(sink)
    };
    let result = run(&mut sink);
    Decoded { out: sink.out, result, restarts: sink.restarts }
}

/// `whole` and `other` decoded the same stream; `other` from `skipped` decoded bytes on.
fn agree(what: &str, whole: &Decoded, other: &Decoded, skipped: usize, limit: usize) {
    let expected = whole.out.get(skipped..).unwrap_or(&[]);
    let common = expected.len().min(other.out.len());
    assert!(expected[..common] == other.out[..common], "{what}: other bytes came out");
    // At the bound it depends on the room that was given whether the end was seen.
    if whole.out.len() == limit || skipped + other.out.len() == limit {
        return;
    }
    let code = |decoded: &Decoded| decoded.result.as_ref().err().map(|error| error.code);
    assert_eq!(code(whole), code(other), "{what}: {:?} and {:?}", whole.result, other.result);
    if whole.result.is_ok() {
        assert_eq!(expected.len(), other.out.len(), "{what}: another length came out");
    }
}

/// The input is a stream of `kind`, mostly a damaged one. It is tried as it is, and with its checksums made right.
pub fn check(kind: Kind, input: &[u8]) {
    straight_and_resumed(kind, input);
    if let Some(repaired) = repair::repair(kind, input) {
        straight_and_resumed(kind, &repaired);
    }
}

fn straight_and_resumed(kind: Kind, input: &[u8]) {
    let mut random = Random::of(input);
    let limit = if random.one_in(32) { MUCH } else { LITTLE };
    // One worker decodes xz in place, more do it side by side.
    let limits = Limits { workers: 1 + 2 * random.below(2) as usize, ..LIMITS.clone() };
    // Outputs are held three times: straight, in pieces, resumed; each grows by doubling.
    let bound = limits.decoder_memory as usize + BESIDE + 8 * limit;
    memory::within(bound, || {
        if let Ok(memory) = kind.memory(input, &limits) {
            assert!(memory.window <= limits.decoder_window, "a window of {} was let through", memory.window);
        }
        let mut seed = |n: u64| Random::of(&(random.draw() ^ n).to_le_bytes());
        let whole = decode(kind, &limits, &[input], None, Bounded::new(limit, 0, seed(0)));
        let pieces = seed(1).pieces(input, PIECE);
        let due = 1 + seed(2).below(4);
        let other = decode(kind, &limits, &pieces, None, Bounded::new(limit, due, seed(3)));
        agree("in pieces", &whole, &other, 0, limit);
        let count = other.restarts.len();
        for n in 0..count.min(TRIED) {
            let restart = &other.restarts[seed(4).below(count as u64) as usize];
            let (source, decoded) = (restart.source_offset as usize, restart.decoded_offset as usize);
            assert!(source <= input.len(), "a restart beyond the input");
            let pieces = seed(5).pieces(&input[source..], PIECE);
            let sink = Bounded::new(limit - decoded, 0, seed(6 + n as u64));
            let resumed = decode(kind, &limits, &pieces, Some(restart), sink);
            agree("resumed", &other, &resumed, decoded, limit);
        }
    });
}

/// The input is a restart of `kind` that was damaged or made up, and what follows it: anything may come of it but a
/// panic or memory beyond the bound. First byte: the kind; three bytes: lengths of the state (2) and offsets (1).
pub fn check_restart(input: &[u8]) {
    let Some(([kind, low, high, offset], rest)) = input.split_first_chunk::<4>().map(|(head, rest)| (*head, rest))
    else {
        return;
    };
    let kind = Kind::ALL.get(usize::from(kind) % (Kind::ALL.len() + 1)).copied().unwrap_or(Kind::Tar);
    let (state, stream) = rest.split_at(usize::from(u16::from_le_bytes([low, high])).min(rest.len()));
    let far = if offset & 1 == 0 { 0 } else { (1 << 60) >> (offset >> 4) };
    let near = u64::from(offset >> 1);
    let restart = Restart { source_offset: near, decoded_offset: far, state: state.to_vec() };
    let limits = Limits { workers: 1, ..LIMITS.clone() };
    let bound = limits.decoder_memory as usize + BESIDE + 8 * LITTLE;
    memory::within(bound, || {
        let mut random = Random::of(input);
        let pieces = random.pieces(stream, PIECE);
        let mut sink = Bounded::new(LITTLE, 0, random);
        if let Ok(mut codec) = kind.open(&limits, Some(&restart)) {
            let result = pieces.iter().try_for_each(|piece| codec.push(piece, &mut sink));
            if let Err(error) = result.and_then(|()| codec.finish(&mut sink)) {
                assert!(error.code != Code::Io, "{error}");
            }
        }
    });
}

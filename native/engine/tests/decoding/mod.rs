//! What decoded bytes are given to in tests, and what every decoder must do.
#![allow(dead_code, reason = "each test file uses a part")]

use diskferry_engine::codecs::{Codec, Restart, Sink};
use diskferry_engine::error::{Error, Result};

/// Keeps what it is given. `room` is the size of `space()`.
pub struct Collect {
    pub content: Vec<u8>,
    space: Vec<u8>,
    due: bool,
    pub restarts: Vec<Restart>,
    /// Fails with ABORTED from this many bytes on.
    pub most: usize,
    pub stopped: bool,
    decoded_from: u64,
}

impl Collect {
    pub fn new(room: usize, due: bool) -> Self {
        Self {
            content: Vec::new(),
            space: vec![0xee; room],
            due,
            restarts: Vec::new(),
            most: usize::MAX,
            stopped: false,
            decoded_from: 0,
        }
    }
}

impl Sink for Collect {
    fn space(&mut self) -> Result<&mut [u8]> {
        assert!(!self.stopped, "asked again after it had said stop");
        if self.content.len() >= self.most {
            self.stopped = true;
            return Err(Error::aborted());
        }
        Ok(&mut self.space)
    }

    fn commit(&mut self, n: usize) -> Result<()> {
        assert!(n <= self.space.len());
        self.content.extend_from_slice(&self.space[..n]);
        self.space[..n].fill(0xee);
        Ok(())
    }

    fn restart_due(&self) -> bool {
        self.due
    }

    fn restart(&mut self, at: Restart) -> Result<()> {
        assert_eq!(at.decoded_offset, self.decoded_from + self.content.len() as u64);
        assert!(at.state.len() <= 64 << 10);
        if let Some(last) = self.restarts.last() {
            assert!(last.source_offset < at.source_offset);
        }
        self.restarts.push(at);
        Ok(())
    }
}

pub fn feed(codec: &mut dyn Codec, stream: &[u8], piece: usize, sink: &mut Collect) -> Result<()> {
    for piece in stream.chunks(piece) {
        codec.push(piece, sink)?;
    }
    codec.finish(sink)
}

/// Decodes all, and again from every restart that was offered.
pub fn resume_everywhere(
    open: &dyn Fn(Option<&Restart>) -> Box<dyn Codec>,
    what: &str,
    stream: &[u8],
    expected: &[u8],
) {
    let mut whole = Collect::new(1 << 16, true);
    feed(&mut *open(None), stream, 10_000, &mut whole).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(whole.content == expected, "{what}: wrong content when restarts are asked for");
    for (i, from) in whole.restarts.iter().enumerate() {
        let mut tail = Collect::new(1 << 16, true);
        tail.decoded_from = from.decoded_offset;
        feed(&mut *open(Some(from)), &stream[from.source_offset as usize..], 7000, &mut tail)
            .unwrap_or_else(|e| panic!("{what} from {}: {e}", from.source_offset));
        assert!(tail.content == expected[from.decoded_offset as usize..], "{what} from {}", from.source_offset);
        assert!(tail.restarts == whole.restarts[i + 1..], "{what} from {}: other restarts", from.source_offset);
    }
}

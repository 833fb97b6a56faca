//! gzip (RFC 1952) around deflate (RFC 1951): members one after the other, BGZF among them.
//!
//! The framing is ours; deflate is zlib's interface of `libz-rs-sys`, because it alone stops at the boundary of a
//! deflate block (`Z_BLOCK`) and gives and takes the window there: decoding can begin again inside a member.

use crc32fast::Hasher;
use libz_rs_sys as z;
use serde::{Deserialize, Serialize};

use super::{Codec, Kind, Memory, Restart, Sink, bad_state, corrupt, truncated, unsupported};
use crate::error::{Code, Error, Result, Stage};
use crate::limits::Limits;

/// ID1, ID2 (RFC 1952, 2.3.1).
const MAGIC: [u8; 2] = [0x1f, 0x8b];
/// CM: the only method that is defined (RFC 1952, 2.3.1).
const DEFLATE: u8 = 8;
/// FLG bits (RFC 1952, 2.3.1).
const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;
/// ID1 to OS (RFC 1952, 2.3).
const HEADER: usize = 10;
/// CRC32, ISIZE (RFC 1952, 2.3).
const TRAILER: usize = 8;
/// Longest distance of a match (RFC 1951, 3.2.5).
const WINDOW: usize = 32 << 10;
/// A file name or comment in a header. The RFC has no bound; a path has 4096 bytes at most (PATH_MAX).
const TEXT: u32 = 64 << 10;
/// inflate's own structures, beside the window: tables and state, rounded up.
const INFLATE: u64 = 96 << 10;

/// By magic, method and the flags that must be zero.
pub fn detect(head: &[u8]) -> bool {
    head.len() >= 4 && head[..2] == MAGIC && head[2] == DEFLATE && head[3] & RESERVED == 0
}

/// Never more than the format's 32 KiB window.
pub fn memory(_head: &[u8], _limits: &Limits) -> Result<Memory> {
    Ok(Memory { window: WINDOW as u64, total: WINDOW as u64 + INFLATE })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before a member, the end or padding.
    Boundary,
    Header,
    ExtraLength,
    Extra(u16),
    /// Bytes of it so far.
    Name(u32),
    Comment(u32),
    HeaderCheck,
    Deflate,
    Trailer,
    Padding,
}

/// The state in a [`Restart`].
#[derive(Serialize, Deserialize)]
enum State<'a> {
    /// Between members.
    Boundary,
    /// Between two deflate blocks of a member.
    Block {
        /// How many bits of the byte before `source_offset` belong to the next block (0 to 7), and their value.
        bits: u8,
        value: u8,
        /// CRC32 and length of what the member gave so far.
        crc: u32,
        size: u64,
        #[serde(with = "serde_bytes")]
        window: &'a [u8],
    },
}

pub struct Gzip {
    inflate: Inflate,
    at: At,
    /// Fields of header and trailer that are not complete yet.
    field: [u8; HEADER],
    have: usize,
    flags: u8,
    header: Hasher,
    content: Hasher,
    /// Bytes that this member gave so far.
    size: u64,
    members: u64,
    source: u64,
    decoded: u64,
    /// Source offset of the last restart point.
    restart: u64,
}

impl Gzip {
    pub fn new(_limits: &Limits, from: Option<&Restart>) -> Result<Self> {
        let mut this = Self {
            inflate: Inflate::new()?,
            at: At::Boundary,
            field: [0; HEADER],
            have: 0,
            flags: 0,
            header: Hasher::new(),
            content: Hasher::new(),
            size: 0,
            members: 0,
            source: 0,
            decoded: 0,
            restart: 0,
        };
        if let Some(from) = from {
            this.source = from.source_offset;
            this.decoded = from.decoded_offset;
            this.restart = from.source_offset;
            this.members = u64::from(from.source_offset > 0);
            match from.decode(Kind::Gzip)? {
                State::Boundary => {}
                State::Block { bits, value, crc, size, window } => {
                    if bits > 7 || window.len() > WINDOW {
                        return Err(bad_state(Kind::Gzip));
                    }
                    this.inflate.resume(bits, value, window)?;
                    this.content = Hasher::new_with_initial_len(crc, size);
                    this.size = size;
                    this.at = At::Deflate;
                }
            }
        }
        Ok(this)
    }

    /// Collects a field of `need` bytes; true when it is complete in `self.field`.
    fn gather(&mut self, input: &mut &[u8], need: usize) -> bool {
        let n = (need - self.have).min(input.len());
        self.field[self.have..self.have + n].copy_from_slice(&input[..n]);
        self.have += n;
        *input = &input[n..];
        self.source += n as u64;
        if self.have < need {
            return false;
        }
        self.have = 0;
        true
    }

    fn boundary(&mut self, input: &mut &[u8]) -> Result<()> {
        match input[0] {
            byte if byte == MAGIC[0] => self.at = At::Header,
            0 if self.members > 0 => self.at = At::Padding,
            byte if self.members > 0 => {
                let what = format!("bytes follow the last member that are no gzip (0x{byte:02x})");
                return Err(corrupt(Kind::Gzip, self.source, what));
            }
            _ => return Err(corrupt(Kind::Gzip, self.source, "it does not begin with a gzip header")),
        }
        Ok(())
    }

    fn header(&mut self, input: &mut &[u8]) -> Result<()> {
        if !self.gather(input, HEADER) {
            return Ok(());
        }
        let header = self.field;
        if header[..2] != MAGIC {
            return Err(corrupt(Kind::Gzip, self.source, "what follows a member is no gzip header"));
        }
        if header[2] != DEFLATE {
            let what = format!("uses method {}, which is not deflate", header[2]);
            return Err(unsupported(Kind::Gzip, Stage::Decode, what));
        }
        self.flags = header[3];
        if self.flags & RESERVED != 0 {
            return Err(corrupt(Kind::Gzip, self.source, format!("reserved flags are set (0x{:02x})", self.flags)));
        }
        self.header = Hasher::new();
        self.header.update(&header);
        self.next_field(FEXTRA);
        Ok(())
    }

    /// The first field that this header has, from `flag` on, in the order of RFC 1952, 2.3.
    fn next_field(&mut self, flag: u8) {
        let order =
            [(FEXTRA, At::ExtraLength), (FNAME, At::Name(0)), (FCOMMENT, At::Comment(0)), (FHCRC, At::HeaderCheck)];
        let from = order.iter().position(|(f, _)| *f == flag).unwrap_or(order.len());
        self.at = match order[from..].iter().find(|(f, _)| self.flags & f != 0) {
            Some((_, at)) => *at,
            None => {
                self.content = Hasher::new();
                self.size = 0;
                At::Deflate
            }
        };
    }

    fn extra(&mut self, input: &mut &[u8], left: u16) {
        let n = usize::from(left).min(input.len());
        self.header.update(&input[..n]);
        *input = &input[n..];
        self.source += n as u64;
        match left - n as u16 {
            0 => self.next_field(FNAME),
            left => self.at = At::Extra(left),
        }
    }

    /// Skips a text that ends with a zero byte. Returns its length so far, or nothing when it has ended.
    fn text(&mut self, input: &mut &[u8], before: u32) -> Result<Option<u32>> {
        let end = input.iter().position(|b| *b == 0);
        let n = end.map_or(input.len(), |i| i + 1);
        self.header.update(&input[..n]);
        *input = &input[n..];
        self.source += n as u64;
        let length = u64::from(before) + n as u64;
        if length > u64::from(TEXT) {
            let what = format!("a file name or comment in its header is longer than {TEXT} bytes");
            return Err(corrupt(Kind::Gzip, self.source, what));
        }
        Ok(if end.is_some() { None } else { Some(length as u32) })
    }

    fn deflate(&mut self, input: &mut &[u8], out: &mut dyn Sink) -> Result<()> {
        let mut idle = 0;
        loop {
            // Only where a checkpoint is due: each return costs a copy into the window.
            let due = out.restart_due();
            let space = out.space()?;
            let step = self.inflate.step(input, space, due);
            *input = &input[step.read..];
            self.source += step.read as u64;
            let full = step.wrote == space.len();
            if step.wrote > 0 {
                self.content.update(&space[..step.wrote]);
                self.size += step.wrote as u64;
                self.decoded += step.wrote as u64;
                out.commit(step.wrote)?;
            }
            match step.result {
                z::Z_OK | z::Z_BUF_ERROR => {}
                z::Z_STREAM_END => {
                    self.at = At::Trailer;
                    return Ok(());
                }
                z::Z_MEM_ERROR => return Err(Error::new(Code::Io, Stage::Decode, "no memory to inflate")),
                _ => return Err(corrupt(Kind::Gzip, self.source, self.inflate.message())),
            }
            if let (true, Some(bits)) = (due, step.boundary) {
                self.offer_block(bits, out)?;
            } else if input.is_empty() && !full {
                return Ok(());
            }
            // A boundary may be reached within the bits already taken, so that once nothing moves is lawful.
            idle = if step.read == 0 && step.wrote == 0 { idle + 1 } else { 0 };
            if idle > 2 {
                return if input.is_empty() {
                    Ok(())
                } else {
                    Err(corrupt(Kind::Gzip, self.source, "inflate is stuck"))
                };
            }
        }
    }

    fn offer_block(&mut self, bits: u8, out: &mut dyn Sink) -> Result<()> {
        if self.source <= self.restart {
            return Ok(());
        }
        self.restart = self.source;
        let window = self.inflate.window()?;
        let value = self.inflate.unused(bits);
        let state =
            State::Block { bits, value, crc: self.content.clone().finalize(), size: self.size, window: &window };
        out.restart(Restart::encode(self.source, self.decoded, &state)?)
    }

    fn trailer(&mut self, input: &mut &[u8], out: &mut dyn Sink) -> Result<()> {
        if !self.gather(input, TRAILER) {
            return Ok(());
        }
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| self.field[at + i]));
        let (crc, length) = (word(0), word(4));
        let found = std::mem::take(&mut self.content).finalize();
        if crc != found {
            let what = format!("the CRC32 of a member is {found:08x}, its trailer says {crc:08x}");
            return Err(corrupt(Kind::Gzip, self.source, what));
        }
        // ISIZE is the length modulo 2^32 (RFC 1952, 2.3.1).
        if length != self.size as u32 {
            let what = format!("a member has {} bytes, its trailer says {length} (modulo 2^32)", self.size);
            return Err(corrupt(Kind::Gzip, self.source, what));
        }
        self.inflate.reset()?;
        self.members += 1;
        self.at = At::Boundary;
        if out.restart_due() {
            self.restart = self.source;
            out.restart(Restart::encode(self.source, self.decoded, &State::Boundary)?)?;
        }
        Ok(())
    }
}

impl Codec for Gzip {
    fn push(&mut self, mut input: &[u8], out: &mut dyn Sink) -> Result<()> {
        let input = &mut input;
        while !input.is_empty() {
            match self.at {
                At::Boundary => self.boundary(input)?,
                At::Header => self.header(input)?,
                At::ExtraLength => {
                    if self.gather(input, 2) {
                        self.header.update(&self.field[..2]);
                        match u16::from_le_bytes([self.field[0], self.field[1]]) {
                            0 => self.next_field(FNAME),
                            left => self.at = At::Extra(left),
                        }
                    }
                }
                At::Extra(left) => self.extra(input, left),
                At::Name(before) => match self.text(input, before)? {
                    Some(length) => self.at = At::Name(length),
                    None => self.next_field(FCOMMENT),
                },
                At::Comment(before) => match self.text(input, before)? {
                    Some(length) => self.at = At::Comment(length),
                    None => self.next_field(FHCRC),
                },
                At::HeaderCheck => {
                    if self.gather(input, 2) {
                        // CRC16: the lower half of the CRC32 of the header (RFC 1952, 2.3.1).
                        let found = self.header.clone().finalize() as u16;
                        if u16::from_le_bytes([self.field[0], self.field[1]]) != found {
                            return Err(corrupt(Kind::Gzip, self.source, "a member's header does not match its CRC16"));
                        }
                        self.next_field(0);
                    }
                }
                At::Deflate => self.deflate(input, out)?,
                At::Trailer => self.trailer(input, out)?,
                At::Padding => match input.iter().position(|b| *b != 0) {
                    None => {
                        self.source += input.len() as u64;
                        *input = &[];
                    }
                    Some(i) => {
                        let what = "bytes follow the zeros after the last member";
                        return Err(corrupt(Kind::Gzip, self.source + i as u64, what));
                    }
                },
            }
        }
        Ok(())
    }

    fn finish(&mut self, _out: &mut dyn Sink) -> Result<()> {
        let inside = match self.at {
            At::Boundary if self.members > 0 => return Ok(()),
            At::Padding => return Ok(()),
            At::Deflate => "compressed data",
            At::Trailer => "the trailer of a member",
            _ => "the header of a member",
        };
        Err(truncated(Kind::Gzip, self.source, inside))
    }
}

pub(crate) struct Step {
    pub read: usize,
    pub wrote: usize,
    pub result: i32,
    /// Set at the end of a deflate block that is not the last: bits of the last byte that are not used yet.
    boundary: Option<u8>,
}

/// zlib's raw inflate. It keeps its own window, so the output buffer may change with every call.
pub(crate) struct Inflate {
    stream: Box<z::z_stream>,
    /// The last byte of input that was taken.
    last: u8,
}

// SAFETY: the stream owns its state, which has no tie to a thread.
unsafe impl Send for Inflate {}

impl Inflate {
    pub fn new() -> Result<Self> {
        let mut stream = Box::new(z::z_stream::default());
        let size = size_of::<z::z_stream>() as i32;
        // SAFETY: a default stream, this library's own version and size. -15: raw deflate, 32 KiB window (zlib.h).
        let code = unsafe { z::inflateInit2_(&mut *stream, -15, z::zlibVersion(), size) };
        if code != z::Z_OK {
            return Err(Error::new(Code::Io, Stage::Decode, format!("inflate cannot be set up (zlib says {code})")));
        }
        Ok(Self { stream, last: 0 })
    }

    fn resume(&mut self, bits: u8, value: u8, window: &[u8]) -> Result<()> {
        // SAFETY: initialised in `new`; the window is read only during the call, its length is at most 32 KiB.
        let code = unsafe {
            match z::inflateSetDictionary(&mut *self.stream, window.as_ptr(), window.len() as u32) {
                z::Z_OK if bits > 0 => z::inflatePrime(&mut *self.stream, bits.into(), value.into()),
                code => code,
            }
        };
        if code != z::Z_OK {
            return Err(bad_state(Kind::Gzip));
        }
        self.last = (u16::from(value) << (8 - bits)) as u8;
        Ok(())
    }

    pub fn step(&mut self, input: &[u8], space: &mut [u8], stop_at_blocks: bool) -> Step {
        // zlib counts in 32 bits.
        let given = input.len().min(1 << 30) as u32;
        let room = space.len().min(1 << 30) as u32;
        let stream = &mut *self.stream;
        (stream.next_in, stream.avail_in) = (input.as_ptr(), given);
        (stream.next_out, stream.avail_out) = (space.as_mut_ptr(), room);
        // SAFETY: initialised in `new`; both buffers outlive the call and the pointers are not used after it.
        let result = unsafe { z::inflate(stream, if stop_at_blocks { z::Z_BLOCK } else { z::Z_NO_FLUSH }) };
        let read = (given - stream.avail_in) as usize;
        if read > 0 {
            self.last = input[read - 1];
        }
        // data_type: 128 at the end of a block, 64 in the last block, below it the count of unused bits (zlib.h).
        let bits = stream.data_type & 63;
        let boundary = stream.data_type & (128 | 64) == 128 && bits < 8;
        let boundary = (stop_at_blocks && boundary && result != z::Z_STREAM_END).then_some(bits as u8);
        Step { read, wrote: (room - stream.avail_out) as usize, result, boundary }
    }

    /// The upper `bits` bits of the last byte: deflate fills bytes from the lowest bit (RFC 1951, 3.1.1).
    fn unused(&self, bits: u8) -> u8 {
        (u16::from(self.last) >> (8 - bits)) as u8
    }

    fn window(&self) -> Result<Vec<u8>> {
        let mut window = vec![0; WINDOW];
        let mut length = 0;
        // SAFETY: there is room for the largest window.
        let code = unsafe { z::inflateGetDictionary(&*self.stream, window.as_mut_ptr(), &mut length) };
        if code != z::Z_OK {
            return Err(Error::new(Code::Io, Stage::Decode, format!("inflate gives no window (zlib says {code})")));
        }
        window.truncate(length as usize);
        Ok(window)
    }

    fn reset(&mut self) -> Result<()> {
        // SAFETY: initialised in `new`.
        match unsafe { z::inflateReset(&mut *self.stream) } {
            z::Z_OK => Ok(()),
            code => Err(Error::new(Code::Io, Stage::Decode, format!("inflate cannot be reset (zlib says {code})"))),
        }
    }

    pub fn message(&self) -> String {
        if self.stream.msg.is_null() {
            return "deflate data is not valid".to_owned();
        }
        // SAFETY: zlib's messages are constant strings that end with a zero byte.
        unsafe { std::ffi::CStr::from_ptr(self.stream.msg) }.to_string_lossy().into_owned()
    }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, ended once.
        unsafe { z::inflateEnd(&mut *self.stream) };
    }
}

//! A sealed box: a plain header, a masked payload, a MAC. The slots of the checkpoints and the identity are such.
//!
//! Masked, because the payload holds bytes that the source chose (URLs, windows of decoders): in the clear they
//! could be made to look like a partition table or a file system to whoever probes the target.

use crate::bytes::{ALIGN, Aligned};
use crate::error::{Code, Error, Result, Stage};

use super::layout::{FILLER, Writer};
use super::probes;
use super::{Key, Store, random};

const MAGIC: &[u8; 8] = b"dfryslot";
const VERSION: u8 = 1;
const HEADER: usize = 96;
const MAC: usize = 32;

/// What is not payload: header and MAC.
pub const OVERHEAD: usize = HEADER + MAC;

/// What a box holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Checkpoint = 0,
    Identity = 1,
}

/// An opened box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub writer: Writer,
    pub sequence: u64,
    pub payload: Vec<u8>,
}

fn header(content: Content, writer: &Writer, sequence: u64, mask_nonce: &[u8; 16], length: u32) -> [u8; HEADER] {
    let mut header = [0_u8; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8] = VERSION;
    header[9] = content as u8;
    header[16..32].copy_from_slice(&writer.journal);
    header[32..48].copy_from_slice(&writer.nonce);
    header[48..56].copy_from_slice(&writer.epoch.to_le_bytes());
    header[56..64].copy_from_slice(&sequence.to_le_bytes());
    header[64..80].copy_from_slice(mask_nonce);
    header[80..84].copy_from_slice(&length.to_le_bytes());
    header
}

/// Seals a payload for the place `at`; the result is a multiple of 4096 bytes. `None` when it exceeds `room`.
/// The nonce of the mask is drawn again while any known probe would find its magic in the result.
pub fn seal(
    key: &Key,
    content: Content,
    writer: &Writer,
    sequence: u64,
    payload: &[u8],
    at: usize,
    room: usize,
) -> Result<Option<Aligned>> {
    if payload.len() > room - OVERHEAD {
        return Ok(None);
    }
    let mut sealed = Aligned::zeroed((payload.len() + OVERHEAD).next_multiple_of(ALIGN));
    // A hit is one in a billion at most, so a few draws always suffice unless the random source is broken.
    for _ in 0..16 {
        let nonce = random()?;
        sealed.fill(FILLER);
        let header = header(content, writer, sequence, &nonce, payload.len() as u32);
        sealed[..HEADER].copy_from_slice(&header);
        let body = &mut sealed[HEADER..HEADER + payload.len()];
        body.copy_from_slice(payload);
        key.mask(&nonce, body);
        let mac = key.mac("slot", &[&header, body]);
        sealed[HEADER + payload.len()..payload.len() + OVERHEAD].copy_from_slice(&mac);
        if !probes::visible(at, &sealed) {
            return Ok(Some(sealed));
        }
    }
    Err(Error::new(Code::Io, Stage::Target, "the system's random source gave 16 nonces in a row that cannot be used"))
}

/// Opens the box at `at`: `None` unless its structure, its length and its MAC are right.
pub fn open(store: &dyn Store, key: &Key, content: Content, at: usize, room: usize) -> Result<Option<Opened>> {
    if store.length() < (at + room) as u64 {
        return Ok(None);
    }
    let mut first = Aligned::zeroed(ALIGN);
    store.read(at as u64, &mut first)?;
    if !first.starts_with(MAGIC) || first[8] != VERSION || first[9] != content as u8 {
        return Ok(None);
    }
    let length = u32::from_le_bytes(first[80..84].try_into().expect("4 bytes")) as usize;
    if length > room - OVERHEAD {
        return Ok(None);
    }
    let mut sealed = Aligned::zeroed((length + OVERHEAD).next_multiple_of(ALIGN));
    store.read(at as u64, &mut sealed)?;
    let (header, rest) = sealed.split_at(HEADER);
    let (body, rest) = rest.split_at(length);
    if header != &first[..HEADER] || !key.verify("slot", &[header, body], &rest[..MAC]) {
        return Ok(None);
    }
    let take16 = |from: usize| header[from..from + 16].try_into().expect("16 bytes");
    let number = |from: usize| u64::from_le_bytes(header[from..from + 8].try_into().expect("8 bytes"));
    let mut payload = body.to_vec();
    key.mask(&take16(64), &mut payload);
    let writer = Writer { journal: take16(16), nonce: take16(32), epoch: number(48) };
    Ok(Some(Opened { writer, sequence: number(56), payload }))
}

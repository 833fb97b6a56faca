//! What snappy's framing alone has: types of chunks, bounds, and streams that only their source ends.

use diskferry_engine::codecs::Kind;
use diskferry_engine::error::{Code, Result};
use diskferry_engine::limits::Limits;

mod decoding;
use decoding::{Collect, feed};

const IDENTIFIER: &[u8] = b"\xff\x06\0\0sNaPpY";

fn chunk(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32).to_le_bytes()[..3], body].concat()
}

/// A chunk of data: its masked checksum, and `body`, which `content` is decoded from.
fn data(kind: u8, content: &[u8], body: &[u8]) -> Vec<u8> {
    let check = crc32c::crc32c(content).rotate_right(15).wrapping_add(0xa282_ead8);
    chunk(kind, &[&check.to_le_bytes(), body].concat())
}

/// A compressed block of `n` zeros: its length, one literal, and copies of the byte before (format_description.txt).
fn zeros(n: usize) -> Vec<u8> {
    let mut block = Vec::new();
    let mut rest = n;
    while rest >= 0x80 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.extend_from_slice(&[rest as u8, 0, 0]);
    // Copies with an offset of two bytes, of 64 bytes at most.
    let mut left = n - 1;
    while left > 0 {
        let length = left.min(64);
        block.extend_from_slice(&[((length - 1) as u8) << 2 | 2, 1, 0]);
        left -= length;
    }
    block
}

fn decode(chunks: &[&[u8]]) -> Result<Vec<u8>> {
    let stream = chunks.concat();
    let mut decoded = Vec::new();
    for piece in [1, 3, usize::MAX] {
        let mut sink = Collect::new(1000, false);
        feed(&mut *Kind::Snappy.open(&Limits::default(), None)?, &stream, piece, &mut sink)?;
        decoded = sink.content;
    }
    Ok(decoded)
}

fn refused(chunks: &[&[u8]], code: Code, what: &str) {
    let error = decode(chunks).expect_err(what);
    assert!(error.code == code && error.message.contains(what), "{error}");
}

#[test]
fn every_type_of_chunk() {
    let stored = data(1, b"stored", b"stored");
    assert_eq!(decode(&[IDENTIFIER]).unwrap(), b"");
    assert_eq!(decode(&[IDENTIFIER, &stored]).unwrap(), b"stored");
    assert_eq!(decode(&[IDENTIFIER, &data(0, &[0; 3000], &zeros(3000))]).unwrap(), [0; 3000]);
    assert_eq!(decode(&[IDENTIFIER, &data(1, b"", b""), &stored]).unwrap(), b"stored");
    for passed in [0x80, 0x99, 0xfd, 0xfe] {
        let between = chunk(passed, b"anything");
        let chunks = [IDENTIFIER, &stored, &between, &chunk(passed, b""), IDENTIFIER, &stored, &between];
        assert_eq!(decode(&chunks).unwrap(), b"storedstored");
    }
    for unknown in (4..0x80).step_by(7) {
        refused(&[IDENTIFIER, &chunk(unknown, b"anything")], Code::Corrupt, "there is no type");
    }
    for unchecked in [2, 3] {
        refused(&[IDENTIFIER, &chunk(unchecked, b"anything")], Code::Unsupported, "without a checksum");
    }
}

#[test]
fn what_is_not_begun_as_it_should_be() {
    let stored = data(1, b"stored", b"stored");
    refused(&[&stored], Code::Corrupt, "does not begin with a stream identifier");
    refused(&[&chunk(0xfe, b""), IDENTIFIER], Code::Corrupt, "does not begin with a stream identifier");
    refused(&[&chunk(0xff, b"sNaPpY!")], Code::Corrupt, "does not begin with a stream identifier");
    // The magic of S2 (klauspost/compress), whose blocks may be larger.
    refused(&[&chunk(0xff, b"S2sTwO")], Code::Corrupt, "another name");
    refused(&[IDENTIFIER, &chunk(0xff, b"sNaPpY!")], Code::Corrupt, "has 7 bytes, not 6");
    refused(&[IDENTIFIER, &chunk(0xff, b"sNaPpy")], Code::Corrupt, "another name");
    assert_eq!(Kind::detect(IDENTIFIER), Some(Kind::Snappy));
    assert_eq!(Kind::detect(b"\xff\x06\0\0S2sTwO"), None);
}

#[test]
fn bounds_and_checksums() {
    let largest = vec![7; 65536];
    assert_eq!(decode(&[IDENTIFIER, &data(1, &largest, &largest)]).unwrap(), largest);
    assert_eq!(decode(&[IDENTIFIER, &data(0, &[0; 65536], &zeros(65536))]).unwrap(), [0; 65536]);
    let larger = vec![7; 65537];
    refused(&[IDENTIFIER, &data(1, &larger, &larger)], Code::Corrupt, "a chunk has 65541 bytes");
    refused(&[IDENTIFIER, &data(0, &[0; 65537], &zeros(65537))], Code::Corrupt, "decodes to 65537 bytes");
    // Nothing is reserved for what a header says.
    refused(&[IDENTIFIER, b"\0\xff\xff\xff"], Code::Corrupt, "a chunk has 16777215 bytes");
    refused(&[IDENTIFIER, b"\x01\x03\0\0abc"], Code::Corrupt, "a chunk has 3 bytes");
    for kind in [0, 1] {
        let body = if kind == 0 { zeros(500) } else { vec![0; 500] };
        let mut wrong = data(kind, &[0; 500], &body);
        wrong[4] ^= 1;
        refused(&[IDENTIFIER, &wrong], Code::Corrupt, "checksum of a chunk is wrong");
    }
    refused(&[IDENTIFIER, &data(0, b"x", b"\x05\x00x")], Code::Corrupt, "damaged near byte 21");
}

#[test]
fn only_between_two_chunks_a_cut_passes() {
    let stream =
        [IDENTIFIER, &data(1, b"stored", b"stored"), &chunk(0xfe, b"pad"), &data(0, &[0; 9], &zeros(9))].concat();
    let lawful = [10, 24, 31, stream.len()];
    for cut in 1..=stream.len() {
        match decode(&[&stream[..cut]]) {
            Ok(_) => assert!(lawful.contains(&cut), "cut at {cut}"),
            Err(error) => assert!(error.code == Code::Truncated && !lawful.contains(&cut), "cut at {cut}: {error}"),
        }
    }
}

#[test]
fn a_flipped_bit_is_found_but_in_the_type_of_a_chunk() {
    let text: Vec<u8> = (0..300).map(|n| (n * n % 251) as u8).collect();
    let chunks = [data(1, &text, &text), data(0, &[0; 200], &zeros(200)), data(1, &text, &text)];
    let good = [IDENTIFIER, &chunks.concat()].concat();
    let content = [&text[..], &[0; 200], &text].concat();
    let types = [10, 10 + chunks[0].len(), 10 + chunks[0].len() + chunks[1].len()];
    for bit in 0..good.len() * 8 {
        let mut stream = good.clone();
        stream[bit / 8] ^= 1 << (bit % 8);
        // The highest bit makes a chunk of data one that is passed over: the format has no check of that.
        let hidden = types.contains(&(bit / 8)) && bit % 8 == 7;
        match decode(&[&stream]) {
            // Zeros are the same from wherever they are copied.
            Ok(found) => assert!(hidden || found == content, "bit {bit}"),
            Err(error) => assert!(!hidden, "bit {bit}: {error}"),
        }
    }
}

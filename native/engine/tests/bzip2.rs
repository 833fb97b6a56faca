//! What bzip2 alone has: magic numbers that also stand inside a block, and checksums of a whole stream.

use std::io::Write;
use std::process::{Command, Stdio};

use diskferry_engine::codecs::{Kind, Restart, Sink};
use diskferry_engine::error::{Code, Result};
use diskferry_engine::limits::Limits;

const BLOCK: &str = "314159265359";
const END: &str = "177245385090";

struct Collect(Vec<u8>, Vec<u8>, Vec<Restart>);

impl Sink for Collect {
    fn space(&mut self) -> Result<&mut [u8]> {
        Ok(&mut self.1)
    }

    fn commit(&mut self, n: usize) -> Result<()> {
        self.0.extend_from_slice(&self.1[..n]);
        Ok(())
    }

    fn restart_due(&self) -> bool {
        true
    }

    fn restart(&mut self, at: Restart) -> Result<()> {
        self.2.push(at);
        Ok(())
    }
}

fn decode(stream: &[u8], piece: usize, workers: usize, from: Option<&Restart>) -> Result<Collect> {
    let limits = Limits { workers, decoder_memory: 64 << 20, ..Limits::default() };
    let mut sink = Collect(Vec::new(), vec![0; 1000], Vec::new());
    let mut codec = Kind::Bzip2.open(&limits, from)?;
    for piece in stream.chunks(piece) {
        codec.push(piece, &mut sink)?;
    }
    codec.finish(&mut sink)?;
    Ok(sink)
}

fn bits(value: u64, count: usize) -> String {
    format!("{value:0count$b}")
}

/// A stream of one block whose Huffman codes all have eight bits, so that `symbols` stand in it as they are (after
/// `lead` bits more or less). What it decodes to is whatever comes of it.
fn crafted(symbols: &[u8], crc: u32) -> Vec<u8> {
    // 254 bytes in use, two run lengths, an end: 256 symbols but one; all codes of eight bits are the symbols' numbers.
    let mut map = "1".repeat(16 + 15 * 16);
    map.push_str("1111111111111100");
    let selectors = (symbols.len() + 1).div_ceil(50);
    let table = bits(8, 5) + &"0".repeat(256);
    let magic = bits(u64::from_str_radix(BLOCK, 16).unwrap(), 48);
    let data: String = symbols.iter().chain([&255]).map(|symbol| bits((*symbol).into(), 8)).collect();
    let end = bits(u64::from_str_radix(END, 16).unwrap(), 48) + &bits(crc.into(), 32);
    let text = magic
        + &bits(crc.into(), 32)
        + &bits(0, 25)
        + &map
        + &bits(2, 3)
        + &bits(selectors as u64, 15)
        + &"0".repeat(selectors)
        + &table
        + &table
        + &data
        + &end;
    let byte = |byte: &[u8]| u8::from_str_radix(&format!("{:0<8}", std::str::from_utf8(byte).unwrap()), 2).unwrap();
    b"BZh1".iter().copied().chain(text.as_bytes().chunks(8).map(byte)).collect()
}

/// CRC-32 as bzip2 has it: the polynomial of Ethernet, highest bit first (crctable.c).
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8)
            .fold(crc ^ u32::from(*byte) << 24, |crc, _| if crc >> 31 == 1 { crc << 1 ^ 0x04c1_1db7 } else { crc << 1 })
    })
}

/// A stream that is right, with `magics` among the symbols of its block, and its content.
fn with_magics(fill: usize, magics: &[&str]) -> (Vec<u8>, Vec<u8>) {
    // Some symbols make a content that ends inside a run, which is wrong: then others are taken.
    let mut made = (1..).step_by(2).map(|salt| {
        let mut symbols: Vec<u8> = (0..fill).map(|n| 2 + (n * salt % 250) as u8).collect();
        for magic in magics {
            symbols.extend((0..6).map(|n| u8::from_str_radix(&magic[n * 2..n * 2 + 2], 16).unwrap()));
            symbols.extend([9, 200, 77, 3, 150, 66, 23]);
        }
        // The content comes out before its checksum is found to be wrong.
        let mut content = Vec::with_capacity(1 << 20);
        let _ = bzip2::Decompress::new(false).decompress_vec(&crafted(&symbols, 0), &mut content);
        (crafted(&symbols, crc(&content)), content)
    });
    made.find(|(_, content)| !content.is_empty()).unwrap()
}

fn oracle(stream: &[u8]) -> Vec<u8> {
    let mut child = Command::new("bzip2").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stream).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn a_magic_inside_a_block_is_none_at_any_bit() {
    let sets: [&[&str]; 5] = [&[BLOCK], &[END], &[BLOCK, END], &[END, BLOCK, BLOCK], &[END, END, END]];
    for magics in sets {
        let mut all = Vec::new();
        let mut expected = Vec::new();
        // Each 50 symbols take a bit more, so that the magics move by one.
        for fill in (60..).step_by(50).take(8) {
            let (stream, content) = with_magics(fill, magics);
            assert!(oracle(&stream) == content, "{magics:?} after {fill}: not what was meant");
            all.extend(stream);
            expected.extend(content);
        }
        for (piece, workers) in [(1, 1), (7, 3), (1000, 2), (usize::MAX, 4)] {
            let decoded = decode(&all, piece, workers, None).unwrap_or_else(|e| panic!("{magics:?}: {e}"));
            assert!(decoded.0 == expected, "{magics:?} by {piece}");
            assert_eq!(decoded.2.len(), 8);
            for from in &decoded.2 {
                let rest = decode(&all[from.source_offset as usize..], 100, workers, Some(from)).unwrap();
                assert!(rest.0 == expected[from.decoded_offset as usize..]);
            }
        }
        for cut in (all.len() - 300..all.len()).step_by(7) {
            // Behind what looks like the end of a stream it cannot be told that there should be more.
            let code = decode(&all[..cut], 50, 2, None).err().unwrap().code;
            assert!(code == Code::Truncated || code == Code::Corrupt, "cut at {cut}: {code:?}");
        }
    }
}

#[test]
fn a_block_of_many_magics_is_refused() {
    for magic in [BLOCK, END] {
        let (stream, _) = with_magics(100, &[magic; 9]);
        for workers in [1, 4] {
            assert_eq!(decode(&stream, 100, workers, None).err().unwrap().code, Code::Corrupt);
        }
    }
}

#[test]
fn the_checksum_of_a_stream_is_looked_at() {
    let (mut stream, content) = with_magics(60, &[]);
    assert!(decode(&stream, 100, 2, None).unwrap().0 == content);
    let last = stream.len() - 2;
    stream[last] ^= 1;
    let error = decode(&stream, 100, 2, None).err().unwrap();
    assert_eq!(error.code, Code::Corrupt);
    assert!(error.message.contains("checksum of a stream"), "{error}");
}

#[test]
fn a_block_that_expands_much_is_put_out_as_it_comes() {
    // Run lengths make 45 MB of one block of 900 000 bytes.
    let zeros = vec![0; 60 << 20];
    let mut child = Command::new("bzip2").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(|| drop((stdin.write_all(&zeros), stdin)));
        child.wait_with_output().unwrap()
    });
    let decoded = decode(&output.stdout, 100, 2, None).unwrap();
    assert!(decoded.0 == zeros);
    assert_eq!(decoded.2.len(), 2);
}

//! The contract of every codec, on streams that the usual tools write.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use diskferry_engine::codecs::{Kind, Restart};
use diskferry_engine::error::{Code, Result, Stage};
use diskferry_engine::limits::Limits;
use proptest::prelude::*;

mod decoding;
use decoding::{Collect, feed, resume_everywhere};

fn run(kind: Kind, stream: &[u8], piece: usize, sink: &mut Collect) -> Result<()> {
    feed(&mut *kind.open(&Limits::default(), None)?, stream, piece, sink)
}

fn decode(kind: Kind, stream: &[u8]) -> Result<Vec<u8>> {
    let mut sink = Collect::new(64 << 10, false);
    run(kind, stream, 32 << 10, &mut sink).map(|()| sink.content)
}

/// `s2c` is in no package of Debian: scripts/toolchain.mjs builds it into the cache.
fn program(name: &str) -> PathBuf {
    if name != "s2c" {
        return name.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| Path::new(&std::env::var_os("HOME").expect("a home directory")).join(".cache"), PathBuf::from);
    let built = std::fs::read_dir(cache.join("diskferry/tools")).into_iter().flatten().flatten();
    let mut built = built.filter(|entry| entry.file_name().to_string_lossy().starts_with("s2c@"));
    built.next().map_or_else(|| name.into(), |entry| entry.path().join(name))
}

/// What `command` writes when it is given `input`.
fn tool(command: &str, input: &[u8]) -> Vec<u8> {
    let words: Vec<&str> = command.split(' ').collect();
    let mut child = Command::new(program(words[0]))
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("these tests need the program {}: {e}", words[0]));
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{command} failed");
    output.stdout
}

/// Numbers that are the same in every run (xorshift64, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Text, noise and zeros, with repeats at all distances.
fn content(length: usize) -> Vec<u8> {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut content = Vec::with_capacity(length + 4096);
    while content.len() < length {
        match dice.below(8) {
            0 => content.resize(content.len() + dice.below(4096), 0),
            1 | 2 => (0..dice.below(2048)).for_each(|_| content.push(dice.next() as u8)),
            3 if !content.is_empty() => {
                let from = dice.below(content.len());
                let to = content.len().min(from + dice.below(4096));
                content.extend_from_within(from..to);
            }
            _ => (0..dice.below(300)).for_each(|_| write!(content, "line {} ", dice.below(1000)).unwrap()),
        }
    }
    content.truncate(length);
    content
}

const LENGTH: usize = 400_000;

struct Case {
    kind: Kind,
    command: &'static str,
    /// Whether the stream carries a check of its content.
    checked: bool,
    stream: Vec<u8>,
}

fn original() -> &'static [u8] {
    static ORIGINAL: OnceLock<Vec<u8>> = OnceLock::new();
    ORIGINAL.get_or_init(|| content(LENGTH))
}

const SNAPPY: &str = "s2c -q -c -snappy -index=false -cpu 2 -";

const COMMANDS: &[(Kind, &str, bool)] = &[
    (Kind::Gzip, "gzip -c -1", true),
    (Kind::Gzip, "gzip -c -9", true),
    (Kind::Gzip, "pigz -c -p 2 -b 128", true),
    (Kind::Gzip, "pigz -c -0", true),
    (Kind::Gzip, "bgzip -c", true),
    (Kind::Zstd, "zstd -c -3 --check", true),
    (Kind::Zstd, "zstd -c -19 --check", true),
    (Kind::Zstd, "zstd -c -1 --no-check", false),
    (Kind::Zstd, "pzstd -c -p 2 -1", true),
    (Kind::Xz, "xz -c -T1 -6", true),
    (Kind::Xz, "xz -c -T1 -1 --block-size=100000", true),
    (Kind::Xz, "xz -c -T2 -1 --block-size=65536", true),
    (Kind::Xz, "xz -c -T2 -9 --block-size=30000 --check=sha256", true),
    (Kind::Xz, "xz -c -T2 -1 --block-size=65536 --check=crc32", true),
    (Kind::Xz, "xz -c -T2 -1 --block-size=65536 --check=none", false),
    (Kind::Xz, "xz -c -T2 --block-size=65536 --x86 --delta=dist=4 --lzma2=preset=1", true),
    (Kind::Bzip2, "bzip2 -c -1", true),
    (Kind::Bzip2, "bzip2 -c -9", true),
    (Kind::Bzip2, "lbzip2 -c -1 -n 2", true),
    (Kind::Bzip2, "pbzip2 -c -1 -b1 -p2", true),
    (Kind::Lz4, "lz4 -q -c -1 -B4", true),
    (Kind::Lz4, "lz4 -q -c -9 -B4 -BD -BX", true),
    (Kind::Lz4, "lz4 -q -c -1 -B5 -BD --no-frame-crc", false),
    (Kind::Lz4, "lz4 -q -c -1 -B7 -BX --no-frame-crc", true),
    // The types of chunks are in no checksum (tests/snappy.rs).
    (Kind::Snappy, SNAPPY, false),
    (Kind::Snappy, "s2c -q -c -snappy -index=false -slower -blocksize 4K -", false),
    // Padding, and an index in a skippable chunk.
    (Kind::Snappy, "s2c -q -c -snappy -pad 10000 -", false),
];

fn cases() -> &'static [Case] {
    static CASES: OnceLock<Vec<Case>> = OnceLock::new();
    CASES.get_or_init(|| {
        let make = |(kind, command, checked): &(Kind, &'static str, bool)| Case {
            kind: *kind,
            command,
            checked: *checked,
            stream: tool(command, original()),
        };
        COMMANDS.iter().map(make).collect()
    })
}

fn expect(case: &Case, what: &str, result: Result<Vec<u8>>, code: Code) {
    match result {
        Err(error) => {
            assert_eq!((error.code, error.stage), (code, Stage::Decode), "{}: {what}: {error}", case.command);
        }
        Ok(_) => panic!("{}: {what}: taken for good", case.command),
    }
}

#[test]
fn a_good_stream_in_pieces_of_any_size() {
    for case in cases() {
        assert_eq!(Kind::detect(&case.stream[..64.min(case.stream.len())]), Some(case.kind), "{}", case.command);
        for (piece, room) in [(1, 1 << 20), (7, 100), (4096, 1), (1 << 16, 1 << 16), (usize::MAX, 1 << 20)] {
            let mut sink = Collect::new(room, false);
            run(case.kind, &case.stream, piece, &mut sink).unwrap_or_else(|e| panic!("{}: {e}", case.command));
            assert!(sink.content == original(), "{} by {piece} into {room}", case.command);
        }
    }
}

#[test]
fn empty_content() {
    for (kind, command, _) in COMMANDS {
        // s2c writes nothing then, or no more than an index.
        if *kind == Kind::Snappy {
            continue;
        }
        assert_eq!(decode(*kind, &tool(command, b"")).unwrap(), b"", "{command}");
    }
    assert_eq!(decode(Kind::Snappy, b"\xff\x06\0\0sNaPpY").unwrap(), b"");
    for kind in Kind::ALL {
        assert_eq!(decode(kind, b"").unwrap_err().code, Code::Truncated);
    }
}

#[test]
fn a_cut_is_found_wherever_it_is() {
    let mut dice = Dice(7);
    for case in cases() {
        let mut sink = Collect::new(1 << 20, true);
        run(case.kind, &case.stream, usize::MAX, &mut sink).unwrap();
        // Between members, frames and streams the state is (nearly) empty; an end there is lawful.
        let lawful: Vec<u64> = sink.restarts.iter().filter(|r| r.state.len() <= 1).map(|r| r.source_offset).collect();
        let length = case.stream.len();
        let places = [0, 1, 2, 5, 11, 12, 13, length - 9, length - 2, length - 1];
        for cut in places.into_iter().chain((0..60).map(|_| dice.below(length))) {
            if !lawful.contains(&(cut as u64)) {
                expect(case, &format!("cut at {cut}"), decode(case.kind, &case.stream[..cut]), Code::Truncated);
            }
        }
    }
}

/// As the plan sees it: the first MiB of a source, whose first block is larger.
#[test]
fn something_comes_of_the_first_mebibyte() {
    let mut dice = Dice(3);
    let noise: Vec<u8> = (0..6 << 20).map(|_| dice.next() as u8).collect();
    let text = content(6 << 20);
    for command in ["lz4 -q -c -B7", "lz4 -q -c -B7 -BD", "bzip2 -c", "zstd -c", "xz -c -T2 -0", "gzip -c", SNAPPY] {
        for content in [&noise, &text] {
            let stream = tool(command, content);
            let mut sink = Collect::new(64 << 10, false);
            let error = run(Kind::detect(&stream).unwrap(), &stream[..1 << 20], 65536, &mut sink).unwrap_err();
            assert_eq!(error.code, Code::Truncated, "{command}");
            assert!(sink.content.len() > 128 << 10 && content.starts_with(&sink.content), "{command}");
        }
    }
}

#[test]
fn garbage_at_the_end_is_found() {
    for case in cases() {
        for garbage in [&b"garbage, and more of it"[..], b"g", &[0xff; 5000]] {
            let stream = [&case.stream, garbage].concat();
            expect(case, "garbage", decode(case.kind, &stream), Code::Corrupt);
        }
    }
}

#[test]
fn padding_is_lawful_where_the_format_says_so() {
    for case in cases() {
        for zeros in [1, 2, 4, 512, 4098] {
            let stream = [&case.stream[..], &vec![0; zeros]].concat();
            let result = decode(case.kind, &stream);
            let lawful = match case.kind {
                Kind::Gzip => true,
                Kind::Zstd | Kind::Lz4 | Kind::Bzip2 | Kind::Snappy => false,
                Kind::Xz => zeros % 4 == 0,
                Kind::Tar | Kind::Zip => unreachable!("an archive"),
            };
            assert_eq!(result.is_ok(), lawful, "{} and {zeros} zeros", case.command);
            let after = decode(case.kind, &[&stream[..], b"!"].concat());
            // Fewer zeros than a header has may be the beginning of a chunk.
            let cut = case.kind == Kind::Snappy && zeros < 3;
            expect(case, "garbage after padding", after, if cut { Code::Truncated } else { Code::Corrupt });
        }
    }
}

#[test]
fn a_flipped_bit_is_found() {
    let mut dice = Dice(11);
    for case in cases() {
        for round in 0..150 {
            let mut stream = case.stream.clone();
            // Every other one in the framing at either end.
            let at = match round % 4 {
                0 => dice.below(40),
                1 => stream.len() - 1 - dice.below(60),
                _ => dice.below(stream.len()),
            };
            stream[at] ^= 1 << dice.below(8);
            // Some bits mean nothing (a time stamp in a header): then the content is the same.
            if let Ok(decoded) = decode(case.kind, &stream) {
                assert!(!case.checked || decoded == original(), "{}: bit at {at}", case.command);
            }
        }
    }
}

#[test]
fn streams_one_after_the_other() {
    for kind in Kind::ALL {
        let of_kind: Vec<_> = cases().iter().filter(|case| case.kind == kind).collect();
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (case, (_, command, _)) in of_kind.iter().zip(COMMANDS.iter().filter(|(k, _, _)| *k == kind)) {
            stream.extend_from_slice(&case.stream);
            expected.extend_from_slice(original());
            stream.extend_from_slice(&tool(command, b""));
            match kind {
                // A stream identifier, padding, a chunk that may be passed over.
                Kind::Snappy => stream.extend_from_slice(b"\xff\x06\0\0sNaPpY\xfe\0\0\0\x80\x02\0\0ab"),
                Kind::Gzip | Kind::Bzip2 => {}
                // A skippable frame of five bytes (RFC 8878, 3.1.2; LZ4 has the same), and one of none.
                Kind::Zstd | Kind::Lz4 => {
                    stream.extend_from_slice(b"\x53\x2a\x4d\x18\x05\0\0\0abcde\x50\x2a\x4d\x18\0\0\0\0")
                }
                Kind::Xz => stream.extend_from_slice(&[0; 8]),
                Kind::Tar | Kind::Zip => unreachable!("an archive"),
            }
        }
        for piece in [1, 1000, usize::MAX] {
            let mut sink = Collect::new(1 << 18, false);
            run(kind, &stream, piece, &mut sink).unwrap_or_else(|e| panic!("{e}"));
            assert!(sink.content == expected, "{} by {piece}", kind.name());
        }
        resume_everywhere(&|from| kind.open(&Limits::default(), from).unwrap(), "concatenated", &stream, &expected);
    }
}

#[test]
fn decoding_begins_again_at_every_restart() {
    for case in cases() {
        resume_everywhere(
            &|from| case.kind.open(&Limits::default(), from).unwrap(),
            case.command,
            &case.stream,
            original(),
        );
    }
}

#[test]
fn restarts_come_inside_a_single_gzip_member_and_at_every_xz_block() {
    for case in cases() {
        let mut sink = Collect::new(1 << 20, true);
        run(case.kind, &case.stream, usize::MAX, &mut sink).unwrap();
        let least = match case.command {
            "gzip -c -1" | "gzip -c -9" => {
                // zlib's window and bits: the second byte of a state is the number of bits that are left over.
                let inside = |r: &&Restart| r.state.len() > 30_000 && r.state[1] != 0;
                assert!(sink.restarts.iter().filter(inside).count() >= 2, "no restart inside a byte");
                4
            }
            "xz -c -T2 -1 --block-size=65536" => 8,
            // Blocks of 100 000 bytes.
            "bzip2 -c -1" | "lbzip2 -c -1 -n 2" | "pbzip2 -c -1 -b1 -p2" => 4,
            // Independent blocks of 64 KiB.
            "lz4 -q -c -1 -B4" => 8,
            // Chunks of 64 and of 4 KiB.
            SNAPPY => 8,
            "s2c -q -c -snappy -index=false -slower -blocksize 4K -" => 90,
            _ => 1,
        };
        assert!(sink.restarts.len() >= least, "{}: {} restarts", case.command, sink.restarts.len());
    }
}

#[test]
fn a_state_that_makes_no_sense_is_refused() {
    let mut dice = Dice(5);
    for kind in [Kind::Gzip, Kind::Xz, Kind::Lz4, Kind::Bzip2] {
        let case = cases().iter().find(|case| case.kind == kind).unwrap();
        let mut sink = Collect::new(1 << 20, true);
        run(kind, &case.stream, usize::MAX, &mut sink).unwrap();
        let from = &sink.restarts[0];
        for _ in 0..200 {
            let mut bad = from.clone();
            match dice.below(2) {
                0 => bad.state.truncate(dice.below(bad.state.len())),
                _ => {
                    let at = dice.below(bad.state.len().min(12));
                    bad.state[at] = dice.next() as u8;
                }
            }
            // An error or wrong bytes, never a panic.
            if let Ok(mut codec) = kind.open(&Limits::default(), Some(&bad)) {
                let mut sink = Collect::new(1 << 20, false);
                let _ = feed(&mut *codec, &case.stream[bad.source_offset as usize..], usize::MAX, &mut sink);
            }
        }
        let empty = Restart { state: Vec::new(), ..from.clone() };
        assert!(kind.open(&Limits::default(), Some(&empty)).is_err());
    }
}

#[test]
fn thousands_of_blocks() {
    let expected = content(6 << 20);
    for command in ["xz -c -T2 -0 --block-size=4096", "bgzip -c -l 1", "lz4 -q -c -B4", "bzip2 -c -1", SNAPPY] {
        let stream = tool(command, &expected);
        let kind = Kind::detect(&stream).unwrap();
        let mut sink = Collect::new(1 << 20, true);
        run(kind, &stream, 100_000, &mut sink).unwrap_or_else(|e| panic!("{command}: {e}"));
        assert!(sink.content == expected, "{command}");
        let last = sink.restarts.len() - 1;
        for i in [0, 1, last / 2, last - 1, last] {
            let from = &sink.restarts[i];
            let mut codec = kind.open(&Limits::default(), Some(from)).unwrap();
            let mut tail = Collect::new(1 << 20, false);
            feed(&mut *codec, &stream[from.source_offset as usize..], 1 << 20, &mut tail).unwrap();
            assert!(tail.content == expected[from.decoded_offset as usize..], "{command} from {i}");
        }
    }
}

#[test]
fn a_bomb_stops_when_the_sink_does() {
    let zeros = vec![0; 48 << 20];
    let commands = [
        "gzip -c",
        "bgzip -c",
        "zstd -c",
        "xz -c -T1 -0",
        "xz -c -T2 -0 --block-size=2MiB",
        "lz4 -q -c",
        "bzip2 -c",
        SNAPPY,
    ];
    for command in commands {
        let stream = tool(command, &zeros);
        let kind = Kind::detect(&stream).unwrap();
        let mut sink = Collect::new(64 << 10, false);
        sink.most = 1 << 20;
        let error = run(kind, &stream, usize::MAX, &mut sink).unwrap_err();
        assert_eq!(error.code, Code::Aborted, "{command}");
        assert!(sink.content.len() <= (1 << 20) + (64 << 10), "{command}: {}", sink.content.len());
        // And it stays stopped.
        let mut codec = kind.open(&Limits::default(), None).unwrap();
        sink.stopped = false;
        assert_eq!(feed(&mut *codec, &stream, usize::MAX, &mut sink).unwrap_err().code, Code::Aborted);
        assert_eq!(codec.push(&stream, &mut sink).unwrap_err().code, Code::Aborted);
        assert_eq!(codec.finish(&mut sink).unwrap_err().code, Code::Aborted);
    }
}

#[test]
fn windows_are_bounded() {
    // Larger than the dictionaries below, which xz and zstd else make smaller.
    let expected = content(1 << 20);
    for command in ["zstd -c --long=27", "xz -c -T1 --lzma2=dict=64MiB", "xz -c -T2 -0 --lzma2=dict=12MiB"] {
        let mut long = expected.clone();
        if command.contains("T2") {
            long.resize(20 << 20, 7);
        }
        let stream = tool(command, &long);
        let kind = Kind::detect(&stream).unwrap();
        let error = decode(kind, &stream).unwrap_err();
        assert_eq!((error.code, error.stage), (Code::TooLarge, Stage::Decode), "{command}: {error}");
        assert!(error.message.contains("raise --memory"), "{error}");
        let error = kind.memory(&stream[..512], &Limits::default()).unwrap_err();
        assert_eq!((error.code, error.stage), (Code::TooLarge, Stage::Plan), "{command}: {error}");
        let limits = Limits { decoder_window: 128 << 20, decoder_memory: 200 << 20, ..Limits::default() };
        let memory = kind.memory(&stream[..512], &limits).unwrap();
        assert!(memory.window >= 12 << 20 && memory.total >= memory.window && memory.total <= 201 << 20);
        let mut sink = Collect::new(1 << 20, false);
        feed(&mut *kind.open(&limits, None).unwrap(), &stream, 1 << 20, &mut sink).unwrap();
        assert!(sink.content == long, "{command}");
    }
}

#[test]
fn less_memory_takes_fewer_threads_and_gives_the_same() {
    let expected = content(3 << 20);
    let stream = tool("xz -c -T2 -1 --block-size=1MiB", &expected);
    for (workers, decoder_memory) in [(1, 48 << 20), (2, 1 << 20), (2, 12 << 20), (4, 14 << 20), (8, 48 << 20)] {
        let limits = Limits { workers, decoder_memory, ..Limits::default() };
        let memory = Kind::Xz.memory(&stream[..512], &limits).unwrap();
        assert!(memory.total <= decoder_memory.max(2 << 20), "{workers} {decoder_memory}: {memory:?}");
        let mut sink = Collect::new(1 << 16, false);
        feed(&mut *Kind::Xz.open(&limits, None).unwrap(), &stream, 5000, &mut sink).unwrap();
        assert!(sink.content == expected);
    }
}

#[test]
fn all_fields_of_a_gzip_header() {
    let plain = tool("gzip -c -n", b"content");
    // FEXTRA, FNAME, FCOMMENT, FHCRC; the rest of the header as gzip wrote it.
    let mut header = plain[..10].to_vec();
    header[3] = 0b1_1110;
    header.extend_from_slice(b"\x04\0abcdname\0a comment\0");
    let crc = crc32fast::hash(&header) as u16;
    let stream = [&header[..], &crc.to_le_bytes(), &plain[10..]].concat();
    for piece in [1, 2, 3, 100] {
        let mut sink = Collect::new(10, false);
        run(Kind::Gzip, &stream, piece, &mut sink).unwrap();
        assert_eq!(sink.content, b"content");
    }
    for at in 4..header.len() + 2 {
        let mut bad = stream.clone();
        bad[at] ^= 1;
        assert!(decode(Kind::Gzip, &bad).is_err(), "byte {at} of a header with a CRC16");
    }
    let mut endless = header[..10].to_vec();
    endless[3] = 0b1000;
    endless.resize(100_000, b'a');
    assert_eq!(decode(Kind::Gzip, &endless).unwrap_err().code, Code::Corrupt);
}

#[test]
fn nothing_else_is_taken_for_a_codec() {
    for head in [&b""[..], b"\x1f\x8b", b"QFI\xfb\0\0\0\x03", b"\xfd7zX", &[0; 512], b"\x1f\x8b\x08\xff"] {
        assert_eq!(Kind::detect(head), None);
    }
    for kind in Kind::ALL {
        for junk in [&b"junk"[..], &[0; 100], &[0xff; 100]] {
            assert_eq!(decode(kind, junk).unwrap_err().code, Code::Corrupt);
        }
    }
}

#[test]
fn a_dropped_decoder_is_gone_at_once() {
    let case = cases().iter().find(|case| case.command.contains("-T2 -1")).unwrap();
    for cut in [1, 50, 40_000, case.stream.len() / 2, case.stream.len() - 1] {
        let mut codec = case.kind.open(&Limits::default(), None).unwrap();
        let mut sink = Collect::new(100, false);
        codec.push(&case.stream[..cut], &mut sink).unwrap();
        drop(codec);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_boundaries_give_the_same(
        case in 0..COMMANDS.len(),
        pieces in prop::collection::vec(1usize..60_000, 1..20),
        room in 1usize..200_000,
        due in any::<bool>(),
    ) {
        let case = &cases()[case];
        let mut codec = case.kind.open(&Limits::default(), None).unwrap();
        let mut sink = Collect::new(room, due);
        let mut rest = &case.stream[..];
        for n in pieces.iter().cycle() {
            let (piece, after) = rest.split_at((*n).min(rest.len()));
            codec.push(piece, &mut sink).unwrap();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        codec.finish(&mut sink).unwrap();
        prop_assert!(sink.content == original());
    }

    #[test]
    fn noise_is_an_error(
        kind in 0..Kind::ALL.len(),
        keep in 4usize..64,
        noise in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let kind = Kind::ALL[kind];
        let case = cases().iter().find(|case| case.kind == kind).unwrap();
        let stream = [&case.stream[..keep.min(case.stream.len())], &noise].concat();
        // No more than a stream identifier is a whole stream.
        prop_assume!(kind != Kind::Snappy || stream.len() != 10);
        prop_assert!(decode(kind, &stream).is_err());
    }
}

//! Makes the seeds of the targets whose input is no file that a tool writes: `cargo run --example seeds -- corpus`.
//! The other seeds are made by seeds.sh.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use diskferry_engine::codecs::Restart;
use diskferry_engine::digest::{DiskDigest, GROUP_LEAVES};
use diskferry_engine::journal::{Checkpoint, Finishing, Journal, ROOM, ZeroKnown, hash};
use diskferry_fuzz::journal::{Stored, key};
use diskferry_fuzz::{patches, small_images};

const IDENTITY: &str = r#"{"url":"https://host.test/disk.qcow2","length":123456}"#;

fn checkpoint(number: u64) -> Checkpoint {
    let restart = Restart { source_offset: 1000 * number, decoded_offset: 5000 * number, state: vec![1, 2, 3] };
    Checkpoint {
        identity: IDENTITY.to_owned(),
        way: "stream".to_owned(),
        virtual_size: Some(10 << 20),
        file_length: Some(123_456),
        watermark: 1000 * number,
        restart: number.is_multiple_of(2).then_some(restart),
        written_to: Some(4000 * number),
        source_hash: Some(vec![number as u8; 40]),
        hash_offset: 1000 * number,
        groups: vec![1, 0],
        head_hash: Some([number as u8; 32]),
        zero_known: ZeroKnown::ZeroedTo(number),
        resumes: 1,
        written: 2,
        zeroed: 3,
        skipped: 4,
    }
}

fn finishing(head: &[u8]) -> Finishing {
    Finishing {
        identity_hash: hash(IDENTITY.as_bytes()),
        virtual_size: 2 << 20,
        disk_digest: [1; 32],
        source_digest: Some([2; 32]),
        head_hash: hash(head),
        resumes: 1,
        written: 2,
        zeroed: 3,
        skipped: 4,
    }
}

/// A first MiB at each state that a run leaves.
fn journals() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    // Index of the length in the target's table: 2 MiB.
    let seed = |stored: &Stored| [vec![2], patches::of(&stored.bytes()[..ROOM])].concat();
    let store = Arc::new(Stored::filled(2 * ROOM));
    let mut journal = Journal::begin(store.clone(), &key(), IDENTITY).expect("in memory");
    seeds.push(("started".to_owned(), seed(&store)));
    for number in 1..=2 {
        journal.checkpoint(&checkpoint(number)).expect("in memory");
        seeds.push((format!("checkpoint-{number}"), seed(&store)));
    }
    // All filler but a magic, so that the patches are short.
    let mut head = store.bytes()[ROOM..].to_vec();
    head[0x438..0x43a].copy_from_slice(b"\x53\xef");
    let steps = RefCell::new(Vec::new());
    let tail = vec![5; 4096];
    let keep = |step: &'static str| steps.borrow_mut().push((step.to_owned(), seed(&store)));
    let done = journal.finish(finishing(&head), &head, 2 * ROOM as u64 - 4096, &tail, 512, &|| Ok(()), &keep);
    done.expect("in memory");
    seeds.extend(steps.into_inner());
    seeds
}

fn sealed() -> Vec<(String, Vec<u8>)> {
    let block = |bytes: &[u8]| [&(bytes.len() as u16).to_le_bytes()[..], bytes].concat();
    let boxed = |epoch: u64, sequence: u64, payload: &[u8]| {
        block(&[&epoch.to_le_bytes()[..], &sequence.to_le_bytes(), payload].concat())
    };
    let mut seeds = Vec::new();
    for (kind, name) in [(0_u8, "checkpoints"), (1, "finishing")] {
        let mut record = vec![0; 335];
        record[0] = kind;
        record[1..33].fill(9);
        record[33..41].copy_from_slice(&1_u64.to_le_bytes());
        record[270..278].copy_from_slice(&(2 * ROOM as u64).to_le_bytes());
        let slot = |number| postcard::to_allocvec(&checkpoint(number)).expect("it is encodable");
        let parts = [
            vec![2, 0, 2],
            block(&record),
            boxed(1, 0, IDENTITY.as_bytes()),
            block(&[]),
            boxed(1, 1, &slot(1)),
            boxed(1, 2, &slot(2)),
        ];
        seeds.push((name.to_owned(), parts.concat()));
    }
    seeds
}

fn digests() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (name, power, groups) in [("small", 29, 3), ("large", 45, 40), ("unknown", 255, 5)] {
        let digest = DiskDigest::new((power != 255).then(|| 1 << power), 4);
        for group in 0..groups {
            let first = group * 3 * GROUP_LEAVES as u64;
            digest.set(first, &vec![[group as u8; 32]; GROUP_LEAVES]);
            digest.set_zero(first + GROUP_LEAVES as u64, GROUP_LEAVES as u64);
        }
        seeds.push((name.to_owned(), [vec![power as u8], digest.complete_groups(4096)].concat()));
    }
    seeds
}

/// A restart between two deflate blocks: bits, value, CRC, length and window in postcard, then a stored block.
fn restarts() -> Vec<(String, Vec<u8>)> {
    let restart = |kind: u8, state: &[u8], stream: &[u8]| {
        [&[kind][..], &(state.len() as u16).to_le_bytes(), &[2], state, stream].concat()
    };
    let window = [b'a'; 64];
    let gzip = [&[1, 0, 0, 5, 64, 64][..], &window].concat();
    // A stored block of two bytes (RFC 1951, 3.2.4), a fixed one that ends at once, a trailer.
    let deflate = [0, 2, 0, 0xfd, 0xff, b'h', b'i', 3, 0, 1, 2, 3, 4, 66, 0, 0, 0];
    let block = [&[1, 0, 0][..], &[0; 32]].concat();
    let lz4 = [&[1, 0x60, 0x40, 0, 0, 0, 0, 0, 0][..], &[0; 17]].concat();
    vec![
        ("gzip-block".to_owned(), restart(0, &gzip, &deflate)),
        ("gzip-boundary".to_owned(), restart(0, &[0], &[0; 4])),
        ("zstd".to_owned(), restart(1, &[], &[0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0])),
        ("xz-block".to_owned(), restart(2, &block, &[0, 0, 0, 0])),
        ("lz4-boundary".to_owned(), restart(3, &[0], &[4, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82, 0, 0, 0, 0])),
        ("bzip2-boundary".to_owned(), restart(4, &[0], b"BZh9\x17\x72\x45\x38\x50\x90\0\0\0\0")),
        ("bzip2-block".to_owned(), restart(4, &[1, 9, 3, 0], &[6, 0x28, 0x2b, 0x24, 0xca, 0x6b, 0x20, 0, 0])),
        // A stored chunk of one byte; its checksum is made up.
        ("snappy".to_owned(), restart(5, &[], &[1, 5, 0, 0, 1, 2, 3, 4, b'x'])),
        // Independent blocks of 64 KiB, no checksums, no size: a stored block of one byte and the end.
        ("lz4-block".to_owned(), restart(3, &lz4, &[1, 0, 0, 0x80, b'x', 0, 0, 0, 0])),
    ]
}

fn main() -> std::io::Result<()> {
    let corpus = std::env::args().nth(1).expect("the directory of the corpora");
    let all = [
        ("journal", journals()),
        ("journal_sealed", sealed()),
        ("digest", digests()),
        ("restart", restarts()),
        ("images", small_images::all()),
        ("images_ranges", small_images::all()),
    ];
    for (target, seeds) in all {
        let directory = Path::new(&corpus).join(target);
        fs::create_dir_all(&directory)?;
        for (name, bytes) in seeds {
            fs::write(directory.join(name), bytes)?;
        }
    }
    Ok(())
}

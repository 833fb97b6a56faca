//! The journal against a disk that loses and tears what was not flushed, against forgers, and against real probes.

use std::collections::HashSet;
use std::process::Command;
use std::sync::{Arc, Mutex};

use diskferry_engine::codecs::Restart;
use diskferry_engine::error::{Code, Error, Result, Stage};
use diskferry_engine::journal::{
    Checkpoint, FILLER, Finishing, Journal, Key, ROOM, Recovered, STEPS, Store, ZeroKnown, forget, hash, recover,
    was_beginning,
};
use proptest::prelude::*;

const MIB: usize = 1 << 20;

#[derive(Clone)]
enum Op {
    Write(usize, Vec<u8>),
    Flush,
}

struct State {
    bytes: Vec<u8>,
    log: Vec<Op>,
}

/// Memory that remembers each write and flush.
struct Recorded(Mutex<State>);

impl Recorded {
    fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { bytes, log: Vec::new() })))
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().bytes.clone()
    }

    fn take_log(&self) -> Vec<Op> {
        std::mem::take(&mut self.0.lock().unwrap().log)
    }

    fn log_length(&self) -> usize {
        self.0.lock().unwrap().log.len()
    }

    fn change(&self, at: usize, change: impl Fn(u8) -> u8) {
        let byte = &mut self.0.lock().unwrap().bytes[at];
        *byte = change(*byte);
    }
}

impl Store for Recorded {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        into.copy_from_slice(&self.0.lock().unwrap().bytes[at as usize..at as usize + into.len()]);
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        assert!(at.is_multiple_of(512), "a write at {at}");
        assert!(bytes.as_ptr().addr().is_multiple_of(4096), "an unaligned buffer");
        let mut state = self.0.lock().unwrap();
        state.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        state.log.push(Op::Write(at as usize, bytes.to_vec()));
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.0.lock().unwrap().log.push(Op::Flush);
        Ok(())
    }

    fn length(&self) -> u64 {
        self.0.lock().unwrap().bytes.len() as u64
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(length).collect()
    }
}

/// What a cut after `log` may leave: flushed writes stand; each later one stands, is lost, or is torn at sectors.
fn cut(before: &[u8], log: &[Op], sector: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = before.to_vec();
    let flushed = log.iter().rposition(|op| matches!(op, Op::Flush)).map_or(0, |at| at + 1);
    for (index, op) in log.iter().enumerate() {
        let Op::Write(at, data) = op else { continue };
        let fate = if index < flushed { 0 } else { random.next() % 3 };
        let mut offset = 0;
        while offset < data.len() {
            let length = (sector - (at + offset) % sector).min(data.len() - offset);
            if fate == 0 || (fate == 2 && random.next().is_multiple_of(2)) {
                bytes[at + offset..at + offset + length].copy_from_slice(&data[offset..offset + length]);
            }
            offset += length;
        }
    }
    bytes
}

fn key() -> Key {
    Key::new([7; 32])
}

const IDENTITY: &str = r#"{"url":"https://host.test/disk.qcow2","length":123456}"#;

fn checkpoint(number: u64) -> Checkpoint {
    Checkpoint {
        identity: IDENTITY.into(),
        way: "stream".into(),
        virtual_size: Some(8 << 30),
        file_length: Some(1 << 30),
        watermark: number << 20,
        restart: Some(Restart { source_offset: number, decoded_offset: 7, state: vec![number as u8; 32 << 10] }),
        written_to: None,
        source_hash: Some(vec![1; 112]),
        hash_offset: number << 20,
        groups: vec![3; 5000 * number as usize],
        head_hash: Some([9; 32]),
        zero_known: ZeroKnown::ZeroedTo(77),
        resumes: 2,
        written: 1,
        zeroed: 2,
        skipped: 3,
    }
}

fn finishing(disk: &[u8]) -> Finishing {
    Finishing {
        identity_hash: hash(IDENTITY.as_bytes()),
        virtual_size: disk.len() as u64,
        disk_digest: [5; 32],
        source_digest: Some([6; 32]),
        head_hash: hash(&disk[..ROOM]),
        resumes: 1,
        written: 10,
        zeroed: 20,
        skipped: 30,
    }
}

fn finish(journal: Journal, disk: &[u8], sector: usize) -> Result<()> {
    let tail_at = (disk.len() - MIB) / 4096 * 4096;
    let steps = Mutex::new(Vec::new());
    journal.finish(finishing(disk), &disk[..ROOM], tail_at as u64, &disk[tail_at..], sector, &|| Ok(()), &|step| {
        steps.lock().unwrap().push(step)
    })?;
    assert_eq!(steps.into_inner().unwrap(), STEPS);
    Ok(())
}

fn nothing() -> Result<()> {
    Ok(())
}

/// The target with all of the disk but its held ends.
fn with_data(disk: &[u8]) -> Vec<u8> {
    let mut bytes = disk.to_vec();
    bytes[..ROOM].fill(0x11);
    let tail_at = (disk.len() - MIB) / 4096 * 4096;
    bytes[tail_at..].fill(0x22);
    bytes
}

#[test]
fn a_cut_leaves_the_last_flushed_checkpoint_or_the_one_before() {
    let before = Random(1).bytes(2 * MIB);
    let store = Recorded::new(before.clone());
    let mut journal = Journal::begin(store.clone(), &key(), IDENTITY).unwrap();
    let begun = store.log_length();
    let mut ends = Vec::new();
    for number in 1..=7 {
        if number == 4 {
            let (next, recovered) = Journal::take_over(store.clone(), &key()).unwrap();
            assert_eq!(recovered, Recovered::Checkpoint(Box::new(checkpoint(3))));
            journal = next;
            assert_eq!(journal.epoch(), 2);
        }
        journal.checkpoint(&checkpoint(number)).unwrap();
        ends.push(store.log_length());
    }
    let log = store.take_log();
    let mut random = Random(2);
    for length in 0..=log.len() {
        for _ in 0..20 {
            let left = Recorded::new(cut(&before, &log[..length], 512, &mut random));
            let done = ends.iter().filter(|end| **end <= length).count() as u64;
            match recover(&*left, &key()).unwrap() {
                Recovered::Checkpoint(found) => {
                    let number = found.watermark >> 20;
                    assert!(number == done || number == done + 1, "{number} after {done} at {length}");
                    assert_eq!(*found, checkpoint(number));
                }
                Recovered::Started { identity, .. } => {
                    assert_eq!(done, 0);
                    assert_eq!(identity.as_deref(), Some(IDENTITY));
                }
                Recovered::Nothing => assert!(length < begun, "lost at {length}"),
                other => panic!("{other:?} at {length}"),
            }
        }
    }
}

/// Disks whose committing sector differs: nothing known, ext, ISO 9660.
fn disks() -> Vec<Vec<u8>> {
    let mut plain = Random(3).bytes(3 * MIB + 777);
    plain[510] = 0;
    plain[1080] = 0;
    let mut ext = plain.clone();
    ext[0x438..0x43a].copy_from_slice(b"\x53\xef");
    let mut iso = plain.clone();
    iso[0x8001..0x8006].copy_from_slice(b"CD001");
    iso.truncate(3 * MIB);
    vec![plain, ext, iso]
}

#[test]
fn finishing_survives_cuts_at_every_step_also_while_it_is_repeated() {
    for (disk, place) in disks().into_iter().zip([0, 1024, 0x8000]) {
        for sector in [512, 4096] {
            let place = place / sector * sector;
            let before = with_data(&disk);
            let store = Recorded::new(before);
            let mut journal = Journal::begin(store.clone(), &key(), IDENTITY).unwrap();
            journal.checkpoint(&checkpoint(1)).unwrap();
            store.take_log();
            let before = store.bytes();
            finish(journal, &disk, sector).unwrap();
            assert!(store.bytes() == disk);
            assert_eq!(recover(&*store, &key()).unwrap(), Recovered::Nothing);

            let mut random = Random(4);
            let log = store.take_log();
            let mut met = HashSet::new();
            for length in 0..=log.len() {
                for _ in 0..6 {
                    let mut left = cut(&before, &log[..length], sector, &mut random);
                    // A second cut, somewhere in what goes on after the first.
                    for again in 0..2 {
                        let store = Recorded::new(left.clone());
                        let committed = store.bytes()[place..place + sector] == disk[place..place + sector];
                        match recover(&*store, &key()).unwrap() {
                            Recovered::Checkpoint(found) => {
                                assert!(!committed);
                                assert_eq!(*found, checkpoint(1));
                                let (journal, _) = Journal::take_over(store.clone(), &key()).unwrap();
                                finish(journal, &disk, sector).unwrap();
                                met.insert("checkpoint");
                            }
                            Recovered::Finishing { finishing: found, .. } => {
                                assert!(!committed);
                                assert_eq!(*found, finishing(&disk));
                                let (journal, _) = Journal::take_over(store.clone(), &key()).unwrap();
                                journal.finish_again(&disk[..ROOM], sector, &nothing, &|_| ()).unwrap();
                                met.insert("finishing");
                            }
                            Recovered::Nothing => {
                                assert!(committed && length + 2 >= log.len() || again == 1);
                                met.insert("done");
                            }
                            other => panic!("{other:?} at {length}"),
                        }
                        assert!(store.bytes() == disk, "wrong disk after a cut at {length}");
                        let log = store.take_log();
                        let length = random.next() as usize % (log.len() + 1);
                        left = cut(&left, &log[..length], sector, &mut random);
                    }
                }
            }
            assert_eq!(met.len(), 3);
        }
    }
}

#[test]
fn finishing_again_refuses_another_head_and_a_changed_last_block() {
    let disk = disks().remove(0);
    let store = Recorded::new(with_data(&disk));
    let journal = Journal::begin(store.clone(), &key(), IDENTITY).unwrap();
    store.take_log();
    let before = store.bytes();
    finish(journal, &disk, 512).unwrap();
    let log = store.take_log();
    let record = log.iter().position(|op| matches!(op, Op::Write(0, _))).unwrap();
    let left = cut(&before, &log[..record + 2], 512, &mut Random(5));

    let store = Recorded::new(left.clone());
    let (journal, recovered) = Journal::take_over(store, &key()).unwrap();
    let Recovered::Finishing { identity, .. } = recovered else { panic!("{recovered:?}") };
    assert_eq!(identity.as_deref(), Some(IDENTITY));
    let mut head = disk[..ROOM].to_vec();
    head[ROOM - 1] ^= 1;
    let error = journal.finish_again(&head, 512, &nothing, &|_| ()).unwrap_err();
    assert_eq!(error.code, Code::Changed);

    let store = Recorded::new(left);
    store.change(disk.len() - 1, |byte| byte ^ 4);
    let (journal, _) = Journal::take_over(store, &key()).unwrap();
    let error = journal.finish_again(&disk[..ROOM], 512, &nothing, &|_| ()).unwrap_err();
    assert_eq!(error.code, Code::Corrupt);
}

#[test]
fn an_older_writer_stops_at_its_next_step() {
    let disk = disks().remove(0);
    let store = Recorded::new(with_data(&disk));
    let mut old = Journal::begin(store.clone(), &key(), IDENTITY).unwrap();
    old.checkpoint(&checkpoint(1)).unwrap();
    let (mut new, _) = Journal::take_over(store.clone(), &key()).unwrap();
    let error = old.checkpoint(&checkpoint(2)).unwrap_err();
    assert_eq!(error.code, Code::Busy);
    assert!(error.message.contains("epoch 2"), "{error}");
    new.checkpoint(&checkpoint(3)).unwrap();
    let state = store.bytes();
    assert_eq!(finish(old, &disk, 512).unwrap_err().code, Code::Busy);
    assert!(store.bytes() == state, "the old run wrote");

    // Taken over between the steps of finishing, begun anew, and finished by another.
    let stop = |step: &'static str, act: &dyn Fn()| {
        let (journal, _) = Journal::take_over(store.clone(), &key()).unwrap();
        let tail_at = 2 * MIB;
        let fail = |name| {
            if name == step {
                act()
            }
        };
        journal.finish(finishing(&disk), &disk[..ROOM], tail_at as u64, &disk[tail_at..], 512, &nothing, &fail)
    };
    let others = || drop(Journal::take_over(store.clone(), &key()).unwrap());
    assert_eq!(stop("finish-tail", &others).unwrap_err().code, Code::Busy);
    let anew = || drop(Journal::begin(store.clone(), &key(), IDENTITY).unwrap());
    assert_eq!(stop("finish-tail", &anew).unwrap_err().code, Code::Busy);
    assert_eq!(stop("finish-head", &others).unwrap_err().code, Code::Busy);
    let (journal, recovered) = Journal::take_over(store.clone(), &key()).unwrap();
    assert!(matches!(recovered, Recovered::Finishing { .. }));
    let finished = |name| {
        if name == "finish-front" {
            let (other, _) = Journal::take_over(store.clone(), &key()).unwrap();
            other.finish_again(&disk[..ROOM], 512, &nothing, &|_| ()).unwrap();
        }
    };
    let error = journal.finish_again(&disk[..ROOM], 512, &nothing, &finished).unwrap_err();
    assert_eq!(error.code, Code::Busy);
    assert!(store.bytes() == disk);
}

#[test]
fn a_journal_of_another_key_is_foreign_and_a_forged_slot_does_not_count() {
    let store = Recorded::new(vec![0; 2 * MIB]);
    assert_eq!(recover(&*store, &key()).unwrap(), Recovered::Nothing);
    let mut journal = Journal::begin(store.clone(), &key(), IDENTITY).unwrap();
    journal.checkpoint(&checkpoint(1)).unwrap();
    assert_eq!(recover(&*store, &Key::new([8; 32])).unwrap(), Recovered::Foreign);
    assert_eq!(Journal::take_over(store.clone(), &Key::new([8; 32])).err().unwrap().code, Code::Changed);

    let forged = Recorded::new(vec![0; 2 * MIB]);
    let mut forger = Journal::begin(forged.clone(), &Key::new([8; 32]), IDENTITY).unwrap();
    forger.checkpoint(&checkpoint(8)).unwrap();
    forger.checkpoint(&checkpoint(9)).unwrap();
    let slots = forged.bytes()[128 << 10..ROOM].to_vec();
    store.write(128 << 10, &diskferry_engine::bytes::Bytes::copy_of(&slots)).unwrap();
    assert!(matches!(recover(&*store, &key()).unwrap(), Recovered::Started { .. }));

    // Slots of an earlier journal of our own do not count either.
    let earlier = Recorded::new(vec![0; 2 * MIB]);
    let mut own = Journal::begin(earlier.clone(), &key(), IDENTITY).unwrap();
    own.checkpoint(&checkpoint(8)).unwrap();
    let slots = earlier.bytes()[128 << 10..ROOM].to_vec();
    store.write(128 << 10, &diskferry_engine::bytes::Bytes::copy_of(&slots)).unwrap();
    assert!(matches!(recover(&*store, &key()).unwrap(), Recovered::Started { .. }));

    forget(&*store).unwrap();
    assert!(store.bytes()[..ROOM].iter().all(|byte| *byte == 0));
}

#[test]
fn what_does_not_fit_is_left_out() {
    let store = Recorded::new(vec![0; 2 * MIB]);
    let identity = "x".repeat(16 << 10);
    let mut journal = Journal::begin(store.clone(), &key(), &identity).unwrap();
    let started = recover(&*store, &key()).unwrap();
    assert!(matches!(started, Recovered::Started { identity: Some(text), .. } if text == identity));
    let found = |journal: &mut Journal, given: &Checkpoint| {
        journal.checkpoint(given).unwrap();
        let Recovered::Checkpoint(found) = recover(&*store, &key()).unwrap() else { panic!("no checkpoint") };
        *found
    };
    let mut given = Checkpoint { identity, ..checkpoint(1) };
    given.groups = vec![1; 390 << 10];
    assert_eq!(found(&mut journal, &given), Checkpoint { groups: Vec::new(), ..given.clone() });
    given.groups = vec![1; 300 << 10];
    assert_eq!(found(&mut journal, &given), given);
    given.groups = vec![1; 350 << 10];
    assert_eq!(found(&mut journal, &given), Checkpoint { groups: Vec::new(), ..given.clone() });
    given.restart.as_mut().unwrap().state = vec![1; 500 << 10];
    assert_eq!(found(&mut journal, &given), Checkpoint { groups: Vec::new(), restart: None, ..given.clone() });
    given.identity.push('x');
    assert_eq!(journal.checkpoint(&given).unwrap_err().code, Code::BadSpec);
    assert_eq!(Journal::begin(store, &key(), &given.identity).err().unwrap().code, Code::BadSpec);
}

#[test]
fn small_disks_start_over_or_are_done() {
    for length in [1, 511, 512, 4096, 8191, 8192, 70_000, MIB, 2 * MIB] {
        let disk = Random(6).bytes(length);
        for room in [length, length.max(MIB)] {
            let store = Recorded::new(vec![0x33; room]);
            let mut journal = Journal::begin(store.clone(), &key(), IDENTITY).unwrap();
            if room < MIB {
                journal.checkpoint(&checkpoint(1)).unwrap();
            }
            store.take_log();
            let before = store.bytes();
            journal.finish_small(&disk, 512, &nothing, &|_| ()).unwrap();
            assert!(store.bytes()[..length] == disk[..]);
            let log = store.take_log();
            let mut random = Random(7);
            for cut_at in (0..=log.len()).filter(|_| room >= 8192) {
                let left = Recorded::new(cut(&before, &log[..cut_at], 512, &mut random));
                match recover(&*left, &key()).unwrap() {
                    Recovered::Started { identity, .. } => assert_eq!(identity.as_deref(), Some(IDENTITY)),
                    Recovered::Nothing => {
                        assert!(left.bytes()[..length] == disk[..] || was_beginning(&*left).unwrap())
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

/// The file of a disk below 1 MiB is cut to its length before its sector 0 comes: only the record is left then.
#[test]
fn a_small_file_without_its_first_sector_may_be_begun_again() {
    for length in [512, 700, 4096, 5000, 8191, 8192, 70_000, 600_000] {
        let disk = Random(6).bytes(length);
        for shortened in [false, true] {
            let store = Recorded::new(vec![0; MIB]);
            let journal = Journal::begin(store.clone(), &key(), IDENTITY).unwrap();
            let cut = || {
                if shortened {
                    store.0.lock().unwrap().bytes.truncate(length);
                }
                Err(Error::new(Code::Io, Stage::Target, "the power is cut"))
            };
            journal.finish_small(&disk, 512, &cut, &|_| ()).unwrap_err();
            let found = recover(&*store, &key()).unwrap();
            let whose = matches!(&found, Recovered::Started { identity: Some(text), .. } if text == IDENTITY);
            assert!(whose || found == Recovered::Nothing, "{length}, {shortened}: {found:?}");
            assert!(was_beginning(&*store).unwrap(), "{length}, {shortened}");
            assert_eq!(Journal::take_over(store.clone(), &key()).is_ok(), whose, "{length}, {shortened}");
            assert_eq!(recover(&*store, &Key::new([8; 32])).unwrap(), Recovered::Foreign, "{length}, {shortened}");
        }
        let store = Recorded::new(vec![0; MIB]);
        let journal = Journal::begin(store.clone(), &key(), IDENTITY).unwrap();
        let cut = || {
            store.0.lock().unwrap().bytes.truncate(length);
            Ok(())
        };
        journal.finish_small(&disk, 512, &cut, &|_| ()).unwrap();
        assert!(store.bytes() == disk);
        assert_eq!(recover(&*store, &key()).unwrap(), Recovered::Nothing);
        assert!(!was_beginning(&*store).unwrap());
    }
}

fn run(program: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|cause| panic!("{program} is needed for this test (gdisk, e2fsprogs, util-linux): {cause}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn has_partitions(path: &str) -> bool {
    let (_, table) = run("sgdisk", &["-p", path]);
    table.split_once("Number  Start").is_some_and(|(_, rows)| rows.lines().skip(1).any(|row| !row.trim().is_empty()))
}

/// Every state of a whole transfer onto a target that held the same disk before, before and after each write.
fn probe_states(make: &dyn Fn(&str), place: usize) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    let path = path.to_str().unwrap();
    std::fs::write(path, vec![0; 8 * MIB]).unwrap();
    make(path);
    let disk = std::fs::read(path).unwrap();
    let store = Recorded::new(with_data(&disk));
    let mut journal = Journal::begin(store.clone(), &key(), IDENTITY).unwrap();
    store.take_log();
    let mut state = store.bytes();
    for number in 1..=3 {
        journal.checkpoint(&checkpoint(number)).unwrap();
    }
    finish(journal, &disk, 512).unwrap();
    let log = store.take_log();
    let writes: Vec<_> =
        log.iter().filter_map(|op| if let Op::Write(at, data) = op { Some((at, data)) } else { None }).collect();
    // The last write is that of the committing sector; the ones that make front and last block plain come before.
    let front = writes.iter().position(|(at, data)| **at == place + 512 && data.len() < 128 << 10).unwrap() - 1;
    for (index, (at, data)) in writes.iter().enumerate() {
        let look = |when: &str| {
            let (code, text) = run("blkid", &["-p", path]);
            assert_eq!(code, Some(2), "blkid {when} write {index}: {text}");
            assert!(!has_partitions(path), "sgdisk {when} write {index}");
            if index < front {
                assert_eq!(run("wipefs", &[path]).1, "", "wipefs {when} write {index}");
            }
        };
        std::fs::write(path, &state).unwrap();
        look("before");
        state[**at..**at + data.len()].copy_from_slice(data);
    }
    std::fs::write(path, &state).unwrap();
    assert!(state == disk);
    assert_eq!(run("blkid", &["-p", path]).0, Some(0));
    assert_eq!(writes.last().map(|(at, data)| (**at, data.len())), Some((place, 512)));
}

#[test]
fn no_probe_finds_a_partition_table_before_the_last_write() {
    probe_states(
        &|path| {
            assert_eq!(run("sgdisk", &["-n1:2048:0", "-t1:8300", path]).0, Some(0));
            assert_eq!(run("mkfs.ext4", &["-q", "-F", "-E", "offset=1048576", path, "6M"]).0, Some(0));
            assert!(has_partitions(path));
        },
        0,
    );
}

#[test]
fn no_probe_finds_a_file_system_before_the_last_write() {
    probe_states(&|path| assert_eq!(run("mkfs.ext4", &["-q", "-F", path]).0, Some(0)), 1024);
}

fn any_checkpoint() -> impl Strategy<Value = Checkpoint> {
    let restart = proptest::option::of((any::<u64>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..70_000)));
    let bulk = proptest::collection::vec(any::<u8>(), 0..200_000);
    (
        ".{0,2000}",
        "[a-z]{0,9}",
        any::<Option<u64>>(),
        restart,
        any::<Option<u64>>(),
        bulk,
        any::<[u64; 4]>(),
        any::<[u8; 32]>(),
    )
        .prop_map(|(identity, way, size, restart, written_to, groups, [a, b, c, d], hash)| Checkpoint {
            identity,
            way,
            virtual_size: size,
            file_length: written_to,
            watermark: u64::MAX,
            restart: restart.map(|(source_offset, decoded_offset, state)| Restart {
                source_offset,
                decoded_offset,
                state,
            }),
            written_to,
            source_hash: size.map(|_| hash.to_vec()),
            hash_offset: a,
            groups,
            head_hash: written_to.map(|_| hash),
            zero_known: [ZeroKnown::NewFile, ZeroKnown::ZeroedTo(a), ZeroKnown::No][(b % 3) as usize].clone(),
            resumes: c as u32,
            written: b,
            zeroed: c,
            skipped: d,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_slot_gives_back_what_was_put_in_and_no_flipped_bit_passes(
        given in any_checkpoint(),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), 0_u8..8), 20),
    ) {
        let store = Recorded::new(vec![0; 2 * MIB]);
        let mut journal = Journal::begin(store.clone(), &key(), "{}").unwrap();
        journal.checkpoint(&given).unwrap();
        prop_assert_eq!(recover(&*store, &key()).unwrap(), Recovered::Checkpoint(Box::new(given)));
        let header = 128 << 10;
        let length = u32::from_le_bytes(store.bytes()[header + 80..header + 84].try_into().unwrap()) as usize;
        for (at, bit) in flips {
            let at = header + at.index(96 + length + 32);
            store.change(at, |byte| byte ^ (1 << bit));
            let found = recover(&*store, &key()).unwrap();
            let started = matches!(found, Recovered::Started { .. });
            prop_assert!(started, "accepted a flip at {}", at);
            store.change(at, |byte| byte ^ (1 << bit));
        }
    }

    #[test]
    fn no_flipped_bit_in_the_record_passes(at in 64_usize..440, bit in 0_u8..8) {
        let store = Recorded::new(vec![FILLER; 2 * MIB]);
        Journal::begin(store.clone(), &key(), "{}").unwrap();
        store.change(at, |byte| byte ^ (1 << bit));
        let found = recover(&*store, &key()).unwrap();
        prop_assert!(matches!(found, Recovered::Nothing | Recovered::Foreign), "{:?}", found);
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0_usize..ROOM) {
        let store = Recorded::new(vec![FILLER; 2 * MIB]);
        let mut journal = Journal::begin(store.clone(), &key(), "{}").unwrap();
        journal.checkpoint(&checkpoint(1)).unwrap();
        let mut state = store.bytes();
        state[at..at + bytes.len()].copy_from_slice(&bytes);
        recover(&*Recorded::new(state), &key()).unwrap();
    }
}

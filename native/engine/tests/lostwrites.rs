//! A power cut loses any part of what was not flushed: the transfer goes on and the disk is right.

mod conversions;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use conversions::KEY;
use diskferry_engine::conversion::{Conversion, Next, Options, Pushed, journal_store};
use diskferry_engine::error::{Code, Error, Result, Stage};
use diskferry_engine::journal::{self, Key, Recovered};
use diskferry_engine::targets::{Facts, Kind, Target};

const MIB: usize = 1 << 20;
const DISK: usize = 24 * MIB;
/// What a disk writes as one.
const SECTOR: usize = 512;

/// Numbers that look random and are the same for the same seed (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

struct State {
    /// What a read sees.
    seen: Vec<u8>,
    /// What is left after a cut, whatever happens.
    durable: Vec<u8>,
    /// Sectors that differ between the two.
    dirty: BTreeSet<usize>,
    /// Calls that change something until the cut.
    left: usize,
}

/// A device that forgets.
struct Forgetful {
    facts: Facts,
    /// Guards the bytes.
    state: Mutex<State>,
}

impl Forgetful {
    fn new(bytes: Vec<u8>, calls: usize) -> Arc<Self> {
        let length = bytes.len() as u64;
        let facts = Facts {
            kind: Kind::Block,
            exists: true,
            length,
            capacity: length,
            logical_block: SECTOR as u32,
            direct: false,
            zeroed: false,
            foreign: None,
        };
        let state = State { seen: bytes.clone(), durable: bytes, dirty: BTreeSet::new(), left: calls };
        Arc::new(Self { facts, state: Mutex::new(state) })
    }

    /// The bytes after the cut: each sector that was not flushed is there or not, by chance.
    fn after_cut(&self, random: &mut Random) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        let mut bytes = state.durable.clone();
        for sector in &state.dirty {
            if random.below(2) == 0 {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                bytes[range.clone()].copy_from_slice(&state.seen[range]);
            }
        }
        bytes
    }

    fn change(&self, at: u64, len: usize, set: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.left == 0 {
            return Err(Error::new(Code::Io, Stage::Target, "the power is cut"));
        }
        state.left -= 1;
        let at = at as usize;
        set(&mut state.seen[at..at + len]);
        if len > 0 {
            state.dirty.extend(at / SECTOR..(at + len).div_ceil(SECTOR));
        }
        Ok(())
    }
}

impl Target for Forgetful {
    fn facts(&self) -> &Facts {
        &self.facts
    }
    fn create(&self) -> Result<()> {
        Ok(())
    }
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.change(at, bytes.len(), |to| to.copy_from_slice(bytes))
    }
    fn zero(&self, at: u64, len: u64) -> Result<()> {
        self.change(at, len as usize, |to| to.fill(0))
    }
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let state = self.state.lock().unwrap();
        into.copy_from_slice(&state.seen[at as usize..at as usize + into.len()]);
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        self.change(0, 0, |_| ())?;
        let state = &mut *self.state.lock().unwrap();
        for sector in std::mem::take(&mut state.dirty) {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            state.durable[range.clone()].copy_from_slice(&state.seen[range]);
        }
        Ok(())
    }
    fn set_length(&self, _len: u64) -> Result<()> {
        Ok(())
    }
    fn preallocate(&self, _len: u64) -> Result<()> {
        Ok(())
    }
    fn data_ranges(&self, from: u64, to: u64) -> Result<Vec<Range<u64>>> {
        Ok(std::iter::once(from..to).collect())
    }
    fn drop_cache(&self, _at: u64, _len: u64) {}
}

fn options(source: &[u8], resume: bool) -> Options {
    Options { resume, ..conversions::of(source) }
}

/// What runs found on the target.
#[derive(Default)]
struct Seen {
    checkpoints: usize,
    finishes: usize,
}

/// Goes on from what the target holds, or begins anew. `pause` after each chunk lets a checkpoint fall due.
fn transfer(target: Arc<dyn Target>, source: &[u8], pause: std::time::Duration, seen: &mut Seen) -> Result<()> {
    let found = journal::recover(&*journal_store(&target, target.facts().length), &Key::new(KEY))?;
    seen.checkpoints += usize::from(matches!(found, Recovered::Checkpoint(_)));
    seen.finishes += usize::from(matches!(found, Recovered::Finishing { .. }));
    let resume = matches!(found, Recovered::Checkpoint(_) | Recovered::Finishing { .. });
    let conversion = Conversion::start(target, options(source, resume))?;
    loop {
        let requests = match conversion.intake().next(16)? {
            Next::Finished => break,
            Next::Wait => {
                std::thread::sleep(std::time::Duration::from_micros(200));
                continue;
            }
            Next::Fetch(requests) => requests,
        };
        'round: for request in requests {
            let end = request.to.map_or(source.len(), |to| to as usize);
            let mut at = request.from as usize;
            while at < end {
                let n = (end - at).min(300_000);
                match conversion.intake().push(at as u64, &source[at..at + n])? {
                    Pushed::Taken => {
                        at += n;
                        std::thread::sleep(pause);
                    }
                    Pushed::Full => std::thread::sleep(std::time::Duration::from_micros(200)),
                    Pushed::PassOver => break 'round,
                }
            }
            if request.to.is_none() {
                conversion.intake().end(source.len() as u64);
            }
        }
    }
    conversion.finish().map(|_| ())
}

/// Data and zeros in runs of 64 KiB, with the signature of a master boot record.
fn disk() -> Vec<u8> {
    let mut random = Random(99);
    let mut bytes = vec![0_u8; DISK];
    for run in bytes.chunks_mut(65536) {
        if random.below(3) > 0 {
            for word in run.chunks_mut(8) {
                word.copy_from_slice(&(random.below(usize::MAX) as u64).to_le_bytes());
            }
        }
    }
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

/// Cuts one transfer again and again after a random number of writes, and lets it end at last.
fn cut_and_go_on(seed: u64, cuts: usize, calls: usize, pause: std::time::Duration, seen: &mut Seen) {
    let mut random = Random(seed);
    let source = disk();
    let mut bytes = vec![0xee_u8; DISK + 3 * MIB];
    for cut in 0..cuts {
        let target = Forgetful::new(std::mem::take(&mut bytes), 1 + random.below(calls));
        let ended = transfer(Arc::clone(&target) as Arc<dyn Target>, &source, pause, seen);
        bytes = target.after_cut(&mut random);
        if ended.is_ok() {
            break;
        }
        // The sector that makes the disk visible is the last: where it is, all is.
        let visible = bytes[..SECTOR] == source[..SECTOR];
        assert!(!visible || bytes[..DISK] == source[..], "seed {seed}, cut {cut}: sector 0 came before the end");
    }
    let target = Forgetful::new(std::mem::take(&mut bytes), usize::MAX);
    transfer(Arc::clone(&target) as Arc<dyn Target>, &source, std::time::Duration::ZERO, seen).unwrap();
    let state = target.state.lock().unwrap();
    assert!(state.dirty.is_empty(), "seed {seed}: something was left unflushed");
    assert!(state.durable[..DISK] == source[..], "seed {seed}: the disk is not right");
    assert!(state.durable[DISK..].iter().all(|byte| *byte == 0), "seed {seed}: what lies beyond the disk is not zero");
}

/// How many histories are played, 40 unless the environment says otherwise: `SEEDS=300 cargo test --test lostwrites`.
fn seeds() -> u64 {
    std::env::var("SEEDS").map_or(40, |text| text.parse().expect("SEEDS is a number"))
}

#[test]
fn cuts_early_and_in_the_last_steps() {
    let mut seen = Seen::default();
    for seed in 1..=seeds() {
        cut_and_go_on(seed, 6, 300, std::time::Duration::ZERO, &mut seen);
    }
    println!("{} seeds: went on from {} checkpoints and {} finishes", seeds(), seen.checkpoints, seen.finishes);
    assert!(seen.finishes > 0, "no cut fell into the last steps");
}

#[test]
fn cuts_between_checkpoints() {
    let mut seen = Seen::default();
    // Slow enough for a checkpoint each second, so only a tenth of the others.
    for seed in 101..=100 + seeds().div_ceil(10) {
        cut_and_go_on(seed, 4, 300, std::time::Duration::from_millis(30), &mut seen);
    }
    println!(
        "{} seeds: went on from {} checkpoints and {} finishes",
        seeds().div_ceil(10),
        seen.checkpoints,
        seen.finishes
    );
    assert!(seen.checkpoints > 0, "no cut came after a checkpoint");
}

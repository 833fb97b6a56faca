//! A compressed stream is stopped and goes on where its codec can, which is at any byte of the disk: what was written
//! before stays as it is.

mod conversions;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use diskferry_engine::conversion::{Conversion, Next, Options, Pushed};
use diskferry_engine::targets;

const MIB: usize = 1 << 20;
/// A checkpoint falls due after this long (conversion/barriers.rs, CHECKPOINT_TIME), and takes a moment.
const DUE: Duration = Duration::from_millis(1100);
const MADE: Duration = Duration::from_millis(300);

/// Bytes of six random bits: gzip makes many small blocks of them, and so restart points at odd places.
fn disk() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as u8 & 0x3f
    };
    (0..20 * MIB).map(|_| byte()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new("gzip").args(["-c", "-1"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bytes).unwrap());
        child.wait_with_output().unwrap().stdout
    })
}

/// Goes on with at most `budget` chunks of the source behind the head and is then dropped; without a budget, to the end.
/// With a budget of none it is dropped as soon as the head has been read again, slowly.
/// Where so many chunks are left as `pauses` says, it waits until a checkpoint falls due.
/// Answers the source offset that it went on from.
fn run(path: &Path, source: &[u8], resume: bool, budget: Option<usize>, pauses: &[usize]) -> u64 {
    let options = Options { resume, ..conversions::of(source) };
    let conversion = Conversion::start(targets::open(path).unwrap(), options).unwrap();
    let resumed_at = conversion.progress().resumed_at;
    let mut left = budget;
    loop {
        let requests = match conversion.intake().next(16).unwrap() {
            Next::Finished => break,
            Next::Wait => {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            Next::Fetch(requests) => requests,
        };
        'round: for request in requests {
            let mut at = request.from as usize;
            while at < source.len() {
                let n = (source.len() - at).min(100_000);
                let counts = budget.is_some() && (request.from > 0 || !resume);
                if counts && left.is_some_and(|left| pauses.contains(&left)) {
                    std::thread::sleep(DUE);
                }
                match conversion.intake().push(at as u64, &source[at..at + n]).unwrap() {
                    Pushed::Taken => at += n,
                    Pushed::Full => std::thread::sleep(Duration::from_micros(200)),
                    Pushed::PassOver if budget == Some(0) => {
                        std::thread::sleep(MADE);
                        return resumed_at;
                    }
                    Pushed::PassOver => break 'round,
                }
                if budget == Some(0) && at == n {
                    std::thread::sleep(DUE);
                    continue;
                }
                if let Some(left) = left.as_mut().filter(|_| counts) {
                    *left -= 1;
                    if *left == 0 {
                        std::thread::sleep(MADE);
                        return resumed_at;
                    }
                }
            }
            conversion.intake().end(source.len() as u64);
        }
    }
    conversion.finish().unwrap();
    resumed_at
}

#[test]
fn a_restart_within_a_sector_leaves_what_is_before_it() {
    let disk = disk();
    let source = gzip(&disk);
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("disk.img");
    run(&path, &source, false, Some(60), &[40, 20]);
    // Some of these make a checkpoint while the first piece behind the restart point is the oldest that has not left.
    for pause in [22, 18, 14, 10] {
        run(&path, &source, true, Some(30), &[pause]);
    }
    run(&path, &source, true, None, &[]);
    let got = std::fs::read(&path).unwrap();
    let wrong = got.iter().zip(&disk).position(|(got, wanted)| got != wanted);
    assert_eq!((got.len(), wrong), (disk.len(), None));
}

#[test]
fn a_head_that_is_read_again_slowly_costs_no_checkpoint() {
    let source = gzip(&disk());
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("disk.img");
    run(&path, &source, false, Some(60), &[40, 20]);
    let before = run(&path, &source, true, Some(0), &[]);
    assert!(before > 0, "no checkpoint was made");
    assert_eq!(run(&path, &source, true, None, &[]), before);
}

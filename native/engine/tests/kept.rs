//! A source that cannot be read again, cut anywhere: what was kept of it and the rest from the checkpoint on are enough.

mod conversions;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use diskferry_engine::conversion::{Conversion, Keeping, Next, Options, Pushed};
use diskferry_engine::error::{Code, Result};
use diskferry_engine::targets;

const MIB: usize = 1 << 20;
const SIZE: usize = 40 * MIB + 512;

/// A disk with data and zeros in runs, both ends included, and as a file in each form.
fn disk() -> Vec<u8> {
    let mut state = 1_u64;
    let mut disk = vec![0; SIZE];
    for (n, run) in disk.chunks_mut(96 << 10).enumerate() {
        if n % 5 == 3 {
            continue;
        }
        for word in run.chunks_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Half of it can be compressed.
            let bytes = (state >> 16).to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
            if n % 2 == 0 {
                let half = word.len() / 2;
                word[half..].fill(7);
            }
        }
    }
    disk
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{program} {args:?}: {status:?}");
}

fn forms(place: &Path, disk: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let at = |name: &str| place.join(name).to_str().unwrap().to_owned();
    std::fs::write(at("raw"), disk).unwrap();
    let convert = |options: &[&str], to: &str| {
        let from = at("raw");
        let to = at(to);
        let fixed = ["convert", "-U", "-f", "raw", "-O", "qcow2"];
        run("qemu-img", &[&fixed, options, &[from.as_str(), to.as_str()]].concat());
    };
    convert(&[], "qcow2");
    convert(&["-c", "-o", "compression_type=zlib"], "zlib");
    convert(&["-o", "cluster_size=4k"], "small");
    convert(&["-c", "-o", "cluster_size=4k"], "small-zlib");
    let at_stream = at("stream");
    run(
        "qemu-img",
        &["convert", "-U", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", &at("raw"), &at_stream],
    );
    run("gzip", &["-k", "-1", &at("raw"), &at("qcow2")]);
    run("zstd", &["-q", "-1", &at("raw"), "-o", &at("raw.zst")]);
    run("xz", &["-k", "-1", "--block-size=4MiB", &at("qcow2")]);
    let names = ["raw", "qcow2", "zlib", "small", "small-zlib", "raw.gz", "qcow2.gz", "raw.zst", "qcow2.xz", "stream"];
    names.iter().map(|name| (*name, std::fs::read(at(name)).unwrap())).collect()
}

fn options(file: &[u8], kept: &Path) -> Options {
    let head = file[..file.len().min(MIB)].to_vec();
    Options { seekable: false, kept: Some(Keeping { path: kept.to_owned(), head }), ..conversions::of(file) }
}

/// Sends from where it is asked for up to `to`; where that began, and whether nothing more is asked for.
fn send(conversion: &Conversion, file: &[u8], to: usize) -> Result<(u64, bool)> {
    let mut began = None;
    loop {
        let requests = match conversion.intake().next(10)? {
            Next::Finished => return Ok((began.unwrap_or(file.len() as u64), true)),
            Next::Wait => {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            Next::Fetch(requests) => requests,
        };
        for request in requests {
            assert_eq!(request.to, None, "it is sent once, in order");
            assert_eq!(began.replace(request.from), None, "there is one pass");
            let mut at = request.from as usize;
            while at < to {
                let n = (to - at).min(64 << 10);
                match conversion.intake().push(at as u64, &file[at..at + n])? {
                    Pushed::Taken => at += n,
                    Pushed::Full => std::thread::sleep(Duration::from_micros(200)),
                    Pushed::PassOver => panic!("there is one pass"),
                }
            }
            if to < file.len() {
                return Ok((request.from, false));
            }
            conversion.intake().end(file.len() as u64);
        }
    }
}

fn start(path: &Path, options: Options) -> Conversion {
    Conversion::start(targets::open(path).unwrap(), options).unwrap()
}

/// Sends a little more when the time for a checkpoint has come, and waits for it.
fn checkpoint(conversion: &Conversion, file: &[u8], at: usize, above: u64) {
    std::thread::sleep(Duration::from_millis(1100));
    for at in (at..file.len()).step_by(64 << 10).take(32) {
        let piece = &file[at..file.len().min(at + (64 << 10))];
        while matches!(conversion.intake().push(at as u64, piece), Ok(Pushed::Full)) {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    let began = Instant::now();
    while conversion.progress().watermark <= above && began.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn goes_on_from_the_checkpoint_when_only_the_rest_is_sent() {
    let disk = disk();
    let place = tempfile::tempdir().unwrap();
    for (name, file) in forms(place.path(), &disk) {
        let (path, kept) = (place.path().join("disk.img"), place.path().join("disk.kept"));
        let _ = std::fs::remove_file(&path);
        let mut resume = false;
        let mut begins = Vec::new();
        for part in [3, 8, 10] {
            let conversion = start(&path, Options { resume, ..options(&file, &kept) });
            let to = if part == 10 { file.len() } else { file.len() * part / 10 };
            let (began, all) = send(&conversion, &file, to).unwrap_or_else(|error| panic!("{name}: {error:?}"));
            begins.push(began);
            if all {
                let report = conversion.finish().unwrap_or_else(|error| panic!("{name}: {error:?}"));
                assert_eq!(report.source_digest.map(|digest| digest.to_string()), Some(sha256(&file)), "{name}");
            } else {
                checkpoint(&conversion, &file, to, began);
            }
            drop(conversion);
            resume = true;
        }
        let found = std::fs::read(&path).unwrap();
        let wrong = found.iter().zip(&disk).position(|(found, expected)| found != expected);
        assert_eq!((wrong, found.len()), (None, disk.len()), "{name}: {begins:?}");
        // A zstd frame cannot be begun again in its middle, nor is a VMDK that is a stream.
        let far = file.len() as u64 / 10;
        // The ends of small compressed clusters are waited for, 8 MiB long.
        let little = name == "small-zlib" && begins[2] > far;
        let far_on = begins[1] > far && begins[2] > 5 * far;
        assert!(["raw.zst", "stream"].contains(&name) || little || far_on, "{name}: {begins:?}");
        let bound = 4 * MIB + file.len() / 50;
        let length = std::fs::metadata(&kept).unwrap().len();
        assert!(length < bound as u64, "{name} kept {length} bytes of {}", file.len());
        println!("{name}: {} bytes, sent from {begins:?}, kept {length}", file.len());
    }
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[test]
fn without_what_was_kept_it_does_not_go_on() {
    let file = disk();
    let place = tempfile::tempdir().unwrap();
    let (path, kept) = (place.path().join("disk.img"), place.path().join("disk.kept"));
    let conversion = start(&path, options(&file, &kept));
    send(&conversion, &file, 20 * MIB).unwrap();
    checkpoint(&conversion, &file, 20 * MIB, 0);
    drop(conversion);
    std::fs::write(&kept, b"something else").unwrap();
    let again = Conversion::start(targets::open(&path).unwrap(), Options { resume: true, ..options(&file, &kept) });
    assert_eq!(again.err().map(|error| error.code), Some(Code::Io));
}

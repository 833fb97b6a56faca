//! A disk is written as a qcow2 file, of every kind: qemu-img finds nothing wrong with it, and the same disk in it.

mod conversions;
mod guest;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use diskferry_engine::conversion::{Conversion, Next, Options, Pushed};
use diskferry_engine::error::{Code, Result};
use diskferry_engine::targets;
use diskferry_engine::targets::qcow2::{Compression, Qcow2Target, Spec};
use guest::Random;

const MIB: usize = 1 << 20;

/// Runs of data that compresses, data that does not, and zeros, of odd lengths.
fn disk(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        let n = (1 + random.below(300_000) as usize).min(length - at);
        match random.below(4) {
            0 => {}
            1 => bytes[at..at + n].fill_with(|| random.next() as u8),
            2 => bytes[at..at + n].fill(random.next() as u8),
            _ => bytes[at..at + n].fill_with(|| (random.next() & 7) as u8),
        }
        at += n;
    }
    bytes
}

/// An image as qemu takes it, without locks: a program that another test starts holds those of every open file of ours until it
/// has become one, and `-U` asks for some of them still.
fn unlocked(driver: &str, path: &Path) -> String {
    format!(
        r#"json:{{"driver":"{driver}","file":{{"driver":"file","filename":"{}","locking":"off"}}}}"#,
        path.display()
    )
}

fn assert_sound(path: &Path, what: &str) {
    let check = qemu_img(&["check", &unlocked("qcow2", path)]);
    assert!(check.contains("No errors were found"), "{what}: {check}");
}

/// The same disk in both, to the byte: qemu-img fails where it is not.
fn assert_same(driver: &str, made: &Path, path: &Path, what: &str) {
    let same = qemu_img(&["compare", &unlocked(driver, made), &unlocked("qcow2", path)]);
    assert!(same.contains("identical") && !same.contains("mismatch"), "{what}: {same}");
}

fn qemu_img(args: &[&str]) -> String {
    let output = Command::new("qemu-img").args(args).output().expect("qemu-img (Debian package qemu-utils)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {args:?}: {text}");
    text
}

/// Carries `source` into a qcow2 at `path`; with `stop` only so many bytes of it, then it is dropped.
fn carry(source: &[u8], path: &Path, spec: Spec, size: Option<u64>, stop: Option<usize>) -> Result<()> {
    let options = Options { marked: Some(path.to_owned()), seekable: false, size, ..conversions::of(source) };
    let known = size.or(options.sniffed.virtual_size).map(|n| n.next_multiple_of(512));
    let target = Qcow2Target::begin(path, targets::open(path)?, spec, known)?;
    let conversion = Conversion::start(Arc::new(target), options)?;
    loop {
        match conversion.intake().next(16)? {
            Next::Finished => break,
            Next::Wait => std::thread::sleep(std::time::Duration::from_micros(200)),
            Next::Fetch(requests) => {
                let mut at = requests[0].from as usize;
                while at < source.len() {
                    if stop.is_some_and(|stop| at >= stop) {
                        return Ok(());
                    }
                    let n = (source.len() - at).min(100_000);
                    match conversion.intake().push(at as u64, &source[at..at + n])? {
                        Pushed::Taken => at += n,
                        Pushed::Full => std::thread::sleep(std::time::Duration::from_micros(200)),
                        Pushed::PassOver => break,
                    }
                }
                conversion.intake().end(source.len() as u64);
            }
        }
    }
    conversion.finish().map(|_| ())
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn qemu_reads_every_kind() {
    let home = tempfile::tempdir().unwrap();
    let (raw, path) = (home.path().join("disk.raw"), home.path().join("disk.qcow2"));
    for (n, (length, cluster)) in [
        (20 * MIB + 1000, 65536),
        (9 * MIB, 4096),
        (5 * MIB + 512, 512),
        (MIB + 7, 65536),
        (1, 65536),
        (40 * MIB, 2 * MIB as u64),
        (6 * MIB, 32768),
    ]
    .into_iter()
    .enumerate()
    {
        let disk = disk(length, n as u64);
        std::fs::write(&raw, &disk).unwrap();
        let gzipped = Command::new("gzip").args(["-1", "-c"]).arg(&raw).output().unwrap().stdout;
        for compression in [None, Some(Compression::Zlib), Some(Compression::Zstd)] {
            for source in [&disk, &gzipped] {
                let _ = std::fs::remove_file(&path);
                let spec = Spec { cluster, compression };
                let result = carry(source, &path, spec, None, None);
                if compression.is_some() && cluster > 65536 {
                    assert_eq!(result.unwrap_err().code, Code::BadSpec);
                    continue;
                }
                result.unwrap();
                let what = format!("{length} bytes in clusters of {cluster}, {compression:?}");
                assert_sound(&path, &what);
                // qemu takes a part of a sector for none, in the raw file.
                std::fs::write(&raw, [&disk[..], &vec![0; disk.len().next_multiple_of(512) - disk.len()]].concat())
                    .unwrap();
                assert_same("raw", &raw, &path, &what);
            }
        }
    }
    assert_eq!(names(home.path()), ["disk.qcow2", "disk.raw"]);
}

#[test]
fn small_clusters_out_of_order_are_gathered_or_left_uncompressed() {
    // More leaves than are gathered at once, each in two parts that come far apart.
    let home = tempfile::tempdir().unwrap();
    let (raw, made, path) =
        (home.path().join("disk.raw"), home.path().join("made.qcow2"), home.path().join("disk.qcow2"));
    let disk = disk(16 * MIB, 99);
    std::fs::write(&raw, vec![0; disk.len()]).unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=32k", made.to_str().unwrap(), "16M"]);
    let mut commands = String::new();
    std::fs::write(&raw, &disk).unwrap();
    for half in [0, 1] {
        for leaf in 0..256 {
            let at = leaf * 65536 + half * 32768;
            commands += &format!("write -q -s {} {} 32k\n", home.path().join("part").display(), at);
            std::fs::write(home.path().join("part"), &disk[at..at + 32768]).unwrap();
            let output = Command::new("qemu-io")
                .args(["-f", "qcow2", "-c", commands.trim(), made.to_str().unwrap()])
                .output()
                .expect("qemu-io (Debian package qemu-utils)");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            commands.clear();
        }
    }
    let source = std::fs::read(&made).unwrap();
    for (cluster, compression) in [(65536, Some(Compression::Zstd)), (65536, None), (16384, Some(Compression::Zlib))] {
        let _ = std::fs::remove_file(&path);
        carry(&source, &path, Spec { cluster, compression }, None, None).unwrap();
        let what = format!("clusters of {cluster}, {compression:?}");
        assert_sound(&path, &what);
        assert_same("raw", &raw, &path, &what);
    }
}

#[test]
fn tables_beyond_what_is_kept_in_memory_are_written_and_read_again() {
    // 8 MiB of tables map 8 GiB in clusters of 4 KiB twice over: data in both halves of each table, in two sweeps.
    let home = tempfile::tempdir().unwrap();
    let (made, path) = (home.path().join("made.qcow2"), home.path().join("disk.qcow2"));
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=64k", made.to_str().unwrap(), "12G"]);
    let mut writes = Vec::new();
    for at in [0u64, 1 << 20].into_iter().flat_map(|half| (0..6144).step_by(2).map(move |n| n * (2 << 20) + half)) {
        writes.push(format!("write -q -P {} {} 64k", 1 + at / 7 % 250, at));
    }
    let mut child = Command::new("qemu-io")
        .args(["-f", "qcow2", made.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("qemu-io (Debian package qemu-utils)");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), writes.join("\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let source = std::fs::read(&made).unwrap();
    carry(&source, &path, Spec { cluster: 4096, compression: Some(Compression::Zlib) }, None, None).unwrap();
    assert_sound(&path, "many tables");
    assert_same("qcow2", &made, &path, "many tables");
}

#[test]
fn what_was_there_stays_until_all_is_written() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("disk.qcow2");
    let spec = Spec { cluster: 65536, compression: None };
    let disk = disk(8 * MIB, 5);
    std::fs::write(&path, b"what was there").unwrap();
    carry(&disk, &path, spec, None, Some(4 * MIB)).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"what was there");
    assert_eq!(names(home.path()), ["disk.qcow2"]);

    // What a killed run left is taken over; somebody else's file or link is not.
    let draft = home.path().join(".disk.qcow2.diskferry");
    std::fs::write(&draft, vec![0xaa; 3 * MIB]).unwrap();
    carry(&disk, &path, spec, None, None).unwrap();
    assert_sound(&path, "over a draft");
    assert_eq!(names(home.path()), ["disk.qcow2"]);
    std::os::unix::fs::symlink(home.path().join("elsewhere"), &draft).unwrap();
    carry(&disk, &path, spec, None, None).unwrap_err();
    assert_eq!(names(home.path()), [".disk.qcow2.diskferry", "disk.qcow2"]);
    std::fs::remove_file(&draft).unwrap();
    std::fs::hard_link(&path, &draft).unwrap();
    assert_eq!(carry(&disk, &path, spec, None, None).unwrap_err().code, Code::Busy);
}

#[test]
fn a_disk_longer_than_its_tables_can_say_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("disk.qcow2");
    // 32 MiB of L1 table map 128 GiB in clusters of 512 bytes (QCOW_MAX_L1_SIZE).
    let spec = Spec { cluster: 512, compression: None };
    let error = carry(&disk(MIB, 1), &path, spec, Some(200 << 30), None).unwrap_err();
    assert_eq!(error.code, Code::TooLarge, "{error}");
    assert!(names(home.path()).is_empty());
}

//! One contract for all targets, on real ones: files with and without O_DIRECT, loop devices of both sector
//! sizes. Needs root, losetup, mount and mkfs.ext4; says so when one is missing.

// A list of one range is what is meant here.
#![allow(clippy::single_range_in_vec_init)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use diskferry_engine::bytes::Aligned;
use diskferry_engine::error::{Code, Error};
use diskferry_engine::targets::{Access, Kind, Target, open, open_with};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const BUFFERED: Access = Access { write: true, direct: false };
const READ: Access = Access { write: false, direct: true };

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|cause| {
        panic!("these tests need root and the program {program} (util-linux, e2fsprogs): {cause}");
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?} failed; these tests need root and loop devices: {errors}"
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A loop device on a file of its own; detached when dropped, also by a panic.
struct Loop {
    device: PathBuf,
    backing: PathBuf,
    _directory: TempDir,
}

impl Loop {
    fn new(length: u64, fill: u8, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let backing = directory.path().join("backing");
        fs::write(&backing, vec![fill; length as usize]).unwrap();
        let device = run("losetup", &[&["--show", "--find"], options, &[backing.to_str().unwrap()]].concat());
        Self { device: device.into(), backing, _directory: directory }
    }

    fn name(&self) -> &str {
        self.device.to_str().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

/// A mount on a directory of its own; unmounted when dropped.
struct Mount(TempDir);

impl Mount {
    fn new(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        run("mount", &[arguments, &[directory.path().to_str().unwrap()]].concat());
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

fn refusal(path: &Path) -> Error {
    open(path).err().unwrap_or_else(|| panic!("{} should be refused", path.display()))
}

fn pattern(length: usize, seed: usize) -> Aligned {
    let mut bytes = Aligned::zeroed(length);
    bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = ((at * 7 + seed + at / 4096) % 255) as u8 + 1);
    bytes
}

/// What must hold for every target of 16 MiB + 512 bytes (an odd number of pages) that remembers; `oracle` reads
/// it by other means after a flush.
fn contract(target: &dyn Target, oracle: &Path) {
    let length = 16 * MIB + 512;
    target.set_length(length).unwrap();
    let mut model = vec![0u8; length as usize];
    target.read(0, &mut model).unwrap();
    let source = pattern(3 * MIB as usize, 1);
    let put = |model: &mut Vec<u8>, at: u64, bytes: &[u8]| {
        target.write(at, bytes).unwrap();
        model[at as usize..][..bytes.len()].copy_from_slice(bytes);
        let mut back = vec![0; bytes.len()];
        target.read(at, &mut back).unwrap();
        assert!(back == bytes, "written at {at}, read back at once");
    };
    // Aligned; every edge unaligned; memory and offset aligned differently; one byte; nothing; the last byte.
    put(&mut model, 4096, &source[..MIB as usize]);
    put(&mut model, 2 * MIB + 100, &source[100..MIB as usize + 333]);
    put(&mut model, 4 * MIB + 1, &source[..2 * MIB as usize]);
    put(&mut model, 7 * MIB + 4095, &source[5..6]);
    put(&mut model, 8 * MIB, &[]);
    put(&mut model, length - 513, &source[..513]);
    for index in 0..64 {
        // Neighbours, alternately past and through the page cache.
        let (from, len) = if index % 2 == 0 { (0, 4096) } else { (1, 4095) };
        put(&mut model, 9 * MIB + index * 4096 + from, &source[from as usize..][..len]);
    }
    let zero = |model: &mut Vec<u8>, at: u64, len: u64| {
        target.zero(at, len).unwrap();
        model[at as usize..(at + len) as usize].fill(0);
    };
    zero(&mut model, 4096, 65536);
    zero(&mut model, 2 * MIB + 5000, 300_001);
    zero(&mut model, 4 * MIB + 777, 3);
    zero(&mut model, 9 * MIB + 4090, 12);
    zero(&mut model, 9 * MIB + 8192, 4096);
    zero(&mut model, 0, 0);
    zero(&mut model, length - 600, 600);
    put(&mut model, 2 * MIB + 8192, &source[..4096]);
    let same = |model: &[u8]| {
        let mut all = Aligned::zeroed(length as usize);
        target.read(0, &mut all).unwrap();
        all.iter().zip(model).position(|(found, expected)| found != expected)
    };
    assert_eq!(same(&model), None, "first wrong byte");
    target.flush().unwrap();
    target.drop_cache(0, length);
    assert_eq!(same(&model), None, "first wrong byte after the flush");
    let found = fs::read(oracle).unwrap();
    assert!(found[..length as usize] == model[..], "the oracle reads something else");
    let data = target.data_ranges(0, length).unwrap();
    let mut reached = 0;
    for range in data.iter().cloned().chain([length..length]) {
        assert!(model[reached..range.start as usize].iter().all(|byte| *byte == 0), "data before {range:?}");
        reached = range.end as usize;
    }
    let past = target.read(target.facts().length.max(length) - 1, &mut [0; 2]).unwrap_err();
    assert_eq!(past.code, Code::Truncated);
    for at in [u64::MAX - 1, i64::MAX as u64 - 1] {
        assert_eq!(target.write(at, &source[..8]).unwrap_err().code, Code::TooLarge);
        assert_eq!(target.zero(at, 8).unwrap_err().code, Code::TooLarge);
    }
    // Many threads, pieces side by side that share pages.
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let source = &source;
            scope.spawn(move || {
                for piece in (thread..512).step_by(4) {
                    target.write(piece * 6000, &source[(piece as usize * 4096) % 65536..][..6000]).unwrap();
                }
            });
        }
    });
    for piece in 0..512usize {
        model[piece * 6000..][..6000].copy_from_slice(&source[(piece * 4096) % 65536..][..6000]);
    }
    assert_eq!(same(&model), None, "first wrong byte after four threads");
}

#[test]
fn a_file_past_the_page_cache() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let target = open(&path).unwrap();
    assert!(!target.facts().exists && target.facts().zeroed && target.facts().capacity > MIB);
    assert!(!path.exists(), "opening must not create");
    contract(&*target, &path);
    drop(target);
    let target = open(&path).unwrap();
    let facts = target.facts();
    assert_eq!((facts.kind, facts.exists, facts.length, facts.zeroed), (Kind::File, true, 16 * MIB + 512, false));
    assert_eq!(facts.foreign.as_deref(), Some("a file with 16777728 bytes"));
}

#[test]
fn a_file_through_the_page_cache() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let target = open_with(&path, BUFFERED).unwrap();
    contract(&*target, &path);
    drop(target);
    assert!(!open_with(&path, BUFFERED).unwrap().facts().direct);
}

#[test]
fn a_file_in_memory() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("disk");
    contract(&*open(&path).unwrap(), &path);
}

#[test]
fn a_dirty_reserved_file() {
    for place in ["/dev/shm", "/var/tmp"] {
        let directory = tempfile::tempdir_in(place).unwrap();
        let path = directory.path().join("disk");
        fs::write(&path, vec![0xaa; 17 * MIB as usize]).unwrap();
        let target = open(&path).unwrap();
        target.preallocate(16 * MIB + 512).unwrap();
        contract(&*target, &path);
        target.zero(0, 16 * MIB).unwrap();
        let kept = fs::metadata(&path).unwrap().blocks() * 512;
        assert!(kept >= 16 * MIB, "{place}: {kept} bytes stay reserved");
    }
}

#[test]
fn zeroing_gives_blocks_back_and_lengthens() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = directory.path().join("disk");
    let target = open(&path).unwrap();
    target.write(0, &pattern(4 * MIB as usize, 3)).unwrap();
    target.zero(0, 4 * MIB).unwrap();
    target.flush().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().blocks(), 0);
    target.zero(6 * MIB, MIB).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 7 * MIB);
    target.zero(7 * MIB, 10).unwrap();
    assert_eq!(fs::read(&path).unwrap(), vec![0; 7 * MIB as usize + 10]);
}

#[test]
fn block_devices_clean_and_dirty_with_both_sector_sizes() {
    for (fill, options, block) in [(0, &[][..], 512), (0xaa, &[][..], 512), (0xaa, &["-b", "4096"][..], 4096)] {
        let disk = Loop::new(17 * MIB + if block == 512 { 512 } else { 0 }, fill, options);
        let target = open(&disk.device).unwrap();
        let facts = target.facts();
        assert_eq!((facts.kind, facts.logical_block, facts.direct, facts.zeroed), (Kind::Block, block, true, false));
        assert_eq!((facts.length, facts.capacity), (fs::metadata(&disk.backing).unwrap().len(), facts.length));
        assert_eq!(facts.foreign.as_deref(), (fill != 0).then_some("data of unknown origin"));
        contract(&*target, &disk.device);
        let end = facts.length;
        target.zero(16 * MIB, end - 16 * MIB).unwrap();
        target.write(end - 5, &[7; 5]).unwrap();
        assert_eq!(target.data_ranges(5, u64::MAX).unwrap(), [5..end]);
        for error in [
            target.write(end - 5, &[7; 6]).unwrap_err(),
            target.zero(end, 1).unwrap_err(),
            target.set_length(end + 1).unwrap_err(),
        ] {
            assert_eq!(error.code, Code::TooLarge);
            assert!(error.message.contains(&format!("has {end} bytes")), "{}", error.message);
        }
    }
}

#[test]
fn null_takes_everything() {
    let target = open(Path::new("/dev/null")).unwrap();
    assert_eq!((target.facts().kind, target.facts().capacity), (Kind::Null, u64::MAX));
    target.write(1 << 50, &[1; 5]).unwrap();
    target.zero(3, 1 << 30).unwrap();
    target.set_length(1 << 60).unwrap();
    target.flush().unwrap();
    let mut back = [9; 5];
    target.read(1 << 50, &mut back).unwrap();
    assert_eq!(back, [0; 5]);
}

#[test]
fn a_full_file_system_says_so_with_numbers() {
    let tiny = Mount::new(&["-t", "tmpfs", "-o", "size=2m", "tmpfs"]);
    let target = open(&tiny.path("disk")).unwrap();
    assert_eq!(target.facts().capacity, 2 * MIB);
    target.set_length(64 * MIB).unwrap();
    target.write(0, &pattern(MIB as usize, 0)).unwrap();
    for error in
        [target.write(8 * MIB, &pattern(4 * MIB as usize, 0)).unwrap_err(), target.preallocate(4 * MIB).unwrap_err()]
    {
        assert_eq!(error.code, Code::NoSpace);
        assert!(
            error.message.contains("4194304 bytes at offset") || error.message.contains("bytes are free"),
            "{error}"
        );
        assert!(error.message.contains("make room"), "{error}");
    }
    // What was written stays right.
    let mut back = vec![0; MIB as usize];
    target.read(0, &mut back).unwrap();
    assert!(back == pattern(MIB as usize, 0)[..]);
    // The same where blocks are given out late, past and through the page cache.
    let disk = Loop::new(8 * MIB, 0, &[]);
    run("mkfs.ext4", &["-q", disk.name()]);
    let small = Mount::new(&[disk.name()]);
    for access in [Access { write: true, direct: true }, BUFFERED] {
        let target = open_with(&small.path("disk"), access).unwrap();
        target.set_length(64 * MIB).unwrap();
        let bytes = pattern(MIB as usize, 0);
        let failed = (0..64).find_map(|index| target.write(index * MIB, &bytes).err()).or_else(|| target.flush().err());
        assert_eq!(failed.expect("8 MiB cannot take 64").code, Code::NoSpace);
        drop(target);
        fs::remove_file(small.path("disk")).unwrap();
    }
}

#[test]
fn a_target_has_one_writer() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("disk");
    let disk = Loop::new(2 * MIB, 0, &[]);
    for path in [&file, &disk.device] {
        let first = open(path).unwrap();
        first.set_length(MIB).unwrap();
        let started = Instant::now();
        let error = refusal(path);
        assert_eq!(error.code, Code::Busy, "{error}");
        assert!(started.elapsed().as_secs() < 1, "BUSY at once");
        let reader = open_with(path, READ).unwrap();
        reader.read(0, &mut [0; 10]).unwrap();
        for refused in [reader.write(0, &[1]), reader.zero(0, 8192), reader.set_length(5), reader.flush()] {
            if path == &file || refused.is_err() {
                assert_eq!(refused.unwrap_err().code, Code::Denied);
            }
        }
        drop(reader);
        assert_eq!(refusal(path).code, Code::Busy, "a reader that closes must not take the lock along");
        drop(first);
        open(path).unwrap();
    }
}

/// Not a test of its own: the process that is killed below. It holds the target named in the environment.
#[test]
fn hold_what_the_environment_names() {
    let Some(path) = std::env::var_os("DISKFERRY_TEST_HOLD") else { return };
    let target = open(Path::new(&path)).unwrap();
    target.set_length(MIB).unwrap();
    eprintln!("holding");
    std::thread::sleep(std::time::Duration::from_secs(60));
}

#[test]
fn a_killed_holder_lets_go() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Loop::new(2 * MIB, 0, &[]);
    for path in [&directory.path().join("disk"), &disk.device] {
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hold_what_the_environment_names", "--nocapture"])
            .env("DISKFERRY_TEST_HOLD", path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(holder.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "holding"), "the holder did not start");
        assert_eq!(refusal(path).code, Code::Busy);
        holder.kill().unwrap();
        holder.wait().unwrap();
        open(path).unwrap();
    }
}

#[test]
fn a_virtual_machine_s_image_is_busy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    fs::write(&path, vec![1; MIB as usize]).unwrap();
    let mut machine = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "sleep 60000"])
        .arg(&path)
        .stdout(Stdio::null())
        .spawn()
        .expect("this test needs qemu-io (qemu-utils)");
    // It says nothing when it has opened its image, so it is given time to.
    let refused = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        open(&path).err()
    });
    machine.kill().unwrap();
    machine.wait().unwrap();
    assert_eq!(refused.expect("the image of a machine should be refused").code, Code::Busy);
    open(&path).unwrap();
}

#[test]
fn mounted_and_read_only_devices_are_refused() {
    // Btrfs shows another device number in the list of mounts than the one it is mounted from.
    for (make, what) in [("mkfs.ext4", "an ext2, ext3 or ext4 file system"), ("mkfs.btrfs", "a Btrfs file system")] {
        let disk = Loop::new(128 * MIB, 0, &[]);
        run(make, &["-q", disk.name()]);
        let mount = Mount::new(&[disk.name()]);
        let error = refusal(&disk.device);
        assert_eq!(error.code, Code::Busy);
        assert!(error.message.contains(&format!("mounted at {}", mount.0.path().display())), "{error}");
        drop(mount);
        assert_eq!(open(&disk.device).unwrap().facts().foreign.as_deref(), Some(what));
    }

    let disk = Loop::new(2 * MIB, 0, &["--read-only"]);
    let error = refusal(&disk.device);
    assert_eq!(error.code, Code::Denied);
    assert!(error.message.contains("read-only") && error.message.contains("--setrw"), "{error}");
    assert_eq!(open_with(&disk.device, READ).unwrap().facts().length, 2 * MIB);
}

#[test]
fn a_disk_with_a_mounted_partition_is_busy() {
    let disk = Loop::new(32 * MIB, 0, &["--partscan"]);
    run("sgdisk", &["-n", "1:2048:0", disk.name()]);
    let target = open(&disk.device).unwrap();
    assert_eq!(target.facts().foreign.as_deref(), Some("a GPT partition table"));
    drop(target);
    let part = format!("{}p1", disk.name());
    if !Path::new(&part).exists() {
        // A kernel that knows no partition tables can still be told of a partition.
        run("addpart", &[disk.name(), "1", "2048", "61440"]);
    }
    run("mkfs.ext4", &["-q", &part]);
    let mount = Mount::new(&[&part]);
    let error = refusal(&disk.device);
    assert_eq!(error.code, Code::Busy);
    assert!(error.message.contains(&format!("mounted at {}", mount.0.path().display())), "{error}");
    drop(mount);
    // Only the backup is left when the first MiB is gone.
    let target = open(&disk.device).unwrap();
    target.zero(0, MIB).unwrap();
    drop(target);
    assert_eq!(open(&disk.device).unwrap().facts().foreign.as_deref(), Some("the backup of a GPT partition table"));
}

#[test]
fn what_is_on_a_device_is_told() {
    let disk = Loop::new(160 * MIB, 0, &[]);
    let made: [(&str, &[&str], &str); 5] = [
        ("mkfs.ext4", &["-q", "-F"], "an ext2, ext3 or ext4 file system"),
        ("mkfs.btrfs", &["-q", "-f"], "a Btrfs file system"),
        ("mkswap", &[], "swap space"),
        ("sgdisk", &["-n", "1:0:0"], "a GPT partition table"),
        ("sfdisk", &["-q"], "an MBR partition table"),
    ];
    for (program, options, what) in made {
        let target = open(&disk.device).unwrap();
        target.zero(0, target.facts().length).unwrap();
        target.flush().unwrap();
        drop(target);
        assert_eq!(open(&disk.device).unwrap().facts().foreign, None);
        if program == "sfdisk" {
            run("sh", &["-c", &format!("echo 'start=2048,type=83' | sfdisk -q {}", disk.name())]);
        } else {
            run(program, &[options, &[disk.name()]].concat());
        }
        assert_eq!(open(&disk.device).unwrap().facts().foreign.as_deref(), Some(what));
    }
    fs::File::options().write(true).open(&disk.device).unwrap().write_all_at(&[0; 512], 0).unwrap();
    let target = open(&disk.device).unwrap();
    assert_eq!(target.facts().foreign, None);
    target.write(160 * MIB - 1, &[1]).unwrap();
    drop(target);
    assert_eq!(open(&disk.device).unwrap().facts().foreign.as_deref(), Some("data of unknown origin"));
}

#[test]
fn what_is_no_target_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    run("mkfifo", &[at("pipe").to_str().unwrap()]);
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for (path, what) in [
        (directory.path().to_owned(), "a directory"),
        (at("pipe"), "a pipe"),
        (at("socket"), "a socket"),
        ("/dev/zero".into(), "a character device"),
    ] {
        let error = refusal(&path);
        assert_eq!(error.code, Code::BadSpec);
        assert!(error.message.contains(what), "{error}");
    }
    symlink(at("nowhere"), at("dangling")).unwrap();
    for path in [at("dangling"), at("no/disk"), "/dev/diskferry-no-such-device".into(), "/".into(), "".into()] {
        let error = refusal(&path);
        assert!(matches!(error.code, Code::NotFound | Code::BadSpec), "{}: {error}", path.display());
    }
    assert_eq!(open_with(&at("absent"), READ).err().unwrap().code, Code::NotFound);
    // A link to a target is one.
    fs::write(at("disk"), b"x").unwrap();
    symlink(at("disk"), at("link")).unwrap();
    assert_eq!(open(&at("link")).unwrap().facts().length, 1);
}

#[test]
fn a_new_file_is_private_and_created_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let (first, second) = (open(&path).unwrap(), open(&path).unwrap());
    assert_eq!(first.read(0, &mut [0]).unwrap_err().code, Code::Truncated);
    assert_eq!(first.data_ranges(0, 100).unwrap(), []);
    first.flush().unwrap();
    assert!(!path.exists());
    let first = Arc::clone(&first);
    std::thread::scope(|scope| {
        (0..4).for_each(|index| {
            drop(scope.spawn({
                let first = &first;
                move || first.write(index, &[1]).unwrap()
            }))
        });
    });
    assert_eq!(second.create().unwrap_err().code, Code::Busy);
    first.flush().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o117, 0, "0660 less the umask");
    assert_eq!(fs::read(&path).unwrap(), [1; 4]);
}

#[test]
fn lengths_and_holes_are_exact() {
    for place in ["/dev/shm", "/var/tmp"] {
        let directory = tempfile::tempdir_in(place).unwrap();
        let path = directory.path().join("disk");
        let target = open(&path).unwrap();
        for length in [0, 1, 511, 4097, 10 * MIB + 3, 12 * MIB] {
            target.set_length(length).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), length);
        }
        assert_eq!(target.data_ranges(0, u64::MAX).unwrap(), []);
        target.write(MIB, &pattern(MIB as usize, 0)).unwrap();
        target.write(5 * MIB, &[1]).unwrap();
        target.flush().unwrap();
        assert_eq!(target.data_ranges(0, 12 * MIB).unwrap(), [MIB..2 * MIB, 5 * MIB..5 * MIB + 4096], "{place}");
        assert_eq!(target.data_ranges(MIB + 5, 2 * MIB - 5).unwrap(), [MIB + 5..2 * MIB - 5]);
        assert_eq!(target.data_ranges(2 * MIB, 5 * MIB).unwrap(), []);
        drop(target);
        fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(MIB).unwrap();
        let target = open(&path).unwrap();
        assert_eq!((target.facts().zeroed, target.facts().foreign.clone()), (true, None));
    }
}

/// Kilobytes of the file in the page cache.
fn cached(path: &Path) -> u64 {
    run("fincore", &["--bytes", "--noheadings", "--output", "RES", path.to_str().unwrap()]).parse::<u64>().unwrap()
        / 1024
}

#[test]
fn the_page_cache_stays_small() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    for access in [Access { write: true, direct: true }, BUFFERED] {
        let path = directory.path().join(format!("direct-{}", access.direct));
        let target = open_with(&path, access).unwrap();
        target.set_length(96 * MIB).unwrap();
        let bytes = pattern(MIB as usize, 0);
        let mut most = 0;
        for index in 0..96 {
            target.write(index * MIB, &bytes).unwrap();
            most = most.max(cached(&path));
        }
        target.flush().unwrap();
        let (bound, rest) = (if access.direct { 0 } else { 24 << 10 }, cached(&path));
        assert!(most <= bound && rest <= 64, "direct {}: at most {most} KiB, {rest} KiB at the end", access.direct);
    }
}

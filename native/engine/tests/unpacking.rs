//! Whole archives into directories: what GNU tar packs comes out as GNU tar unpacks it, and nothing gets out.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use diskferry_engine::conversion::{Next, Pushed, SourceDigest};
use diskferry_engine::error::{Code, Error, Result};
use diskferry_engine::limits::Limits;
use diskferry_engine::unpacking::{Options, Unpacked, Unpacking};
use tempfile::TempDir;

fn run(directory: &Path, program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).current_dir(directory).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn options(target: &Path) -> Options {
    Options {
        target: target.to_owned(),
        replace: false,
        source_length: None,
        digest: None,
        codecs: None,
        limits: Limits::default(),
    }
}

/// Pushes `source` in pieces; with `stop` only so many bytes, then it is dropped.
fn unpack_with(options: Options, source: &[u8], stop: Option<usize>) -> Result<Option<Unpacked>> {
    let unpacking = Unpacking::start(options)?;
    loop {
        match unpacking.intake().next(16)? {
            Next::Finished => break,
            Next::Wait => std::thread::sleep(std::time::Duration::from_micros(200)),
            Next::Fetch(_) => {
                let mut at = 0;
                while at < source.len() {
                    if stop.is_some_and(|stop| at >= stop) {
                        return Ok(None);
                    }
                    let n = (source.len() - at).min(10_001);
                    match unpacking.intake().push(at as u64, &source[at..at + n])? {
                        Pushed::Taken => at += n,
                        Pushed::Full => std::thread::sleep(std::time::Duration::from_micros(200)),
                        Pushed::PassOver => break,
                    }
                }
                unpacking.intake().end(source.len() as u64);
            }
        }
    }
    unpacking.finish().map(Some)
}

fn unpack(target: &Path, source: &[u8]) -> Result<Unpacked> {
    unpack_with(options(target), source, None).map(Option::unwrap)
}

/// Every path below with what can be seen of it: kind, mode, time, size, blocks, links, content.
fn listing(root: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, into: &mut Vec<String>) {
        let found = fs::symlink_metadata(at).unwrap();
        let name = at.strip_prefix(root).unwrap().display().to_string();
        let content = if found.is_file() {
            blake(&fs::read(at).unwrap())
        } else if found.is_symlink() {
            fs::read_link(at).unwrap().display().to_string()
        } else {
            String::new()
        };
        let size = if found.is_dir() { 0 } else { found.len() };
        into.push(format!(
            "{name} {:o} {}.{} {size} {} {content}",
            found.mode() & !0o6000,
            found.mtime(),
            found.mtime_nsec(),
            if found.is_dir() { 0 } else { found.nlink() }
        ));
        if found.is_dir() {
            let mut names: Vec<PathBuf> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names.iter().for_each(|name| walk(root, name, into));
        }
    }
    let mut into = Vec::new();
    walk(root, root, &mut into);
    into
}

fn blake(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// A tree with everything that an archive may hold.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/file"), b"content").unwrap();
    fs::write(root.join("a/b/empty"), b"").unwrap();
    fs::write(root.join("large"), (0..3_000_000u32).map(|n| ((n * 7) >> 3) as u8).collect::<Vec<_>>()).unwrap();
    fs::write(root.join(format!("{}-long", "n".repeat(150))), b"long").unwrap();
    fs::write(root.join("umlaut-ä"), b"utf-8").unwrap();
    fs::write(root.join(std::ffi::OsStr::new("x")), b"x").unwrap();
    fs::hard_link(root.join("a/file"), root.join("a/b/hard")).unwrap();
    symlink("b/hard", root.join("a/soft")).unwrap();
    symlink("../a", root.join("a/up")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(&[7; 5000], 3 << 20).unwrap();
    sparse.write_all_at(&[9; 100], 9 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    for (name, mode) in [("a", 0o750), ("a/b", 0o555), ("a/file", 0o640), ("x", 0o4755), ("large", 0o444)] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn every_form_comes_out_as_tar_unpacks_it() {
    let home = TempDir::new().unwrap();
    let from = home.path().join("from");
    tree(&from);
    for (n, how) in [
        &["--format=gnu"][..],
        &["--format=posix"],
        &["--format=gnu", "-S"],
        &["--format=posix", "-S", "--sparse-version=0.0"],
        &["--format=posix", "-S", "--sparse-version=0.1"],
        &["--format=posix", "-S", "--sparse-version=1.0"],
    ]
    .into_iter()
    .enumerate()
    {
        let archive = run(&from, "tar", &[&["-cf-"], how, &["."]].concat());
        let wanted = home.path().join(format!("wanted-{n}"));
        fs::create_dir(&wanted).unwrap();
        fs::write(home.path().join("archive"), &archive).unwrap();
        run(&wanted, "tar", &["-xf", "../archive", "--preserve-permissions", "--no-same-owner"]);
        for (codec, args) in
            [("cat", &[][..]), ("gzip", &["-c1"]), ("zstd", &["-qc"]), ("xz", &["-c0"]), ("bzip2", &["-c"])]
        {
            let found = home.path().join(format!("found-{n}-{codec}"));
            let packed = run(home.path(), codec, &[args, &["archive"]].concat());
            let report = unpack(&found, &packed).unwrap();
            assert_eq!(report.codecs, if codec == "cat" { vec![] } else { vec![codec] });
            assert_eq!(listing(&found), listing(&wanted), "{how:?} in {codec}");
            let others = [&wanted, &found].map(|root| fs::metadata(root.join("x")).unwrap().mode() & 0o6000);
            assert_eq!(others, [0o4000, 0], "set-user-ID is left out");
            if how.contains(&"-S") {
                assert!(fs::metadata(found.join("sparse")).unwrap().blocks() < 100, "{how:?} keeps holes");
            }
        }
    }
    let nested = run(home.path(), "sh", &["-c", "gzip -c1 archive | zstd -qc | gzip -c1"]);
    assert_eq!(unpack(&home.path().join("nested"), &nested).unwrap().codecs, ["gzip", "zstd", "gzip"]);
    let deeper = run(home.path(), "sh", &["-c", "gzip -c1 archive | gzip -c1 | gzip -c1 | gzip -c1"]);
    assert_eq!(unpack(&home.path().join("deeper"), &deeper).unwrap_err().code, Code::Unsupported);
}

#[test]
fn names_that_are_no_text_are_kept() {
    use std::os::unix::ffi::OsStrExt;
    let home = TempDir::new().unwrap();
    let from = home.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join(std::ffi::OsStr::from_bytes(b"caf\xe9")), b"latin 1").unwrap();
    let archive = run(&from, "tar", &["-cf-", "--format=gnu", "."]);
    unpack(&home.path().join("found"), &archive).unwrap();
    assert_eq!(fs::read(home.path().join("found").join(std::ffi::OsStr::from_bytes(b"caf\xe9"))).unwrap(), b"latin 1");
}

/// A header with a right checksum, as hostile as wanted.
fn entry(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[148..156].fill(b' ');
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..263].copy_from_slice(b"ustar\0");
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut entry = block.to_vec();
    entry.extend_from_slice(content);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

#[test]
fn nothing_gets_out() {
    let file = |name: &str| entry(name, b'0', "", b"bad");
    let link = |name: &str, to: &str| entry(name, b'2', to, b"");
    for (what, entries) in [
        ("an absolute path", vec![file("/tmp/x")]),
        ("a path upwards", vec![file("../x")]),
        ("a path upwards in the middle", vec![file("a/../../x")]),
        ("a path that only seems to", vec![file("a/../x")]),
        ("an absolute link", vec![link("a", "/etc")]),
        ("a link upwards", vec![link("a", "..")]),
        ("a deeper link upwards", vec![link("d/a", "../..")]),
        ("a file through a link", vec![link("a", "b"), entry("b", b'5', "", b""), file("a/x")]),
        ("a directory through a link", vec![link("a", "."), entry("a/d", b'5', "", b"")]),
        // Each is inside by its letters; together they are not.
        (
            "links that lead out together",
            vec![entry("p/q/r", b'5', "", b""), link("l", "p/q/r/../../.."), link("s/t", "../l/..")],
        ),
        ("a link that becomes one later", vec![link("one", "d/e/../.."), link("d/e", ".."), link("d/f", "../one/..")]),
        ("links in a circle", vec![link("a", "b"), link("b", "a")]),
        ("a hard link outside", vec![entry("a", b'1', "../../etc/passwd", b"")]),
        ("an absolute hard link", vec![entry("a", b'1', "/etc/passwd", b"")]),
        ("a hard link to nothing", vec![entry("a", b'1', "b", b"")]),
        ("a hard link to a link", vec![link("b", "c"), entry("a", b'1', "b", b"")]),
        ("a hard link through a link", vec![link("d", "."), file("f"), entry("a", b'1', "d/f", b"")]),
        ("a device", vec![entry("null", b'3', "", b"")]),
        ("a block device", vec![entry("sda", b'4', "", b"")]),
        ("a pipe", vec![entry("pipe", b'6', "", b"")]),
        ("a file in place of a directory", vec![file("d/x"), file("d")]),
        ("a file under a file", vec![file("d"), file("d/x")]),
    ] {
        let home = TempDir::new().unwrap();
        let target = home.path().join("in/target");
        fs::create_dir(home.path().join("in")).unwrap();
        let error = unpack(&target, &archive(&entries)).map(|_| ()).unwrap_err();
        assert_eq!(error.code, Code::Unsafe, "{what}: {error}");
        assert_eq!(listing(home.path()).len(), 2, "{what} left something: {:?}", listing(home.path()));
    }
}

#[test]
fn lawful_oddities_are_taken() {
    let file = |name: &str, content: &[u8]| entry(name, b'0', "", content);
    let home = TempDir::new().unwrap();
    let target = home.path().join("t");
    let entries = [
        entry("label", b'V', "", b""),
        file("./a//b", b"first"),
        file("a/b", b"second"),
        entry("link", b'2', "a/../a/b", b""),
        entry("link", b'2', "a/b", b""),
        entry("a/same", b'1', "a/b", b""),
        entry("a/b", b'1', "a/b", b""),
    ];
    let report = unpack(&target, &archive(&entries)).unwrap();
    assert_eq!((report.entries, report.passed), (7, 1));
    assert_eq!(fs::read(target.join("link")).unwrap(), b"second");
    assert_eq!(fs::metadata(target.join("a/b")).unwrap().nlink(), 2);
    // An archive of nothing is a directory of nothing.
    assert_eq!(unpack(&home.path().join("none"), &[0; 10240]).unwrap().entries, 0);
}

#[test]
fn all_of_it_or_nothing() {
    let home = TempDir::new().unwrap();
    let from = home.path().join("from");
    tree(&from);
    let source = run(&from, "tar", &["-czf-", "."]);
    let fails = |error: Result<Unpacked>, code: Code| -> Error {
        let error = error.map(|_| ()).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "something was left after {error}");
        error
    };
    let target = home.path().join("target");
    fails(unpack(&target, &source[..source.len() - 1]), Code::Truncated);
    fails(unpack(&target, &source[..source.len() / 2]), Code::Truncated);
    fails(unpack(&target, b"no archive at all"), Code::Unsupported);
    fails(unpack(&target, &[]), Code::Unsupported);
    let mut flipped = source.clone();
    flipped[source.len() / 2] ^= 1;
    fails(unpack(&target, &flipped), Code::Corrupt);
    let wrong = Options { digest: Some(SourceDigest::Sha256([1; 32])), ..options(&target) };
    fails(unpack_with(wrong, &source, None).map(Option::unwrap), Code::DigestMismatch);
    let short = Options { source_length: Some(5), ..options(&target) };
    fails(unpack_with(short, &source, None).map(Option::unwrap), Code::Truncated);
    assert!(unpack_with(options(&target), &source, Some(source.len() / 2)).unwrap().is_none());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "something was left by a run that was dropped");
    fs::write(&target, b"a file").unwrap();
    assert_eq!(unpack(&target, &source).unwrap_err().code, Code::BadSpec);
}

#[test]
fn a_directory_that_is_there_is_filled_and_replaced() {
    let home = TempDir::new().unwrap();
    let from = home.path().join("from");
    tree(&from);
    let source = run(&from, "tar", &["-czf-", "."]);
    let target = home.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::create_dir(target.join("lost+found")).unwrap();
    unpack(&target, &source).unwrap();
    assert_eq!(fs::read(target.join("a/file")).unwrap(), b"content");
    assert!(target.join("lost+found").exists() && !target.join(".diskferry").exists());
    let error = unpack(&target, &source).map(|_| ()).unwrap_err();
    assert_eq!(error.code, Code::Denied, "{error}");
    fs::write(target.join("old"), b"old").unwrap();
    // What a killed run has left goes; one that is under way does not.
    fs::create_dir(target.join(".diskferry")).unwrap();
    let mut holder = Command::new("flock")
        .args([target.join(".diskferry").to_str().unwrap(), "sh", "-c", "echo held; read line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = [0; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut held).unwrap();
    let replace = || Options { replace: true, ..options(&target) };
    let busy = unpack_with(replace(), &source, None).map(|_| ()).unwrap_err();
    assert_eq!(busy.code, Code::Busy, "{busy}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    fs::write(target.join(".diskferry/left"), b"left").unwrap();
    assert!(unpack_with(replace(), &source[..9000], None).is_err());
    assert_eq!(fs::read(target.join("old")).unwrap(), b"old", "what was there stays until all is right");
    unpack_with(replace(), &source, None).unwrap();
    assert!(!target.join("old").exists() && target.join("lost+found").exists());
    assert_eq!(fs::read(target.join("a/file")).unwrap(), b"content");
}

#[test]
fn bombs_are_refused() {
    let home = TempDir::new().unwrap();
    let small = home.path().join("small");
    fs::create_dir(&small).unwrap();
    run(home.path(), "mount", &["-t", "tmpfs", "-o", "size=4m", "tmpfs", small.to_str().unwrap()]);
    let zeros = archive(&[entry("zeros", b'0', "", &vec![0; 6 << 20])]);
    let error = unpack(&small.join("t"), &zeros).map(|_| ()).unwrap_err();
    assert_eq!(error.code, Code::NoSpace, "{error}");
    // Many small ones: each takes a page, which the sum of their sizes does not show.
    let many: Vec<_> = (0..3000).map(|n| entry(&format!("f{n}"), b'0', "", b"x")).collect();
    let error = unpack(&small.join("t"), &archive(&many)).map(|_| ()).unwrap_err();
    assert_eq!(error.code, Code::NoSpace, "{error}");
    assert_eq!(fs::read_dir(&small).unwrap().count(), 0);
    run(home.path(), "umount", &[small.to_str().unwrap()]);
    let deep = entry(&"d/".repeat(49), b'5', "", b"");
    let links: Vec<_> = (0..200_000).map(|n| entry(&format!("l{n}"), b'2', &"x".repeat(90), b"")).collect();
    let error = unpack(&home.path().join("t"), &archive(&[vec![deep], links].concat())).map(|_| ()).unwrap_err();
    assert_eq!(error.code, Code::TooLarge, "{error}");
}

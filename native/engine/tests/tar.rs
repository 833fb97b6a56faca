//! Members of archives that GNU tar makes, in every form that it knows.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use diskferry_engine::archives::{Archive, Pick};
use diskferry_engine::codecs::{Codec, Kind, Restart};
use diskferry_engine::error::{Code, Result};
use diskferry_engine::limits::Limits;
use diskferry_engine::sniff::{Told, sniff_told};
use tempfile::TempDir;

mod decoding;
use decoding::{Collect, feed, resume_everywhere};

/// Runs GNU tar in `directory`; gives the archive.
fn tar(directory: &Path, options: &[&str], names: &[&str]) -> Vec<u8> {
    let output = Command::new("tar").current_dir(directory).arg("-cf-").args(options).args(names).output().unwrap();
    assert!(output.status.success(), "tar {options:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn open(pick: &Pick, from: Option<&Restart>) -> Box<dyn Codec> {
    Kind::Tar.open_picking(pick, &Limits::default(), from).unwrap()
}

fn unpack(pick: &Pick, archive: &[u8]) -> Result<Vec<u8>> {
    let mut sink = Collect::new(1 << 16, false);
    feed(&mut *open(pick, None), archive, 5000, &mut sink)?;
    Ok(sink.content)
}

/// A file with holes: data at 1 MiB, at 5 MiB + 512, and where `ends` says.
fn sparse(path: &Path, runs: u64, length: u64) -> Vec<u8> {
    let file = File::create(path).unwrap();
    for n in 0..runs {
        file.write_all_at(&[n as u8 + 1; 4096], (n * 40 + 20) << 12).unwrap();
    }
    file.set_len(length).unwrap();
    fs::read(path).unwrap()
}

fn noise(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn every_form_of_tar() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("README"), "no disk").unwrap();
    let long = "d".repeat(120);
    fs::create_dir(at(&long)).unwrap();
    let names =
        ["disk.img".to_owned(), format!("{long}/{}.raw", "n".repeat(90)), format!("{long}/{}.raw", "x".repeat(180))];
    for (n, length) in [(0, 0), (0, 1), (1, 511), (1, 512), (2, 513), (2, 100_000)] {
        let name = &names[n];
        let content = noise(length);
        fs::write(at(name), &content).unwrap();
        for format in ["v7", "oldgnu", "gnu", "ustar", "posix"] {
            // Names of more than 99 bytes are beyond v7, of more than 255 or a last part of 100 beyond ustar.
            if n > 0 && format == "v7" || n == 2 && format == "ustar" {
                continue;
            }
            let archive = tar(directory.path(), &[&format!("--format={format}")], &["README", name]);
            for pick in [Pick::Only, Pick::Path(format!("./{name}"))] {
                assert!(unpack(&pick, &archive).unwrap() == content, "{format} {name} {length}");
            }
            let open = |from: Option<&Restart>| open(&Pick::Only, from);
            resume_everywhere(&open, &format!("{format} {name} {length}"), &archive, &content);
        }
    }
}

#[test]
fn every_form_of_sparse_files() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk.img");
    // More runs than a header holds, and than one block of GNU's map.
    for (runs, length) in [(0, 3 << 20), (1, 1 << 20), (3, 1 << 20), (4, 100 << 12), (5, 2 << 20), (90, 20 << 20)] {
        let content = sparse(&path, runs, length);
        let forms: &[&[&str]] = &[
            &["--format=gnu", "-S"],
            &["--format=oldgnu", "-S"],
            &["--format=posix", "-S", "--sparse-version=0.0"],
            &["--format=posix", "-S", "--sparse-version=0.1"],
            &["--format=posix", "-S", "--sparse-version=1.0"],
        ];
        for form in forms {
            let archive = tar(directory.path(), form, &["disk.img"]);
            assert!(archive.len() < 1 << 20, "{form:?} {runs}: not sparse");
            for piece in [1, 512, 10_000, usize::MAX] {
                let mut sink = Collect::new(70_000, true);
                feed(&mut *open(&Pick::Only, None), &archive, piece, &mut sink).unwrap();
                assert!(sink.content == content, "{form:?} {runs} by {piece}");
            }
        }
    }
}

#[test]
fn what_is_picked() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let make = |names: &[&str], options: &[&str]| tar(directory.path(), options, names);
    fs::create_dir_all(at("disk/sub")).unwrap();
    for (name, content) in [
        ("disk/a.img", &b"the disk"[..]),
        ("disk/sub/b", b"below"),
        ("notes.txt", b"text"),
        ("qcow2", b"QFI\xfb\0\0\0\x03 and so on"),
        ("two.raw", b"another"),
        ("packed.img.gz", b"packed"),
        ("empty", b""),
    ] {
        fs::write(at(name), content).unwrap();
    }
    std::os::unix::fs::symlink("a.img", at("disk/link.img")).unwrap();
    fs::hard_link(at("disk/a.img"), at("hard.img")).unwrap();
    let directory_of = |name: &str| Pick::Directory(name.to_owned());
    let path = |name: &str| Pick::Path(name.to_owned());

    let only = unpack(&Pick::Only, &make(&["notes.txt", "empty", "qcow2"], &[])).unwrap();
    assert_eq!(only, b"QFI\xfb\0\0\0\x03 and so on", "by its first bytes");
    assert_eq!(unpack(&Pick::Only, &make(&["notes.txt", "packed.img.gz"], &[])).unwrap(), b"packed");
    let all = make(&["notes.txt", "disk", "qcow2", "two.raw", "empty"], &[]);
    for name in ["disk/a.img", "/disk/a.img", "./disk//a.img"] {
        assert_eq!(unpack(&path(name), &all).unwrap(), b"the disk", "{name}");
    }
    for name in ["disk", "/disk/"] {
        assert_eq!(unpack(&directory_of(name), &all).unwrap(), b"the disk", "{name}");
    }

    let refused = |pick: &Pick, archive: &[u8], code: Code, says: &str| {
        let error = unpack(pick, archive).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(says), "{error}");
    };
    refused(&Pick::Only, &all, Code::Unsupported, "disk/a.img and qcow2");
    refused(&Pick::Only, &make(&["notes.txt", "empty"], &[]), Code::NotFound, "it has notes.txt, empty; name");
    refused(&path("none"), &all, Code::NotFound, "no file none");
    refused(&directory_of("none"), &all, Code::NotFound, "no file in none/");
    refused(&path("disk/link.img"), &all, Code::Unsupported, "is a link");
    refused(&path("hard.img"), &make(&["disk/a.img", "hard.img"], &[]), Code::Unsupported, "is a link");
    refused(&Pick::Only, &make(&[], &["--files-from=/dev/null"]), Code::NotFound, "no files at all");
    fs::write(at("disk/z.img"), "second").unwrap();
    refused(&directory_of("disk"), &make(&["disk"], &["--sort=name"]), Code::Unsupported, "disk/a.img and disk/z.img");
}

#[test]
fn whiteouts_hide_what_is_below() {
    let directory = TempDir::new().unwrap();
    for (entry, hides) in [
        ("disk/.wh.a.img", true),
        (".wh.disk", true),
        ("disk/.wh..wh..opq", true),
        (".wh..wh..opq", true),
        ("disk/.wh.b.img", false),
        ("disk2/.wh..wh..opq", false),
        (".wh.disk2", false),
    ] {
        let path = directory.path().join(entry);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        let archive = tar(directory.path(), &[], &[entry]);
        for pick in [Pick::Path("disk/a.img".to_owned()), Pick::Directory("disk".to_owned())] {
            let mut codec = diskferry_engine::archives::tar::Tar::new(&pick, None).unwrap();
            codec.push(&archive, &mut Collect::new(1000, false)).unwrap();
            // What is picked by its directory is not hidden by one of the directory's files.
            let expected = hides && !(entry == "disk/.wh.a.img" && matches!(pick, Pick::Directory(_)));
            assert_eq!(codec.hides(), expected, "{entry} {pick:?}");
        }
    }
}

#[test]
fn damage_is_found() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk.img");
    let content = sparse(&path, 30, 3 << 20);
    for form in ["--format=gnu", "--format=posix"] {
        let archive = tar(directory.path(), &[form, "-S"], &["disk.img"]);
        let end = archive.iter().rposition(|&b| b != 0).unwrap() / 512 * 512 + 512;
        for cut in (1..end).step_by(97) {
            let error = unpack(&Pick::Only, &archive[..cut]).unwrap_err();
            assert!(matches!(error.code, Code::Truncated | Code::NotFound), "{form} cut at {cut}: {error}");
        }
        for at in [0, 100, 130, 150, 257, 300] {
            let mut damaged = archive.clone();
            damaged[at] ^= 1;
            assert_eq!(unpack(&Pick::Only, &damaged).unwrap_err().code, Code::Corrupt, "{form} {at}");
        }
        let mut behind = archive.clone();
        *behind.last_mut().unwrap() = 1;
        assert_eq!(unpack(&Pick::Only, &behind).unwrap_err().code, Code::Corrupt);
        assert!(unpack(&Pick::Only, &archive).unwrap() == content);
    }
}

/// Sets a field of the first header, and its checksum right.
fn patched(archive: &[u8], patches: &[(usize, &[u8])]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for (at, bytes) in patches {
        archive[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    archive[148..156].fill(b' ');
    let sum: u32 = archive[..512].iter().map(|&b| u32::from(b)).sum();
    archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive
}

#[test]
fn headers_that_lie_are_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk.img");
    sparse(&path, 3, 1 << 20);
    let archive = tar(directory.path(), &["--format=gnu", "-S"], &["disk.img"]);
    let huge = [&[0x80][..], &[0xff; 11]].concat();
    type Patches<'a> = &'a [(usize, &'a [u8])];
    let cases: &[(Patches, Code, &str)] = &[
        (&[(124, &huge)], Code::Corrupt, "size"),
        (&[(124, b"not a number")], Code::Corrupt, "size"),
        (&[(124, b"00000001000\0")], Code::Corrupt, "does not fit"),
        (&[(386, b"77777777777\0")], Code::Corrupt, "out of order"),
        (&[(398, &huge)], Code::Corrupt, "no numbers"),
        (&[(398, b"77777777777\0")], Code::Corrupt, "out of order"),
        (&[(483, &huge)], Code::Corrupt, "no size"),
        (&[(156, b"x"), (124, b"00010000000\0")], Code::TooLarge, "records"),
        (&[(156, b"L"), (124, b"77777777777\0")], Code::TooLarge, "records"),
        (&[(156, b"x"), (124, b"00000001000\0")], Code::Corrupt, "pax record"),
    ];
    for (patches, code, says) in cases {
        let error = unpack(&Pick::Only, &patched(&archive, patches)).unwrap_err();
        assert_eq!(error.code, *code, "{patches:?}: {error}");
        assert!(error.message.contains(says), "{patches:?}: {error}");
    }
}

/// Maps in records add up until their file comes: they have a bound together, not each.
#[test]
fn records_without_end_are_refused() {
    let record = |map: &str| {
        let rest = format!(" GNU.sparse.map={map}\n");
        let length = rest.len() + 6;
        format!("{length}{rest}").into_bytes()
    };
    let content = record(&"1,".repeat(490_000));
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("a"), "").unwrap();
    let archive = tar(directory.path(), &["--format=ustar"], &["a"]);
    let size = format!("{:011o}\0", content.len());
    let mut block = patched(&archive[..512], &[(156, b"x"), (124, size.as_bytes())]);
    block.extend_from_slice(&content);
    block.resize(block.len().next_multiple_of(512), 0);
    let error = unpack(&Pick::Only, &block.repeat(2)).unwrap_err();
    assert_eq!(error.code, Code::TooLarge, "{error}");
    assert!(error.message.contains("more than 262144 parts"), "{error}");
}

#[test]
fn the_head_tells_what_is_inside() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("notes.txt"), noise(3 << 20)).unwrap();
    fs::write(at("disk.raw"), noise(100_000)).unwrap();
    let limits = Limits::default();
    let near = tar(directory.path(), &[], &["disk.raw", "notes.txt"]);
    let s = sniff_told(&Told::default(), &near[..1 << 20], Some(near.len() as u64), &limits);
    assert!(s.refusal.is_none() && !s.unseen);
    assert_eq!((s.codecs, s.format, s.virtual_size), (vec![Kind::Tar], "raw", Some(100_000)));
    let far = tar(directory.path(), &[], &["notes.txt", "disk.raw"]);
    let s = sniff_told(&Told::default(), &far[..1 << 20], Some(far.len() as u64), &limits);
    assert!(s.refusal.is_none() && s.unseen);
    let none = tar(directory.path(), &[], &["notes.txt"]);
    let s = sniff_told(&Told::default(), &none, Some(none.len() as u64), &limits);
    assert_eq!(s.refusal.unwrap().code, Code::NotFound);
}

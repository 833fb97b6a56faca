//! OVAs that GNU tar makes, with the digests of sha1sum, sha256sum and sha512sum in their manifests.

use std::fs;
use std::path::Path;
use std::process::Command;

use diskferry_engine::archives::Pick;
use diskferry_engine::codecs::Kind;
use diskferry_engine::error::{Code, Error, Result};
use diskferry_engine::limits::Limits;
use diskferry_engine::sniff::{Told, sniff_told};
use tempfile::TempDir;

mod decoding;
use decoding::{Collect, feed, resume_everywhere};

/// As ovftool and VirtualBox write them: files, then disks; (id, href, more of the file), (id, file, capacity).
fn descriptor(files: &[(&str, &str, &str)], disks: &[(&str, &str, &str)]) -> String {
    let files: String =
        files.iter().map(|(id, href, more)| format!(r#"<File ovf:href="{href}" ovf:id="{id}" {more}/>"#)).collect();
    let disks: String = disks
        .iter()
        .map(|(id, file, capacity)| format!(r#"<Disk ovf:diskId="{id}" ovf:fileRef="{file}" {capacity}/>"#))
        .collect();
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References>{files}</References>
  <DiskSection><Info>Disks</Info><Disk ovf:diskId="empty" ovf:capacity="8"/>{disks}</DiskSection>
  <VirtualSystem ovf:id="vm"><Info>A machine</Info><Name>a &amp; b</Name></VirtualSystem>
</Envelope>"#
    )
}

struct Home(TempDir);

impl Home {
    fn with(files: &[(&str, &[u8])]) -> Self {
        let home = Self(TempDir::new().unwrap());
        files.iter().for_each(|(name, content)| home.write(name, content));
        home
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.0.path().join(name), content).unwrap();
    }

    /// Writes `name`, the manifest of these files.
    fn manifest(&self, name: &str, algorithm: &str, files: &[&str]) {
        let lines: String = files.iter().map(|file| self.line(algorithm, file)).collect();
        self.write(name, lines.as_bytes());
    }

    fn line(&self, algorithm: &str, file: &str) -> String {
        let output = Command::new(format!("{}sum", algorithm.to_lowercase())).arg(self.0.path().join(file)).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        format!("{algorithm}({file})= {}\n", text.split_whitespace().next().unwrap())
    }

    fn tar(&self, names: &[&str]) -> Vec<u8> {
        tar(self.0.path(), names)
    }
}

fn tar(directory: &Path, names: &[&str]) -> Vec<u8> {
    let output = Command::new("tar").current_dir(directory).arg("-cf-").args(names).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn unpack(pick: &Pick, archive: &[u8]) -> Result<Vec<u8>> {
    let mut results = [512, 5000, usize::MAX].map(|piece| {
        let mut sink = Collect::new(1 << 16, true);
        let mut codec = Kind::Tar.open_picking(pick, &Limits::default(), None).unwrap();
        feed(&mut *codec, archive, piece, &mut sink).map(|()| sink.content)
    });
    for result in &results {
        assert_eq!(result.as_ref().map_err(|e| e.code), results[0].as_ref().map_err(|e| e.code));
    }
    std::mem::replace(&mut results[0], Ok(Vec::new()))
}

fn refused(pick: &Pick, archive: &[u8]) -> Error {
    unpack(pick, archive).unwrap_err()
}

fn noise(seed: u32, length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn disk(name: &str) -> Pick {
    Pick::Disk(name.to_owned())
}

fn two() -> Home {
    let files = [("file1", "system.vmdk", r#"ovf:size="9""#), ("file2", "a%20data.vmdk", ""), ("iso", "tools.iso", "")];
    let disks = [
        ("vmdisk1", "file1", r#"ovf:capacity="20" ovf:capacityAllocationUnits="byte * 2^30""#),
        ("vmdisk2", "file2", r#"ovf:capacity="1000""#),
    ];
    let text = descriptor(&files, &disks);
    Home::with(&[
        ("vm.ovf", text.as_bytes()),
        ("system.vmdk", &noise(1, 90_000)),
        ("a data.vmdk", &noise(2, 70_000)),
        ("tools.iso", &noise(3, 5000)),
    ])
}

#[test]
fn of_several_disks_one_is_named() {
    let home = two();
    let archive = home.tar(&["vm.ovf", "system.vmdk", "tools.iso", "a data.vmdk"]);
    for (pick, expected) in [
        (disk("1"), noise(1, 90_000)),
        (disk("system.vmdk"), noise(1, 90_000)),
        (disk("vmdisk1"), noise(1, 90_000)),
        (disk("2"), noise(2, 70_000)),
        (disk("a data.vmdk"), noise(2, 70_000)),
        (disk("a%20data.vmdk"), noise(2, 70_000)),
        (Pick::Path("tools.iso".to_owned()), noise(3, 5000)),
    ] {
        assert!(unpack(&pick, &archive).unwrap() == expected, "{pick:?}");
    }
    let error = refused(&Pick::Only, &archive);
    assert_eq!(error.code, Code::Unsupported);
    let list = "2 disks: 1 system.vmdk (20 GiB), 2 a%20data.vmdk (1000 bytes); name one with --disk";
    assert!(error.message.contains(list), "{error}");
    for name in ["3", "0", "none", "99999999999999999999999", "tools.iso"] {
        let error = refused(&disk(name), &archive);
        assert_eq!(error.code, Code::NotFound, "{error}");
        assert!(error.message.contains("it has 1 system.vmdk"), "{error}");
    }
    // The head alone says so, before anything is written.
    let told = Told::default();
    let refusal = sniff_told(&told, &archive, None, &Limits::default()).refusal.unwrap();
    assert!(refusal.message.contains("name one with --disk"), "{refusal}");
    let missing = refused(&disk("2"), &home.tar(&["vm.ovf", "system.vmdk"]));
    assert_eq!(missing.code, Code::NotFound);
    assert!(missing.message.contains("no file a%20data.vmdk, which its OVF descriptor names"), "{missing}");
    // Behind the disks it can only agree.
    let late = home.tar(&["system.vmdk", "vm.ovf"]);
    assert!(unpack(&disk("1"), &late).unwrap() == noise(1, 90_000));
    assert_eq!(refused(&disk("2"), &home.tar(&["tools.iso", "system.vmdk", "vm.ovf"])).code, Code::Unsupported);
}

#[test]
fn disks_of_other_archives_are_numbered_as_they_stand() {
    let home = Home::with(&[("a.txt", b"text"), ("x.img", &noise(4, 3000)), ("y.raw", &noise(5, 4000))]);
    let archive = home.tar(&["a.txt", "x.img", "y.raw"]);
    for (pick, expected) in
        [("1", noise(4, 3000)), ("2", noise(5, 4000)), ("y.raw", noise(5, 4000)), ("a.txt", b"text".to_vec())]
    {
        assert!(unpack(&disk(pick), &archive).unwrap() == expected, "{pick}");
    }
    assert_eq!(refused(&disk("3"), &archive).code, Code::NotFound);
    let open = |from: Option<&_>| Kind::Tar.open_picking(&disk("1"), &Limits::default(), from).unwrap();
    resume_everywhere(&open, "by its number", &archive, &noise(4, 3000));
}

#[test]
fn only_what_the_descriptor_lists_is_a_disk() {
    let home = two();
    let text = descriptor(&[("file1", "system.vmdk", ""), ("iso", "tools.iso", "")], &[("d", "file1", "")]);
    home.write("vm.ovf", text.as_bytes());
    let archive = home.tar(&["vm.ovf", "tools.iso", "system.vmdk", "a data.vmdk"]);
    assert!(unpack(&Pick::Only, &archive).unwrap() == noise(1, 90_000));
}

#[test]
fn the_manifest_is_compared() {
    for algorithm in ["SHA1", "SHA256", "SHA512"] {
        let home = two();
        let text = descriptor(&[("f", "system.vmdk", "")], &[("d", "f", "")]);
        home.write("vm.ovf", text.as_bytes());
        home.manifest("vm.mf", algorithm, &["vm.ovf", "system.vmdk"]);
        let orders = [
            ["vm.ovf", "vm.mf", "system.vmdk"],
            ["vm.ovf", "system.vmdk", "vm.mf"],
            ["system.vmdk", "vm.ovf", "vm.mf"],
            ["vm.mf", "system.vmdk", "vm.ovf"],
        ];
        for order in orders {
            let what = format!("{algorithm} {order:?}");
            home.write("system.vmdk", &noise(1, 90_000));
            home.write("vm.ovf", text.as_bytes());
            let archive = home.tar(&order);
            for pick in [Pick::Only, disk("1"), Pick::Path("system.vmdk".to_owned())] {
                assert!(unpack(&pick, &archive).unwrap_or_else(|e| panic!("{what}: {e}")) == noise(1, 90_000));
            }
            let mut damaged = noise(1, 90_000);
            damaged[80_000] ^= 1;
            home.write("system.vmdk", &damaged);
            let archive = home.tar(&order);
            for pick in [Pick::Only, disk("system.vmdk"), Pick::Path("system.vmdk".to_owned())] {
                let error = refused(&pick, &archive);
                assert_eq!(error.code, Code::DigestMismatch, "{what}: {error}");
                assert!(error.message.contains("of system.vmdk is"), "{what}: {error}");
            }
            home.write("system.vmdk", &noise(1, 90_000));
            home.write("vm.ovf", text.replace("A machine", "B machine").as_bytes());
            let error = refused(&Pick::Only, &home.tar(&order));
            assert_eq!(error.code, Code::DigestMismatch, "{what}: {error}");
            assert!(error.message.contains("of vm.ovf is"), "{what}: {error}");
        }
    }
}

#[test]
fn files_named_like_manifests_are_none() {
    let home = Home::with(&[("x.img", &noise(4, 3000)), ("MANIFEST.mf", b"Manifest-Version: 1.0\nName = value\n")]);
    assert!(unpack(&Pick::Only, &home.tar(&["MANIFEST.mf", "x.img"])).unwrap() == noise(4, 3000));
}

#[test]
fn descriptors_and_manifests_that_lie_are_refused() {
    let one = &[("d", "f", "")];
    let sum = "a".repeat(64);
    let cases: &[(String, String, Code, &str)] = &[
        (descriptor(&[], one), String::new(), Code::Corrupt, "does not list"),
        (
            descriptor(&[("f", "system.vmdk", r#"ovf:chunkSize="100""#)], one),
            String::new(),
            Code::Unsupported,
            "is cut",
        ),
        (descriptor(&[("f", "http://h/system.vmdk", "")], one), String::new(), Code::Unsupported, "on a server"),
        (descriptor(&[("f", "../../etc/passwd", "")], one), String::new(), Code::NotFound, "no file ../../etc/passwd"),
        (descriptor(&[("f", "&evil;", "")], one), String::new(), Code::Corrupt, "vm.ovf is damaged"),
        ("<Envelope><a></b></Envelope>".to_owned(), String::new(), Code::Corrupt, "vm.ovf is damaged"),
        (" ".repeat(2 << 20), String::new(), Code::TooLarge, "vm.ovf"),
        (String::new(), " ".repeat(2 << 20), Code::TooLarge, "vm.mf"),
        (String::new(), format!("SHA256(a)= {sum}\nnonsense\n"), Code::Corrupt, "line 2 is no digest"),
        (String::new(), format!("SHA256(a)= {sum}\nSHA256(a)= b{}\n", &sum[1..]), Code::Corrupt, "two digests of a"),
        (String::new(), format!("MD5(system.vmdk)= {}\n", &sum[..32]), Code::Unsupported, "by MD5"),
    ];
    for (text, manifest, code, says) in cases {
        let home = two();
        home.write("vm.ovf", text.as_bytes());
        home.write("vm.mf", manifest.as_bytes());
        for order in [["vm.ovf", "vm.mf", "system.vmdk"], ["vm.ovf", "system.vmdk", "vm.mf"]] {
            let error = refused(&Pick::Only, &home.tar(&order));
            assert_eq!(error.code, *code, "{error}");
            assert!(error.message.contains(says), "{error}");
        }
    }
    // Of 257 disks there are too many.
    let names: Vec<String> = (0..257).map(|n| format!("disk{n}.vmdk")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_str(), "")).collect();
    let disks: Vec<_> = names.iter().map(|name| ("d", name.as_str(), "")).collect();
    let home = Home::with(&[("vm.ovf", descriptor(&files, &disks).as_bytes())]);
    assert_eq!(refused(&Pick::Only, &home.tar(&["vm.ovf"])).code, Code::TooLarge);
    let home = two();
    fs::copy(home.0.path().join("vm.ovf"), home.0.path().join("other.ovf")).unwrap();
    let error = refused(&disk("1"), &home.tar(&["vm.ovf", "other.ovf", "system.vmdk"]));
    assert!(error.message.contains("two OVF descriptors, vm.ovf and other.ovf"), "{error}");
}

/// A million attributes, none twice: each costs the same.
#[test]
fn attributes_without_end_cost_no_time() {
    let attributes: String = (0..100_000).map(|n| format!(" a{n}=''")).collect();
    let home = Home::with(&[("vm.ovf", format!("<Envelope><Disk{}/></Envelope>", &attributes[..900_000]).as_bytes())]);
    let began = std::time::Instant::now();
    refused(&Pick::Only, &home.tar(&["vm.ovf"]));
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

//! Members of zip archives that Info-ZIP and Python make.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use diskferry_engine::archives::Pick;
use diskferry_engine::codecs::Kind;
use diskferry_engine::error::{Code, Error, Result};
use diskferry_engine::limits::Limits;
use diskferry_engine::sniff::{Told, sniff_told};
use tempfile::TempDir;

mod decoding;
use decoding::{Collect, feed};

/// Runs `sh` in `directory`; gives what it writes into `out.zip`, or to standard output.
fn made(directory: &Path, command: &str) -> Vec<u8> {
    let _ = fs::remove_file(directory.join("out.zip"));
    let output = Command::new("sh").current_dir(directory).args(["-c", command]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    fs::read(directory.join("out.zip")).unwrap_or(output.stdout)
}

fn unpack(pick: &Pick, archive: &[u8]) -> Result<Vec<u8>> {
    let run = |piece: usize| {
        let mut sink = Collect::new(1 << 16, true);
        let mut codec = Kind::Zip.open_picking(pick, &Limits::default(), None).unwrap();
        feed(&mut *codec, archive, piece, &mut sink).map(|()| sink.content)
    };
    let (whole, pieces) = (run(usize::MAX), run(777));
    let told = |result: &Result<Vec<u8>>| result.as_ref().map(Vec::len).map_err(Error::to_string);
    let same = whole.as_ref().map_err(|e| e.code) == pieces.as_ref().map_err(|e| e.code);
    assert!(same, "{:?} {:?}", told(&whole), told(&pieces));
    whole
}

fn refused(pick: &Pick, archive: &[u8], code: Code, says: &str) -> Error {
    let error = unpack(pick, archive).unwrap_err();
    assert_eq!(error.code, code, "{error}");
    assert!(error.message.contains(says), "{error}");
    error
}

/// Half of it compresses.
fn content(length: usize) -> Vec<u8> {
    let noise = |n: usize| ((n as u32).wrapping_mul(2_654_435_761) >> 13) as u8;
    (0..length).map(|n| if n % 2048 < 1024 { 7 } else { noise(n) }).collect()
}

fn home() -> (TempDir, Vec<u8>) {
    let home = TempDir::new().unwrap();
    let disk = content(300_000);
    fs::write(home.path().join("disk.img"), &disk).unwrap();
    fs::write(home.path().join("README"), "no disk").unwrap();
    fs::write(home.path().join("empty"), "").unwrap();
    fs::create_dir(home.path().join("sub")).unwrap();
    fs::write(home.path().join("sub/other.raw"), content(5000)).unwrap();
    fs::write(home.path().join("sub/notes"), content(70_000)).unwrap();
    (home, disk)
}

#[test]
fn every_way_to_write_a_zip() {
    let (home, disk) = home();
    let python = |open: &str, write: &str| {
        format!(
            "python3 -c \"import sys, zipfile\nwith zipfile.ZipFile({open}) as z:\n  {write}\n  z.write('sub/notes')\""
        )
    };
    let pipe =
        "type('Pipe', (), dict(write=sys.stdout.buffer.write, flush=lambda s: None))(), 'w', zipfile.ZIP_DEFLATED";
    let wide = "with z.open('disk.img', 'w', force_zip64=True) as f: f.write(open('disk.img', 'rb').read())";
    for command in [
        "zip -q out.zip README empty sub sub/notes disk.img",
        "zip -q -0 out.zip disk.img README",
        "zip -q -9 -fd out.zip README disk.img empty",
        "zip -q -fz out.zip README disk.img",
        // To a pipe: sizes stand behind the content.
        "zip -q - README empty disk.img | cat",
        "zip -q -c out.zip disk.img README </dev/null; zip -q -z out.zip < README",
        &python(pipe, "z.write('README'); z.write('empty'); z.write('disk.img')"),
        &python(pipe, wide),
        &python("'out.zip', 'w', zipfile.ZIP_DEFLATED", wide),
        &python("'out.zip', 'w'", wide),
    ] {
        let archive = made(home.path(), command);
        for pick in [Pick::Only, Pick::Path("./disk.img".to_owned()), Pick::Disk("1".to_owned())] {
            let found = unpack(&pick, &archive).unwrap_or_else(|e| panic!("{command} {pick:?}: {e}"));
            assert!(found == disk, "{command}");
        }
    }
}

#[test]
fn what_is_picked() {
    let (home, disk) = home();
    fs::write(home.path().join("boot"), [&[0; 510][..], &[0x55, 0xaa], &content(9000)].concat()).unwrap();
    std::os::unix::fs::symlink("disk.img", home.path().join("link.img")).unwrap();
    for how in ["out.zip", "-0 out.zip", "-fd out.zip", "-"] {
        let zip = |names: &str| made(home.path(), &format!("zip -q {how} {names} | cat"));
        let boot = fs::read(home.path().join("boot")).unwrap();
        assert!(unpack(&Pick::Only, &zip("README boot sub/notes")).unwrap() == boot, "{how}: by its first bytes");
        let both = zip("README disk.img sub/other.raw sub/notes");
        refused(&Pick::Only, &both, Code::Unsupported, "disk.img and sub/other.raw: name one with --path or --disk");
        for (pick, expected) in [("2", content(5000)), ("other.raw", content(5000)), ("disk.img", disk.clone())] {
            assert!(unpack(&Pick::Disk(pick.to_owned()), &both).unwrap() == expected, "{how} {pick}");
        }
        assert!(unpack(&Pick::Path("sub/other.raw".to_owned()), &both).unwrap() == content(5000));
        refused(&Pick::Only, &zip("README empty sub/notes"), Code::NotFound, "it has README, empty, sub/notes; name");
        refused(&Pick::Path("none".to_owned()), &both, Code::NotFound, "no file none");
    }
    refused(&Pick::Only, &made(home.path(), "zip -q -y out.zip link.img"), Code::Unsupported, "link.img is a link");
    refused(&Pick::Only, &made(home.path(), "zip -q -P secret out.zip disk.img"), Code::Encrypted, "its password");
    refused(&Pick::Only, &made(home.path(), "zip -q -Z bzip2 out.zip disk.img"), Code::Unsupported, "by bzip2");
    let beside = made(home.path(), "zip -q -Z bzip2 out.zip sub/notes && zip -q out.zip disk.img");
    assert!(unpack(&Pick::Only, &beside).unwrap() == disk);
    let none = made(
        home.path(),
        "zip -q out.zip README && zip -q -d out.zip README; python3 -c \"import zipfile; zipfile.ZipFile('out.zip', 'w')\"",
    );
    refused(&Pick::Only, &none, Code::NotFound, "no files at all");
    let split = made(
        home.path(),
        "head -c 200000 /dev/urandom > big.raw; zip -q -s 64k out.zip big.raw; cat out.z01 out.z02 out.z03 out.zip > all; mv all out.zip",
    );
    assert!(unpack(&Pick::Only, &split).is_err());
}

#[test]
fn a_large_file_has_large_numbers() {
    let home = TempDir::new().unwrap();
    let file = File::create(home.path().join("large.raw")).unwrap();
    file.write_all_at(b"end", (4 << 30) + 5).unwrap();
    for how in ["out.zip", "- "] {
        let archive = made(home.path(), &format!("zip -q -1 {how} large.raw | cat"));
        let mut sink = Count(0, vec![0; 1 << 20]);
        let mut codec = Kind::Zip.open(&Limits::default(), None).unwrap();
        archive.chunks(1 << 16).try_for_each(|piece| codec.push(piece, &mut sink)).unwrap();
        codec.finish(&mut sink).unwrap();
        assert_eq!(sink.0, (4 << 30) + 8, "{how}");
    }
}

/// Counts what it is given.
struct Count(u64, Vec<u8>);

impl diskferry_engine::codecs::Sink for Count {
    fn space(&mut self) -> Result<&mut [u8]> {
        Ok(&mut self.1)
    }
    fn commit(&mut self, n: usize) -> Result<()> {
        self.0 += n as u64;
        Ok(())
    }
    fn restart_due(&self) -> bool {
        false
    }
    fn restart(&mut self, _at: diskferry_engine::codecs::Restart) -> Result<()> {
        panic!("a zip archive cannot begin again")
    }
}

/// Whatever byte is changed, it is found, or nothing of the disk depends on it.
#[test]
fn damage_is_found() {
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("disk.img"), content(3000)).unwrap();
    fs::write(home.path().join("a"), "text").unwrap();
    for how in ["out.zip", "-0 out.zip", "-fd out.zip", "-fz out.zip"] {
        let archive = made(home.path(), &format!("zip -q -X {how} a disk.img"));
        for cut in 1..archive.len() {
            let error = unpack(&Pick::Only, &archive[..cut]).unwrap_err();
            assert_eq!(error.code, Code::Truncated, "{how} cut at {cut}: {error}");
        }
        for at in 0..archive.len() {
            for bit in [1, 0x80] {
                let mut damaged = archive.clone();
                damaged[at] ^= bit;
                if let Ok(found) = unpack(&Pick::Only, &damaged) {
                    assert!(found == content(3000), "{how} {at}");
                }
            }
        }
        refused(&Pick::Only, &[&archive[..], b"x"].concat(), Code::Corrupt, "something follows its end");
    }
}

/// What is not wanted is not read beyond its beginning, however its bytes arrive.
#[test]
fn damage_in_another_file_does_not_matter_whatever_the_pieces() {
    let (home, disk) = home();
    // Inflated at once.
    let mut state = 1u32;
    let mut digit = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'0' + (state >> 24) as u8 % 10
    };
    fs::write(home.path().join("note"), (0..20_000).map(|_| digit()).collect::<Vec<_>>()).unwrap();
    let archive = made(home.path(), "zip -q -X out.zip note disk.img");
    let packed = u32::from_le_bytes(archive[18..22].try_into().unwrap()) as usize;
    let first = 30 + "note".len();
    assert!(packed > 4096);
    for at in (first + 2048..first + packed).step_by(51) {
        let mut damaged = archive.clone();
        damaged[at] ^= 0x55;
        assert!(unpack(&Pick::Only, &damaged).unwrap() == disk, "{at}");
    }
}

/// Local headers and directory tell two stories: programs that read the one or the other would see two disks.
#[test]
fn a_directory_that_lists_other_files_is_refused() {
    let (home, _) = home();
    let archive = made(home.path(), "zip -q -X out.zip disk.img README");
    let place = |what: &[u8]| archive.windows(what.len()).rposition(|part| part == what).unwrap();
    let (readme, end) = (place(b"README"), place(b"PK\x05\x06"));
    let mut renamed = archive.clone();
    renamed[readme..readme + 6].copy_from_slice(b"x.img_");
    refused(&Pick::Only, &renamed, Code::Corrupt, "its directory lists other files");
    let mut fewer = archive.clone();
    fewer.drain(readme - 46..end);
    let end = fewer.len() - 22;
    fewer[end + 8..end + 12].copy_from_slice(&[1, 0, 1, 0]);
    let bytes = (end - (place(b"disk.img") - 46)) as u32;
    fewer[end + 12..end + 16].copy_from_slice(&bytes.to_le_bytes());
    refused(&Pick::Only, &fewer, Code::Corrupt, "its directory lists other files");
    let mut hidden = archive.clone();
    hidden[end + 16] ^= 1;
    assert_eq!(unpack(&Pick::Only, &hidden).unwrap_err().code, Code::Corrupt);
}

#[test]
fn the_head_tells_what_is_inside() {
    let (home, disk) = home();
    let sniff = |archive: &[u8]| {
        sniff_told(
            &Told::default(),
            &archive[..archive.len().min(1 << 20)],
            Some(archive.len() as u64),
            &Limits::default(),
        )
    };
    let s = sniff(&made(home.path(), "zip -q out.zip README disk.img"));
    assert!(s.refusal.is_none() && !s.unseen);
    assert_eq!((s.codecs, s.format, s.virtual_size), (vec![Kind::Zip], "raw", Some(disk.len() as u64)));
    let s = sniff(&made(home.path(), "zip -q -fd out.zip disk.img"));
    assert!(s.refusal.is_none());
    assert_eq!((s.member.unwrap().size, s.virtual_size), (None, None), "known at the end only");
    let s = sniff(&made(home.path(), "zip -q out.zip README"));
    assert_eq!(s.refusal.unwrap().code, Code::NotFound);
    let s = sniff(&made(home.path(), "head -c 2000000 /dev/urandom > noise.bin; zip -q out.zip noise.bin disk.img"));
    assert!(s.refusal.is_none() && s.unseen);
}

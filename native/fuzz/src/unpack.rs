//! Archives that are unpacked: whatever they hold, nothing outside of the target changes, and nothing inside leads out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use diskferry_engine::codecs::Kind;
use diskferry_engine::conversion::{Next, Pushed};
use diskferry_engine::error::{Code, Result};
use diskferry_engine::limits::Limits;
use diskferry_engine::unpacking::{Options, Unpacked, Unpacking};

use crate::random::Random;
use crate::{LIMITS, memory, repair};

/// In memory, where there is such a file system: each input makes files.
static HOME: LazyLock<PathBuf> = LazyLock::new(|| {
    let shared = Path::new("/dev/shm");
    let home = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    home.join(format!("diskferry-fuzz-{}", std::process::id()))
});
const SECRET: &[u8] = b"what nobody may see or change";
/// What an unpacking may hold: slabs of 1 MiB, tables of names of 16 MiB, records of 1 MiB.
const BOUND: usize = 32 << 20;
const PIECE: usize = 64 << 10;

/// The input is a tar, perhaps compressed. It is tried as it is, and with the checksums of its headers made right.
pub fn check(input: &[u8]) {
    unpacked(input);
    if let Some(repaired) = repair::repair(Kind::Tar, input) {
        unpacked(&repaired);
    }
}

fn unpacked(input: &[u8]) {
    let home = &*HOME;
    let _ = fs::remove_dir_all(home);
    fs::create_dir_all(home.join("inside")).expect("a directory");
    fs::write(home.join("secret"), SECRET).expect("a file");
    let target = home.join("inside/target");
    let result = memory::within(BOUND + LIMITS.decoder_memory as usize, || run(&target, input));
    // Another program's view: that of the kernel, which resolves paths by itself.
    let secret = fs::metadata(home.join("secret")).expect("the file is there");
    assert_eq!((secret.nlink(), secret.len()), (1, SECRET.len() as u64), "the file outside was linked or changed");
    assert_eq!(fs::read(home.join("secret")).expect("a file"), SECRET);
    let names: Vec<_> = fs::read_dir(home).expect("a directory").map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(names.len(), 2, "something was made outside: {names:?}");
    let inside = fs::read_dir(home.join("inside")).expect("a directory").count();
    match result {
        Ok(_) => {
            assert_eq!(inside, 1);
            walk(&target.canonicalize().expect("the target"), &target);
        }
        Err(error) => {
            assert!(error.code != Code::Io, "{error}");
            assert_eq!(inside, 0, "something was left by {error}");
        }
    }
    let _ = fs::remove_dir_all(home);
}

/// Every link leads to somewhere below `root`, or nowhere; nothing is a device or has the rights of its owner.
fn walk(root: &Path, at: &Path) {
    let found = fs::symlink_metadata(at).expect("an entry");
    if found.is_symlink() {
        if let Ok(to) = at.canonicalize() {
            assert!(to.starts_with(root), "{} leads to {}", at.display(), to.display());
        }
        return;
    }
    assert!(found.is_file() || found.is_dir(), "{} is neither a file nor a directory", at.display());
    assert_eq!(found.mode() & 0o6000, 0, "{} runs as its owner", at.display());
    if found.is_dir() {
        for entry in fs::read_dir(at).expect("a directory") {
            walk(root, &entry.expect("an entry").path());
        }
    }
}

fn run(target: &Path, input: &[u8]) -> Result<Unpacked> {
    let limits = Limits { workers: 1, ..LIMITS.clone() };
    let options =
        Options { target: target.to_owned(), replace: false, source_length: None, digest: None, codecs: None, limits };
    let unpacking = Unpacking::start(options)?;
    let mut random = Random::of(input);
    let pieces = random.pieces(input, PIECE);
    loop {
        match unpacking.intake().next(1)? {
            Next::Finished => return unpacking.finish(),
            Next::Wait => std::thread::yield_now(),
            Next::Fetch(_) => {
                let mut at = 0;
                for piece in &pieces {
                    while unpacking.intake().push(at, piece)? == Pushed::Full {
                        std::thread::yield_now();
                    }
                    at += piece.len() as u64;
                }
                unpacking.intake().end(at);
            }
        }
    }
}

//! Threads that handle an image's bytes give up what they do not need: by Landlock every file, socket and process that
//! is not theirs already, by seccomp every system call but those of [`syscalls`]. What they need is open before. It is for
//! the thread alone and for those that it starts; the rest of the process goes on as it was, and nothing of it can be
//! undone. A thread that unpacks an archive keeps one directory.

pub mod program;
mod syscalls;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use seccompiler::BpfProgram;

use crate::error::{Code, Error, Result, Stage};

use syscalls::Set;

/// The newest Landlock whose rights are taken away (Linux 6.12); the kernel leaves out what it does not know.
const RIGHTS: ABI = ABI::V6;

/// What this kernel grants.
#[derive(Default)]
struct Sandbox {
    /// In the order in which they are installed; empty where the kernel refuses.
    filters: Vec<BpfProgram>,
    /// The same for threads that make files.
    making: Vec<BpfProgram>,
    landlock: bool,
    /// Landlock with a directory that is kept: hard links across directories are a right of their own since Linux 5.19,
    /// and before nobody who is restricted has it.
    keeps: bool,
    /// What it refuses and why, for people.
    missing: Vec<String>,
}

/// Whether people were told what is missing.
static TOLD: AtomicBool = AtomicBool::new(false);

/// Found out once, on a thread that ends with it.
fn sandbox() -> &'static Sandbox {
    static FOUND: OnceLock<Sandbox> = OnceLock::new();
    FOUND.get_or_init(|| {
        let found = std::thread::Builder::new().name("ferry-sandbox".into()).spawn(try_out).map(|it| it.join());
        match found {
            Ok(Ok(sandbox)) => sandbox,
            Ok(Err(_)) => nothing("the thread that tries them out has panicked"),
            Err(cause) => nothing(&cause.to_string()),
        }
    })
}

fn nothing(why: &str) -> Sandbox {
    Sandbox { missing: vec![format!("Landlock and seccomp ({why})")], ..Sandbox::default() }
}

fn try_out() -> Sandbox {
    let mut found = Sandbox::default();
    let root = std::fs::File::open("/");
    match restrict_files(&[]) {
        Ok(()) => found.landlock = true,
        Err(why) => found.missing.push(format!("Landlock ({why})")),
    }
    found.keeps = found.landlock && root.is_ok_and(|root| restrict_files(&[(root.as_fd(), making())]).is_ok());
    if found.landlock && !found.keeps {
        found.missing.push("Landlock where an archive is unpacked (it needs Linux 5.19)".to_owned());
    }
    let filters = syscalls::filters(Set::Open).and_then(|open| Ok((open, syscalls::filters(Set::Making)?)));
    // One stands for both: behind a filter no other can be installed.
    match filters.and_then(|both| install(&both.0).map(|()| both)) {
        Ok(both) => (found.filters, found.making) = both,
        Err(why) => found.missing.push(format!("seccomp ({why})")),
    }
    found
}

/// Leaves of all files those that are given, or are below what is given, with these rights.
fn restrict_files(open: &[(BorrowedFd, BitFlags<AccessFs>)]) -> std::result::Result<(), String> {
    let mut rules = Ruleset::default();
    if open.iter().any(|(_, rights)| rights.contains(AccessFs::Refer)) {
        rules = rules.set_compatibility(CompatLevel::HardRequirement);
        rules = rules.handle_access(AccessFs::Refer).map_err(|cause| cause.to_string())?;
        rules = rules.set_compatibility(CompatLevel::BestEffort);
    }
    let status = rules
        .handle_access(AccessFs::from_all(RIGHTS))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(RIGHTS)))
        .and_then(|rules| rules.scope(Scope::from_all(RIGHTS)))
        .and_then(Ruleset::create)
        .and_then(|rules| {
            rules.add_rules(
                open.iter().map(|(fd, rights)| Ok::<_, landlock::RulesetError>(PathBeneath::new(*fd, *rights))),
            )
        })
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|cause| cause.to_string())?;
    // Where the kernel knows only some of the rights, seccomp stands in for the others.
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err("this kernel has it not, or it is switched off".to_owned());
    }
    Ok(())
}

/// What unpacking does in its directory.
fn making() -> BitFlags<AccessFs> {
    AccessFs::ReadDir
        | AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::RemoveFile
        | AccessFs::Refer
}

fn install(filters: &[BpfProgram]) -> std::result::Result<(), String> {
    filters.iter().try_for_each(|filter| seccompiler::apply_filter(filter).map_err(|cause| cause.to_string()))
}

/// Confines the calling thread, as far as the kernel grants it, to what is open, and to what is below the directory `kept`,
/// where it may make files. Fails with IO when it refuses what it granted before: the thread must then touch no image.
pub fn enter(kept: Option<BorrowedFd>) -> Result<()> {
    let sandbox = sandbox();
    let (landlock, filters) = match kept {
        None => (sandbox.landlock, &sandbox.filters),
        Some(_) => (sandbox.keeps, &sandbox.making),
    };
    let open: Vec<_> = kept.map(|kept| (kept, making())).into_iter().collect();
    let entered = if landlock { restrict_files(&open) } else { Ok(()) };
    entered.and_then(|()| install(filters)).map_err(|why| {
        Error::new(Code::Io, Stage::Plan, format!("a thread could not be confined as those before it: {why}"))
    })
}

/// One sentence for people where the kernel grants less than all; only the first call in a process has it.
pub fn untold() -> Option<String> {
    let missing = &sandbox().missing;
    if missing.is_empty() || TOLD.swap(true, Ordering::Relaxed) {
        return None;
    }
    Some(format!(
        "the threads that read images run without {}: the transfer is right all the same, but a defect in a decoder \
         would have the rights of the whole process",
        missing.join(" and without ")
    ))
}

#[cfg(test)]
mod tests {
    use super::restrict_files;

    /// seccomp refuses with EPERM before Landlock is asked: alone, it answers EACCES.
    #[test]
    fn landlock_alone_opens_nothing() {
        let opened = std::thread::spawn(|| {
            restrict_files(&[]).unwrap();
            std::fs::File::open("/dev/null").map(drop).map_err(|cause| cause.raw_os_error())
        });
        assert_eq!(opened.join().unwrap(), Err(Some(libc::EACCES)));
    }
}

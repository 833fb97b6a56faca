//! Another program over an image: it reads the files it is given, serves one socket that was opened for it, and has nothing
//! else: no network, no other file, nothing to write to, and limits on memory and time.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use landlock::{AccessFs, BitFlags};

use super::{install, restrict_files, syscalls};
use crate::error::{Code, Error, Result, Stage};

pub struct Program {
    /// Name and arguments.
    pub command: Vec<String>,
    /// Descriptor 3 of the program, as systemd hands one over (sd_listen_fds(3)).
    pub listener: UnixListener,
    /// Files that it may read.
    pub readable: Vec<PathBuf>,
}

/// How it ended: the exit code, none where a signal ended it, and the last of what it said on standard error.
pub struct Ended {
    pub code: Option<i32>,
    pub said: String,
}

/// Where programs and their libraries are, and what those read.
const SYSTEM: [&str; 7] = ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom"];
/// Limits of memory (KiB of address space), time (seconds of a processor), written bytes, open files, cores. Behind them
/// the program takes the place of the shell, so that its process id is the one that it is told.
const START: &str = "exec 3<&0 </dev/null; ulimit -v 2097152; ulimit -t 7200; ulimit -f 0; ulimit -n 64; ulimit -c 0; \
                     export MALLOC_ARENA_MAX=2 LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";
/// Bytes of standard error that are told.
const TOLD: usize = 2048;
/// How soon a stop is seen.
const SOON: Duration = Duration::from_millis(20);

fn failed(what: &str) -> Error {
    let message = format!("a program for the image cannot be confined: {what}; without that it is not run");
    Error::new(Code::Unsupported, Stage::Plan, message)
}

impl Program {
    /// Runs until the program ends, or `stopped`. The calling thread is confined with it, for good. Fails with UNSUPPORTED
    /// where the kernel refuses, and with IO.
    pub fn run(self, stopped: &dyn Fn() -> bool) -> Result<Ended> {
        let (name, arguments) = self.command.split_first().expect("a name is given");
        let mut open = Vec::new();
        for path in &self.readable {
            let file =
                File::open(path).map_err(|cause| Error::target(format!("opening {}", path.display()), &cause))?;
            open.push((OwnedFd::from(file), BitFlags::from(AccessFs::ReadFile)));
        }
        for path in SYSTEM {
            let Ok(file) = File::open(path) else { continue };
            let mut rights = AccessFs::ReadFile | AccessFs::Execute;
            match file.metadata().map(|found| found.file_type()) {
                Ok(kind) if kind.is_dir() => rights |= AccessFs::ReadDir,
                Ok(kind) if kind.is_char_device() => rights |= AccessFs::WriteFile,
                _ => {}
            }
            open.push((file.into(), rights));
        }
        let rules: Vec<_> = open.iter().map(|(fd, rights)| (fd.as_fd(), *rights)).collect();
        let filters = syscalls::filters(syscalls::Set::Program).map_err(|why| failed(&why))?;
        restrict_files(&rules).and_then(|()| install(&filters)).map_err(|why| failed(&why))?;

        let mut command = Command::new("/bin/sh");
        command.args(["-c", START, name, name]).args(arguments).env_clear().env("PATH", "/usr/bin:/bin:/usr/local/bin");
        command.stdin(OwnedFd::from(self.listener)).stdout(Stdio::null()).stderr(Stdio::piped());
        // SAFETY: prctl(2) is one system call, and takes nothing of this process's memory.
        unsafe { command.pre_exec(die_with_parent) };
        let child = command.spawn().map_err(|cause| Error::target(format_args!("starting {name}"), &cause));
        // The listener is the program's alone: when that ends, whoever connects is told so.
        drop(command);
        wait(child?, stopped).map_err(|cause| Error::target(format_args!("waiting for {name}"), &cause))
    }
}

/// Of the thread that started it, which waits.
fn die_with_parent() -> std::io::Result<()> {
    // SAFETY: as above.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn wait(mut child: Child, stopped: &dyn Fn() -> bool) -> std::io::Result<Ended> {
    let mut errors = child.stderr.take().expect("it is a pipe");
    let listening = std::thread::spawn(move || {
        let (mut said, mut piece) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = errors.read(&mut piece) {
            said.extend_from_slice(&piece[..n]);
            said.drain(..said.len().saturating_sub(TOLD));
        }
        String::from_utf8_lossy(&said).trim().to_owned()
    });
    let status = loop {
        if stopped() {
            child.kill()?;
            break child.wait()?;
        }
        match child.try_wait()? {
            Some(status) => break status,
            None => std::thread::sleep(SOON),
        }
    };
    Ok(Ended { code: status.code(), said: listening.join().unwrap_or_default() })
}

//! Threads that handle images reach no file, socket or program that they had not open before; what they do with open
//! files, and starting threads, goes on.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;

use diskferry_engine::sandbox::{self, program::Program};
use rustix::fs::{AtFlags, CWD, Mode, linkat, mkdirat, symlinkat, unlinkat};

/// What `act` comes to on a confined thread.
fn confined<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        sandbox::enter(None).unwrap();
        act()
    });
    thread.join().unwrap()
}

#[test]
fn this_kernel_grants_it_all() {
    assert_eq!(sandbox::untold(), None, "the other tests here prove nothing then");
}

#[test]
fn nothing_can_be_opened() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_owned();
    let (read, write, gone, linked, program) = confined(move || {
        (
            File::open("/proc/self/status").map(drop).map_err(|e| e.kind()),
            File::options().append(true).open(&path).map(drop).map_err(|e| e.kind()),
            std::fs::remove_file(&path).map_err(|e| e.kind()),
            std::fs::hard_link(&path, path.with_extension("link")).map_err(|e| e.kind()),
            Command::new("/bin/true").status().map(drop).map_err(|e| e.kind()),
        )
    });
    assert_eq!([read, write, gone, linked, program], [Err(ErrorKind::PermissionDenied); 5]);
    assert!(file.path().exists());
    File::open("/proc/self/status").expect("the rest of the process goes on as it was");
}

#[test]
fn nothing_can_be_reached() {
    let (tcp, udp, unix) = confined(|| {
        (
            TcpListener::bind("127.0.0.1:0").map(drop).map_err(|e| e.kind()),
            UdpSocket::bind("127.0.0.1:0").map(drop).map_err(|e| e.kind()),
            UnixStream::pair().map(drop).map_err(|e| e.kind()),
        )
    });
    assert_eq!([tcp, udp, unix], [Err(ErrorKind::PermissionDenied); 3]);
    TcpListener::bind("127.0.0.1:0").expect("the rest of the process goes on as it was");
}

#[test]
fn no_memory_becomes_executable_and_no_process_is_touched() {
    let page = confined(|| {
        let (read, execute) = (libc::PROT_READ, libc::PROT_EXEC);
        let (private, none) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, std::ptr::null_mut());
        // SAFETY: new anonymous mappings; nothing is unmapped that others use.
        unsafe {
            let data = libc::mmap(none, 4096, read, private, -1, 0);
            let code = libc::mmap(none, 4096, read | execute, private, -1, 0);
            let killed = libc::kill(libc::getpid(), 0);
            (data == libc::MAP_FAILED, code == libc::MAP_FAILED, libc::mprotect(data, 4096, read | execute), killed)
        }
    });
    assert_eq!(page, (false, true, -1, -1));
}

#[test]
fn threads_inherit_and_open_files_stay_usable() {
    let file = tempfile::tempfile().unwrap();
    let inner = confined(move || {
        file.write_all_at(b"disk", 4096)?;
        file.sync_all()?;
        file.set_len(1 << 20)?;
        let thread = std::thread::Builder::new().name("inner".into()).spawn(|| File::open("/dev/null").map(drop))?;
        let inner = thread.join().unwrap().map_err(|e| e.kind());
        let mut four = [0; 4];
        file.read_exact_at(&mut four, 4096)?;
        Ok::<_, std::io::Error>((inner, four))
    });
    assert_eq!(inner.unwrap(), (Err(ErrorKind::PermissionDenied), *b"disk"));
}

#[test]
fn a_directory_that_is_kept_is_all_that_can_be_changed() {
    let (kept, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(other.path().join("secret"), "secret").unwrap();
    let directory = OwnedFd::from(File::open(kept.path()).unwrap());
    let (inside, outside) = (kept.path().to_owned(), other.path().to_owned());
    let thread = std::thread::spawn(move || {
        sandbox::enter(Some(directory.as_fd())).unwrap();
        // The calls that the filter lets through, so that it is Landlock that refuses below.
        let link = |from: PathBuf, to: PathBuf| linkat(CWD, from, CWD, to, AtFlags::empty()).map_err(Error::from);
        mkdirat(CWD, inside.join("a"), Mode::RWXU).unwrap();
        std::fs::write(inside.join("file"), "file").unwrap();
        link(inside.join("file"), inside.join("a/hard")).unwrap();
        symlinkat(outside.join("secret"), CWD, inside.join("soft")).unwrap();
        [
            std::fs::read(inside.join("soft")).map(drop),
            std::fs::write(outside.join("new"), "new"),
            unlinkat(CWD, outside.join("secret"), AtFlags::empty()).map_err(Error::from),
            link(outside.join("secret"), inside.join("secret")),
            Command::new("/bin/true").status().map(drop),
            TcpListener::bind("127.0.0.1:0").map(drop),
        ]
        .map(|done| done.map_err(|cause| cause.kind()))
    });
    let refused = thread.join().unwrap();
    // link(2) across what a rule allows and what it does not is EXDEV, for Landlock.
    for (at, done) in refused.into_iter().enumerate() {
        assert!(matches!(done, Err(ErrorKind::PermissionDenied | ErrorKind::CrossesDevices)), "{at}: {done:?}");
    }
    assert_eq!(std::fs::read(kept.path().join("a/hard")).unwrap(), b"file");
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 1);
}

/// What a program said that was to serve a socket, and its exit code.
fn program(script: &str, readable: &[&std::path::Path]) -> (Option<i32>, String) {
    let home = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(home.path().join("socket")).unwrap();
    let command = ["sh", "-c", script].map(str::to_owned).into();
    let readable = readable.iter().map(|&path| path.to_owned()).collect();
    let thread = std::thread::spawn(move || Program { command, listener, readable }.run(&|| false));
    let ended = thread.join().unwrap().unwrap();
    (ended.code, ended.said)
}

#[test]
fn a_program_reads_what_it_is_given_and_nothing_else() {
    let files = tempfile::tempdir().unwrap();
    let (given, other) = (files.path().join("given"), files.path().join("other"));
    for path in [&given, &other] {
        std::fs::write(path, "content").unwrap();
    }
    let (read, write) = (given.display(), other.display());
    assert_eq!(program(&format!("cat {read} >&2"), &[&given]), (Some(0), "content".to_owned()));
    for refused in [
        format!("cat {write}"),
        format!("echo > {read}"),
        format!("echo > {write}"),
        format!("rm {read}"),
        format!("ls {}", files.path().display()),
        "cat /etc/passwd".to_owned(),
        "cat /proc/1/environ".to_owned(),
    ] {
        let (code, said) = program(&refused, &[&given]);
        assert!(code != Some(0) && said.contains("ermission denied"), "{refused}: {code:?} {said}");
    }
    for (refused, why) in [
        ("perl -MSocket -e 'socket(S, PF_INET, SOCK_DGRAM, 0) or die $!'", "not permitted"),
        ("perl -e '$x = q(x) x 3_000_000_000'", "memory"),
    ] {
        let (code, said) = program(refused, &[]);
        assert!(code != Some(0) && said.contains(why), "{refused}: {code:?} {said}");
    }
}

#[test]
fn a_program_is_told_its_socket_and_stops_when_it_is_to() {
    let told =
        "test $LISTEN_PID = $$ && test $LISTEN_FDS = 1 && test -S /dev/fd/3 || perl -e 'open F, \"<&=3\" or die $!'";
    assert_eq!(program(told, &[]).0, Some(0));
    let listener = UnixListener::bind(tempfile::tempdir().unwrap().path().join("socket")).unwrap();
    let command = ["sleep", "60"].map(str::to_owned).into();
    let began = std::time::Instant::now();
    let stopped = move || began.elapsed().as_millis() > 200;
    let thread = std::thread::spawn(move || Program { command, listener, readable: Vec::new() }.run(&stopped));
    assert_eq!(thread.join().unwrap().unwrap().code, None);
    assert!(began.elapsed().as_secs() < 5);
}

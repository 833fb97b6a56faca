//! Serves the disk of a container image to the importer in the same pod (docs/importer.md, "Pull method `node`").
//!
//! It runs inside of the user's image, copied there, and so brings everything along: it is linked statically. None of the
//! image's own programs run. Flags and files are those of CDI's server.

mod answer;
mod disk;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tiny_http::{Request, Server};

use answer::{Answer, Asked, Body, answer};
use disk::Disk;

/// Requests at a time: the importer has 4 connections (src/importer/main.ts), and those of one that was killed end soon.
const WORKERS: usize = 8;
/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;
/// Between two looks for the file that says that it is over (CDI's).
const LOOK: Duration = Duration::from_secs(1);
const USAGE: &str = "usage: server [-p PORT] [-image-dir DIRECTORY] [-ready-file FILE] [-done-file FILE]";

struct Options {
    port: u16,
    images: PathBuf,
    ready: Option<PathBuf>,
    done: Option<PathBuf>,
}

fn main() -> ExitCode {
    // As the first process of a container it would not be ended by the signal otherwise.
    // SAFETY: the handler does nothing but _exit, which may be called from one (signal-safety(7)).
    unsafe { libc::signal(libc::SIGTERM, stop as *const () as libc::sighandler_t) };
    match options(std::env::args_os().skip(1)).and_then(|found| found.map_or(Ok(()), |options| run(&options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            // The end of the log is what the kubelet takes for the pod's status (FallbackToLogsOnError).
            eprintln!("{sentence}");
            ExitCode::FAILURE
        }
    }
}

extern "C" fn stop(_: libc::c_int) {
    // SAFETY: ends the process, at once.
    unsafe { libc::_exit(0) }
}

/// None where help was asked for, which is how CDI tries whether an image can be had.
fn options(mut given: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
    let mut options = Options { port: 8100, images: "/disk".into(), ready: None, done: None };
    while let Some(flag) = given.next() {
        let name = flag.to_string_lossy();
        let name = name.trim_start_matches('-');
        if name == "h" || name == "help" {
            println!("{USAGE}");
            return Ok(None);
        }
        let value = given.next().ok_or_else(|| format!("-{name} has no value; {USAGE}"))?;
        match name {
            "p" => {
                let port = value.to_string_lossy();
                options.port = port.parse().map_err(|_| format!("{port} is no port; {USAGE}"))?;
            }
            "image-dir" => options.images = value.into(),
            "ready-file" => options.ready = Some(value.into()),
            "done-file" => options.done = Some(value.into()),
            _ => return Err(format!("there is no flag -{name}; {USAGE}")),
        }
    }
    Ok(Some(options))
}

fn run(options: &Options) -> Result<(), String> {
    let disk = Arc::new(Disk::find(&options.images)?);
    let environment: Arc<str> = answer::environment(std::env::vars_os()).into();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))
        .map_err(|error| format!("cannot listen on port {} of the pod's loopback: {error}", options.port))?;
    let server = Server::from_listener(listener, None).map_err(|error| format!("cannot serve: {error}"))?;
    let server = Arc::new(server);
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (server, disk, environment) = (server.clone(), disk.clone(), environment.clone());
            std::thread::spawn(move || serve(&server, &disk, &environment))
        })
        .collect();
    if let Some(file) = &options.ready {
        tell(file, &disk.name).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    eprintln!("serving {:?}, {} bytes", disk.name, disk.size);
    if let Some(file) = &options.done {
        while !file.exists() {
            std::thread::sleep(LOOK);
        }
        return Ok(());
    }
    for worker in workers {
        worker.join().map_err(|_| "a thread that serves has panicked".to_string())?;
    }
    Ok(())
}

/// Whoever looks sees all of the name or nothing.
fn tell(file: &Path, name: &str) -> io::Result<()> {
    let draft = file.with_extension("part");
    fs::write(&draft, name)?;
    fs::rename(draft, file)
}

fn serve(server: &Server, disk: &Disk, environment: &str) {
    // The listener is never closed: an error here is one of a single connection.
    loop {
        if let Ok(request) = server.recv() {
            let asked = asked(&request);
            // A client that has gone away needs no answer.
            let _ = send(&answer(&asked, disk), disk, environment, &mut *request.into_writer());
        }
    }
}

fn asked(request: &Request) -> Asked {
    let field = |name: &'static str| {
        request.headers().iter().find(|one| one.field.equiv(name)).map(|one| one.value.as_str().to_string())
    };
    Asked {
        method: request.method().as_str().to_string(),
        path: request.url().to_string(),
        range: field("Range"),
        if_match: field("If-Match"),
        if_range: field("If-Range"),
    }
}

/// tiny_http's own answers read what a client did not wait for to its end, and into one buffer: with disks they cannot be used.
fn send(answer: &Answer, disk: &Disk, environment: &str, to: &mut dyn Write) -> io::Result<()> {
    to.write_all(answer.head(disk, environment).as_bytes())?;
    match &answer.body {
        Body::None => {}
        Body::Environment => to.write_all(environment.as_bytes())?,
        Body::Disk(range) => {
            let mut buffer = vec![0; PIECE];
            let mut at = range.start;
            while at < range.end {
                let piece = buffer.len().min(usize::try_from(range.end - at).unwrap_or(usize::MAX));
                match disk.file.read_at(&mut buffer[..piece], at) {
                    Ok(0) => give_up(&format!("the disk ends at byte {at}, and was {} bytes long", disk.size)),
                    Ok(length) => {
                        to.write_all(&buffer[..length])?;
                        at += length as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => give_up(&format!("the disk cannot be read at byte {at}: {error}")),
                }
            }
        }
    }
    to.flush()
}

/// What is promised to a client cannot be kept. The connection ends with the process, which the kubelet starts again.
fn give_up(sentence: &str) -> ! {
    eprintln!("{sentence}");
    std::process::exit(1)
}

//! The program itself, over a socket, as the importer and the kubelet have it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(10);

fn image() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("disk")).unwrap();
    root
}

fn command(root: &Path, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diskferry-imageserver"));
    command.args(["-p", &port.to_string(), "-image-dir"]).arg(root.join("disk"));
    command.arg("-ready-file").arg(root.join("ready"));
    command.env_clear().env("A_KUBEVIRT_IO_B", "x").stderr(Stdio::piped());
    command
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}

struct Served {
    root: TempDir,
    port: u16,
    child: Child,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn served(content: &[u8], more: &[&str]) -> Served {
    let root = image();
    fs::write(root.path().join("disk/a disk.img"), content).unwrap();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let child = command(root.path(), port).args(more).spawn().unwrap();
    let served = Served { root, port, child };
    until("ready", || served.root.path().join("ready").exists());
    served
}

impl Served {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Head and body.
    fn ask(&self, method: &str, path: &str, fields: &str) -> (String, Vec<u8>) {
        let mut stream = self.connect();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end..].to_vec())
    }

    fn get(&self, fields: &str) -> (String, Vec<u8>) {
        self.ask("GET", "/disk.img", &format!("{fields}\r\n"))
    }
}

fn field<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap_or("")
}

fn status(head: &str) -> &str {
    &head[9..12]
}

#[test]
fn serves_the_disk_its_ranges_and_its_head() {
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
    let served = served(&content, &[]);
    assert_eq!(fs::read_to_string(served.root.path().join("ready")).unwrap(), "a disk.img");
    let (head, body) = served.ask("GET", "/disk.img", "");
    assert_eq!((status(&head), field(&head, "Accept-Ranges")), ("200", "bytes"));
    assert!(body == content);
    let tag = field(&head, "ETag").to_string();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    let (head, body) = served.ask("HEAD", "/disk.img", "");
    assert_eq!((status(&head), field(&head, "Content-Length"), body.len()), ("200", "3000000", 0));
    let (head, body) = served.get("Range: bytes=1000000-1999999");
    assert_eq!((status(&head), field(&head, "Content-Range")), ("206", "bytes 1000000-1999999/3000000"));
    assert!(body == content[1_000_000..2_000_000]);
    let (head, _) = served.get("Range: bytes=3000000-");
    assert_eq!((status(&head), field(&head, "Content-Range")), ("416", "bytes */3000000"));
    let (head, body) = served.get(&format!("If-Match: {tag}\r\nrange: bytes=-5"));
    assert_eq!((status(&head), body.as_slice()), ("206", &content[2_999_995..]));
    assert_eq!(status(&served.get("If-Match: \"another\"").0), "412");
    assert_eq!(status(&served.get("If-Range: \"another\"\r\nRange: bytes=0-1").0), "200");
    assert_eq!(status(&served.ask("POST", "/disk.img", "").0), "405");
}

#[test]
fn serves_the_environment_of_the_image() {
    let (head, body) = served(b"x", &[]).ask("GET", "/info", "");
    assert_eq!((status(&head), field(&head, "Content-Type")), ("200", "application/json"));
    assert_eq!(String::from_utf8(body).unwrap(), "{\"env\":[\"A_KUBEVIRT_IO_B=x\"]}");
}

#[test]
fn an_empty_disk_has_no_range() {
    let served = served(b"", &[]);
    assert_eq!(status(&served.get("Range: bytes=0-1048575").0), "416");
    assert_eq!(field(&served.ask("GET", "/", "").0, "Content-Length"), "0");
}

#[test]
fn clients_that_leave_take_nothing_with_them() {
    let many = served(&vec![7; 64 << 20], &[]);
    for _ in 0..32 {
        let mut stream = many.connect();
        write!(stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 1000]).unwrap();
    }
    let (head, body) = many.get("Range: bytes=0-9");
    assert_eq!((status(&head), body.len()), ("206", 10));
    // KiB: of 32 answers of 64 MiB, nothing is kept.
    let about = fs::read_to_string(format!("/proc/{}/status", many.child.id())).unwrap();
    let peak: u64 = about
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok())
        .unwrap();
    assert!(peak < 32 * 1024, "{peak} KiB");
}

#[test]
fn a_connection_serves_several_requests() {
    let served = served(b"0123456789", &[]);
    let mut stream = served.connect();
    for n in 0..20 {
        write!(stream, "GET / HTTP/1.1\r\nHost: x\r\nRange: bytes={}-{}\r\n\r\n", n % 10, n % 10).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(format!("\r\n\r\n{}", n % 10).as_bytes()) {
            let mut one = [0];
            stream.read_exact(&mut one).unwrap();
            answer.push(one[0]);
        }
    }
}

#[test]
fn ends_when_it_is_told() {
    let mut served = served(b"x", &[]);
    // SAFETY: of a child that is not waited for yet.
    unsafe { libc::kill(served.child.id() as i32, libc::SIGTERM) };
    until("ended", || served.child.try_wait().unwrap().is_some());
    assert_eq!(served.child.wait().unwrap().code(), Some(0));
}

#[test]
fn ends_when_the_importer_has() {
    let root = tempfile::tempdir().unwrap();
    let done = root.path().join("done");
    let mut served = served(b"x", &["-done-file", done.to_str().unwrap()]);
    assert!(served.child.try_wait().unwrap().is_none());
    fs::write(done, "").unwrap();
    until("ended", || served.child.try_wait().unwrap().is_some());
    assert_eq!(served.child.wait().unwrap().code(), Some(0));
}

#[test]
fn help_is_no_error() {
    let said = Command::new(env!("CARGO_BIN_EXE_diskferry-imageserver")).arg("-h").output().unwrap();
    assert!(said.status.success());
    assert!(String::from_utf8(said.stdout).unwrap().starts_with("usage: "));
}

fn refused(root: &Path) -> String {
    let Output { status, stderr, .. } = command(root, 1).output().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(!root.join("ready").exists());
    String::from_utf8(stderr).unwrap()
}

#[test]
fn refuses_what_is_not_one_disk() {
    let root = image();
    let at = |name: &str| root.path().join(name);
    assert!(refused(root.path()).contains("/disk of the image holds 0 files: it is to hold one"));
    fs::write(at("disk/b.img"), "").unwrap();
    fs::write(at("disk/a.img"), "").unwrap();
    assert!(refused(root.path()).contains("holds 2 files (\"a.img\", \"b.img\"): it is to hold one"));
    fs::remove_file(at("disk/a.img")).unwrap();
    fs::remove_file(at("disk/b.img")).unwrap();
    fs::create_dir(at("disk/a.img")).unwrap();
    assert!(refused(root.path()).contains("is no regular file"));
    fs::remove_dir(at("disk/a.img")).unwrap();
    symlink("/etc/passwd", at("disk/a.img")).unwrap();
    assert!(refused(root.path()).contains("is no regular file"));
    fs::remove_dir_all(at("disk")).unwrap();
    assert!(refused(root.path()).contains("holds no directory"));
    fs::create_dir(at("sysroot")).unwrap();
    assert!(refused(root.path()).contains("it is an operating system, not a disk"));
}

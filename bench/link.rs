//! A network link with a delay, for kernels without netem: packets are read from one TUN device, kept for the delay and
//! written to another TUN device in another network namespace, and the other way round. TCP on both ends is the kernel's,
//! so handshakes, slow start and windows are real. Segmentation offload keeps packets at up to 64 KiB, so that the link
//! takes little of the processors.
//!
//! Usage: link <namespace file> <near device> <far device> <delay in microseconds>. Prints `ready`, runs until killed.
use std::collections::VecDeque;
use std::ffi::{c_int, c_ulong};
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

// linux/if_tun.h
const TUNSETIFF: c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: c_ulong = 0x4004_54d0;
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUN_F_CSUM: c_ulong = 0x01;
const TUN_F_TSO4: c_ulong = 0x02;
const O_NONBLOCK: c_int = 0o4000;
const CLONE_NEWNET: c_int = 0x4000_0000;
const POLLIN: i16 = 1;
/// virtio_net_hdr (10 bytes) and the largest IP packet.
const PACKET: usize = 10 + 65536;
/// Above 10 ms at 2 GB/s in packets of 64 KiB; what comes beyond is dropped, as by a router.
const QUEUE: usize = 2048;
/// Waking for each packet would cost more than the packet; this much is added to the delay at worst.
const NAP: Duration = Duration::from_micros(250);

#[repr(C)]
struct IfReq {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn setns(fd: c_int, kind: c_int) -> c_int;
    fn poll(fds: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
}

fn check(result: c_int, what: &str) {
    if result < 0 {
        eprintln!("link: {what}: {}", Error::last_os_error());
        std::process::exit(1);
    }
}

fn device(name: &str) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_NONBLOCK)
        .open("/dev/net/tun")
        .unwrap_or_else(|error| panic!("/dev/net/tun: {error}"));
    let mut request = IfReq { name: [0; 16], flags: IFF_TUN | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    request.name[..name.len().min(15)].copy_from_slice(&name.as_bytes()[..name.len().min(15)]);
    // SAFETY: `request` is a live `struct ifreq` (40 bytes) and the descriptor is open.
    check(unsafe { ioctl(file.as_raw_fd(), TUNSETIFF, &mut request) }, "TUNSETIFF");
    // SAFETY: takes its argument by value.
    check(unsafe { ioctl(file.as_raw_fd(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) }, "TUNSETOFFLOAD");
    file
}

fn carry(mut from: File, mut to: File, delay: Duration) {
    let mut queue: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut spare: Vec<Vec<u8>> = Vec::new();
    loop {
        while queue.len() < QUEUE {
            let mut packet = spare.pop().unwrap_or_default();
            packet.resize(PACKET, 0);
            match from.read(&mut packet) {
                Ok(length) => {
                    packet.truncate(length);
                    queue.push_back((Instant::now() + delay, packet));
                }
                Err(error) => {
                    spare.push(packet);
                    if error.kind() == ErrorKind::WouldBlock {
                        break;
                    }
                }
            }
            if delay.is_zero() {
                break;
            }
        }
        let now = Instant::now();
        while queue.front().is_some_and(|(due, _)| *due <= now) {
            let (_, packet) = queue.pop_front().expect("looked at it");
            // A packet that the other side does not take (its device is down, its queue full) is lost, as on any link.
            let _ = to.write(&packet);
            spare.push(packet);
        }
        match queue.front() {
            Some((due, _)) => std::thread::sleep(due.saturating_duration_since(now).min(NAP)),
            None => {
                let mut wanted = PollFd { fd: from.as_raw_fd(), events: POLLIN, revents: 0 };
                // SAFETY: one live pollfd.
                unsafe { poll(&mut wanted, 1, -1) };
            }
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let [_, namespace, near, far, delay] = words.as_slice() else {
        eprintln!("usage: link <namespace file> <near device> <far device> <delay in microseconds>");
        std::process::exit(2);
    };
    let delay = Duration::from_micros(delay.parse().expect("the delay is a number"));
    let near = device(near);
    let place = File::open(namespace).unwrap_or_else(|error| panic!("{namespace}: {error}"));
    // SAFETY: the descriptor is open; this is the only thread.
    check(unsafe { setns(place.as_raw_fd(), CLONE_NEWNET) }, "setns");
    let far = device(far);
    let back = (far.try_clone().expect("a descriptor"), near.try_clone().expect("a descriptor"));
    println!("ready");
    std::thread::spawn(move || carry(back.0, back.1, delay));
    carry(near, far, delay);
}

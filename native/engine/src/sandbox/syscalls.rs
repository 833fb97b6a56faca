//! The system calls that threads of a transfer make. On x86_64 and on aarch64 they have the same names, with other
//! numbers, and the arguments that are looked at stand in the same places.

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

use crate::targets::block;

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Allowed whatever their arguments are. None takes a path, makes a descriptor that was not there, or reaches another
/// process.
const ALLOWED: &[c_long] = &[
    // Bytes of open descriptors: target, spill file, the pipes that wake JavaScript, standard error.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_close,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_sync_file_range,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Threads and time.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getrandom,
    // Signals that the process handles may be delivered to any thread.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Answered by the other filter.
    libc::SYS_clone3,
];

/// Which calls a thread makes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// On what is open.
    Open,
    /// These, and those that make files.
    Making,
    /// Those of another program, which nobody knows: all but the [`REFUSED`].
    Program,
}

/// What reaches beyond a process and its open files, where Landlock says nothing of it.
const REFUSED: &[c_long] = &[
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    // It opens sockets too.
    libc::SYS_io_uring_setup,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_by_handle_at,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
];

/// Landlock says where.
const MAKING: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_mkdirat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_readlinkat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_utimensat,
    libc::SYS_fchmod,
    libc::SYS_syncfs,
];

/// `PR_SET_NAME` (prctl(2)) names a thread; `PR_SET_VMA` (since Linux 5.17) a piece of memory, which glibc 2.39 does.
const PRCTLS: [u64; 2] = [libc::PR_SET_NAME as u64, 0x5356_4d41];

/// `ioctl`s of block devices.
const IOCTLS: [libc::Ioctl; 4] = [block::BLKROGET, block::BLKSSZGET, block::BLKGETSIZE64, block::BLKZEROOUT];

/// Locks of an open file, and what a descriptor is.
const FCNTLS: [c_int; 5] = [libc::F_GETFD, libc::F_GETFL, libc::F_OFD_SETLK, libc::F_OFD_GETLK, libc::F_DUPFD_CLOEXEC];

/// The programs for this processor, in the order in which they are to be installed. Of two that match, the kernel takes
/// the answer of the later one where both are errors (seccomp(2)), so the allow-list lets through what the first one answers.
pub fn filters(set: Set) -> Result<Vec<BpfProgram>, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|_| "not for this processor".to_owned())?;
    let programs = match set {
        Set::Program => vec![deny_list(arch)],
        Set::Open | Set::Making => vec![no_clone3(arch), allow_list(set, arch)],
    };
    programs.into_iter().collect::<Result<_, _>>().map_err(|cause| cause.to_string())
}

/// The C library uses clone() where it is told that there is no clone3(), whose flags lie in memory that a filter cannot
/// read.
fn no_clone3(arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let rules = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let refused = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?.try_into()
}

fn deny_list(arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let rules = REFUSED.iter().map(|&call| (call, Vec::new())).collect();
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?.try_into()
}

fn allow_list(set: Set, arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let making = if set == Set::Making { MAKING } else { &[] };
    let mut rules: Rules = ALLOWED.iter().chain(making).map(|&call| (call, Vec::new())).collect();
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![when(0, MaskedEq(thread), thread)?]);
    // Memory is never made executable.
    let executable = MaskedEq(libc::PROT_EXEC as u64);
    rules.insert(libc::SYS_mmap, vec![when(2, executable.clone(), 0)?]);
    rules.insert(libc::SYS_mprotect, vec![when(2, executable, 0)?]);
    rules.insert(libc::SYS_prctl, one_of(0, PRCTLS)?);
    // Where a request is an int, its upper half is not looked at by the kernel.
    rules.insert(libc::SYS_ioctl, one_of(1, IOCTLS.map(|request| u64::from(request as u32)))?);
    rules.insert(libc::SYS_fcntl, one_of(1, FCNTLS.map(|command| command as u64))?);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, refused, SeccompAction::Allow, arch)?.try_into()
}

fn when(argument: u8, is: seccompiler::SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, Qword, is, value)?])
}

fn one_of<const N: usize>(argument: u8, values: [u64; N]) -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |value| SeccompRule::new(vec![SeccompCondition::new(argument, Dword, Eq, value)?]);
    values.into_iter().map(rule).collect()
}

// SPDX-License-Identifier: Apache-2.0 OR MIT
//! clone3(2) out of a single-threaded process, and what the child resets.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;

use crate::error::{Result, SysError, last_errno};

/// Handled signals get their default action in the child (Linux 5.5); `libc` has it in too narrow a type.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// The child is born in a given cgroup (Linux 5.7); `libc` has it in too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Why [`clone_process`] made no child.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloneError {
    /// The caller has other threads. Their locks (the allocator's among them) would stay locked in the child for ever.
    #[error(
        "a process of {threads} threads may not be cloned: only a single-threaded one can go on safely in the child"
    )]
    ManyThreads {
        /// How many threads the caller has.
        threads: usize,
    },
    /// The kernel refused.
    #[error(transparent)]
    Sys(#[from] SysError),
}

/// What a child is born with.
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneOptions<'a> {
    /// New namespaces: `CLONE_NEW*` bits.
    pub namespaces: u64,
    /// The cgroup v2 directory that the child is born in (`CLONE_INTO_CGROUP`, Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The child becomes the caller's sibling (`CLONE_PARENT`): its parent is the caller's, which is told of its end by SIGCHLD.
    pub as_sibling: bool,
}

/// The side of a clone that one is on.
#[derive(Debug)]
pub enum Cloned {
    /// In the child.
    Child,
    /// In the caller, with the child's pid in the caller's pid namespace and a descriptor of it.
    Parent {
        /// The child's number.
        pid: Pid,
        /// A descriptor of the child, close-on-exec.
        pidfd: OwnedFd,
    },
}

/// The number of threads of the calling process: each is a directory in `/proc/self/task`, and counted among its links as in any
/// directory (`proc_task_getattr`), which costs a third of having `/proc/self/stat` written out.
pub fn thread_count() -> Result<usize> {
    let path = "/proc/self/task";
    let stat = rustix::fs::stat(path).map_err(SysError::at("stat", || path.to_owned()))?;
    let count = usize::try_from(stat.st_nlink).ok().and_then(|links| links.checked_sub(2)).filter(|&count| count > 0);
    count.ok_or_else(|| SysError::new("stat", format!("{path}, {} links", stat.st_nlink), Errno::INVAL))
}

/// Field `number` (counted from 1, as proc_pid_stat(5) does) of a `stat` file. The name, field 2, may hold anything, so
/// counting starts after its last parenthesis.
pub(crate) fn stat_field(stat: &[u8], number: usize) -> Option<u64> {
    let after_name = &stat[stat.iter().rposition(|&byte| byte == b')')? + 1..];
    let field = after_name.trim_ascii_start().split(|&byte| byte == b' ').nth(number.checked_sub(3)?)?;
    std::str::from_utf8(field.trim_ascii_end()).ok()?.parse().ok()
}

/// Clones the calling process as fork(2) does, into new namespaces and a cgroup.
///
/// Refuses when the caller has more than one thread. The child's handled signals are reset (`CLONE_CLEAR_SIGHAND`);
/// ignored ones and the mask are not: see [`reset_signals`].
pub fn clone_process(options: CloneOptions<'_>) -> std::result::Result<Cloned, CloneError> {
    let threads = thread_count()?;
    if threads != 1 {
        return Err(CloneError::ManyThreads { threads });
    }
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all-zero bytes are a valid `clone_args`.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = options.namespaces | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    args.pidfd = &raw mut pidfd as u64;
    if options.as_sibling {
        // The kernel takes no exit signal then: it is the caller's own.
        args.flags |= libc::CLONE_PARENT as u64;
    } else {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = options.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is the kernel's `struct clone_args` and outlives the call. Without CLONE_VM the child has its own
    // copy of the memory, and the caller has one thread, so no lock is held by a thread that the child lacks.
    let answer = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match answer {
        0 => Ok(Cloned::Child),
        1.. => {
            let pid = i32::try_from(answer).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| SysError::new("clone3", format!("pid {answer}"), Errno::RANGE))?;
            // SAFETY: the kernel stored a new descriptor in `pidfd`, which nobody else owns.
            Ok(Cloned::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
        }
        _ => Err(SysError::new("clone3", format!("flags={:#x}", args.flags), last_errno()).into()),
    }
}

/// Gives every signal its default action and empties the mask, as a container's first process expects.
///
/// Rust ignores SIGPIPE and a caller under nohup(1) ignores SIGHUP; both would survive execve(2).
pub fn reset_signals() {
    // The kernel's `struct sigaction`, whose size differs a little between machines: a null handler is SIG_DFL, without
    // flags and mask. libc's own call would refuse signals 32 and 33, which a caller may have ignored all the same.
    let default_action = [0_u64; 8];
    for signal in 1..=64 {
        let no_old = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the action is larger than the kernel reads and outlives the call; the old one is not asked for. Errors
        // (SIGKILL, SIGSTOP) change nothing.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default_action.as_ptr(), no_old, 8_usize) };
    }
    // SAFETY: `sigset_t` is plain data, initialised by sigemptyset before its use; the old mask is not asked for.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Closes every descriptor but 0, 1, 2, the `passed` ones that follow, and those in `keep` (close_range(2), Linux 5.9).
///
/// For a cloned child on its way to execve(2), which uses none of the others again. To mark them close-on-exec is not enough:
/// execve(2) resolves the path of the program, of its `#!` line and of its dynamic linker while they are still open, and
/// `/proc/self/fd/N/../..` leads out of the root through a directory of the host (CVE-2024-21626).
pub fn close_all_but(passed: u32, keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    kept.sort_unstable();
    let mut first = 3_u32.saturating_add(passed);
    for fd in kept.into_iter().filter(|fd| *fd >= first).collect::<Vec<_>>() {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

/// Checks that the descriptors `3..3 + count` are the caller's caller's: open, and not close-on-exec, as all are that we open
/// ourselves. EBADF names the first that is not.
pub fn check_inherited(count: u32) -> Result<()> {
    for fd in 3..3_u32.saturating_add(count) {
        let number = fd.cast_signed();
        // SAFETY: fcntl asks for the flags of a number; one that is no descriptor is an error.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
            return Err(SysError::new("fcntl", format!("{fd}, F_GETFD: not inherited"), Errno::BADF));
        }
    }
    Ok(())
}

/// Has the descriptors `3..3 + count` stay open when the calling process executes a program, or close then. Copies that a child has
/// already are as they were.
pub fn keep_over_exec(count: u32, keeps: bool) -> Result<()> {
    let flags = if keeps { 0 } else { libc::FD_CLOEXEC };
    for fd in 3..3_u32.saturating_add(count) {
        // SAFETY: fcntl sets a flag of a number; one that is no descriptor is an error.
        if unsafe { libc::fcntl(fd.cast_signed(), libc::F_SETFD, flags) } < 0 {
            return Err(SysError::new("fcntl", format!("{fd}, F_SETFD, {flags}"), last_errno()));
        }
    }
    Ok(())
}

fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: closing descriptors touches no memory; the caller's contract says that nobody uses them again.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return Ok(());
    }
    Err(SysError::new("close_range", format!("{first}, {last}, 0"), last_errno()))
}

/// Closes every descriptor from `first` on that is not close-on-exec.
///
/// Those are the caller's caller's: whatever we open ourselves is close-on-exec. A process that stays behind would keep its
/// locks and its pipes from ending.
pub fn close_inherited_from(first: i32) -> Result<()> {
    let path = "/proc/self/fd";
    let failed =
        |error: std::io::Error| SysError::new("readdir", path, Errno::from_io_error(&error).unwrap_or(Errno::IO));
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(fd) = name.to_str().and_then(|name| name.parse::<i32>().ok()).filter(|fd| *fd >= first) else {
            continue;
        };
        // SAFETY: fcntl asks for the flags of a number; one that is no descriptor is an error.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            // SAFETY: nothing of ours owns it, for what we open is close-on-exec.
            unsafe { libc::close(fd) };
        }
    }
    Ok(())
}

/// Moves the calling process into new namespaces (unshare(2)); `flags` are `CLONE_NEW*` bits only.
pub fn unshare(flags: libc::c_int) -> Result<()> {
    // SAFETY: namespaces share no memory; CLONE_FILES, CLONE_VM and the like are not among the documented bits, and the
    // kernel refuses CLONE_VM for processes with threads.
    if unsafe { libc::unshare(flags) } == 0 {
        return Ok(());
    }
    Err(SysError::new("unshare", format!("{flags:#x}"), last_errno()))
}

/// Moves the calling process into the namespace that `namespace` refers to, which must be of the kind `flag` (setns(2)).
pub fn set_namespace(namespace: BorrowedFd<'_>, flag: libc::c_int) -> Result<()> {
    // SAFETY: setns takes plain integers.
    if unsafe { libc::setns(namespace.as_raw_fd(), flag) } == 0 {
        return Ok(());
    }
    Err(SysError::new("setns", format!("{}, {flag:#x}", namespace.as_raw_fd()), last_errno()))
}

/// Ends the calling process at once: no destructor, no exit handler, nothing flushed twice after a clone.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// Gives the calling process an anonymous session keyring, so that it cannot read its caller's.
///
/// A name would be no protection: a process that asks for the name of a keyring it may search joins that one.
pub fn join_new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    let no_name = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring; nothing else points anywhere.
    let answer = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, no_name) };
    match answer {
        0.. => Ok(()),
        _ => Err(SysError::new("keyctl", "JOIN_SESSION_KEYRING, NULL", last_errno())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_look_like_fields() {
        let stat = b"7 (a) R 9 (b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 4711 0 0\n";
        assert_eq!(stat_field(stat, 20), Some(3));
        assert_eq!(stat_field(stat, 22), Some(4711));
        assert_eq!(stat_field(b"7 sh S", 3), None);
        assert_eq!(stat_field(stat, 90), None);
    }

    #[test]
    fn a_caller_with_threads_is_refused() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || held.recv());
        let refused = clone_process(CloneOptions::default());
        assert!(matches!(refused, Err(CloneError::ManyThreads { threads: 2.. })), "{refused:?}");
        drop(hold);
        other.join().unwrap().unwrap_err();
    }
}

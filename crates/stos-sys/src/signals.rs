// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Signals as something to read (signalfd(2)), for a process that waits for several things at once; and as the end of a process
//! that first puts things in order.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use rustix::io::Errno;

use crate::error::{Result, SysError, last_errno};

/// What a process in the foreground does not pass on to the one that it stands for, as runc has it: KILL and STOP cannot be caught, and URG is
/// nobody's wish. ILL, TRAP, BUS, FPE, SEGV and SYS are about what we did ourselves; 32 and 33 are the C library's.
const OUR_OWN: [i32; 11] = [4, 5, 7, 8, 9, 11, 19, 23, 31, 32, 33];

/// What our own use of a terminal or a pipe may bring: PIPE, TTIN and TTOU. Who copies a process's streams does not pass them on.
pub const OF_STREAMS: [i32; 3] = [libc::SIGPIPE, libc::SIGTTIN, libc::SIGTTOU];

/// The end of a child, and a new size of the terminal: for us to act on.
pub const OF_CHILDREN_AND_SIZE: [i32; 2] = [libc::SIGCHLD, libc::SIGWINCH];

/// All signals that may come to a process in the foreground and are not about its own faults: those that it passes on,
/// [`OF_STREAMS`] and [`OF_CHILDREN_AND_SIZE`].
pub fn of_foreground() -> Vec<i32> {
    (1..=64).filter(|signal| !OUR_OWN.contains(signal)).collect()
}

/// Signals that are blocked and come to a descriptor instead. Dropping it leaves them blocked.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks `signals` in the calling thread and opens a descriptor, close-on-exec and non-blocking, that they come to.
    ///
    /// A child inherits the mask: whoever clones one resets it there.
    pub fn new(signals: &[i32]) -> Result<Self> {
        // SAFETY: all-zero bytes are a valid `sigset_t`.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is a valid set to be emptied.
        unsafe { libc::sigemptyset(&raw mut set) };
        for &signal in signals {
            // SAFETY: `set` was emptied above; a number that is no signal changes nothing.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: `set` is initialised; the old mask is not asked for.
        let blocked = unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if blocked != 0 {
            return Err(SysError::new("sigprocmask", format!("SIG_BLOCK, {signals:?}"), last_errno()));
        }
        // SAFETY: `set` is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(SysError::new("signalfd", format!("{signals:?}"), last_errno()));
        }
        // SAFETY: the kernel gave a new descriptor, which nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Gives the next signal that has come; `None` where none has.
    pub fn next_signal(&self) -> Result<Option<i32>> {
        let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>()];
        loop {
            match rustix::io::read(&self.0, &mut buffer) {
                // The number is the structure's first field.
                Ok(_) => return Ok(Some(i32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]))),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(errno) => return Err(SysError::new("read", format!("signalfd {}", self.0.as_raw_fd()), errno)),
            }
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets `signals` come to the calling thread again, which [`SignalFd`] has blocked: no descriptor has them any more.
pub fn unblock(signals: &[i32]) -> Result<()> {
    // SAFETY: all-zero bytes are a valid `sigset_t`, which is empty.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for &signal in signals {
        // SAFETY: a number that is no signal changes nothing.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: `set` is initialised; the old mask is not asked for.
    if unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) } != 0 {
        return Err(SysError::new("sigprocmask", format!("SIG_UNBLOCK, {signals:?}"), last_errno()));
    }
    Ok(())
}

/// Gives `signal` its default action again in the calling process, which its caller may have ignored for it.
pub fn set_default_action(signal: i32) -> Result<()> {
    // SAFETY: the default action runs no code of ours.
    if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(SysError::new("signal", format!("{signal}, SIG_DFL"), last_errno()));
    }
    Ok(())
}

/// Signals on which the calling process executes another program instead of ending. Dropping it gives them their default
/// action again.
///
/// That is the one way to end all other threads at one instant and still do something afterwards: what they were about to do
/// they have done, or they have not.
#[derive(Debug)]
pub struct ExecuteOn {
    signals: Vec<i32>,
}

/// Whether a signal has come on which a program is being executed.
static IS_EXECUTING: AtomicBool = AtomicBool::new(false);

/// Tells whether the calling process is about to become the program of [`ExecuteOn`].
///
/// For a moment its threads still run, and none can start another: clone(2) gives EAGAIN while another thread is in execve(2). Who
/// meets that error has nobody to tell it to.
pub fn is_executing() -> bool {
    IS_EXECUTING.load(Ordering::Acquire)
}

/// What to execute on a signal, ready for execve(2).
struct Program {
    path: CString,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    /// What the pointers point into.
    _strings: [Vec<CString>; 2],
}

/// The program of each signal, by its number. A handler may look at one at any time, so none is ever freed.
static PROGRAMS: [AtomicPtr<Program>; 65] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 65];

impl ExecuteOn {
    /// Executes `path` with the arguments that `argv` gives for the signal, as soon as one of `signals` comes, whatever the threads
    /// of the process are doing. The program begins with all of `signals` blocked.
    ///
    /// A signal that the process ignores stays ignored: its caller wanted that (nohup(1), a shell's background job).
    pub fn new(signals: &[i32], path: &CStr, argv: impl Fn(i32) -> Vec<CString>, env: &[CString]) -> Result<Self> {
        let mut armed = Self { signals: Vec::new() };
        for &signal in signals.iter().filter(|signal| (1..=64).contains(*signal)) {
            if is_ignored(signal)? {
                continue;
            }
            let strings = [argv(signal), env.to_vec()];
            let [argv, env] = [0, 1].map(|list| crate::process::exec::pointers(&strings[list]));
            let program = Box::new(Program { path: path.to_owned(), argv, env, _strings: strings });
            PROGRAMS[signal as usize].store(Box::into_raw(program), Ordering::Release);
            set_handler(signal, signals)?;
            armed.signals.push(signal);
        }
        Ok(armed)
    }
}

impl Drop for ExecuteOn {
    fn drop(&mut self) {
        for &signal in &self.signals {
            // It cannot fail for a signal that has taken a handler.
            let _ = set_default_action(signal);
        }
    }
}

/// Tells whether the calling process ignores a signal.
fn is_ignored(signal: i32) -> Result<bool> {
    // SAFETY: all-zero bytes are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is changed, and `action` outlives the call.
    if unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } != 0 {
        return Err(SysError::new("sigaction", format!("{signal}"), last_errno()));
    }
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

/// Has [`execute_program`] called on a signal, with all of `blocked` blocked.
fn set_handler(signal: i32, blocked: &[i32]) -> Result<()> {
    // SAFETY: all-zero bytes are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = execute_program as extern "C" fn(libc::c_int) as usize;
    for &other in blocked {
        // SAFETY: an all-zero set is an empty one; a number that is no signal changes nothing.
        unsafe { libc::sigaddset(&raw mut action.sa_mask, other) };
    }
    // SAFETY: the handler calls nothing that is not async-signal-safe (signal-safety(7)).
    if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(SysError::new("sigaction", format!("{signal}, a handler"), last_errno()));
    }
    Ok(())
}

/// The handler. Where nothing can be executed the signal has its default action once this returns.
extern "C" fn execute_program(signal: libc::c_int) {
    let program = PROGRAMS.get(signal as usize).map_or(std::ptr::null_mut(), |slot| slot.load(Ordering::Acquire));
    // SAFETY: the pointer is null or to a program that is never freed nor changed.
    if let Some(program) = unsafe { program.as_ref() } {
        IS_EXECUTING.store(true, Ordering::Release);
        // SAFETY: execve is async-signal-safe; both lists end in a null pointer and hold strings that live as long as the program.
        unsafe { libc::execve(program.path.as_ptr(), program.argv.as_ptr(), program.env.as_ptr()) };
    }
    // SAFETY: both calls are async-signal-safe; the signal is blocked until the handler returns.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Ends the calling process as `signal` would: who waits for it sees that. Returns only where the signal cannot do it, as for the
/// first process of a pid namespace.
pub fn end_by(signal: i32) -> Result<()> {
    set_default_action(signal)?;
    // SAFETY: the default action runs no code of ours.
    unsafe { libc::raise(signal) };
    unblock(&[signal])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_ignored_stays_ignored() {
        assert!(!is_ignored(libc::SIGUSR1).unwrap());
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) };
        let armed = ExecuteOn::new(&[libc::SIGUSR1, 0, 99], c"/no/such", |_| Vec::new(), &[]).unwrap();
        assert!(armed.signals.is_empty() && is_ignored(libc::SIGUSR1).unwrap());
        drop(armed);
        set_default_action(libc::SIGUSR1).unwrap();
        let armed = ExecuteOn::new(&[libc::SIGUSR1], c"/no/such", |_| Vec::new(), &[]).unwrap();
        assert_eq!(armed.signals, [libc::SIGUSR1]);
    }

    #[test]
    fn a_blocked_signal_can_be_read() {
        let signals = SignalFd::new(&[libc::SIGUSR2]).unwrap();
        assert_eq!(signals.next_signal().unwrap(), None);
        // SAFETY: raises a signal that this thread has blocked.
        unsafe { libc::raise(libc::SIGUSR2) };
        assert_eq!(signals.next_signal().unwrap(), Some(libc::SIGUSR2));
    }
}
